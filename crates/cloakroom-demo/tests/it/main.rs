//! The demo as its visitors meet it: over HTTP, and in a real browser.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail them")]

mod browser;
mod forgery;
mod journey;
mod pages;
mod program;
mod support;
