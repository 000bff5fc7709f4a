//! Why a server cannot be used, in words for its operator.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use redis::ServerError;

use crate::fault::Fault;

/// The store cannot be opened. Says where, why, and what to do.
///
/// The same error is behind a call that finds no connection later; it then is the
/// [`StoreError`](cloakroom_core::StoreError)'s text.
#[derive(Clone, Debug)]
pub struct RedisOpenError {
    kind: RedisOpenErrorKind,
    place: String,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What is in the way of opening a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisOpenErrorKind {
    /// No server answers there, in the time given.
    Unreachable,
    /// The name of a host cannot be resolved.
    UnknownHost,
    /// No TLS comes about: the certificate is not trusted, is for another name, or there is no TLS.
    Tls,
    /// The server refuses the user name or the password, or asks for one.
    Credentials,
    /// The server's ACL does not grant a command or the keys of the prefix.
    Permission,
    /// The server is a replica.
    NotPrimary,
    /// The server is of another kind than the URL says: alone, a Sentinel, or a node of a cluster.
    WrongMode,
    /// The Sentinels do not know the service.
    UnknownService,
    /// The server is older than Redis 6.2.
    TooOld,
    /// A file with certificates or a key cannot be used.
    File,
    /// The server refuses for another reason.
    Refused,
}

impl RedisOpenError {
    pub(crate) fn new(kind: RedisOpenErrorKind, place: impl fmt::Display, message: impl Into<String>) -> Self {
        Self { kind, place: place.to_string(), message: message.into(), source: None }
    }

    /// The same, with this behind the name of the place.
    pub(crate) fn at(mut self, note: impl fmt::Display) -> Self {
        self.place = format!("{} ({note})", self.place);
        self
    }

    pub(crate) fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What an error answer during the greeting means.
    pub(crate) fn refused(place: impl fmt::Display, error: &ServerError) -> Self {
        let kind = match error.code() {
            "NOAUTH" | "WRONGPASS" | "DENIED" => RedisOpenErrorKind::Credentials,
            "NOPERM" => RedisOpenErrorKind::Permission,
            "ERR" if error.details().is_some_and(|details| details.starts_with("unknown command")) => {
                RedisOpenErrorKind::TooOld
            }
            "ERR" if error.details().is_some_and(|details| details.contains("max number of clients")) => {
                RedisOpenErrorKind::Unreachable
            }
            _ => RedisOpenErrorKind::Refused,
        };
        Self::from_fault(kind, place, &Fault::from_server(error))
    }

    pub(crate) fn from_fault(kind: RedisOpenErrorKind, place: impl fmt::Display, fault: &Fault) -> Self {
        Self { kind, place: place.to_string(), message: fault.message().to_owned(), source: fault.source() }
    }

    /// What is in the way.
    #[must_use]
    pub const fn kind(&self) -> RedisOpenErrorKind {
        self.kind
    }

    pub(crate) fn to_fault(&self) -> Fault {
        let message = format!("no connection to {}: {}", self.place, self.message);
        match self.kind {
            // A server that dies during the greeting is met as one that does not greet.
            RedisOpenErrorKind::Unreachable
            | RedisOpenErrorKind::UnknownHost
            | RedisOpenErrorKind::NotPrimary
            | RedisOpenErrorKind::Refused => {
                Fault::unreachable(message, self.source.as_deref().map(|source| source as _))
            }
            RedisOpenErrorKind::Tls
            | RedisOpenErrorKind::Credentials
            | RedisOpenErrorKind::Permission
            | RedisOpenErrorKind::WrongMode
            | RedisOpenErrorKind::UnknownService
            | RedisOpenErrorKind::TooOld
            | RedisOpenErrorKind::File => Fault::misconfigured(message),
        }
    }
}

impl fmt::Display for RedisOpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the session store on Redis at {} cannot be opened: {}", self.place, self.message)
    }
}

impl StdError for RedisOpenError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
