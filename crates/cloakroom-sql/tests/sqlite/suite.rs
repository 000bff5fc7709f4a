//! The store contract.

use std::sync::Arc;

use async_trait::async_trait;
use cloakroom_core::{SessionId, SessionStore};
use cloakroom_sql::SqliteStore;
use cloakroom_testkit::ManualClock;
use cloakroom_testkit::store::Fixture;

use crate::support::Place;

struct OnSqlite {
    place: Place,
    store: SqliteStore,
    second: SqliteStore,
}

impl OnSqlite {
    async fn start() -> Self {
        let place = Place::new();
        let (store, second) = tokio::join!(place.open(), place.open());
        Self { place, store, second }
    }
}

#[async_trait]
impl Fixture for OnSqlite {
    fn store(&self) -> Arc<dyn SessionStore> {
        Arc::new(self.store.clone())
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(Arc::new(self.second.clone()))
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

cloakroom_testkit::store_suite!(sqlite, OnSqlite::start());
