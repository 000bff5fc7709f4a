//! `PostgresStore`: the contract, and what is special about a server.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail them")]

mod batches;
mod logs;
mod opening;
mod outages;
mod proxy;
mod statements;
mod suite;
mod support;
mod sweeping;
mod touching;
