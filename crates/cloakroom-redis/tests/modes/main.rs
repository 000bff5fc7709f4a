//! Every way to a server, every way it can be in the way, and what happens when it goes and comes back.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of tests may fail them")]

mod cluster;
mod fake;
mod hostile;
mod opening;
mod probing;
mod recovering;
mod sentinel;
mod urls;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom_core::clock::SystemClock;
use cloakroom_core::{Clock as _, Create, Handle, Load, Record, SessionId, SessionStore as _};
use cloakroom_redis::{RedisOptions, RedisStore};

static NUMBER: AtomicU64 = AtomicU64::new(1);

/// Options for this URL, with a prefix that no other test has.
fn options(url: &str) -> RedisOptions {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let prefix = format!("cloakroom-modes-{}-{number}:", std::process::id());
    RedisOptions::new(url).unwrap().with_prefix(prefix).unwrap()
}

async fn open(url: &str) -> RedisStore {
    options(url).open().await.unwrap()
}

/// An id that no other test has.
fn new_id() -> SessionId {
    let number = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let mut bytes = [7; SessionId::LEN];
    // The first bytes are the part of the owner, which places it in a cluster.
    bytes[..2].copy_from_slice(&number[6..]);
    bytes[SessionId::LEN - 8..].copy_from_slice(&number);
    SessionId::from_bytes(bytes)
}

fn record_of(id: &SessionId) -> Record {
    let mut handle = [0; Handle::LEN];
    handle.copy_from_slice(&id.as_bytes()[SessionId::LEN - Handle::LEN..]);
    Record::new(Handle::from_bytes(handle), SystemClock.now(), Duration::from_secs(3600), Duration::from_secs(7200))
}

/// A live session.
async fn file(store: &RedisStore) -> (SessionId, Record) {
    let id = new_id();
    let record = record_of(&id);
    let created = store.create(&id, &record, None).await.unwrap();
    assert_eq!(created, Create::Created { evicted: Vec::new() });
    (id, record)
}

#[track_caller]
fn assert_live(load: Load, record: &Record) {
    match load {
        Load::Live(stored) => assert_eq!(&stored.record, record),
        Load::Gone(reason) => panic!("a live session is gone ({reason:?})"),
    }
}
