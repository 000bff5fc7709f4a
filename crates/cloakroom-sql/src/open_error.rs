//! Why a store on a database server cannot be opened.

use std::fmt;

/// A store on a database server cannot be opened. Names the server, the cause and what to do; never
/// a password.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the session store on {server}: {cause}; {advice}")]
pub struct ServerOpenError {
    kind: ServerOpenErrorKind,
    server: String,
    cause: String,
    advice: String,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Why a store on a database server cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ServerOpenErrorKind {
    /// Nobody answers there.
    Unreachable,
    /// The connection cannot be encrypted, or the server's certificate is not to be trusted.
    Tls,
    /// The user, the password or the database is wrong.
    Credentials,
    /// A right is missing.
    Denied,
    /// The server, or how it is set up, is not fit for sessions.
    Unsuitable,
    /// The tables are of a newer release.
    Newer,
    /// The tables are missing or of an older release, and must not be upgraded by the store.
    Unmigrated,
    /// An option is wrong.
    Option,
    /// Anything else.
    Other,
}

impl ServerOpenError {
    pub(crate) fn new(
        kind: ServerOpenErrorKind,
        server: impl fmt::Display,
        cause: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { kind, server: server.to_string(), cause: cause.into(), advice: advice.into(), source: None }
    }

    pub(crate) fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Why.
    #[must_use]
    pub const fn kind(&self) -> ServerOpenErrorKind {
        self.kind
    }
}
