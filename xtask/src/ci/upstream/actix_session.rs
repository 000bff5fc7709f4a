//! The tests that actix-session publishes, on our stores.

pub use actix_session::{Session, SessionExt, SessionMiddleware, config, storage};

#[path = "@SUPPORT@"]
mod support;

include!("@ACCEPTANCE@");

macro_rules! on {
    ($module:ident, $kind:ident) => {
        mod $module {
            use cloakroom_actix::ActixSessionStore;

            fn store() -> ActixSessionStore {
                let store = std::sync::Arc::clone(&crate::support::$kind);
                ActixSessionStore::new(store, crate::support::KEYS.clone())
            }

            mod redis_rs {
                use std::collections::HashMap;

                use actix_web::cookie::time;

                use crate::storage::{SessionStore as _, generate_session_key};
                use crate::test_helpers::acceptance_test_suite;

                /// Under the name by which the tests know the store that they test.
                async fn redis_store() -> cloakroom_actix::ActixSessionStore {
                    super::store()
                }

                include!("@STORE@");
            }
        }
    };
}

on!(memory, MEMORY);
on!(sqlite, SQLITE);
on!(redis, REDIS);
on!(postgres, POSTGRES);
