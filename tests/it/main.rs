//! What the library promises, tested from outside: on every backend, bare and under its layers.
//!
//! `setup` makes the world a test runs in; each other module is one family of promises, and each
//! test's name is the promise.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod apps;
mod attacks;
mod cancellation;
mod concurrency;
mod csrf;
mod faults;
mod interleavings;
mod journey;
mod parity;
#[path = "../common/place.rs"]
mod place;
mod requirements;
mod setup;
mod transport;
mod watch;
