//! A store with a clock that stands still, and what is in it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloakroom_core::{
    Backend, Clock as _, KeyRing, Manager, MemoryStore, OsRandom, Policy, Record, SecretKey, SessionId, SessionStore,
};
use cloakroom_sql::{SqliteOptions, Synchronous};
use cloakroom_testkit::{FaultyStore, ManualClock};

use crate::place::{Place, Server};

pub(crate) struct World {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) manager: Arc<Manager>,
}

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);
/// The most that a session of this world lives.
pub(crate) const ABSOLUTE: Duration = Duration::from_secs(12 * 60 * 60);

impl World {
    fn on(store: Arc<dyn SessionStore>, clock: Arc<ManualClock>) -> Self {
        let store = Arc::new(FaultyStore::new(store));
        let keys = KeyRing::new("shop", &[key()]).unwrap();
        let policy = Policy::default().with_idle(HOUR).with_absolute(ABSOLUTE).with_max_record(4096);
        let manager = Manager::builder(Backend::store(store.clone()), keys);
        let manager = manager.policy(policy).clock(clock.clone()).build().unwrap();
        Self { clock, store, manager }
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Everything that is live in the store.
    pub(crate) async fn records(&self) -> Vec<(SessionId, Record)> {
        let stored = self.store.scan(None, 100).await.unwrap();
        stored.into_iter().map(|(id, stored)| (id, stored.record)).collect()
    }

    /// How many live records have this value under this key.
    pub(crate) async fn holding(&self, key: &str, encoded: &str) -> usize {
        let records = self.records().await;
        let holds =
            |record: &Record| record.values().any(|value| value.key == key && value.encoded == encoded.as_bytes());
        records.iter().filter(|(_, record)| holds(record)).count()
    }
}

pub(crate) fn key() -> SecretKey {
    SecretKey::generate(&OsRandom::default()).unwrap()
}

pub(crate) async fn in_memory(test: impl AsyncFnOnce(World)) {
    let clock = Arc::new(ManualClock::new());
    test(World::on(Arc::new(MemoryStore::new().with_clock(clock.clone())), clock)).await;
}

pub(crate) async fn in_a_file(test: impl AsyncFnOnce(World)) {
    let (clock, directory) = (Arc::new(ManualClock::new()), tempfile::tempdir().unwrap());
    let options = SqliteOptions::new(directory.path().join("sessions.db")).with_synchronous(Synchronous::Normal);
    let store = options.with_clock(clock.clone()).open().await.unwrap();
    test(World::on(Arc::new(store), clock)).await;
}

pub(crate) async fn on_server(server: Server, test: impl AsyncFnOnce(World)) {
    let (clock, place) = (Arc::new(ManualClock::new()), Place::on(server));
    let store = place.open(Some(clock.clone())).await;
    test(World::on(store, clock)).await;
    place.remove().await;
}

/// Runs each of these tests, `async fn(World)`, on every kind of store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(#[tokio::test] async fn $test() { $crate::world::in_memory(super::$test).await; })*
        }
        mod sqlite {
            $(#[tokio::test] async fn $test() { $crate::world::in_a_file(super::$test).await; })*
        }
        $crate::world::on_every_store!(@ redis Redis [$($test)*]);
        $crate::world::on_every_store!(@ cluster Cluster [$($test)*]);
        $crate::world::on_every_store!(@ postgres Postgres [$($test)*]);
        $crate::world::on_every_store!(@ mariadb MariaDb [$($test)*]);
    };
    (@ $module:ident $server:ident [$($test:ident)*]) => {
        mod $module {
            $(#[tokio::test] async fn $test() {
                $crate::world::on_server($crate::place::Server::$server, super::$test).await;
            })*
        }
    };
}
pub(crate) use on_every_store;
