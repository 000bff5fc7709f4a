//! Our stores as stores of other session libraries: what their traits let us keep of our promises.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy takes only functions marked as tests for tests, and helpers are most of this crate"
)]

#[path = "../common/place.rs"]
mod place;
mod world;

mod actix_session;
mod orders;
mod tower_sessions;
