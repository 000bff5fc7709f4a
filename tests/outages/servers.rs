//! Clients of servers that are about to die.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::SessionStore;
use cloakroom_redis::{RedisOptions, RedisStore};
use cloakroom_sql::{MySqlOptions, MySqlStore, PostgresOptions, PostgresStore};

/// Runs what blocks: starting, killing and asking servers.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// A URL with these options of the store.
pub(crate) fn with_options(url: &str, options: &str) -> String {
    match (url.contains('?'), options.is_empty()) {
        (_, true) => url.to_owned(),
        (false, false) => format!("{url}?{options}"),
        (true, false) => format!("{url}&{options}"),
    }
}

pub(crate) async fn redis(url: &str, options: &str) -> RedisStore {
    RedisOptions::new(&with_options(url, options)).unwrap().open().await.unwrap()
}

pub(crate) async fn postgres(url: &str, options: &str) -> PostgresStore {
    PostgresOptions::new(&with_options(url, options)).unwrap().open().await.unwrap()
}

pub(crate) async fn mariadb(url: &str, options: &str) -> MySqlStore {
    MySqlOptions::new(&with_options(url, options)).unwrap().open().await.unwrap()
}

/// Two clients, as two processes of a service are.
pub(crate) async fn two<S: SessionStore>(open: impl AsyncFn() -> S) -> Vec<Arc<dyn SessionStore>> {
    let (one, other): (Arc<dyn SessionStore>, Arc<dyn SessionStore>) = (Arc::new(open().await), Arc::new(open().await));
    vec![one, other]
}

/// Asks servers, which tell nobody when they change, until they have changed.
pub(crate) async fn until(what: &str, mut changed: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !blocking(&mut changed) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what} does not happen");
        // tidy: sleep — another process gives no event to wait for
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
