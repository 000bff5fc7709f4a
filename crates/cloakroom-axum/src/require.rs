//! Around the handlers, inside of the sessions: lets in whose session will do.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use cloakroom_core::Require;
use http::header::{CACHE_CONTROL, LOCATION};
use http::{HeaderValue, StatusCode};
use tower_layer::Layer;

use crate::error::SessionError;
use crate::extract::{ReadSession, exchange};
use crate::gate::{Gate, GateService};
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
    type Service = GateService<S, Self>;

    fn layer(&self, inner: S) -> Self::Service {
        GateService::new(inner, self.clone())
    }
}

impl<M: 'static> Gate for RequireLayer<M> {
    async fn pass(&self, request: Request) -> Result<Request, Response> {
        let (mut parts, body) = request.into_parts();
        let session = <ReadSession<M> as FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
        let session = session.map_err(IntoResponse::into_response)?;
        let exchange = exchange::<M>(&parts).map_err(IntoResponse::into_response)?;
        self.require.check(&session).map_err(|error| match exchange.sent_to(&self.require, parts.method.as_str()) {
            // A path of ours is printable ASCII, so it is a header.
            Some(page) if let Ok(location) = HeaderValue::from_str(page.as_str()) => {
                (StatusCode::SEE_OTHER, [(LOCATION, location), (CACHE_CONTROL, no_store_value())]).into_response()
            }
            _ => SessionError::from(error).into_response(),
        })?;
        Ok(Request::from_parts(parts, body))
    }
}

impl<M> Clone for RequireLayer<M> {
    fn clone(&self) -> Self {
        Self { require: Arc::clone(&self.require), marker: PhantomData }
    }
}

impl<M> fmt::Debug for RequireLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireLayer").field("require", &self.require).finish()
    }
}
