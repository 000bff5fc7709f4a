//! The contracts of cloakroom as tests, for whoever writes a store or a seal.
//!
//! * [`store_suite!`] runs every guarantee of [`SessionStore`](cloakroom_core::SessionStore) against
//!   a store, one test each, under a name that says which guarantee is broken.
//! * [`seal_suite!`] does the same for [`Seal`](cloakroom_core::Seal).
//! * [`ManualClock`], [`SeededRandom`] and [`FailingRandom`] make time and randomness arguments of a test.
//! * [`FaultyStore`] fails, waits or loses its answer where a test tells it to, and counts calls.
//!
//! # On your own store
//!
//! Say in a [`Fixture`](store::Fixture) how an empty store is made, and expand the suite in an
//! integration test. Here for the store in memory:
//!
//! ```
//! use std::sync::Arc;
//!
//! use cloakroom_core::{MemoryStore, SessionStore};
//! use cloakroom_testkit::{ManualClock, store::Fixture};
//!
//! struct OnMemory {
//!     clock: Arc<ManualClock>,
//!     store: Arc<MemoryStore>,
//! }
//!
//! impl OnMemory {
//!     async fn start() -> Self {
//!         let clock = Arc::new(ManualClock::new());
//!         Self { store: Arc::new(MemoryStore::new().with_clock(clock.clone())), clock }
//!     }
//! }
//!
//! impl Fixture for OnMemory {
//!     fn store(&self) -> Arc<dyn SessionStore> {
//!         self.store.clone()
//!     }
//!
//!     fn clock(&self) -> Option<Arc<ManualClock>> {
//!         Some(self.clock.clone())
//!     }
//! }
//!
//! cloakroom_testkit::store_suite!(memory, OnMemory::start());
//! # fn main() { drop(OnMemory::start()) }
//! ```
//!
//! The tests are then called `memory::update_does_not_recreate_a_deleted_session` and so on. Run
//! them on the bare store and again under every stack of layers that you ship.
//!
//! # What it does not test
//!
//! Crashes and failovers of a server, which only the store's author can cause, and speed.

#![expect(clippy::panic, reason = "a check that fails panics: that is what it is for")]
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an answer that a check does not allow fails it, new ones included"
)]

mod clock;
mod faulty;
mod random;
pub mod seal;
pub mod store;

pub use clock::ManualClock;
pub use faulty::{Fault, FaultyStore, Gate};
pub use random::{FailingRandom, SeededRandom};
