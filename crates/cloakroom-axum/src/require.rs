//! Around the handlers, inside of the sessions: lets in whose session will do.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, mem};

use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use cloakroom_core::Require;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};
use tower_layer::Layer;
use tower_service::Service;

use crate::error::SessionError;
use crate::extract::{ReadSession, exchange};
use crate::headers::no_store_value;

/// Lets only those into the routes inside of it whose session is what [`Require`] asks for.
///
/// Belongs inside of the [`SessionLayer`](crate::SessionLayer), so it is layered before it. It looks at the session
/// without counting as activity; that is up to the handler.
///
/// ```
/// use axum::{Router, routing::get};
/// use cloakroom_axum::{RequireLayer, SessionLayer};
/// use cloakroom_core::{LocalPath, Manager, NotLocal, Require};
///
/// fn app(manager: std::sync::Arc<Manager>) -> Result<Router, NotLocal> {
///     let members = Require::sign_in().or_send_to(LocalPath::new("/login")?);
///     Ok(Router::new()
///         .route("/account", get(async || "your account"))
///         .layer(RequireLayer::new(members))
///         .route("/login", get(async || "who are you?"))
///         .layer(SessionLayer::new(manager)))
/// }
/// ```
pub struct RequireLayer<M = ()> {
    require: Arc<Require>,
    marker: PhantomData<fn() -> M>,
}

impl RequireLayer {
    /// Looks at the session behind [`Session`](crate::Session).
    #[must_use]
    pub fn new(require: Require) -> Self {
        Self::named(require)
    }

    /// Looks at the session of this name.
    #[must_use]
    pub fn named<M: 'static>(require: Require) -> RequireLayer<M> {
        RequireLayer { require: Arc::new(require), marker: PhantomData }
    }
}

impl<S, M: 'static> Layer<S> for RequireLayer<M> {
    type Service = RequireService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        RequireService { inner, require: Arc::clone(&self.require), marker: PhantomData }
    }
}

/// What [`RequireLayer`] makes of a service.
pub struct RequireService<S, M = ()> {
    inner: S,
    require: Arc<Require>,
    marker: PhantomData<fn() -> M>,
}

impl<S, M> Service<Request> for RequireService<S, M>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
    M: 'static,
{
    type Response = Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        // The one that was polled ready.
        let inner = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, inner);
        let require = Arc::clone(&self.require);
        Box::pin(async move {
            match check::<M>(&require, request).await {
                Ok(request) => inner.call(request).await.map(IntoResponse::into_response),
                Err(response) => Ok(response),
            }
        })
    }
}

/// The request to go on with, or the response in its place.
async fn check<M: 'static>(require: &Require, request: Request) -> Result<Request, Response> {
    let (mut parts, body) = request.into_parts();
    let session = <ReadSession<M> as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
    let session = session.map_err(IntoResponse::into_response)?;
    let exchange = exchange::<M>(&parts).map_err(IntoResponse::into_response)?;
    require.check(&session).map_err(|error| match exchange.sent_to(require, parts.method.as_str()) {
        // A path of ours is printable ASCII, so it is a header.
        Some(page) if let Ok(location) = HeaderValue::from_str(page.as_str()) => {
            (StatusCode::SEE_OTHER, [(LOCATION, location), (CACHE_CONTROL, no_store_value())]).into_response()
        }
        _ => SessionError::from(error).into_response(),
    })?;
    Ok(Request::from_parts(parts, body))
}

impl<M> Clone for RequireLayer<M> {
    fn clone(&self) -> Self {
        Self { require: Arc::clone(&self.require), marker: PhantomData }
    }
}

impl<S: Clone, M> Clone for RequireService<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), require: Arc::clone(&self.require), marker: PhantomData }
    }
}

impl<M> fmt::Debug for RequireLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer").field("require", &self.require).finish()
    }
}

impl<S: fmt::Debug, M> fmt::Debug for RequireService<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireService").field("inner", &self.inner).field("require", &self.require).finish()
    }
}
