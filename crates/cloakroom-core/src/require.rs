//! Who may enter a route: the decisions of the guards, which only translate.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use crate::error::{SessionError, SessionErrorKind};
use crate::record::Assurance;
use crate::session::ReadSession;

/// What a session has to be for a group of routes.
///
/// Whoever falls short gets 401, or where there is a page to [send](Self::or_send_to) visitors to, those who
/// only look are sent there.
///
/// ```
/// use std::time::Duration;
/// use cloakroom_core::{Assurance, LocalPath, Require};
///
/// let members = Require::sign_in().or_send_to(LocalPath::new("/login")?);
/// let payments = Require::fresh(Duration::from_secs(300)).or_send_to(LocalPath::new("/prove-it")?);
/// let vault = Require::assurance(Assurance::Two);
/// # Ok::<_, cloakroom_core::NotLocal>(())
/// ```
#[derive(Clone, Debug)]
pub struct Require {
    max_age: Option<Duration>,
    assurance: Assurance,
    otherwise: Option<LocalPath>,
}

impl Require {
    /// Somebody is signed in.
    #[must_use]
    pub const fn sign_in() -> Self {
        Self { max_age: None, assurance: Assurance::None, otherwise: None }
    }

    /// Somebody is signed in and proved who they are no longer ago than this.
    #[must_use]
    pub fn fresh(max_age: Duration) -> Self {
        Self { max_age: Some(max_age), ..Self::sign_in() }
    }

    /// Somebody is signed in, at least this surely.
    #[must_use]
    pub fn assurance(assurance: Assurance) -> Self {
        Self { assurance, ..Self::sign_in() }
    }

    /// And proved who they are no longer ago than this.
    #[must_use]
    pub fn and_fresh(mut self, max_age: Duration) -> Self {
        self.max_age = Some(max_age);
        self
    }

    /// Sends those who `GET` or `HEAD` to this page of ours in place of the 401; see [`LocalPath`]. Other methods
    /// get the 401: what they would do cannot be repeated by following a link. So does everybody where tokens travel
    /// in [headers](crate::Transport::Header): an API has no pages.
    #[must_use]
    pub fn or_send_to(mut self, page: LocalPath) -> Self {
        self.otherwise = Some(page);
        self
    }

    /// Whether this session will do.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn),
    /// [`AssuranceRequired`](SessionErrorKind::AssuranceRequired),
    /// [`ReauthenticationRequired`](SessionErrorKind::ReauthenticationRequired), in this order.
    pub fn check(&self, session: &ReadSession) -> Result<(), SessionError> {
        session.require_assurance(self.assurance)?;
        if let Some(max_age) = self.max_age {
            session.require_fresh(max_age)?;
        }
        Ok(())
    }

    /// Where a browser goes whose request with this method did not pass.
    #[must_use]
    pub(crate) fn otherwise(&self, method: &str) -> Option<&LocalPath> {
        self.otherwise.as_ref().filter(|_| matches!(method, "GET" | "HEAD"))
    }
}

/// A place in our own application, which is the only kind that a visitor is sent to.
///
/// Also for the page to return to after a sign-in, which travels with the visitor and may have been written by
/// anybody: what leads elsewhere is refused.
///
/// ```
/// use cloakroom_core::LocalPath;
///
/// assert!(LocalPath::new("/account?tab=devices").is_ok());
/// for elsewhere in ["https://evil.example", "//evil.example", "/\\evil.example", "/\t/evil.example", "account", ""] {
///     assert!(LocalPath::new(elsewhere).is_err());
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPath(Cow<'static, str>);

/// Not a place in our own application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a path of this application: write one that begins with one `/`, in printable ASCII and without `\\`")]
pub struct NotLocal;

impl LocalPath {
    /// A path with or without query and fragment.
    ///
    /// # Errors
    /// [`NotLocal`] for what does not begin with a single `/`, and for what holds a backslash, a control character, a
    /// space or anything beyond ASCII: browsers read some of these as the beginning of another host, or leave them out.
    pub fn new(path: impl Into<Cow<'static, str>>) -> Result<Self, NotLocal> {
        let path = path.into();
        let local = path.starts_with('/')
            && !path.starts_with("//")
            && path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
        if local { Ok(Self(path)) } else { Err(NotLocal) }
    }

    /// As it goes into a `Location`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LocalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl crate::Session {
    /// Makes sure that somebody is signed in, at least this surely.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn),
    /// [`AssuranceRequired`](SessionErrorKind::AssuranceRequired); both are 401.
    pub fn require_assurance(&self, assurance: Assurance) -> Result<crate::Principal, SessionError> {
        let Some(principal) = self.principal() else {
            return Err(SessionError::new(SessionErrorKind::NotSignedIn, "nobody is signed in"));
        };
        let known = self.assurance();
        if known < assurance {
            let message = format!("the sign-in has assurance {known:?} and this action requires {assurance:?}");
            return Err(SessionError::new(SessionErrorKind::AssuranceRequired, message));
        }
        Ok(principal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_a_browser_could_take_elsewhere_is_refused() {
        for local in ["/", "/a", "/a/b?c=d&e=//f#g", "/%5Cevil", "/:80", "/@evil.example"] {
            assert_eq!(LocalPath::new(local).unwrap().as_str(), local);
        }
        for elsewhere in [
            "",
            "a",
            "?a",
            "#a",
            ".",
            "//",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\/evil.example",
            "/a\\b",
            "/\t/evil.example",
            "/\n/evil.example",
            "/a\r\nset-cookie: x",
            " /a",
            "/a b",
            "/\u{7f}",
            "/\u{e9}",
            "/\u{2215}evil",
            "https:/evil.example",
            "https://evil.example",
            "javascript:alert(1)",
        ] {
            assert_eq!(LocalPath::new(elsewhere), Err(NotLocal), "{elsewhere:?}");
        }
    }
}
