//! The adapter through axum itself, over a store in memory that fails where a test says so.

#![expect(clippy::unwrap_used, clippy::panic, reason = "clippy sees tests only in functions marked as such")]

mod composition;
mod extractors;
mod failures;
mod headers;
mod lifetime;
mod log;
mod named;
mod support;
