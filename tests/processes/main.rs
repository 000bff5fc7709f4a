//! A service of four processes of the demo on one store, while they are replaced one by one.
//!
//! `fleet` builds and starts the processes, `balancer` stands before them, `visitor` is a user with a
//! browser, and `rolling` is what hundreds of them do, on each store in a module of its name.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod balancer;
mod fleet;
#[path = "../common/place.rs"]
mod place;
mod rolling;
mod visitor;

/// On every store that processes can share.
mod processes {
    mod sqlite {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn rolling_restarts_sign_nobody_out_and_lose_no_update() {
            let directory = tempfile::tempdir().unwrap();
            let store = format!("sqlite:{}", directory.path().join("sessions.db").display());
            crate::rolling::three_hundred_visitors(&store).await;
        }
    }

    macro_rules! on_servers {
        ($($module:ident $server:ident),* $(,)?) => {
            $(
                mod $module {
                    use crate::place::{Place, Server};

                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn rolling_restarts_sign_nobody_out_and_lose_no_update() {
                        let place = Place::on(Server::$server);
                        crate::rolling::three_hundred_visitors(&place.url).await;
                        place.remove().await;
                    }
                }
            )*
        };
    }

    on_servers!(redis Redis, sentinel Sentinel, cluster Cluster, redis_tls RedisTls);
    on_servers!(postgres Postgres, pgbouncer PgBouncer, mariadb MariaDb);
}
