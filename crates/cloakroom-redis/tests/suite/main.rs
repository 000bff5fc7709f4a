//! The store contract on every kind of Redis, on its own clock and on one that stands still.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use base64ct::Encoding as _;
use cloakroom_core::{Clock as _, SessionId, SessionStore, SystemClock};
use cloakroom_redis::{RedisOptions, RedisStore};
use cloakroom_services::shared;
use cloakroom_testkit::{
    ManualClock,
    store::{Fixture, Options},
    store_suite,
};

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
        let url = in_a_database_of_few(&url);
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let since = SystemClock.now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        // Inside of what the least rights allow.
        let prefix = format!("cloakroom:{}-{since}-{}:", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let open = async || {
            // A busy machine is no failure.
            let options =
                RedisOptions::new(&url).unwrap().with_prefix(&prefix).unwrap().with_timeout(Duration::from_secs(60));
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

/// What is left over would be looked at by every scan of later tests.
impl Drop for Redis {
    fn drop(&mut self) {
        let (nodes, pattern) = (nodes(&self.url), format!("{}*", self.prefix));
        let clearing = std::thread::spawn(move || nodes.iter().try_for_each(|node| clear(node, &pattern)));
        // A node that others have stopped needs no clearing.
        drop(clearing.join());
    }
}

/// The servers of a URL that a plain client reaches; of a cluster those that it names, which are its
/// primaries.
fn nodes(url: &str) -> Vec<String> {
    if url.starts_with("redis://") {
        return vec![url.to_owned()];
    }
    let Some((credentials, hosts)) = url.strip_prefix("redis+cluster://").and_then(|rest| rest.split_once('@')) else {
        return vec![];
    };
    hosts.split(',').map(|host| format!("redis://{credentials}@{host}")).collect()
}

fn clear(node: &str, pattern: &str) -> redis::RedisResult<()> {
    let mut connection = redis::Client::open(node)?.get_connection()?;
    let mut cursor = b"0".to_vec();
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(10_000);
        let (next, keys): (Vec<u8>, Vec<Vec<u8>>) = scan.query(&mut connection)?;
        let mut packet = redis::pipe();
        for key in &keys {
            packet.cmd("UNLINK").arg(key).ignore();
        }
        packet.query::<()>(&mut connection)?;
        if next == b"0" {
            return Ok(());
        }
        cursor = next;
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
        // A busy machine is no failure.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        let mut connection = client.get_multiplexed_async_connection_with_config(&patient).await.unwrap();
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

    /// All random sequences on one kind of server; some on those that differ in how they are reached.
    fn options(&self) -> Options {
        let mut options = Options::from_env();
        if !self.url.starts_with("redis://") {
            options.cases = options.cases.div_ceil(4);
        }
        options
    }
}

/// What looks at every key looks at those of all tests in its database; a cluster has only one.
fn in_a_database_of_few(url: &str) -> String {
    let database = 1 + std::process::id() % 15;
    if url.contains("+cluster") {
        url.to_owned()
    } else if url.contains("+sentinel") {
        format!("{url}&db={database}")
    } else {
        url.replacen("/0", &format!("/{database}"), 1)
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
    store_suite!(redis_unix, Redis::start(shared::redis_unix(), None));
    mod on_a_standing_clock {
        use super::*;
        store_suite!(cluster, Redis::start(shared::cluster(), standing()));
    }
}
