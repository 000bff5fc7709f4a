//! Session stores on SQL databases.
//!
//! | feature | store | for |
//! |---|---|---|
//! | `sqlite` | [`SqliteStore`] | one machine: sessions in a file beside the service, shared by its processes |
//! | `mysql` | [`MySqlStore`] | any number of machines, on MariaDB or MySQL |
//! | `postgres` | [`PostgresStore`] | many machines: sessions in PostgreSQL 13 or later, directly or behind PgBouncer |
//!
//! What one request needs and what another needs at the same moment travels together: a few tasks
//! own a connection each and drain a queue. So a future that is dropped never leaves a connection
//! half used, many writes share one commit, and a lone request is sent at once.

#[cfg(any(feature = "mysql", feature = "postgres"))]
mod batch;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod dialect;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod migrations;
#[cfg(feature = "mysql")]
mod mysql;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod open_error;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod prefix;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod queue;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
mod row;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod touches;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod url;

#[cfg(any(feature = "mysql", feature = "postgres", feature = "sqlite"))]
pub use migrations::Migration;
#[cfg(feature = "mysql")]
pub use mysql::{MySqlOptions, MySqlStore};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use open_error::{ServerOpenError, ServerOpenErrorKind};
#[cfg(feature = "postgres")]
pub use postgres::{PostgresOptions, PostgresStore};
#[cfg(feature = "sqlite")]
pub use sqlite::{OpenError, OpenErrorKind, SqliteOptions, SqliteStore, Synchronous};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use touches::Touches;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub use url::UrlError;
