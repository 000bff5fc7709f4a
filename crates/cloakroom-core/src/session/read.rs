//! The session of a route that only reads.

use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;

use super::{Session, SessionKey};
use crate::error::SessionError;
use crate::id::{Handle, Principal};
use crate::record::Assurance;
use crate::watch::SessionWatch;

/// The session of one request, to read from only: it has nothing that changes it, and reading
/// through it does not count as activity. For polling and for pages that anybody may embed.
///
/// ```compile_fail
/// fn change(session: &cloakroom_core::ReadSession) {
///     session.set("key", 1);
/// }
/// ```
#[derive(Clone, Debug)]
pub struct ReadSession(Session);

impl ReadSession {
    pub(crate) const fn new(session: Session) -> Self {
        Self(session)
    }

    /// The value of this key.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub fn get<T: DeserializeOwned>(&self, key: impl SessionKey<T>) -> Result<Option<T>, SessionError> {
        self.0.get(key)
    }

    /// Whether there is a value, of whatever type.
    ///
    /// # Errors
    /// As [`Session::contains`].
    pub fn contains(&self, key: &str) -> Result<bool, SessionError> {
        self.0.contains(key)
    }

    /// The keys of all values.
    ///
    /// # Errors
    /// As [`Session::keys`].
    pub fn keys(&self) -> Result<Vec<String>, SessionError> {
        self.0.keys()
    }

    /// Who is signed in.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        self.0.principal()
    }

    /// When they last proved who they are.
    #[must_use]
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        self.0.authenticated_at()
    }

    /// How surely.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.0.assurance()
    }

    /// Makes sure that somebody is signed in and proved who they are no longer ago than this.
    ///
    /// # Errors
    /// As [`Session::require_fresh`].
    pub fn require_fresh(&self, max_age: Duration) -> Result<Principal, SessionError> {
        self.0.require_fresh(max_age)
    }

    /// Whether this token came from this session's pages.
    #[must_use]
    pub fn verify_csrf(&self, token: &str) -> bool {
        self.0.verify_csrf(token)
    }

    /// Makes sure that somebody is signed in, at least this surely.
    ///
    /// # Errors
    /// As [`Session::require_assurance`].
    pub fn require_assurance(&self, assurance: Assurance) -> Result<Principal, SessionError> {
        self.0.require_assurance(assurance)
    }

    /// When the session ends if nothing happens.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.0.expires_at()
    }

    /// Watches it, for a connection that outlives this request.
    ///
    /// # Errors
    /// As [`Session::watch`].
    pub fn watch(&self) -> Result<SessionWatch, SessionError> {
        self.0.watch()
    }

    /// The public name of the session.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        self.0.handle()
    }
}
