//! The adapter through actix-web itself, over a store in memory that fails where a test says so.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod composition;
mod failures;
mod headers;
mod lifetime;
mod support;
mod workers;
