//! The store contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloakroom_core::layer::{ObserveLayer, StoreExt as _, TimeoutLayer};
use cloakroom_core::{SessionId, SessionStore, TracingSink};
use cloakroom_testkit::ManualClock;
use cloakroom_testkit::store::Fixture;

use crate::support::Place;

struct OnSqlite {
    place: Place,
    store: Arc<dyn SessionStore>,
    second: Arc<dyn SessionStore>,
}

impl OnSqlite {
    async fn start() -> Self {
        let place = Place::new();
        let (store, second) = tokio::join!(place.open(), place.open());
        Self { place, store: Arc::new(store), second: Arc::new(second) }
    }

    async fn layered() -> Self {
        let Self { place, store, second } = Self::start().await;
        let layers = |store: Arc<dyn SessionStore>| {
            let timeout = TimeoutLayer::new(Duration::from_secs(60));
            store.layer(timeout).layer(ObserveLayer::new(Arc::new(TracingSink)))
        };
        Self { place, store: layers(store), second: layers(second) }
    }
}

#[async_trait]
impl Fixture for OnSqlite {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(self.second.clone())
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(self.place.clock.clone())
    }

    async fn overwrite_record(&self, id: &SessionId, bytes: &[u8]) -> bool {
        let mut sqlite = self.place.sqlite().await;
        let query = sqlx::query("UPDATE cloakroom_sessions SET record = ? WHERE id = ?").bind(bytes.to_vec());
        query.bind(id.as_bytes().to_vec()).execute(&mut sqlite).await.unwrap().rows_affected() == 1
    }
}

cloakroom_testkit::store_suite!(bare, OnSqlite::start());
cloakroom_testkit::store_suite!(layered, OnSqlite::layered());
