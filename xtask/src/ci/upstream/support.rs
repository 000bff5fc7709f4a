//! Our stores, one of each kind for the whole program, on a runtime that outlives every test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, mpsc};

use cloakroom_core::{KeyRing, MemoryStore, OsRandom, SecretKey, SessionStore};
use cloakroom_redis::RedisOptions;
use cloakroom_services::shared;
use cloakroom_sql::{PostgresOptions, SqliteOptions};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
pub static KEYS: LazyLock<KeyRing> = LazyLock::new(|| {
    KeyRing::new("upstream", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap()
});

pub type Kind = LazyLock<Arc<dyn SessionStore>>;
pub static MEMORY: Kind = LazyLock::new(|| Arc::new(MemoryStore::new()));
pub static SQLITE: Kind = LazyLock::new(|| {
    let file = format!("{}/{}.db", env!("CARGO_TARGET_TMPDIR"), own());
    opened(async move { SqliteOptions::new(file).open().await.unwrap() })
});
pub static REDIS: Kind = LazyLock::new(|| {
    let url = with(&shared::redis(), &format!("prefix=cloakroom-{}-", own()));
    opened(async move { RedisOptions::new(&url).unwrap().open().await.unwrap() })
});
pub static POSTGRES: Kind = LazyLock::new(|| {
    let url = with(&shared::postgres(), &format!("connections=2&table_prefix=u{}_", own()));
    opened(async move { PostgresOptions::new(&url).unwrap().open().await.unwrap() })
});

fn opened<S: SessionStore>(open: impl Future<Output = S> + Send + 'static) -> Arc<dyn SessionStore> {
    let (send, receive) = mpsc::channel();
    RUNTIME.spawn(async move { send.send(open.await) });
    Arc::new(receive.recv().unwrap())
}

/// A name that no other run has.
fn own() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("{}_{nanos}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn with(url: &str, option: &str) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}{option}")
}
