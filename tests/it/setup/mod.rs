//! The world that a test runs in: a backend, a clock, and browsers.

mod browser;
mod events;
mod world;
mod yielding;

pub(crate) use browser::{Browser, Finish, OK, Reply, Request, token_of};
pub(crate) use events::Recorder;
pub(crate) use world::{Kind, Stack, World, key, principal, ring};
pub(crate) use yielding::{Yielding, Yields};

/// Runs each of these tests, `async fn(World)`, through every adapter, on every backend, bare and under its
/// layers, as `axum::memory::bare::name` and so on. Layers do not know which server they are around, so where
/// several forms of one server differ only in how it is reached, one of them has layers.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::setup::on_every_backend!(@ every axum Axum [$($test)*]);
        $crate::setup::on_every_backend!(@ every actix Actix [$($test)*]);
    };
    (@ every $module:ident $adapter:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@ both sealed Sealed $adapter [$($test)*]);
            $crate::setup::on_every_backend!(@ stores $adapter [$($test)*]);
        }
    };
    (@ store $module:ident $adapter:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@ stores $adapter [$($test)*]);
        }
    };
    (@ stores $adapter:ident [$($test:ident)*]) => {
        $crate::setup::on_every_backend!(@ both memory Memory $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ both sqlite Sqlite $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ both redis Redis $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one sentinel Sentinel $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one cluster Cluster $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one redis_tls RedisTls $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ both postgres Postgres $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one pgbouncer PgBouncer $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ both mariadb MariaDb $adapter [$($test)*]);
    };
    (@ both $module:ident $kind:ident $adapter:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@ stack bare Bare $kind $adapter [$($test)*]);
            $crate::setup::on_every_backend!(@ stack layered Layered $kind $adapter [$($test)*]);
        }
    };
    (@ one $module:ident $kind:ident $adapter:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@ stack bare Bare $kind $adapter [$($test)*]);
        }
    };
    (@ stack $module:ident $stack:ident $kind:ident $adapter:ident [$($test:ident)*]) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    use $crate::apps::Adapter;
                    use $crate::setup::{Kind, Stack, World};
                    World::run(Adapter::$adapter, Kind::$kind, Stack::$stack, super::super::super::$test).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_backend;

/// The same where the backend makes no difference of its own: sealed, in memory, in a file and on one server.
macro_rules! on_a_few_backends {
    ($($test:ident),* $(,)?) => {
        mod axum {
            $crate::setup::on_a_few_backends!(@ Axum [$($test)*]);
        }
        mod actix {
            $crate::setup::on_a_few_backends!(@ Actix [$($test)*]);
        }
    };
    (@ $adapter:ident [$($test:ident)*]) => {
        $crate::setup::on_every_backend!(@ one sealed Sealed $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one memory Memory $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one sqlite Sqlite $adapter [$($test)*]);
        $crate::setup::on_every_backend!(@ one redis Redis $adapter [$($test)*]);
    };
}
pub(crate) use on_a_few_backends;

/// The same on the backends that keep sessions on the server.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        $crate::setup::on_every_backend!(@ store axum Axum [$($test)*]);
        $crate::setup::on_every_backend!(@ store actix Actix [$($test)*]);
    };
}
pub(crate) use on_every_store;
