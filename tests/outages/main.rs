//! What holds when servers die, move and restart under load, and what does not.
//!
//! `load` drives a store and keeps an account of every answer; `harness` shows that it catches broken
//! stores; each other module is one kind of outage on servers of the test's own. Every test prints
//! what it observed: `cargo nextest run -p cloakroom-tests --test outages --no-capture`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::wildcard_enum_match_arm,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod broken;
mod failover;
mod harness;
mod load;
mod million;
mod reshard;
mod restart;
mod servers;
