//! What handlers take. Newtypes, since only this crate may teach axum about the core's types.

use std::any::{TypeId, type_name};
use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use cloakroom_core::{Exchange, State};
use http::HeaderValue;
use http::request::Parts;

use crate::error::SessionError;
use crate::headers::{client, lines, peer, user_agent};
use crate::layer::Slot;

/// The session of the request, to read and to change; see [`cloakroom_core::Session`] for what it does.
///
/// Every extraction in one request gives the same session. Where the request has none it is absent:
/// it reads as empty, and the first change creates it. `Option<Session>` is `None` then.
///
/// ```
/// use axum::response::Redirect;
/// use cloakroom_axum::{Session, SessionError};
/// use cloakroom_core::Key;
///
/// const LANGUAGE: Key<String> = Key::new("language");
///
/// async fn choose_language(session: Session, language: String) -> Result<Redirect, SessionError> {
///     session.set(LANGUAGE, language)?;
///     Ok(Redirect::to("/"))
/// }
///
/// async fn greet(session: Option<Session>) -> String {
///     match session.and_then(|session| session.principal()) {
///         Some(principal) => format!("Hello {}", principal.as_str()),
///         None => "Hello".to_owned(),
///     }
/// }
/// ```
///
/// # Rejections
/// A [`SessionError`]: 503 when the store cannot say whether the session is valid, and 500, with the
/// line to add in the log, when there is no [`SessionLayer`](crate::SessionLayer) around the handler.
pub struct Session<M = ()> {
    session: cloakroom_core::Session,
    marker: PhantomData<fn() -> M>,
}

impl<M> Session<M> {
    /// The core's handle, for code that knows nothing of axum.
    #[must_use]
    pub fn into_inner(self) -> cloakroom_core::Session {
        self.session
    }

    const fn new(session: cloakroom_core::Session) -> Self {
        Self { session, marker: PhantomData }
    }
}

impl<M: 'static, S: Sync> FromRequestParts<S> for Session<M> {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let exchange = exchange::<M>(parts)?;
        Ok(Self::new(exchange.session(token_lines(parts, exchange), || client(user_agent(parts), peer(parts))).await?))
    }
}

impl<M: 'static, S: Sync> OptionalFromRequestParts<S> for Session<M> {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Self::Rejection> {
        let session = <Self as FromRequestParts<S>>::from_request_parts(parts, state).await?;
        Ok(match session.state() {
            State::Absent | State::Destroyed => None,
            State::Created | State::Unchanged | State::Changed | State::Renewed => Some(session),
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

/// The session of the request, to read from only; see [`cloakroom_core::ReadSession`].
///
/// Nothing can be changed through it and reading does not count as activity: for polling, and for
/// pages that anybody may embed.
///
/// ```
/// use cloakroom_axum::ReadSession;
///
/// async fn is_signed_in(session: ReadSession) -> &'static str {
///     if session.principal().is_some() { "yes" } else { "no" }
/// }
/// ```
///
/// # Rejections
/// As [`Session`].
pub struct ReadSession<M = ()> {
    session: cloakroom_core::ReadSession,
    marker: PhantomData<fn() -> M>,
}

impl<M: 'static, S: Sync> FromRequestParts<S> for ReadSession<M> {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let exchange = exchange::<M>(parts)?;
        let session =
            exchange.read_session(token_lines(parts, exchange), || client(user_agent(parts), peer(parts))).await?;
        Ok(Self { session, marker: PhantomData })
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
        Self { session: self.session.clone(), marker: PhantomData }
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
/// use axum::extract::Path;
/// use cloakroom_axum::{LazySession, SessionError};
///
/// async fn article(Path(article): Path<String>, session: LazySession) -> Result<String, SessionError> {
///     if article.starts_with("draft-") && session.load().await?.principal().is_none() {
///         return Ok("not yet published".to_owned());
///     }
///     Ok(article)
/// }
/// ```
///
/// # Rejections
/// 500, with the line to add in the log, when there is no [`SessionLayer`](crate::SessionLayer)
/// around the handler.
pub struct LazySession<M = ()> {
    exchange: Arc<Exchange>,
    lines: Vec<HeaderValue>,
    user_agent: Option<HeaderValue>,
    address: Option<IpAddr>,
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
        let session = self.exchange.session(lines, || client(self.user_agent.as_ref(), self.address)).await?;
        Ok(Session::new(session))
    }
}

impl<M: 'static, S: Sync> FromRequestParts<S> for LazySession<M> {
    type Rejection = SessionError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Self::Rejection> {
        let exchange = exchange::<M>(parts)?;
        Ok(Self {
            exchange: Arc::clone(exchange),
            lines: lines(&parts.headers, exchange).cloned().collect(),
            user_agent: user_agent(parts).cloned(),
            address: peer(parts),
            marker: PhantomData,
        })
    }
}

// Not derived: the lines hold the token.
impl<M> fmt::Debug for LazySession<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LazySession").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}

pub(crate) fn exchange<M: 'static>(parts: &Parts) -> Result<&Arc<Exchange>, SessionError> {
    Slot::<M>::exchange(&parts.extensions).ok_or_else(|| {
        let line = if TypeId::of::<M>() == TypeId::of::<()>() {
            ".layer(sessions.axum())` or `.layer(SessionLayer::new(manager))".to_owned()
        } else {
            format!(".layer(SessionLayer::named::<{}>(manager))", type_name::<M>())
        };
        cloakroom_core::SessionError::missing_layer(&line).into()
    })
}

fn token_lines<'a>(parts: &'a Parts, exchange: &Exchange) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    lines(&parts.headers, exchange).map(HeaderValue::as_bytes)
}
