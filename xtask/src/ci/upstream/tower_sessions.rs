//! The tests that tower-sessions publishes, on our stores.

extern crate @CRATE@ as tower_sessions;

pub use tower_sessions::session;

#[macro_use]
#[path = "@ROUTES@"]
mod common;
#[path = "@SUPPORT@"]
mod support;

macro_rules! on {
    ($module:ident, $kind:ident) => {
        mod $module {
            use async_trait::async_trait;
            use cloakroom_axum::TowerSessionsStore;
            use tower_sessions::SessionStore;
            use tower_sessions::session::{Id, Record};
            use tower_sessions::session_store::Result;

            /// Under the name by which the suites know the store that they test.
            #[derive(Clone, Debug)]
            pub struct MemoryStore(TowerSessionsStore);

            impl Default for MemoryStore {
                fn default() -> Self {
                    let store = std::sync::Arc::clone(&crate::support::$kind);
                    Self(TowerSessionsStore::new(store, crate::support::KEYS.clone()))
                }
            }

            #[async_trait]
            impl SessionStore for MemoryStore {
                async fn create(&self, record: &mut Record) -> Result<()> {
                    SessionStore::create(&self.0, record).await
                }

                async fn save(&self, record: &Record) -> Result<()> {
                    SessionStore::save(&self.0, record).await
                }

                async fn load(&self, id: &Id) -> Result<Option<Record>> {
                    SessionStore::load(&self.0, id).await
                }

                async fn delete(&self, id: &Id) -> Result<()> {
                    SessionStore::delete(&self.0, id).await
                }
            }

            mod routes {
                use axum::Router;
                use tower_sessions::SessionManagerLayer;

                use super::MemoryStore;
                use crate::common::build_app;

                async fn app(max_age: Option<Duration>, domain: Option<String>) -> Router {
                    let session_manager = SessionManagerLayer::new(MemoryStore::default()).with_secure(true);
                    build_app(session_manager, max_age, domain)
                }

                route_tests!(app);
            }

            mod service {
                use http::{Request, Response};
                use tower_cookies::Key;
                use tower_cookies::cookie::SameSite;
                use tower_service::Service;
                use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore};

                mod tower_sessions_memory_store {
                    pub use super::super::MemoryStore;
                }

                include!("@SERVICE@");
            }

            mod store {
                use time::OffsetDateTime;
                use tower_sessions::SessionStore;
                use tower_sessions::session::Record;

                use super::MemoryStore;

                include!("@STORE@");
            }
        }
    };
}

on!(memory, MEMORY);
on!(sqlite, SQLITE);
on!(redis, REDIS);
on!(postgres, POSTGRES);
