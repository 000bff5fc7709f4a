//! What handlers take. Newtypes, since only this crate may teach actix about the core's types.

use std::any::{TypeId, type_name};
use std::fmt;
use std::future::{Future, Ready, ready};
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;

use actix_web::dev::{Extensions, Payload, RequestHead};
use actix_web::http::header::HeaderValue;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use cloakroom_core::{Client, Exchange, State};

use crate::error::SessionError;
use crate::headers::{client, lines};
use crate::middleware::Slot;

type Extraction<T> = Pin<Box<dyn Future<Output = Result<T, SessionError>>>>;

/// The session of the request, to read and to change; see [`cloakroom_core::Session`] for what it does.
///
/// Every extraction in one request gives the same session. Where the request has none it is absent:
/// it reads as empty, and the first change creates it. [`OptionalSession`] holds `None` then.
///
/// actix has an `Option` of every extractor, which is `None` also when extraction failed: an
/// `Option<Session>` says nobody where the store did not answer. Take [`OptionalSession`].
///
/// ```
/// use actix_web::web::Redirect;
/// use cloakroom_actix::{OptionalSession, Session, SessionError};
/// use cloakroom_core::Key;
///
/// const LANGUAGE: Key<String> = Key::new("language");
///
/// async fn choose_language(session: Session, language: String) -> Result<Redirect, SessionError> {
///     session.set(LANGUAGE, language)?;
///     Ok(Redirect::to("/").see_other())
/// }
///
/// async fn greet(OptionalSession(session): OptionalSession) -> String {
///     match session.and_then(|session| session.principal()) {
///         Some(principal) => format!("Hello {}", principal.as_str()),
///         None => "Hello".to_owned(),
///     }
/// }
/// ```
///
/// # Errors
/// Extraction fails with a [`SessionError`]: 503 when the store cannot say whether the session is valid, and
/// 500, with the line to add in the log, when there is no [`SessionMiddleware`](crate::SessionMiddleware)
/// around the handler.
pub struct Session<M = ()> {
    session: cloakroom_core::Session,
    marker: PhantomData<fn() -> M>,
}

impl<M> Session<M> {
    /// The core's handle, for code that knows nothing of actix.
    #[must_use]
    pub fn into_inner(self) -> cloakroom_core::Session {
        self.session
    }

    const fn new(session: cloakroom_core::Session) -> Self {
        Self { session, marker: PhantomData }
    }

    pub(crate) async fn open(exchange: &Exchange, head: &RequestHead) -> Result<Self, SessionError> {
        Ok(Self::new(exchange.session(lines(head, exchange).map(HeaderValue::as_bytes), || client(head)).await?))
    }
}

impl<M: 'static> FromRequest for Session<M> {
    type Error = SessionError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let exchange = exchange::<M>(&request.extensions())?;
            Self::open(&exchange, request.head()).await
        })
    }
}

impl<M> Deref for Session<M> {
    type Target = cloakroom_core::Session;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}

impl<M> Clone for Session<M> {
    fn clone(&self) -> Self {
        Self::new(self.session.clone())
    }
}

impl<M> fmt::Debug for Session<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

/// The session of the request if it has one; `None` where it is absent or has ended.
///
/// # Errors
/// As [`Session`]: that the store did not answer is not `None`.
#[derive(Clone, Debug)]
pub struct OptionalSession<M = ()>(pub Option<Session<M>>);

impl<M: 'static> FromRequest for OptionalSession<M> {
    type Error = SessionError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let session = Session::from_request(request, payload);
        Box::pin(async move {
            let session = session.await?;
            Ok(Self(match session.state() {
                State::Absent | State::Destroyed => None,
                State::Created | State::Unchanged | State::Changed | State::Renewed => Some(session),
            }))
        })
    }
}

/// The session of the request, to read from only; see [`cloakroom_core::ReadSession`].
///
/// Nothing can be changed through it and reading does not count as activity: for polling, and for
/// pages that anybody may embed.
///
/// ```
/// use cloakroom_actix::ReadSession;
///
/// async fn is_signed_in(session: ReadSession) -> &'static str {
///     if session.principal().is_some() { "yes" } else { "no" }
/// }
/// ```
///
/// # Errors
/// As [`Session`].
pub struct ReadSession<M = ()> {
    session: cloakroom_core::ReadSession,
    marker: PhantomData<fn() -> M>,
}

impl<M> ReadSession<M> {
    pub(crate) const fn new(session: cloakroom_core::ReadSession) -> Self {
        Self { session, marker: PhantomData }
    }

    pub(crate) async fn open(exchange: &Exchange, head: &RequestHead) -> Result<Self, SessionError> {
        Ok(Self::new(exchange.read_session(lines(head, exchange).map(HeaderValue::as_bytes), || client(head)).await?))
    }
}

impl<M: 'static> FromRequest for ReadSession<M> {
    type Error = SessionError;
    type Future = Extraction<Self>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let exchange = exchange::<M>(&request.extensions())?;
            Self::open(&exchange, request.head()).await
        })
    }
}

impl<M> Deref for ReadSession<M> {
    type Target = cloakroom_core::ReadSession;

    fn deref(&self) -> &Self::Target {
        &self.session
    }
}

impl<M> Clone for ReadSession<M> {
    fn clone(&self) -> Self {
        Self::new(self.session.clone())
    }
}

impl<M> fmt::Debug for ReadSession<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.session.fmt(f)
    }
}

/// The session of the request, not opened until it is asked for.
///
/// For handlers that need it on some of their ways only: on the others the store is not asked, and
/// the response gets no `Vary`.
///
/// ```
/// use actix_web::web::Path;
/// use cloakroom_actix::{LazySession, SessionError};
///
/// async fn article(article: Path<String>, session: LazySession) -> Result<String, SessionError> {
///     if article.starts_with("draft-") && session.load().await?.principal().is_none() {
///         return Ok("not yet published".to_owned());
///     }
///     Ok(article.into_inner())
/// }
/// ```
///
/// # Errors
/// Extraction fails with 500, and the line to add in the log, when there is no
/// [`SessionMiddleware`](crate::SessionMiddleware) around the handler.
pub struct LazySession<M = ()> {
    exchange: Arc<Exchange>,
    lines: Vec<HeaderValue>,
    client: Client,
    marker: PhantomData<fn() -> M>,
}

impl<M> LazySession<M> {
    /// Opens the session, or returns the one that was opened before.
    ///
    /// # Errors
    /// [`Unavailable`](cloakroom_core::SessionErrorKind::Unavailable) when the store cannot say
    /// whether the session is valid, [`Closed`](cloakroom_core::SessionErrorKind::Closed) once the
    /// response has left.
    pub async fn load(&self) -> Result<Session<M>, SessionError> {
        let lines = self.lines.iter().map(HeaderValue::as_bytes);
        Ok(Session::new(self.exchange.session(lines, || self.client.clone()).await?))
    }
}

impl<M: 'static> FromRequest for LazySession<M> {
    type Error = SessionError;
    type Future = Ready<Result<Self, SessionError>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        ready(exchange::<M>(&request.extensions()).map(|exchange| Self {
            lines: lines(request.head(), &exchange).cloned().collect(),
            exchange,
            client: client(request.head()),
            marker: PhantomData,
        }))
    }
}

// Not derived: the lines hold the token.
impl<M> fmt::Debug for LazySession<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazySession").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

pub(crate) fn exchange<M: 'static>(extensions: &Extensions) -> Result<Arc<Exchange>, SessionError> {
    Slot::<M>::exchange(extensions).ok_or_else(|| {
        let line = if TypeId::of::<M>() == TypeId::of::<()>() {
            ".wrap(sessions.actix())` or `.wrap(SessionMiddleware::new(manager))".to_owned()
        } else {
            format!(".wrap(SessionMiddleware::named::<{}>(manager))", type_name::<M>())
        };
        cloakroom_core::SessionError::missing_layer(&line).into()
    })
}
