//! Around the handlers: gives every request its exchange.

use std::any::TypeId;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::response::{IntoResponse, Response};
use cloakroom_core::{Exchange, Manager, OutagePolicy};
use http::{Extensions, Request};
use tower_layer::Layer;
use tower_service::Service;

use crate::future::SessionFuture;

/// Gives the handlers inside of it sessions, and writes them before their responses leave.
///
/// Works as the `layer` of a `Router` or `MethodRouter`, in a `ServiceBuilder`, and around any
/// service whose response axum can send, in any order with other layers. Two things to know of the order:
///
/// * A layer that adds headers to every response, such as CORS, belongs outside: a failed commit
///   replaces the response with all its headers.
/// * axum layers only the routes that were added before the call.
///
/// The same manager's layer inside of itself does nothing: the request has one session. Under
/// another manager the handlers inside get the inner one's.
///
/// # Two sessions in one application
///
/// A type of yours tells them apart. Each has a manager of its own, with a cookie name or a header of its own.
///
/// ```
/// use std::sync::Arc;
///
/// use axum::{Router, routing::get};
/// use cloakroom_axum::{ReadSession, Session, SessionError, SessionLayer};
/// use cloakroom_core::Manager;
///
/// struct Admin;
///
/// async fn sign_in_as_admin(customer: ReadSession, admin: Session<Admin>) -> Result<(), SessionError> {
///     if customer.principal().is_some() {
///         admin.login("root")?;
///     }
///     Ok(())
/// }
///
/// fn app(customers: Arc<Manager>, admins: Arc<Manager>) -> Router {
///     Router::new()
///         .route("/admin", get(sign_in_as_admin))
///         .layer(SessionLayer::named::<Admin>(admins))
///         .layer(SessionLayer::new(customers))
/// }
/// ```
pub struct SessionLayer<M = ()> {
    manager: Arc<Manager>,
    outage: Option<OutagePolicy>,
    marker: PhantomData<fn() -> M>,
}

impl SessionLayer {
    /// The layer behind [`Session`](crate::Session), [`ReadSession`](crate::ReadSession) and
    /// [`LazySession`](crate::LazySession).
    #[must_use]
    pub const fn new(manager: Arc<Manager>) -> Self {
        Self::named(manager)
    }

    /// The layer behind the extractors of this name, such as `Session<Admin>`.
    #[must_use]
    pub const fn named<M: 'static>(manager: Arc<Manager>) -> SessionLayer<M> {
        SessionLayer { manager, outage: None, marker: PhantomData }
    }
}

impl<M> SessionLayer<M> {
    /// The same layer for a group of routes that get something else while the store is out of reach
    /// than the policy says. May go inside of the application's layer; the one nearest to the handler counts. Guards and CSRF
    /// checks look at the session too: those around the group go by the application's policy, and what they were given in
    /// an outage is refused to a group that fails closed.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use cloakroom_axum::{ReadSession, SessionLayer};
    /// use cloakroom_core::{Manager, OutagePolicy};
    ///
    /// async fn shop(session: ReadSession) -> &'static str {
    ///     if session.principal().is_some() { "welcome back" } else { "welcome" }
    /// }
    ///
    /// fn app(manager: std::sync::Arc<Manager>) -> Router {
    ///     let sessions = SessionLayer::new(manager);
    ///     let readable = Router::new()
    ///         .route("/", get(shop))
    ///         .layer(sessions.clone().with_outage(OutagePolicy::AnonymousReadOnly));
    ///     Router::new().merge(readable).layer(sessions)
    /// }
    /// ```
    #[must_use]
    pub fn with_outage(mut self, outage: OutagePolicy) -> Self {
        self.outage = Some(outage);
        self
    }
}

impl<S, M: 'static> Layer<S> for SessionLayer<M> {
    type Service = SessionService<S, M>;

    fn layer(&self, inner: S) -> Self::Service {
        SessionService { inner, manager: Arc::clone(&self.manager), outage: self.outage, marker: PhantomData }
    }
}

impl<M> Clone for SessionLayer<M> {
    fn clone(&self) -> Self {
        Self { manager: Arc::clone(&self.manager), outage: self.outage, marker: PhantomData }
    }
}

impl<M> fmt::Debug for SessionLayer<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionLayer").field("manager", &self.manager).finish()
    }
}

/// What [`SessionLayer`] makes of a service.
pub struct SessionService<S, M = ()> {
    inner: S,
    manager: Arc<Manager>,
    outage: Option<OutagePolicy>,
    marker: PhantomData<fn() -> M>,
}

impl<S, M, B> Service<Request<B>> for SessionService<S, M>
where
    S: Service<Request<B>>,
    S::Response: IntoResponse,
    M: 'static,
{
    // axum's own body, which costs nothing where it is that already, rather than a bound such as
    // `Default` on the inner one, which would not be met by the bodies of some common layers.
    type Response = Response;
    type Error = S::Error;
    type Future = SessionFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let exchange = Slot::<M>::fill(request.extensions_mut(), &self.manager, self.outage);
        SessionFuture::new(self.inner.call(request), exchange)
    }
}

impl<S: Clone, M> Clone for SessionService<S, M> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), manager: Arc::clone(&self.manager), outage: self.outage, marker: PhantomData }
    }
}

impl<S: fmt::Debug, M> fmt::Debug for SessionService<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionService").field("inner", &self.inner).field("manager", &self.manager).finish()
    }
}

/// The sessions of this request that have names.
#[derive(Clone, Default)]
struct Named(Vec<(TypeId, Arc<Exchange>)>);

/// Where the layer of this name leaves the request's exchange for the extractors of this name.
pub(crate) struct Slot<M> {
    exchange: Arc<Exchange>,
    manager: Arc<Manager>,
    marker: PhantomData<fn() -> M>,
}

impl<M: 'static> Slot<M> {
    /// Returns the exchange to finish; none where a layer of the same manager further out will.
    fn fill(
        extensions: &mut Extensions,
        manager: &Arc<Manager>,
        outage: Option<OutagePolicy>,
    ) -> Option<Arc<Exchange>> {
        if let Some(outer) = extensions.get::<Self>().filter(|outer| Arc::ptr_eq(&outer.manager, manager)) {
            outage.inspect(|outage| outer.exchange.set_outage(*outage));
            return None;
        }
        let exchange = Arc::new(Exchange::new(Arc::clone(manager)));
        outage.inspect(|outage| exchange.set_outage(*outage));
        Self::keep_apart(extensions, &exchange);
        let slot = Self { exchange: Arc::clone(&exchange), manager: Arc::clone(manager), marker: PhantomData };
        extensions.insert(slot);
        Some(exchange)
    }

    /// Of sessions with other names in this request, none may be taken for this one.
    fn keep_apart(extensions: &mut Extensions, exchange: &Arc<Exchange>) {
        let (name, unnamed) = (TypeId::of::<M>(), TypeId::of::<()>());
        if let Some(Named(others)) = extensions.get() {
            others.iter().filter(|(other, _)| *other != name).for_each(|(_, other)| exchange.keep_apart_from(other));
        }
        if name != unnamed {
            if let Some(other) = Slot::<()>::exchange(extensions) {
                exchange.keep_apart_from(other);
            }
            let Named(mut named) = extensions.remove().unwrap_or_default();
            named.push((name, Arc::clone(exchange)));
            extensions.insert(Named(named));
        }
    }

    pub(crate) fn exchange(extensions: &Extensions) -> Option<&Arc<Exchange>> {
        extensions.get::<Self>().map(|slot| &slot.exchange)
    }
}

impl<M> Clone for Slot<M> {
    fn clone(&self) -> Self {
        Self { exchange: Arc::clone(&self.exchange), manager: Arc::clone(&self.manager), marker: PhantomData }
    }
}
