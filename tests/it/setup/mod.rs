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
/// `memory::bare::name` and so on.
macro_rules! on_every_backend {
    ($($test:ident),* $(,)?) => {
        $crate::setup::on_every_backend!(@ memory Memory [$($test)*]);
        $crate::setup::on_every_backend!(@ sealed Sealed [$($test)*]);
        $crate::setup::on_every_backend!(@ sqlite Sqlite [$($test)*]);
    };
    (@ $module:ident $kind:ident [$($test:ident)*]) => {
        mod $module {
            $crate::setup::on_every_backend!(@@ bare Bare $kind [$($test)*]);
            $crate::setup::on_every_backend!(@@ layered Layered $kind [$($test)*]);
        }
    };
    (@@ $module:ident $stack:ident $kind:ident [$($test:ident)*]) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    let world = $crate::setup::World::start($crate::setup::Kind::$kind, $crate::setup::Stack::$stack).await;
                    super::super::$test(world).await;
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
    };
}
pub(crate) use on_every_store;
