//! Around the handlers: gives every request its exchange.

use std::any::TypeId;
use std::fmt;
use std::future::{Ready, ready};
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::Error;
use actix_web::HttpMessage as _;
use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Extensions, Service, ServiceRequest, ServiceResponse, Transform};
use cloakroom_core::{Exchange, Manager, OutagePolicy};

use crate::future::SessionFuture;

/// Gives the handlers inside of it sessions, and writes them before their responses leave.
///
/// Goes around an `App`, a scope or a resource with `wrap`, in any order with other middlewares. Make one
/// outside of the closure that `HttpServer::new` takes and clone it inside: all workers share the manager.
/// Two things to know of the order:
///
/// * actix runs the middleware that was wrapped last first: one that uses the session is wrapped before this one.
/// * A middleware that adds headers to every response, such as CORS, belongs outside, so after it: a failed
///   commit replaces the response with all its headers.
///
/// The same manager's middleware inside of itself does nothing: the request has one session. Under
/// another manager the handlers inside get the inner one's.
///
/// An error that a middleware inside returns in place of a response is answered as actix would, with the
/// headers that the session needs. What further out asks `Error::as_error` for its type finds it wrapped.
///
/// # Two sessions in one application
///
/// A type of yours tells them apart. Each has a manager of its own, with a cookie name or a header of its own.
///
/// ```
/// use std::sync::Arc;
///
/// use actix_web::{HttpResponse, web};
/// use cloakroom_actix::{ReadSession, Session, SessionError, SessionMiddleware};
/// use cloakroom_core::Manager;
///
/// struct Admin;
///
/// async fn sign_in_as_admin(customer: ReadSession, admin: Session<Admin>) -> Result<HttpResponse, SessionError> {
///     if customer.principal().is_some() {
///         admin.login("root")?;
///     }
///     Ok(HttpResponse::NoContent().finish())
/// }
///
/// fn routes(customers: Arc<Manager>, admins: Arc<Manager>, config: &mut web::ServiceConfig) {
///     config.service(
///         web::scope("/shop")
///             .wrap(SessionMiddleware::named::<Admin>(admins))
///             .wrap(SessionMiddleware::new(customers))
///             .route("/admin", web::post().to(sign_in_as_admin)),
///     );
/// }
/// ```
pub struct SessionMiddleware<M = ()> {
    manager: Arc<Manager>,
    outage: Option<OutagePolicy>,
    marker: PhantomData<fn() -> M>,
}

impl SessionMiddleware {
    /// The middleware behind [`Session`](crate::Session), [`ReadSession`](crate::ReadSession) and
    /// [`LazySession`](crate::LazySession).
    #[must_use]
    pub const fn new(manager: Arc<Manager>) -> Self {
        Self::named(manager)
    }

    /// The middleware behind the extractors of this name, such as `Session<Admin>`.
    #[must_use]
    pub const fn named<M: 'static>(manager: Arc<Manager>) -> SessionMiddleware<M> {
        SessionMiddleware { manager, outage: None, marker: PhantomData }
    }
}

impl<M> SessionMiddleware<M> {
    /// The same middleware for a scope that gets something else while the store is out of reach than the
    /// policy says. May go inside of the application's; the one nearest to the handler counts. Guards and CSRF
    /// checks look at the session too: those around the scope go by the application's policy, and what they were given in
    /// an outage is refused to a scope that fails closed.
    ///
    /// ```
    /// use actix_web::web;
    /// use cloakroom_actix::{ReadSession, SessionMiddleware};
    /// use cloakroom_core::OutagePolicy;
    ///
    /// async fn shop(session: ReadSession) -> &'static str {
    ///     if session.principal().is_some() { "welcome back" } else { "welcome" }
    /// }
    ///
    /// fn readable(sessions: &SessionMiddleware, config: &mut web::ServiceConfig) {
    ///     let sessions = sessions.clone().with_outage(OutagePolicy::AnonymousReadOnly);
    ///     config.service(web::scope("/shop").wrap(sessions).route("", web::get().to(shop)));
    /// }
    /// ```
    #[must_use]
    pub fn with_outage(mut self, outage: OutagePolicy) -> Self {
        self.outage = Some(outage);
        self
    }
}

impl<S, B, M> Transform<S, ServiceRequest> for SessionMiddleware<M>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
    M: 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Transform = SessionService<S, M>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(SessionService {
            inner,
            manager: Arc::clone(&self.manager),
            outage: self.outage,
            marker: PhantomData,
        }))
    }
}

impl<M> Clone for SessionMiddleware<M> {
    fn clone(&self) -> Self {
        Self { manager: Arc::clone(&self.manager), outage: self.outage, marker: PhantomData }
    }
}

impl<M> fmt::Debug for SessionMiddleware<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionMiddleware").field("manager", &self.manager).finish()
    }
}

/// What [`SessionMiddleware`] makes of a service.
pub struct SessionService<S, M = ()> {
    inner: S,
    manager: Arc<Manager>,
    outage: Option<OutagePolicy>,
    marker: PhantomData<fn() -> M>,
}

impl<S, B, M> Service<ServiceRequest> for SessionService<S, M>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
    M: 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Future = SessionFuture<S::Future, B>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let exchange = Slot::<M>::fill(&mut request.extensions_mut(), &self.manager, self.outage);
        SessionFuture::new(self.inner.call(request), exchange)
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

/// Where the middleware of this name leaves the request's exchange for the extractors of this name.
pub(crate) struct Slot<M> {
    exchange: Arc<Exchange>,
    manager: Arc<Manager>,
    marker: PhantomData<fn() -> M>,
}

impl<M: 'static> Slot<M> {
    /// Returns the exchange to finish; none where a middleware of the same manager further out will.
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
        extensions.insert(Self { exchange: Arc::clone(&exchange), manager: Arc::clone(manager), marker: PhantomData });
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
                exchange.keep_apart_from(&other);
            }
            let Named(mut named) = extensions.remove().unwrap_or_default();
            named.push((name, Arc::clone(exchange)));
            extensions.insert(Named(named));
        }
    }

    pub(crate) fn exchange(extensions: &Extensions) -> Option<Arc<Exchange>> {
        extensions.get::<Self>().map(|slot| Arc::clone(&slot.exchange))
    }
}
