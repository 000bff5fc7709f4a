//! Sessions for web services.
//!
//! * **Logout means logout.** What was destroyed, revoked, renewed away or expired never comes back.
//! * **No update is lost.** Two requests that change one session at once both land, or one is told.
//! * **Yours only.** Nobody ever reads a byte of another session.
//! * **One handle, any backend.** From a cookie to SQLite to a Redis cluster is configuration; no signature names a
//!   backend.
//! * **It explains itself.** A wrong setting is refused at the start, with the fix in the message.
//!
#![cfg_attr(
    all(feature = "axum", feature = "config"),
    doc = "```no_run
use axum::{Router, routing::get};
use cloakroom::{Cloakroom, Key, axum::{Session, SessionError}};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = Cloakroom::from_env().await?; // file, environment, or SQLite beside you
    let app = Router::new().route(\"/\", get(visit)).layer(sessions.axum());
    Ok(axum::serve(TcpListener::bind(\"127.0.0.1:3000\").await?, app).await?)
}

const VISITS: Key<u64> = Key::new(\"visits\");

async fn visit(session: Session) -> Result<String, SessionError> {
    let n = session.modify(VISITS, |n| *n += 1)?; // survives parallel requests
    Ok(format!(\"visit {n}\"))
}
```"
)]
//!
//! # Features
//!
//! None is on by default. Each adds, and none changes what existing code does.
//!
//! | feature | adds |
//! |---|---|
//! | `actix` | the middleware and the extractors for actix-web |
//! | `actix-session` | the stores for applications that run their sessions with actix-session, with actix-identity or without |
//! | `axum` | the layer and the extractors for axum |
//! | `config` | `Cloakroom::from_env`: the whole stack from a file and the environment |
//! | `cookie` | sessions sealed into the cookie |
//! | `mysql` | sessions in MySQL or MariaDB |
//! | `postgres` | sessions in PostgreSQL |
//! | `redis` | sessions in Redis or Valkey: one server, Sentinel or Cluster |
//! | `sqlite` | sessions in a SQLite file |
//! | `tower-sessions` | the stores for applications that run their sessions with tower-sessions, with axum-login or without |
//! | `full` | all of them |
//!
//! Sessions in memory need no feature.
//!
//! # A stack built in code
//!
//! ```
//! use std::sync::Arc;
//! use std::time::Duration;
//! use cloakroom::layer::{ObserveLayer, StoreExt, TimeoutLayer};
//! use cloakroom::{Backend, Cloakroom, KeyRing, Manager, MemoryStore, OsRandom, SecretKey};
//! use cloakroom::{SessionStore, Sweeper, TracingSink};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let memory: Arc<dyn SessionStore> = Arc::new(MemoryStore::new());
//! // Removes what has expired for as long as it is held; nothing else does in a stack built in code.
//! let sweeper = Sweeper::start(Arc::clone(&memory), Duration::from_secs(60));
//! let store = memory
//!     .layer(TimeoutLayer::new(Duration::from_secs(2)))
//!     .layer(ObserveLayer::new(Arc::new(TracingSink)));
//! let keys = KeyRing::new("shop", &[SecretKey::generate(&OsRandom::default())?])?;
//! let sessions = Cloakroom::new(Manager::builder(Backend::store(store), keys).build()?);
//! // … serve …
//! drop((sessions, sweeper));
//! # Ok(()) }
//! ```
//!
//! # What it does not do
//!
//! * It does not know who somebody is: passwords, codes and identity providers are the application's.
//! * It merges changes by key, not inside of a value, unless `modify` says how.
//! * It does not read cookies and headers at once: an application has one [`Transport`].
//! * A sealed cookie cannot be listed, and holds under 3 KiB.

mod cloakroom;
#[cfg(feature = "config")]
mod compose;
#[cfg(feature = "config")]
mod config;
#[cfg(feature = "config")]
mod open;

pub use crate::cloakroom::Cloakroom;
#[cfg(feature = "config")]
pub use crate::config::{Config, ConfigError, Sources};

// What a handler holds.
#[doc(inline)]
pub use cloakroom_core::{
    Assurance, Client, Flash, Handle, Key, Principal, Provenance, ReadSession, Session, SessionError, SessionErrorKind,
    SessionKey, SessionWatch, State, Transaction, WatchEnd,
};

// Whom middlewares let through.
#[doc(inline)]
pub use cloakroom_core::{Csrf, CsrfError, CsrfRefusal, LocalPath, NotLocal, Require};

// What a stack is built of.
#[doc(inline)]
pub use cloakroom_core::{
    Backend, BuildError, CookieError, CookieSettings, HeaderError, HeaderSettings, KEY_COMMAND, KeyError, KeyId,
    KeyRing, MAX_LIFETIME, Manager, ManagerBuilder, MemoryStore, OutagePolicy, Policy, PolicyError, Profile,
    Revocations, SameSite, SecretKey, Sweeper, Transport,
};

// What an operator looks at.
#[doc(inline)]
pub use cloakroom_core::{
    Directory, EndReason, Ended, Event, EventSink, Excess, Listing, Page, PageCursor, SessionLimit, Summary,
    TracingSink,
};

// What may be replaced.
#[doc(inline)]
pub use cloakroom_core::{Clock, OsRandom, Random, Seal, SessionStore, StoreError, StoreErrorKind, SystemClock, layer};

/// Sessions for actix-web: the middlewares and the extractors.
#[cfg(feature = "actix")]
#[doc(inline)]
pub use cloakroom_actix as actix;
/// Sessions for axum: the layer and the extractors.
#[cfg(feature = "axum")]
#[doc(inline)]
pub use cloakroom_axum as axum;
/// Sessions sealed into the cookie.
#[cfg(feature = "cookie")]
#[doc(inline)]
pub use cloakroom_cookie as cookie;
/// Sessions in Redis and Valkey.
#[cfg(feature = "redis")]
#[doc(inline)]
pub use cloakroom_redis as redis;
/// Sessions in SQL databases.
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
#[doc(inline)]
pub use cloakroom_sql as sql;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    #[derive(Debug)]
    struct Missing;

    #[test]
    fn the_feature_table_lists_the_features_there_are() -> Result<(), Missing> {
        let manifest: toml::Table = toml::from_str(include_str!("../Cargo.toml")).map_err(|_| Missing)?;
        let features = manifest.get("features").and_then(toml::Value::as_table).ok_or(Missing)?;
        let declared: Vec<_> = features.keys().filter(|name| *name != "default").map(String::as_str).collect();

        let (_, docs) = include_str!("lib.rs").split_once("//! # Features").ok_or(Missing)?;
        let (docs, _) = docs.split_once("//! # A stack").ok_or(Missing)?;
        let rows = docs.lines().filter_map(|line| line.strip_prefix("//! | `")?.split_once('`').map(|(name, _)| name));
        let mut documented: Vec<_> = rows.collect();
        documented.sort_unstable();
        assert_eq!(documented, declared);

        let on_by_default = features.get("default").and_then(toml::Value::as_array).ok_or(Missing)?;
        assert!(on_by_default.is_empty());
        let full = features.get("full").and_then(toml::Value::as_array).ok_or(Missing)?;
        let full: BTreeMap<_, ()> = full.iter().filter_map(|name| Some((name.as_str()?, ()))).collect();
        assert!(declared.iter().filter(|name| **name != "full").all(|name| full.contains_key(name)));
        Ok(())
    }
}

/// The README's program compiles.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../../README.md")]
struct Readme;
