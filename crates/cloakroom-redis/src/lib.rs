//! Sessions in Redis or Valkey: one server, Sentinel, or Cluster.
//!
//! [`RedisStore`] is the store, [`RedisOptions`] says where its server is and what an acknowledged
//! write has to survive. A request's way through the crate is the order of the modules.

mod options;

mod batch;
mod store;

mod keys;
mod scripts;
mod value;

mod link;
mod probe;

mod fault;

pub use link::{RedisOpenError, RedisOpenErrorKind};
pub use options::{ACL_RULE, RedisDurability, RedisOptions, RedisUrlError};
pub use store::RedisStore;
