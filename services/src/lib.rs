//! Private servers for the tests: Redis in all its forms, PostgreSQL, PgBouncer, MariaDB.
//!
//! Nothing here touches a server of the system, a default port or a default directory. Each server
//! is a child process on a free loopback port in a temporary directory of its own, with passwords
//! that are made up for it. A start returns when the server answers, or with the end of its log.
//! Dropping the value ends the process and removes the directory; if this process dies instead, the
//! server dies with it.
//!
//! A test that is content with any server takes the one that all tests share, see [`shared`]. A
//! test that kills, pauses or restarts servers starts its own:
//!
//! ```no_run
//! # fn main() -> Result<(), cloakroom_services::Error> {
//! let redis = cloakroom_services::Redis::start()?;
//! println!("{}", redis.url());
//! redis.kill()?;
//! redis.restart()?;
//! # Ok(())
//! # }
//! ```
//!
//! Starting and stopping block the thread: asynchronous tests use `spawn_blocking` where that
//! matters. Linux only; what the tests need elsewhere is named in the environment ([`shared`]).

mod certificates;
mod cluster;
mod error;
mod mariadb;
mod pgbouncer;
mod place;
mod postgres;
mod process;
mod programs;
mod redis;
mod sentinel;
pub mod shared;
pub mod state;
mod template;

pub use certificates::Certificates;
pub use cluster::Cluster;
pub use error::{Error, Result};
pub use mariadb::{MariaDb, MariaDbBuilder};
pub use pgbouncer::PgBouncer;
pub use postgres::{Postgres, PostgresBuilder};
pub use process::Process;
pub use programs::{PROGRAMS, find_program};
pub use redis::{ACL_RULES, Redis, RedisBuilder};
pub use sentinel::Sentinel;
