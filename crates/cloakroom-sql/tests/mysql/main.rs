//! `MySqlStore` on MariaDB: the contract, and what is special about this server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail them")]

mod opening;
mod outages;
mod records;
mod suite;
mod support;
