//! What PostgreSQL's errors mean for whoever asked.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{StoreError, StoreErrorKind, Verb, WriteOutcome};
use tokio_postgres::error::{Severity, SqlState};

/// Every error of PostgreSQL has a code of so many characters (its manual, appendix A).
const SQLSTATE_LEN: usize = 5;

/// A failure, shared by everyone it hit.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    kind: StoreErrorKind,
    outcome: WriteOutcome,
    message: Arc<str>,
    source: Option<Arc<DriverError>>,
}

/// What is to be done about a failed batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing was done, and it may work when it is repeated.
    Repeat,
    /// As `Repeat`, on another connection.
    RepeatElsewhere,
    /// The connection broke. What only reads can be repeated.
    Reconnect,
    /// Something in it cannot be done: which, shows when each is on its own.
    Split,
    /// It is as it is.
    None,
}

impl Fault {
    pub(crate) fn new(kind: StoreErrorKind, outcome: WriteOutcome, message: impl Into<Arc<str>>) -> Self {
        Self { kind, outcome, message: message.into(), source: None }
    }

    /// States that nothing was written, where that is certain.
    pub(crate) fn not_done(mut self) -> Self {
        self.outcome = WriteOutcome::NotDone;
        self
    }

    fn with_source(mut self, source: DriverError) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// Of something that was sent.
    pub(crate) fn sent(error: &tokio_postgres::Error, server: &str) -> (Self, Remedy) {
        let Some(state) = error.code().filter(|_| !is_fatal(error)) else {
            let message = format!("the connection to {server} broke before the answer came");
            let fault = Self::new(StoreErrorKind::Unavailable, WriteOutcome::Unknown, message);
            return (fault.with_source(DriverError::new(error)), Remedy::Reconnect);
        };
        // Whoever sends such an error is no PostgreSQL, so it is not believed that nothing was done either.
        if state.code().len() != SQLSTATE_LEN {
            let fault = Self::absurd(server, "an error whose code is none");
            return (fault.with_source(DriverError::new(error)), Remedy::Reconnect);
        }
        let (kind, message, remedy) = meaning(state, server);
        (Self::new(kind, WriteOutcome::NotDone, message).with_source(DriverError::new(error)), remedy)
    }

    /// Of a connection that was never made.
    pub(crate) fn unreachable(error: &tokio_postgres::Error, server: &str) -> Self {
        let (kind, message) = match error.code() {
            Some(state) if state.code().starts_with("28") || *state == SqlState::INVALID_CATALOG_NAME => {
                (StoreErrorKind::Misconfigured, format!("{server} lets this user not into this database"))
            }
            Some(_) | None => (StoreErrorKind::Unavailable, format!("{server} cannot be reached")),
        };
        Self::new(kind, WriteOutcome::NotDone, message).with_source(DriverError::new(error))
    }

    pub(crate) fn silent(server: &str, after: Duration) -> Self {
        let message = format!(
            "{server} did not answer within {after:?}: it is down, overloaded, or something holds locks on the tables \
             of sessions"
        );
        Self::new(StoreErrorKind::Timeout, WriteOutcome::Unknown, message)
    }

    pub(crate) fn unconnectable(server: &str, after: Duration) -> Self {
        let message = format!("{server} took no connection within {after:?}");
        Self::new(StoreErrorKind::Unavailable, WriteOutcome::NotDone, message)
    }

    /// Of a connection on which nothing was under way.
    pub(crate) fn closed(server: &str) -> Self {
        let message = format!("the connection to {server} was closed");
        Self::new(StoreErrorKind::Unavailable, WriteOutcome::NotDone, message)
    }

    /// An answer that no statement of this release gives.
    pub(crate) fn absurd(server: &str, what: impl fmt::Display) -> Self {
        let message = format!("{server} answered what it never should: {what}");
        Self::new(StoreErrorKind::Corrupt, WriteOutcome::Unknown, message)
    }

    pub(crate) fn to_store_error(&self, verb: Verb) -> StoreError {
        let error = StoreError::new(self.kind, verb, &*self.message);
        let error = match &self.source {
            Some(source) => error.with_source(Arc::clone(source)),
            None => error,
        };
        match self.outcome {
            WriteOutcome::NotDone => error.not_done(),
            WriteOutcome::Unknown => error,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.source {
            Some(source) => write!(f, " ({source})"),
            None => Ok(()),
        }
    }
}

/// A server that ends the session may have committed before: a shutdown that cuts short the wait for
/// a replica comes after the commit.
fn is_fatal(error: &tokio_postgres::Error) -> bool {
    let fatal = |error: &tokio_postgres::error::DbError| {
        error.code().code().starts_with("57P")
            || error.parsed_severity().map_or_else(
                || ["FATAL", "PANIC"].contains(&error.severity()),
                |severity| matches!(severity, Severity::Fatal | Severity::Panic),
            )
    };
    error.as_db_error().is_some_and(fatal)
}

fn meaning(state: &SqlState, server: &str) -> (StoreErrorKind, String, Remedy) {
    let code = state.code();
    if [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state) {
        let message = format!("{server} gave up because of others who write the same sessions");
        return (StoreErrorKind::Timeout, message, Remedy::Repeat);
    }
    if *state == SqlState::READ_ONLY_SQL_TRANSACTION {
        let message = format!(
            "{server} is read-only: it is a standby or was made one; name all servers in the URL, so that the one \
             that writes is found"
        );
        return (StoreErrorKind::Unavailable, message, Remedy::RepeatElsewhere);
    }
    // A prepared statement that does not fit the tables any more, or that another process prepared.
    if [SqlState::FEATURE_NOT_SUPPORTED, SqlState::INVALID_SQL_STATEMENT_NAME, SqlState::DUPLICATE_PSTATEMENT]
        .contains(state)
    {
        let message = format!(
            "{server} has lost its prepared statements: behind a proxy that pools transactions, add `prepared=off` to \
             the URL"
        );
        return (StoreErrorKind::Misconfigured, message, Remedy::RepeatElsewhere);
    }
    if [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(state) {
        let message = format!(
            "{server} cancelled the statement: a timeout of the server (statement_timeout, lock_timeout) is too short, \
             or something holds locks on the tables of sessions"
        );
        return (StoreErrorKind::Timeout, message, Remedy::None);
    }
    if *state == SqlState::INSUFFICIENT_PRIVILEGE {
        let message = format!(
            "the role that the service connects to {server} as lacks a right: apply what `PostgresOptions::grants` \
             prints"
        );
        return (StoreErrorKind::Misconfigured, message, Remedy::None);
    }
    if *state == SqlState::DISK_FULL {
        let message = format!("the disk of {server} is full: make room, or sweep more often");
        return (StoreErrorKind::Full, message, Remedy::None);
    }
    if *state == SqlState::DATA_CORRUPTED || *state == SqlState::INDEX_CORRUPTED || code.starts_with("XX") {
        let message = format!("{server} reports damage or a defect of its own: read its log");
        return (StoreErrorKind::Corrupt, message, Remedy::Split);
    }
    match code.get(..2).unwrap_or_default() {
        "22" | "23" => {
            let message = format!("{server} refuses what was to be written: somebody changed the tables of sessions");
            (StoreErrorKind::Misconfigured, message, Remedy::Split)
        }
        "42" | "3F" => {
            let message = format!("{server} does not have the tables of this release: apply its migrations");
            (StoreErrorKind::Misconfigured, message, Remedy::None)
        }
        "53" | "54" => {
            (StoreErrorKind::Unavailable, format!("{server} has run out of memory or connections"), Remedy::Split)
        }
        _ => {
            (StoreErrorKind::Unavailable, format!("{server} cannot read or write sessions at the moment"), Remedy::None)
        }
    }
}

/// The driver's error without what may repeat a record: the server's `DETAIL` quotes whole rows.
#[derive(Debug)]
pub(crate) struct DriverError(String);

impl DriverError {
    pub(crate) fn new(error: &tokio_postgres::Error) -> Self {
        let Some(database) = error.as_db_error() else {
            let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
            return Self(format!("{error}{cause}"));
        };
        let state = database.code();
        // The message of a data exception may quote a value.
        Self(if state.code().starts_with("22") || state.code().starts_with("23") {
            let constraint = database.constraint().map(|name| format!(", constraint {name}")).unwrap_or_default();
            format!("{} {}{constraint}", database.severity(), state.code())
        } else {
            format!("{} {}: {}", database.severity(), state.code(), database.message())
        })
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for DriverError {}
