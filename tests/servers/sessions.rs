//! Ids, handles and records that nobody has had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cloakroom_core::{Clock as _, Handle, Principal, Random as _, Record, SessionId, SystemClock, Value};

pub(crate) const HOUR: Duration = Duration::from_secs(60 * 60);

pub(crate) fn principal(name: &str) -> Principal {
    Principal::new(name).unwrap()
}

/// In the shard of its owner, as the engine makes them.
pub(crate) fn new_id(owner: &Principal) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    cloakroom_core::OsRandom::default().fill(&mut bytes).unwrap();
    bytes[..SessionId::SHARD_LEN].copy_from_slice(&owner.shard());
    SessionId::from_bytes(bytes)
}

/// Greater than those before, so that sessions of one millisecond have an order.
fn new_handle() -> Handle {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut bytes = [0; Handle::LEN];
    bytes[2..].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    Handle::from_bytes(bytes)
}

/// A record of about 200 bytes that says whose it is.
pub(crate) fn record(owner: &Principal) -> Record {
    let record = Record::new(new_handle(), SystemClock.now(), HOUR, 8 * HOUR).owned_by(owner.clone());
    let own = format!("\"{}\"", record.handle());
    with_text(&record, &own)
}

/// The record with this as its value, which is JSON.
pub(crate) fn with_text(record: &Record, text: &str) -> Record {
    let padding = format!("\"{}\"", "x".repeat(100));
    let values = [("own", text), ("padding", &padding)];
    record.clone().with_values(values.map(|(key, text)| Value { key, encoded: text.as_bytes(), expires: 0 }))
}
