//! Every store, opened twice.

use std::sync::Arc;

use cloakroom_core::{MemoryStore, SessionStore};
use cloakroom_sql::{SqliteOptions, Synchronous};

use crate::place::{Place, Server};

/// Two clients of one store, as two processes have; in memory there is but one.
#[derive(Clone)]
pub(crate) struct Stores {
    pub(crate) one: Arc<dyn SessionStore>,
    pub(crate) two: Arc<dyn SessionStore>,
}

impl Stores {
    pub(crate) fn either(&self, number: usize) -> Arc<dyn SessionStore> {
        if number.is_multiple_of(2) { self.one.clone() } else { self.two.clone() }
    }

    pub(crate) async fn at(place: &Place) -> Self {
        let (one, two) = (place.open(None).await, place.open(None).await);
        Self { one, two }
    }
}

pub(crate) async fn in_memory(test: impl AsyncFnOnce(Stores)) {
    let store: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
    test(Stores { one: store.clone(), two: store }).await;
}

pub(crate) async fn in_a_file(test: impl AsyncFnOnce(Stores)) {
    let directory = tempfile::tempdir().unwrap();
    let open = async || {
        let options = SqliteOptions::new(directory.path().join("sessions.db"));
        Arc::new(options.with_synchronous(Synchronous::Normal).open().await.unwrap())
    };
    let (one, two) = (open().await, open().await);
    test(Stores { one, two }).await;
}

pub(crate) async fn on_server(server: Server, test: impl AsyncFnOnce(Stores)) {
    let place = Place::on(server);
    let stores = Stores::at(&place).await;
    test(stores).await;
    place.remove().await;
}

/// Runs each of these tests, `async fn(Stores)`, on every server.
macro_rules! on_every_server {
    ($($test:ident),* $(,)?) => {
        $crate::stores::on_every_server!(@ redis Redis [$($test)*]);
        $crate::stores::on_every_server!(@ sentinel Sentinel [$($test)*]);
        $crate::stores::on_every_server!(@ cluster Cluster [$($test)*]);
        $crate::stores::on_every_server!(@ redis_tls RedisTls [$($test)*]);
        $crate::stores::on_every_server!(@ postgres Postgres [$($test)*]);
        $crate::stores::on_every_server!(@ pgbouncer PgBouncer [$($test)*]);
        $crate::stores::on_every_server!(@ mariadb MariaDb [$($test)*]);
    };
    (@ $module:ident $server:ident [$($test:ident)*]) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::stores::on_server($crate::place::Server::$server, super::$test).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_server;

/// The same on every store.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::stores::in_memory(super::$test).await;
                }
            )*
        }
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    $crate::stores::in_a_file(super::$test).await;
                }
            )*
        }
        $crate::stores::on_every_server!($($test),*);
    };
}
pub(crate) use on_every_store;
