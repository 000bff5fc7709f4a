//! One request and its response, for adapters: headers in, headers out, and nothing decided elsewhere.

use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fmt, iter};

use tokio::sync::OnceCell;

use crate::error::{SessionError, SessionErrorKind};
use crate::events::Event;
use crate::forgery::{Csrf, CsrfRefusal};
use crate::manager::Manager;
use crate::policy::OutagePolicy;
use crate::record::Client;
use crate::require::{LocalPath, Require};
use crate::session::{CookieReply, ReadSession, Session};
use crate::transport::{RequestHeader, ResponseHeader};

/// The session of one request, opened when it is first asked for.
///
/// An adapter makes one per request, asks it for the session when a handler does, and asks it what
/// to do when the response is there. A handler that asks for nothing costs nothing.
pub struct Exchange {
    manager: Arc<Manager>,
    session: OnceCell<Session>,
    used: AtomicBool,
    closed: AtomicBool,
    /// Whether another session of this request could be taken for this one.
    confusable: AtomicBool,
    outage: Mutex<Option<OutagePolicy>>,
}

/// How the handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a response.
    Answered {
        /// Its status.
        status: u16,
        /// Whether its `Cache-Control` lets shared caches keep it (`public` or `s-maxage`), or a header for some of them
        /// does (RFC 9213).
        public: bool,
    },
    /// Without a response that could carry a token: it panicked, or returned an error that somebody
    /// further out answers.
    Lost,
}

/// What the adapter does to the response.
#[derive(Default)]
#[must_use = "the response has to be changed so"]
pub struct Finish {
    /// Give the [response's header](Exchange::response_header) this value. It holds a token: mark it as not to be
    /// printed.
    pub set: Option<String>,
    /// Add the name of the [request's header](Exchange::request_header) to `Vary`.
    pub vary: bool,
    /// Replace `Cache-Control` by `no-store`, and remove what [`removes`](Self::removes) names.
    pub no_store: bool,
    /// Add `X-Session-Warning` with this text.
    pub warning: Option<&'static str>,
    /// Add this `WWW-Authenticate` to the handler's response, unless it has one.
    pub challenge: Option<&'static str>,
    /// Send this error's status without a body in place of the response.
    pub error: Option<SessionError>,
}

impl Outcome {
    /// With a response of this status and these headers, by their names in lower case.
    pub fn answered<'a>(status: u16, mut headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let public = headers.any(|(name, line)| match name {
            "cache-control" => members(iter::once(line)).any(|directive| {
                let name = directive.split_once('=').map_or(directive, |(name, _)| name.trim_end());
                name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
            }),
            name => lets_some_serve(name, line),
        });
        Self::Answered { status, public }
    }
}

/// Whether a header lets some caches store a response, which obey it in place of `Cache-Control`: RFC 9213, and what came
/// before it.
fn lets_some_store(name: &str, line: &[u8]) -> bool {
    match name {
        // These are about what a surrogate does with the body as well.
        "surrogate-control" | "edge-control" => {
            says(line, |directive| {
                age(directive).is_some() || directive.starts_with("stale-") || directive.starts_with('!')
            }) && !forbids(line)
        }
        "x-accel-expires" => !says(line, |directive| matches!(directive, "0" | "off")),
        name => name.ends_with("-cache-control") && !forbids(line),
    }
}

/// Whether it lets them serve it to others as well, without asking here first.
fn lets_some_serve(name: &str, line: &[u8]) -> bool {
    lets_some_store(name, line)
        && (!says(line, |directive| directive == "no-cache" || age(directive) == Some("0"))
            || says(line, |directive| {
                directive == "public" || directive.starts_with("stale-") || age(directive).is_some_and(|age| age != "0")
            }))
}

fn forbids(line: &[u8]) -> bool {
    says(line, |directive| matches!(directive, "no-store" | "private"))
}

fn says(line: &[u8], wanted: impl Fn(&str) -> bool) -> bool {
    members(iter::once(line)).any(|directive| wanted(&directive.to_ascii_lowercase()))
}

/// For how many seconds something may be kept, by this directive.
fn age(directive: &str) -> Option<&str> {
    let (name, age) = directive.split_once('=')?;
    (name.trim_end().ends_with("max-age") || name.trim_end().ends_with("maxage")).then(|| age.trim().trim_matches('"'))
}

impl Finish {
    /// Whether a header of the response, by its name in lower case, has to go: a cache would obey this line of it in place
    /// of `no-store`.
    #[must_use]
    pub fn removes(&self, name: &str, line: &[u8]) -> bool {
        self.no_store && lets_some_store(name, line)
    }

    /// Whether this header has to be added to the `Vary` of a response that has these lines of it.
    pub fn adds_vary<'a>(&self, header: RequestHeader<'_>, vary: impl Iterator<Item = &'a [u8]>) -> bool {
        self.vary && !members(vary).any(|name| name == "*" || name.eq_ignore_ascii_case(header.as_str()))
    }
}

// Not derived: what is set may be a token.
impl fmt::Debug for Finish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { set, vary, no_store, warning, challenge, error } = self;
        f.debug_struct("Finish")
            .field("set", &set.as_ref().map(|_| ".."))
            .field("vary", vary)
            .field("no_store", no_store)
            .field("warning", warning)
            .field("challenge", challenge)
            .field("error", error)
            .finish()
    }
}

// RFC 6750, section 3: with a parameter at least, and with an error only where a token was presented.
const NO_TOKEN: &str = "Bearer realm=\"session\"";
/// Said exactly where a browser would be told to drop its cookie: a token that another node may know is kept.
const INVALID_TOKEN: &str = "Bearer realm=\"session\", error=\"invalid_token\"";
/// RFC 9470: the token is good, and the sign-in behind it too old or not sure enough.
const NOT_ENOUGH: &str = "Bearer realm=\"session\", error=\"insufficient_user_authentication\"";

/// The members of a list header, over all its lines.
pub(crate) fn members<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a str> {
    lines.filter_map(|line| std::str::from_utf8(line).ok()).flat_map(|line| line.split(',')).map(str::trim)
}

impl Exchange {
    /// Seconds that a client is asked to wait when the store is out of reach.
    pub const RETRY_AFTER: u32 = 5;

    /// For one request.
    #[must_use]
    pub fn new(manager: Arc<Manager>) -> Self {
        Self {
            manager,
            session: OnceCell::new(),
            used: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            confusable: AtomicBool::new(false),
            outage: Mutex::new(None),
        }
    }

    /// What this request gets while the store is out of reach, in place of what the policy says. The
    /// last word counts: of nested layers the one nearest to the handler speaks last. What a guard or a CSRF check
    /// further out was given before, it was given under the policy of then; an anonymous view from there is refused where the
    /// policy is to fail closed.
    pub fn set_outage(&self, outage: OutagePolicy) {
        *self.outage.lock().unwrap_or_else(PoisonError::into_inner) = Some(outage);
    }

    /// For adapters: refuses both, if they are two sessions of one request whose tokens could not be told apart.
    pub fn keep_apart_from(&self, other: &Self) {
        if self.manager.carrier().is_confusable_with(other.manager.carrier()) {
            self.confusable.store(true, Ordering::Relaxed);
            other.confusable.store(true, Ordering::Relaxed);
        }
    }

    /// The header of the request that [`session`](Self::session) takes all lines of.
    #[must_use]
    pub fn request_header(&self) -> RequestHeader<'_> {
        self.manager.carrier().request_header()
    }

    /// The header of the response that [`Finish::set`] is for.
    #[must_use]
    pub fn response_header(&self) -> ResponseHeader<'_> {
        self.manager.carrier().response_header()
    }

    /// The session of a request with these lines of [its header](Self::request_header). Opened at the first call, the
    /// same after it.
    ///
    /// # Errors
    /// [`Unavailable`](SessionErrorKind::Unavailable) when the store is out of reach and the policy
    /// says to fail closed; [`Closed`](SessionErrorKind::Closed) once the response has left.
    pub async fn session<'a>(
        &self,
        lines: impl Iterator<Item = &'a [u8]>,
        client: impl FnOnce() -> Client,
    ) -> Result<Session, SessionError> {
        let session = self.open(lines, client).await?;
        session.mark_touchable();
        Ok(session.clone())
    }

    /// The same session, to read from only. Does not count as activity.
    ///
    /// # Errors
    /// As [`session`](Self::session).
    pub async fn read_session<'a>(
        &self,
        lines: impl Iterator<Item = &'a [u8]>,
        client: impl FnOnce() -> Client,
    ) -> Result<ReadSession, SessionError> {
        Ok(ReadSession::new(self.open(lines, client).await?.clone()))
    }

    /// The session if somebody has opened it already, to read from only: for code that cannot wait.
    pub fn opened(&self) -> Option<ReadSession> {
        self.session.get().filter(|session| !self.is_withheld(session)).cloned().map(ReadSession::new)
    }

    fn outage(&self) -> OutagePolicy {
        let outage = *self.outage.lock().unwrap_or_else(PoisonError::into_inner);
        outage.unwrap_or(self.manager.policy().outage())
    }

    /// Whether this is the anonymous view that somebody further out was given, and here the policy is to fail closed.
    fn is_withheld(&self, session: &Session) -> bool {
        session.lock().read_only && self.outage() == OutagePolicy::FailClosed
    }

    async fn open<'a>(
        &self,
        lines: impl Iterator<Item = &'a [u8]>,
        client: impl FnOnce() -> Client,
    ) -> Result<&Session, SessionError> {
        if self.closed.load(Ordering::SeqCst) {
            return Err(SessionError::closed());
        }
        if self.confusable.load(Ordering::Relaxed) {
            let message = "two sessions of one request read the same header or cookie, or hand tokens out in the same: give \
                 one of them another cookie name, or a header of its own with `HeaderSettings::named`";
            return Err(SessionError::new(SessionErrorKind::System, message));
        }
        self.used.store(true, Ordering::Relaxed);
        let session = self.session.get_or_try_init(|| self.manager.open(lines, client, self.outage())).await?;
        if self.is_withheld(session) {
            let message = "the session store was out of reach when this request asked first";
            return Err(SessionError::new(SessionErrorKind::Unavailable, message));
        }
        // Opened by a task that outlives the response, while it left: nobody would write its changes.
        if self.closed.load(Ordering::SeqCst) { Err(SessionError::closed()) } else { Ok(session) }
    }

    /// For adapters: whether another site can have a browser send this session's token along. It can send cookies;
    /// a header is added by nobody but the client itself, so there is nothing to check.
    #[must_use]
    pub fn is_forgeable(&self) -> bool {
        self.manager.carrier().is_cookie()
    }

    /// For adapters: the page in place of the 401 for a request with this method that is not let in. None for clients
    /// of headers, which are no browsers: they get the 401, and what it [asks for](Finish::challenge).
    #[must_use]
    pub fn sent_to<'a>(&self, require: &'a Require, method: &str) -> Option<&'a LocalPath> {
        require.otherwise(method).filter(|_| self.manager.carrier().is_cookie())
    }

    /// For adapters: what becomes of a request that was refused. `false` where it is let through and only reported.
    #[must_use]
    pub fn refuses(&self, csrf: &Csrf, reason: CsrfRefusal) -> bool {
        self.manager.emit(&Event::RequestForged { reason, let_through: csrf.reports_only() });
        !csrf.reports_only()
    }

    /// The response leaves without [`finish`](Self::finish), because nobody asked for the session:
    /// from now on nobody gets it, and a handle that was made at this very moment refuses changes.
    pub fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        if let Some(session) = self.session.get() {
            session.close();
        }
    }

    /// Whether anybody asked for the session. If not, the response stays as it is.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// What [`finish`](Self::finish) would say, where nothing has to be written for it: most requests
    /// only read, and need no future for their end.
    pub fn try_finish(&self, outcome: Outcome) -> Option<Finish> {
        self.closed.store(true, Ordering::SeqCst);
        let Some(session) = self.session.get() else { return Some(self.begin()) };
        self.discard(session, outcome);
        let cookie = session.try_finish().transpose()?;
        Some(self.conclude(session, cookie, outcome))
    }

    /// Writes what is pending and says what to do to the response. Call it before the head leaves.
    pub async fn finish(&self, outcome: Outcome) -> Finish {
        if let Some(finish) = self.try_finish(outcome) {
            return finish;
        }
        let Some(session) = self.session.get() else { return self.begin() };
        let cookie = session.finish().await;
        self.conclude(session, cookie, outcome)
    }

    fn begin(&self) -> Finish {
        Finish { vary: self.is_used(), ..Finish::default() }
    }

    fn discard(&self, session: &Session, outcome: Outcome) {
        match outcome {
            Outcome::Answered { status, .. } if status < 500 => {}
            Outcome::Answered { .. } => session.discard(true),
            // A token that cannot be delivered must not replace one that works.
            Outcome::Lost => session.discard(false),
        }
    }

    fn conclude(&self, session: &Session, cookie: Result<CookieReply, SessionError>, outcome: Outcome) -> Finish {
        let mut finish = self.begin();
        let mut inner = session.lock();
        if inner.read_only && self.outage() == OutagePolicy::AnonymousReadOnly {
            finish.warning = Some("session store unavailable; anonymous view");
        }
        let cookie = cookie.unwrap_or_else(|error| {
            self.manager.emit(&Event::CommitFailed { handle: inner.handle, kind: error.kind() });
            finish.error = Some(error);
            std::mem::replace(&mut inner.cookie, CookieReply::Leave)
        });
        let challenged = matches!(outcome, Outcome::Answered { status: 401, .. }) && finish.error.is_none();
        if challenged && self.request_header() == RequestHeader::Authorization {
            finish.challenge = Some(match cookie {
                CookieReply::Clear => INVALID_TOKEN,
                CookieReply::Leave | CookieReply::Set { .. } if inner.is_signed_in() => NOT_ENOUGH,
                CookieReply::Leave | CookieReply::Set { .. } => NO_TOKEN,
            });
        }
        drop(inner);
        let public = matches!(outcome, Outcome::Answered { public: true, .. });
        finish.set = match cookie {
            CookieReply::Leave => None,
            CookieReply::Clear => self.manager.carrier().clear(),
            CookieReply::Set { token, max_age, required } => {
                if public {
                    self.manager.emit(&Event::PublicResponse { downgraded: required });
                }
                (required || !public).then(|| self.manager.carrier().set(&token, max_age))
            }
        };
        finish.no_store = finish.set.is_some() || finish.challenge.is_some();
        finish
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("used", &self.used).finish_non_exhaustive()
    }
}

impl SessionError {
    /// Whether the client should be asked to come back in [`Exchange::RETRY_AFTER`] seconds.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self.kind(),
            SessionErrorKind::Unavailable | SessionErrorKind::NotCommitted | SessionErrorKind::Contended
        )
    }

    /// For adapters: tells the operator what the client is not told, as `ERROR` where it is the
    /// server's fault and as `DEBUG` where it is the client's.
    pub fn log(&self) {
        let (kind, chain) = (self.kind(), Chain(self));
        if self.status() >= 500 {
            tracing::error!(target: "cloakroom", ?kind, error = %chain, "session_error");
        } else {
            tracing::debug!(target: "cloakroom", ?kind, error = %chain, "session_error");
        }
    }
}

/// An error and what caused it, in one line.
struct Chain<'a>(&'a dyn StdError);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_some_caches_obey_in_place_of_cache_control_is_known() {
        for (name, line, stores, serves) in [
            ("cdn-cache-control", "max-age=60", true, true),
            ("cloudflare-cdn-cache-control", "Public", true, true),
            ("x-litespeed-cache-control", "public, max-age=60", true, true),
            ("cdn-cache-control", "public, max-age=0, s-maxage=3600", true, true),
            ("cdn-cache-control", "must-revalidate", true, true),
            ("cdn-cache-control", "max-age=0", true, false),
            ("cdn-cache-control", "no-cache", true, false),
            ("cdn-cache-control", "max-age=60, Private", false, false),
            ("cdn-cache-control", "no-store", false, false),
            ("surrogate-control", "max-age=60", true, true),
            ("surrogate-control", "max-age=0, stale-while-revalidate=60", true, true),
            ("surrogate-control", "max-age=\"0\"", true, false),
            ("surrogate-control", "content=\"ESI/1.0\"", false, false),
            ("surrogate-control", "no-store, max-age=60", false, false),
            ("edge-control", "cache-maxage = 60", true, true),
            ("edge-control", "!no-store", true, true),
            ("x-accel-expires", "60", true, true),
            ("x-accel-expires", "0", false, false),
            ("cache-control", "max-age=60", false, false),
            ("x-cache", "max-age=60", false, false),
        ] {
            assert_eq!(lets_some_store(name, line.as_bytes()), stores, "{name}: {line}");
            assert_eq!(lets_some_serve(name, line.as_bytes()), serves, "{name}: {line}");
        }
    }
}
