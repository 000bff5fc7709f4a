//! The whole suite on the store in memory, bare and under a layer.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::layer::{ObserveLayer, StoreExt as _, TimeoutLayer};
use cloakroom_core::{MemoryStore, SessionStore, TracingSink};
use cloakroom_testkit::store::{CHECKS, Fixture};
use cloakroom_testkit::{FaultyStore, ManualClock, store_suite};

struct OnMemory {
    clock: Arc<ManualClock>,
    store: Arc<dyn SessionStore>,
}

impl OnMemory {
    async fn bare() -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { store: Arc::new(MemoryStore::new().with_clock(clock.clone())), clock }
    }

    async fn layered() -> Self {
        let Self { clock, store } = Self::bare().await;
        let store: Arc<dyn SessionStore> = Arc::new(FaultyStore::new(store));
        let store =
            store.layer(TimeoutLayer::new(Duration::from_secs(60))).layer(ObserveLayer::new(Arc::new(TracingSink)));
        Self { store, clock }
    }
}

impl Fixture for OnMemory {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(self.store.clone())
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(self.clock.clone())
    }
}

/// A store whose clock nobody can move, as that of a server.
struct OnServerClock(Arc<MemoryStore>);

impl OnServerClock {
    async fn start() -> Self {
        Self(Arc::new(MemoryStore::new()))
    }
}

impl Fixture for OnServerClock {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.0.clone()
    }
}

store_suite!(bare, OnMemory::bare());
store_suite!(layered, OnMemory::layered());
store_suite!(server_clock, OnServerClock::start());

/// A check that is written but not in the list would never run.
#[test]
fn every_public_check_is_in_the_list() {
    let written: usize = [
        include_str!("../../src/store/cancelling.rs"),
        include_str!("../../src/store/creating.rs"),
        include_str!("../../src/store/ending.rs"),
        include_str!("../../src/store/limiting.rs"),
        include_str!("../../src/store/listing.rs"),
        include_str!("../../src/store/loading.rs"),
        include_str!("../../src/store/modelling.rs"),
        include_str!("../../src/store/renewing.rs"),
        include_str!("../../src/store/revoking.rs"),
        include_str!("../../src/store/scanning.rs"),
        include_str!("../../src/store/signalling.rs"),
        include_str!("../../src/store/sweeping.rs"),
        include_str!("../../src/store/touching.rs"),
        include_str!("../../src/store/updating.rs"),
    ]
    .map(|source| source.lines().filter(|line| line.starts_with("pub async fn ")).count())
    .into_iter()
    .sum();
    assert_eq!(CHECKS.len(), written);
}
