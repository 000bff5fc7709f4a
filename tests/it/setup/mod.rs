//! The world that a test runs in: a backend, a clock, and browsers.

mod browser;
mod events;
mod world;
mod yielding;

pub(crate) use browser::{Browser, OK, Reply, Request, token_of};
pub(crate) use events::Recorder;
pub(crate) use world::{Kind, Stack, World, key, principal, ring};
pub(crate) use yielding::{Yielding, Yields};

/// Runs each of these tests, `async fn(World)`, on every backend, bare and under its layers, as
/// `memory::bare::name` and so on. Layers do not know which server they are around, so where several
/// forms of one server differ only in how it is reached, one of them has layers.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::setup::on_every_backend!(@ sealed Sealed [$($test)*]);
        $crate::setup::on_every_store!($($test),*);
    };
    (@ $module:ident $kind:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@@ bare Bare $kind [$($test)*]);
            $crate::setup::on_every_backend!(@@ layered Layered $kind [$($test)*]);
        }
    };
    (@bare $module:ident $kind:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@@ bare Bare $kind [$($test)*]);
        }
    };
    (@@ $module:ident $stack:ident $kind:ident [$($test:ident)*]) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    use $crate::setup::{Kind, Stack, World};
                    World::run(Kind::$kind, Stack::$stack, super::super::$test).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_backend;

/// The same on the backends that keep sessions on the server.
macro_rules! on_every_store {
    ($($test:ident),* $(,)?) => {
        $crate::setup::on_every_backend!(@ memory Memory [$($test)*]);
        $crate::setup::on_every_backend!(@ sqlite Sqlite [$($test)*]);
        $crate::setup::on_every_backend!(@ redis Redis [$($test)*]);
        $crate::setup::on_every_backend!(@bare sentinel Sentinel [$($test)*]);
        $crate::setup::on_every_backend!(@bare cluster Cluster [$($test)*]);
        $crate::setup::on_every_backend!(@bare redis_tls RedisTls [$($test)*]);
        $crate::setup::on_every_backend!(@ postgres Postgres [$($test)*]);
        $crate::setup::on_every_backend!(@bare pgbouncer PgBouncer [$($test)*]);
        $crate::setup::on_every_backend!(@ mariadb MariaDb [$($test)*]);
    };
}
pub(crate) use on_every_store;
