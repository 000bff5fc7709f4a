//! What SQLite's result codes mean for whoever asked.

use std::path::Path;
use std::sync::Arc;

use cloakroom_core::{StoreError, StoreErrorKind, Verb, WriteOutcome};

/// A failure of the driver, shared by everyone it hit.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) error: Arc<sqlx::Error>,
    pub(crate) outcome: WriteOutcome,
}

impl Fault {
    /// Of a statement inside a transaction: the commit that would have made it real never ran.
    pub(crate) fn before_commit(error: sqlx::Error) -> Self {
        Self { error: Arc::new(error), outcome: WriteOutcome::NotDone }
    }

    /// Of a commit, or of a statement that is its own transaction.
    pub(crate) fn in_commit(error: sqlx::Error) -> Self {
        let outcome = if refused(&error) { WriteOutcome::NotDone } else { WriteOutcome::Unknown };
        Self { error: Arc::new(error), outcome }
    }

    /// Another process holds the lock.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(code(&self.error), Some(BUSY | LOCKED))
    }

    pub(crate) fn to_store_error(&self, verb: Verb, file: &Path) -> StoreError {
        let file = file.display();
        let (kind, message) = match code(&self.error) {
            Some(BUSY | LOCKED) => {
                let message = format!(
                    "another process kept {file} locked for longer than the busy timeout: end what holds it (a backup, \
                     an open sqlite3 shell), or raise the timeout"
                );
                (StoreErrorKind::Timeout, message)
            }
            Some(FULL) => (StoreErrorKind::Full, format!("the disk of {file} is full: make room, or sweep more often")),
            Some(READONLY | PERM | CANTOPEN | AUTH) => {
                let message = format!(
                    "{file}, its directory or one of its companions (-wal, -shm) cannot be written or opened: give \
                     the service's user the right to"
                );
                (StoreErrorKind::Misconfigured, message)
            }
            Some(CORRUPT | NOTADB) => {
                let message =
                    format!("{file} is damaged: check it with `PRAGMA integrity_check`, restore it or remove it");
                (StoreErrorKind::Corrupt, message)
            }
            Some(ERROR | SCHEMA | CONSTRAINT | MISMATCH) => {
                let message = format!("{file} does not have the tables of this release: apply its migrations");
                (StoreErrorKind::Misconfigured, message)
            }
            Some(_) | None => (StoreErrorKind::Unavailable, format!("{file} cannot be read or written at the moment")),
        };
        let error = StoreError::new(kind, verb, message).with_source(Arc::clone(&self.error));
        match self.outcome {
            WriteOutcome::NotDone => error.not_done(),
            WriteOutcome::Unknown => error,
        }
    }

    /// Whether the connection may be the cause, so that the next call is better off with a new one.
    pub(crate) fn costs_the_connection(&self) -> bool {
        !refused(&self.error)
    }
}

pub(crate) const ERROR: u8 = 1;
pub(crate) const PERM: u8 = 3;
pub(crate) const BUSY: u8 = 5;
pub(crate) const LOCKED: u8 = 6;
pub(crate) const READONLY: u8 = 8;
pub(crate) const CORRUPT: u8 = 11;
pub(crate) const FULL: u8 = 13;
pub(crate) const CANTOPEN: u8 = 14;
pub(crate) const SCHEMA: u8 = 17;
pub(crate) const TOOBIG: u8 = 18;
pub(crate) const CONSTRAINT: u8 = 19;
pub(crate) const MISMATCH: u8 = 20;
pub(crate) const AUTH: u8 = 23;
pub(crate) const NOTADB: u8 = 26;

/// The primary result code, if SQLite itself failed.
pub(crate) fn code(error: &sqlx::Error) -> Option<u8> {
    let code = error.as_database_error()?.code()?;
    code.parse::<u32>().ok().map(|code| (code & 0xff) as u8)
}

/// Whether SQLite refused a statement before it began to write. What fails in the middle of writing
/// (a full disk, a failed sync) may have left a whole commit in the log.
fn refused(error: &sqlx::Error) -> bool {
    matches!(
        code(error),
        Some(ERROR | PERM | BUSY | LOCKED | READONLY | CANTOPEN | SCHEMA | TOOBIG | CONSTRAINT | MISMATCH | AUTH)
    )
}
