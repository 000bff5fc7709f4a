//! The store contract on every kind of Redis, on its own clock and on one that stands still.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64ct::Encoding as _;
use cloakroom_core::{SessionId, SessionStore};
use cloakroom_redis::{RedisOptions, RedisStore};
use cloakroom_services::shared;
use cloakroom_testkit::{ManualClock, store::Fixture, store_suite};

/// A store under a prefix of its own.
struct Redis {
    url: String,
    store: RedisStore,
    second: RedisStore,
    clock: Option<Arc<ManualClock>>,
    prefix: String,
}

impl Redis {
    async fn start(url: String, clock: Option<Arc<ManualClock>>) -> Self {
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        // Inside of what the least rights allow.
        let prefix =
            format!("cloakroom:{}-{since}-{}:", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let open = async || {
            let options = RedisOptions::new(&url).unwrap().with_prefix(&prefix).unwrap();
            let options = match &clock {
                Some(clock) => options.with_clock(clock.clone()),
                None => options,
            };
            options.open().await.unwrap()
        };
        let (store, second) = (open().await, open().await);
        Self { store, second, clock, prefix, url }
    }
}

#[async_trait]
impl Fixture for Redis {
    fn store(&self) -> Arc<dyn SessionStore> {
        Arc::new(self.store.clone())
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(Arc::new(self.second.clone()))
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        self.clock.clone()
    }

    /// On the plain server; the value has the same form on all.
    async fn overwrite_record(&self, id: &SessionId, bytes: &[u8]) -> bool {
        if !self.url.starts_with("redis://") {
            return false;
        }
        let client = redis::Client::open(self.url.as_str()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let pattern = format!("{}{{*", self.prefix);
        let keys: Vec<Vec<u8>> = redis::cmd("SCAN")
            .arg(0)
            .arg("MATCH")
            .arg(pattern)
            .arg("COUNT")
            .arg(10_000_000)
            .query_async::<(Vec<u8>, Vec<Vec<u8>>)>(&mut connection)
            .await
            .unwrap()
            .1;
        let rest = base64ct::Base64UrlUnpadded::encode_string(&id.as_bytes()[SessionId::SHARD_LEN..]);
        let key = keys.into_iter().find(|key| key.ends_with(rest.as_bytes())).unwrap();
        let old: Vec<u8> = redis::cmd("GET").arg(&key).query_async(&mut connection).await.unwrap();
        let new = [&old[..9], bytes].concat();
        redis::cmd("SET").arg(&key).arg(new).arg("KEEPTTL").query_async::<()>(&mut connection).await.unwrap();
        true
    }

    fn expires_by_itself(&self) -> bool {
        true
    }
}

fn standing() -> Option<Arc<ManualClock>> {
    Some(Arc::new(ManualClock::new()))
}

mod redis_standalone {
    use super::*;
    store_suite!(redis, Redis::start(shared::redis(), None));
    mod on_a_standing_clock {
        use super::*;
        store_suite!(redis, Redis::start(shared::redis(), standing()));
    }
}

mod others {
    use super::*;
    store_suite!(sentinel, Redis::start(shared::sentinel(), None));
    store_suite!(cluster, Redis::start(shared::cluster(), None));
    store_suite!(redis_tls, Redis::start(shared::redis_tls(), None));
    mod on_a_standing_clock {
        use super::*;
        store_suite!(cluster, Redis::start(shared::cluster(), standing()));
    }
}
