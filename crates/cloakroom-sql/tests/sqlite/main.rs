//! `SqliteStore`: the contract, and what is special about a file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail them")]

mod batches;
mod files;
mod processes;
mod records;
mod suite;
mod support;
mod sweeping;
