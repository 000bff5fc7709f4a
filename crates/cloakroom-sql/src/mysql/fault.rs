//! What the error numbers of the server mean for whoever asked.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{StoreError, StoreErrorKind, Verb};
use sqlx::mysql::MySqlDatabaseError;

/// A failure, shared by everyone it hit.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The server or the way to it.
    Driver(Arc<sqlx::Error>),
    /// No answer for so long.
    Silent(Duration),
    /// There is no connection, for this reason, so nothing was sent.
    NotConnected(Arc<str>),
    /// The server must not be used, for this reason.
    Unfit(Arc<str>),
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Driver(Arc::new(error))
    }
}

impl Fault {
    fn number(&self) -> Option<u16> {
        match self {
            Self::Driver(error) => number(error),
            Self::Silent(_) | Self::NotConnected(_) | Self::Unfit(_) => None,
        }
    }

    /// Another transaction was in the way, and all that was begun is undone.
    pub(crate) fn is_contention(&self) -> bool {
        matches!(self.number(), Some(LOCK_WAIT_TIMEOUT | DEADLOCK))
    }

    /// Whether the connection may be the cause, or may be left with something open, so that the next
    /// call is better off with a new one.
    pub(crate) fn costs_the_connection(&self) -> bool {
        match self {
            Self::Driver(error) => number(error).is_none_or(|number| !leaves_the_connection(number)),
            Self::Silent(_) => true,
            Self::NotConnected(_) | Self::Unfit(_) => false,
        }
    }

    /// Whether it is certain that nothing was written.
    fn is_not_done(&self) -> bool {
        match self {
            Self::Driver(error) => match number(error) {
                Some(number) => leaves_the_connection(number) || refuses(number),
                None => matches!(**error, sqlx::Error::Encode(_) | sqlx::Error::Configuration(_)),
            },
            Self::Silent(_) => false,
            Self::NotConnected(_) | Self::Unfit(_) => true,
        }
    }

    pub(crate) fn to_store_error(&self, verb: Verb, server: &str) -> StoreError {
        let (kind, message) = match self {
            Self::Driver(error) => match number(error) {
                Some(number) => of_number(number, server),
                None => (StoreErrorKind::Unavailable, format!("the connection to {server} broke")),
            },
            Self::Silent(patience) => (
                StoreErrorKind::Timeout,
                format!("{server} did not answer within {patience:?}: it is overloaded, or something holds a lock"),
            ),
            Self::NotConnected(cause) => {
                (StoreErrorKind::Unavailable, format!("there is no connection to {server}: {cause}"))
            }
            Self::Unfit(why) => (StoreErrorKind::Misconfigured, format!("{server} cannot be used: {why}")),
        };
        let mut store_error = StoreError::new(kind, verb, message);
        if let Self::Driver(error) = self {
            store_error = store_error.with_source(Arc::clone(error));
        }
        if self.is_not_done() || !verb.writes() { store_error.not_done() } else { store_error }
    }
}

fn of_number(number: u16, server: &str) -> (StoreErrorKind, String) {
    match number {
        LOCK_WAIT_TIMEOUT | DEADLOCK => (
            StoreErrorKind::Timeout,
            format!("other transactions on {server} hold the locks: end what holds them (a backup, an open shell)"),
        ),
        DISK_FULL | TABLE_FULL => {
            (StoreErrorKind::Full, format!("the disk of {server} is full: make room, or sweep more often"))
        }
        READ_ONLY_OPTION | READ_ONLY_MODE | READ_ONLY_TRANSACTION => (
            StoreErrorKind::Misconfigured,
            format!("{server} is read-only: connect to the primary, or end its read_only mode"),
        ),
        PACKET_TOO_LARGE => (
            StoreErrorKind::Misconfigured,
            format!("a record is larger than {server} takes: raise its max_allowed_packet"),
        ),
        DATABASE_ACCESS | ACCESS | TABLE_ACCESS | COLUMN_ACCESS | ROUTINE_ACCESS | SPECIAL_ACCESS => (
            StoreErrorKind::Misconfigured,
            format!("the role on {server} lacks a right: run the script of grants for it"),
        ),
        NO_DATABASE | NO_TABLE | NO_COLUMN | NO_ROUTINE | OTHER_ROUTINE | OTHER_COLUMNS | SIGNALLED => (
            StoreErrorKind::Misconfigured,
            format!("{server} does not have the tables and procedures of this release: apply its migrations"),
        ),
        TOO_LONG | OUT_OF_RANGE | CHECK_MARIADB | CHECK_MYSQL | NOT_NULL => {
            (StoreErrorKind::Corrupt, format!("{server} refuses a record that does not fit its table"))
        }
        TOO_MANY_CONNECTIONS | TOO_MANY_OF_USER | RESOURCE_LIMIT => (
            StoreErrorKind::Unavailable,
            format!("{server} takes no more connections: raise max_connections, or open fewer"),
        ),
        _ => (StoreErrorKind::Unavailable, format!("{server} failed")),
    }
}

/// Errors of a statement that change nothing else, after which the connection is as before: a
/// procedure has rolled back before it passed them on.
fn leaves_the_connection(number: u16) -> bool {
    matches!(
        number,
        LOCK_WAIT_TIMEOUT
            | DEADLOCK
            | DUPLICATE
            | TOO_LONG
            | OUT_OF_RANGE
            | CHECK_MARIADB
            | CHECK_MYSQL
            | NOT_NULL
            | NO_TABLE
            | NO_COLUMN
            | NO_ROUTINE
            | OTHER_ROUTINE
            | OTHER_COLUMNS
            | SIGNALLED
            | TABLE_ACCESS
            | COLUMN_ACCESS
            | ROUTINE_ACCESS
    )
}

/// Errors that come before anything is written, and speak against this connection or server.
fn refuses(number: u16) -> bool {
    matches!(
        number,
        READ_ONLY_OPTION
            | READ_ONLY_MODE
            | READ_ONLY_TRANSACTION
            | PACKET_TOO_LARGE
            | DATABASE_ACCESS
            | ACCESS
            | SPECIAL_ACCESS
            | NO_DATABASE
            | TOO_MANY_CONNECTIONS
            | TOO_MANY_OF_USER
            | RESOURCE_LIMIT
    )
}

const DISK_FULL: u16 = 1021;
pub(crate) const TOO_MANY_CONNECTIONS: u16 = 1040;
pub(crate) const DATABASE_ACCESS: u16 = 1044;
pub(crate) const ACCESS: u16 = 1045;
const NOT_NULL: u16 = 1048;
pub(crate) const NO_DATABASE: u16 = 1049;
const NO_COLUMN: u16 = 1054;
pub(crate) const DUPLICATE: u16 = 1062;
const TABLE_FULL: u16 = 1114;
const OTHER_COLUMNS: u16 = 1136;
pub(crate) const TABLE_ACCESS: u16 = 1142;
pub(crate) const COLUMN_ACCESS: u16 = 1143;
pub(crate) const NO_TABLE: u16 = 1146;
const PACKET_TOO_LARGE: u16 = 1153;
pub(crate) const TOO_MANY_OF_USER: u16 = 1203;
const LOCK_WAIT_TIMEOUT: u16 = 1205;
const DEADLOCK: u16 = 1213;
const RESOURCE_LIMIT: u16 = 1226;
pub(crate) const SPECIAL_ACCESS: u16 = 1227;
const OUT_OF_RANGE: u16 = 1264;
const READ_ONLY_OPTION: u16 = 1290;
const NO_ROUTINE: u16 = 1305;
const OTHER_ROUTINE: u16 = 1318;
pub(crate) const ROUTINE_ACCESS: u16 = 1370;
const TOO_LONG: u16 = 1406;
const SIGNALLED: u16 = 1644;
const READ_ONLY_TRANSACTION: u16 = 1792;
const READ_ONLY_MODE: u16 = 1836;
const CHECK_MYSQL: u16 = 3819;
const CHECK_MARIADB: u16 = 4025;

/// Whether the error says that nothing was done, if it is to be believed.
pub(crate) fn says_not_done(error: &sqlx::Error) -> bool {
    number(error).is_some_and(|number| leaves_the_connection(number) || refuses(number))
}

/// The answer to another question: the stream is shifted, and the connection must not be used again.
pub(crate) fn misdelivered() -> sqlx::Error {
    sqlx::Error::Protocol("the server sent the answer to another question".to_owned())
}

/// The server's number, if it was the server that failed.
pub(crate) fn number(error: &sqlx::Error) -> Option<u16> {
    error.as_database_error()?.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
}
