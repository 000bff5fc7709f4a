//! The store contract, by a role that has no more than the rights it needs.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloakroom_core::{SessionId, SessionStore};
use cloakroom_testkit::ManualClock;
use cloakroom_testkit::store::Fixture;
use sqlx::query;

use crate::support::Place;

struct OnMariaDb {
    place: Place,
    store: Arc<dyn SessionStore>,
    second: Arc<dyn SessionStore>,
}

impl OnMariaDb {
    async fn start() -> Self {
        Self::on(Place::new().await).await
    }

    async fn start_by_the_servers_clock() -> Self {
        Self::on(Place::new().await.by_the_servers_clock()).await
    }

    async fn on(place: Place) -> Self {
        // A busy machine is no failure.
        let open =
            async || place.options().with_migrate(false).with_timeout(Duration::from_secs(60)).open().await.unwrap();
        let (store, second) = tokio::join!(open(), open());
        Self { place, store: Arc::new(store), second: Arc::new(second) }
    }
}

#[async_trait]
impl Fixture for OnMariaDb {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(self.second.clone())
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        self.place.clock.clone()
    }

    async fn overwrite_record(&self, id: &SessionId, bytes: &[u8]) -> bool {
        let mut admin = self.place.admin().await;
        let query = query(self.place.sql("UPDATE cloakroom_sessions SET record = ? WHERE id = ?")).bind(bytes.to_vec());
        query.bind(id.as_bytes().to_vec()).execute(&mut admin).await.unwrap().rows_affected() == 1
    }
}

mod mariadb {
    use super::*;

    cloakroom_testkit::store_suite!(manual_clock, OnMariaDb::start());
    cloakroom_testkit::store_suite!(server_clock, OnMariaDb::start_by_the_servers_clock());
}
