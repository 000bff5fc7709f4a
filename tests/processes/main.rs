//! A service of four processes of the demo on one store, while they are replaced one by one.
//!
//! `fleet` builds and starts the processes, `balancer` stands before them, `visitor` is a user with a
//! browser, and `rolling` is what hundreds of them do, on each store in a module of its name. `live` is what becomes of
//! connections that are open.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod balancer;
mod fleet;
mod live;
#[path = "../common/place.rs"]
mod place;
mod program;
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

        #[tokio::test]
        async fn connections_end_with_the_session() {
            let directory = tempfile::tempdir().unwrap();
            let store = format!("sqlite:{}", directory.path().join("sessions.db").display());
            crate::live::connections_end_with_the_session(&store).await;
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

                    #[tokio::test]
                    async fn connections_end_with_the_session() {
                        let place = Place::on(Server::$server);
                        crate::live::connections_end_with_the_session(&place.url).await;
                        place.remove().await;
                    }
                }
            )*
        };
    }

    on_servers!(redis Redis, sentinel Sentinel, cluster Cluster, redis_tls RedisTls);
    on_servers!(postgres Postgres, pgbouncer PgBouncer, mariadb MariaDb);
}
