//! What every store promises while the world is unkind to it: crowds of callers, callers that leave,
//! and servers that lie.
//!
//! `stores` opens a place of a test's own on every store, `sessions` makes what to put there, `verbs`
//! is each verb of the contract with what it may leave behind, and `proxy` stands between a client and
//! its server and garbles what passes. Each other module is one family of promises.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

mod budgets;
mod cancelling;
mod hostile;
mod limits;
#[path = "../common/place.rs"]
mod place;
mod proxy;
mod revoking;
mod sessions;
mod stores;
mod verbs;
mod wire;
