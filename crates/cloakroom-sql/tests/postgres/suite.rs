//! The store contract.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use cloakroom_core::{SessionId, SessionStore};
use cloakroom_services::shared;
use cloakroom_sql::PostgresOptions;
use cloakroom_testkit::ManualClock;
use cloakroom_testkit::store::Fixture;
use tokio_postgres::types::Type;

use crate::support::{Place, connect};

struct OnPostgres {
    place: Place,
    store: Arc<dyn SessionStore>,
    second: Arc<dyn SessionStore>,
    with_clock: bool,
}

impl OnPostgres {
    async fn start(place: Place, with_clock: bool, options: impl Fn(&Place) -> PostgresOptions) -> Self {
        // A busy machine is no failure.
        let options = || options(&place).with_timeout(Duration::from_secs(60));
        let options = || if with_clock { options().with_clock(place.clock.clone()) } else { options() };
        let store = options().open().await.unwrap();
        let second = options().open().await.unwrap();
        Self { store: Arc::new(store), second: Arc::new(second), with_clock, place }
    }

    async fn direct() -> Self {
        Self::start(Place::new(), true, Place::options).await
    }

    async fn by_the_servers_clock() -> Self {
        Self::start(Place::new(), false, Place::options).await
    }

    /// Through a proxy that pools transactions.
    async fn through_pgbouncer() -> Self {
        let place = Place::at(shared::pgbouncer());
        Self::start(place, true, |place| place.options().with_prepared(false)).await
    }

    /// As a role that has what the printed grants give, and nothing else.
    async fn with_least_rights() -> Self {
        let place = Place::new();
        let owner = place.options();
        owner.clone().open().await.unwrap().close().await;
        let role = format!("{}web", place.prefix);
        place.run(&format!("CREATE ROLE {role} LOGIN PASSWORD 'least'; {}", owner.grants(&role))).await;
        let (scheme, rest) = place.url.split_once("://").unwrap();
        let (_, address) = rest.split_once('@').unwrap();
        let url = format!("{scheme}://{role}:least@{address}");
        let options = |place: &Place| {
            let options = PostgresOptions::new(&url).unwrap().with_migrate(false);
            options.with_table_prefix(&place.prefix).unwrap()
        };
        Self::start(place, true, options).await
    }
}

#[async_trait]
impl Fixture for OnPostgres {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn second_handle(&self) -> Option<Arc<dyn SessionStore>> {
        Some(self.second.clone())
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        self.with_clock.then(|| self.place.clock.clone())
    }

    async fn overwrite_record(&self, id: &SessionId, bytes: &[u8]) -> bool {
        let client = connect(&self.place.url).await;
        let update = format!("UPDATE {}sessions SET record = $1 WHERE id = $2", self.place.prefix);
        let id = id.as_bytes().as_slice();
        client.execute_typed(&update, &[(&bytes, Type::BYTEA), (&id, Type::BYTEA)]).await.unwrap() == 1
    }
}

cloakroom_testkit::store_suite!(postgres, OnPostgres::direct());
cloakroom_testkit::store_suite!(postgres_clock, OnPostgres::by_the_servers_clock());
cloakroom_testkit::store_suite!(pgbouncer, OnPostgres::through_pgbouncer());
cloakroom_testkit::store_suite!(least_rights, OnPostgres::with_least_rights());
