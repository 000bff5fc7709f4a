//! What can go wrong, for the operator in full and for the client not at all.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;

use crate::store::{EndReason, Verb};
use crate::token::RandomError;

/// A boxed source of an error.
pub(crate) type Source = Box<dyn StdError + Send + Sync>;

/// The store failed: the system, not the request. Expected outcomes are values, never this.
///
/// Carries the kind, the verb, what to tell the operator and the driver's own error as
/// [`source`](StdError::source). For a write it also says whether the write may have happened.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    verb: Verb,
    outcome: WriteOutcome,
    message: String,
    source: Option<Source>,
}

/// What kind of failure a [`StoreError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// Not reachable, or lost on the way.
    Unavailable,
    /// No answer in time.
    Timeout,
    /// No room for another record.
    Full,
    /// The record was written by a newer release, which this one must not touch.
    NewerFormat,
    /// The store answered something that it never should.
    Corrupt,
    /// The store refuses because of how it is set up: missing table, missing right, read-only.
    Misconfigured,
}

/// Whether a failed write took place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WriteOutcome {
    /// It did not and will not.
    NotDone,
    /// It may have, or may yet. Repeating it blindly is a mistake.
    Unknown,
}

impl StoreError {
    /// An error whose outcome is unknown; call [`not_done`](Self::not_done) where it is certain that
    /// nothing was written.
    pub fn new(kind: StoreErrorKind, verb: Verb, message: impl Into<String>) -> Self {
        Self { kind, verb, outcome: WriteOutcome::Unknown, message: message.into(), source: None }
    }

    /// A record that a newer release wrote: it is neither used nor removed.
    #[must_use]
    pub fn newer_format(verb: Verb, format: u8) -> Self {
        let message = format!("the record has format {format}, written by a newer release; finish the rolling deploy");
        Self::new(StoreErrorKind::NewerFormat, verb, message).not_done()
    }

    /// A record that belongs under another id: swapped in the store, or an answer to another call.
    pub(crate) fn misdelivered(verb: Verb) -> Self {
        let message =
            "the record under this id was filed under another; it is not used. Were rows of the store edited?";
        Self::new(StoreErrorKind::Corrupt, verb, message).not_done()
    }

    /// States that nothing was and nothing will be written.
    #[must_use]
    pub fn not_done(mut self) -> Self {
        self.outcome = WriteOutcome::NotDone;
        self
    }

    /// Adds the driver's error.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    /// Which verb failed.
    #[must_use]
    pub const fn verb(&self) -> Verb {
        self.verb
    }

    /// Whether a write took place. Meaningless for reads.
    #[must_use]
    pub const fn outcome(&self) -> WriteOutcome {
        self.outcome
    }

    /// Whether the same call may succeed a little later without anybody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, StoreErrorKind::Unavailable | StoreErrorKind::Timeout)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "session store: {}: {}", self.verb, self.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

/// The name cannot be a principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPrincipal {
    /// Empty.
    #[error("a principal must not be empty")]
    Empty,
    /// Over 255 bytes.
    #[error("a principal has at most 255 bytes, this one has {0}")]
    TooLong(usize),
    /// Holds a control character.
    #[error("a principal must not hold control characters")]
    ControlCharacter,
}

/// What a handler gets when the session cannot do what it asks.
///
/// The text is for the operator and names the key, limit or cause, never a value. Adapters turn the
/// error into a response that tells the client the status only.
///
/// ```
/// use cloakroom_core::{SessionError, SessionErrorKind};
///
/// fn answer(error: &SessionError) -> u16 {
///     if error.kind() == SessionErrorKind::NotSignedIn { 401 } else { error.status() }
/// }
/// ```
#[derive(Debug)]
pub struct SessionError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: SessionErrorKind,
    message: String,
    source: Option<Source>,
}

/// What kind of failure a [`SessionError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SessionErrorKind {
    /// The store could not say whether the session is valid. The session is not lost.
    Unavailable,
    /// A change was not written.
    NotCommitted,
    /// Nobody knows whether a change was written. No token was handed out.
    Unknown,
    /// The session was ended while this request ran; its changes are dropped.
    Ended,
    /// Other requests changed the session faster than this one could, to the end of its attempts.
    Contended,
    /// A value does not have the type asked for. It is kept.
    WrongType,
    /// A value cannot be encoded.
    Unencodable,
    /// A key that cannot be used.
    InvalidKey,
    /// The record, or the cookie it is sealed into, would be over its limit. Nothing was changed.
    TooLarge,
    /// A duration or a name outside its limits.
    OutOfRange,
    /// Nobody is signed in.
    NotSignedIn,
    /// The sign-in is older than the action allows.
    ReauthenticationRequired,
    /// The sign-in is less sure than the action requires.
    AssuranceRequired,
    /// The account has as many sessions as it may.
    LimitReached,
    /// The session is an anonymous read-only view: the store is out and the route allows reading.
    ReadOnly,
    /// The response has left; the handle does nothing any more.
    Closed,
    /// A self-contained session cannot do this.
    Unsupported,
    /// The random generator or the clock failed.
    System,
    /// No session layer is around this handler.
    MissingLayer,
}

impl SessionError {
    pub(crate) fn new(kind: SessionErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), source: None }))
    }

    pub(crate) fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// For adapters: a handler asks for a session and no layer is there.
    #[must_use]
    pub fn missing_layer(line_to_add: &str) -> Self {
        Self::new(
            SessionErrorKind::MissingLayer,
            format!("this handler takes a session, but no session layer is around it: add `{line_to_add}`"),
        )
    }

    pub(crate) fn ended(reason: Option<EndReason>) -> Self {
        let reason = reason.map_or("it is gone", EndReason::as_str);
        Self::new(
            SessionErrorKind::Ended,
            format!("the session ended while this request ran ({reason}); its changes were dropped"),
        )
    }

    pub(crate) fn contended(attempts: u32) -> Self {
        let message = format!(
            "other requests changed the session faster than this one, {attempts} times in a row; its changes were dropped"
        );
        Self::new(SessionErrorKind::Contended, message)
    }

    pub(crate) fn too_large(size: usize, limit: usize) -> Self {
        let message =
            format!("the session would take {size} bytes, over its limit of {limit}: store less, or raise the limit");
        Self::new(SessionErrorKind::TooLarge, message)
    }

    pub(crate) fn closed() -> Self {
        Self::new(SessionErrorKind::Closed, "the response has left; a session handle does nothing after it")
    }

    /// What kind of failure it is.
    #[must_use]
    pub fn kind(&self) -> SessionErrorKind {
        self.0.kind
    }

    /// The HTTP status that tells the client what it may know.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self.kind() {
            SessionErrorKind::NotSignedIn
            | SessionErrorKind::ReauthenticationRequired
            | SessionErrorKind::AssuranceRequired => 401,
            SessionErrorKind::Ended | SessionErrorKind::LimitReached => 409,
            SessionErrorKind::Unavailable
            | SessionErrorKind::NotCommitted
            | SessionErrorKind::Unknown
            | SessionErrorKind::Contended
            | SessionErrorKind::ReadOnly => 503,
            SessionErrorKind::WrongType
            | SessionErrorKind::Unencodable
            | SessionErrorKind::InvalidKey
            | SessionErrorKind::TooLarge
            | SessionErrorKind::OutOfRange
            | SessionErrorKind::Closed
            | SessionErrorKind::Unsupported
            | SessionErrorKind::System
            | SessionErrorKind::MissingLayer => 500,
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl StdError for SessionError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<RandomError> for SessionError {
    fn from(error: RandomError) -> Self {
        Self::new(SessionErrorKind::System, "no token can be minted").with_source(error)
    }
}

/// A [`Principal`](crate::Principal) is one already.
impl From<Infallible> for SessionError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl From<InvalidPrincipal> for SessionError {
    fn from(error: InvalidPrincipal) -> Self {
        Self::new(SessionErrorKind::OutOfRange, error.to_string())
    }
}

impl From<StoreError> for SessionError {
    fn from(error: StoreError) -> Self {
        let (kind, what) = match (error.verb().writes(), error.outcome()) {
            (false, _) => (SessionErrorKind::Unavailable, "the session store gave no answer"),
            (true, WriteOutcome::NotDone) => (SessionErrorKind::NotCommitted, "the session was not written"),
            (true, WriteOutcome::Unknown) => {
                (SessionErrorKind::Unknown, "nobody knows whether the session was written")
            }
        };
        Self::new(kind, what).with_source(error)
    }
}
