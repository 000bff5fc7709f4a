//! Session stores on SQL databases.
//!
//! | feature | store | for |
//! |---|---|---|
//! | `sqlite` | [`SqliteStore`] | one machine: sessions in a file beside the service, shared by its processes |
//!
//! What one request needs and what another needs at the same moment travels together: a few tasks
//! own a connection each and drain a queue. So a future that is dropped never leaves a connection
//! half used, many writes share one commit, and a lone request is sent at once.

#[cfg(feature = "sqlite")]
mod dialect;
#[cfg(feature = "sqlite")]
mod migrations;
#[cfg(feature = "sqlite")]
mod queue;
#[cfg(feature = "sqlite")]
mod sqlite;

#[cfg(feature = "sqlite")]
pub use migrations::Migration;
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, OpenErrorKind, SqliteOptions, SqliteStore, Synchronous};
