//! Around the handlers, inside of the sessions: lets in whose session will do.

use std::fmt;
use std::future::Ready;
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{CACHE_CONTROL, LOCATION};
use actix_web::{Error, HttpMessage as _, HttpResponse};
use cloakroom_core::Require;

use crate::error::SessionError;
use crate::extract::{ReadSession, exchange};
use crate::gate::{Gate, GateService};
use crate::headers::NO_STORE;

/// Lets only those into the routes inside of it whose session is what [`Require`] asks for.
///
/// Belongs inside of the [`SessionMiddleware`](crate::SessionMiddleware), so it is wrapped before it. It looks at the
/// session without counting as activity; that is up to the handler.
///
/// ```
/// use actix_web::{App, web};
/// use cloakroom_actix::{RequireMiddleware, SessionMiddleware};
/// use cloakroom_core::{LocalPath, NotLocal, Require};
///
/// fn app(sessions: SessionMiddleware) -> Result<(), NotLocal> {
///     let members = RequireMiddleware::new(Require::sign_in().or_send_to(LocalPath::new("/login")?));
///     let account = web::scope("/account").wrap(members).route("", web::get().to(async || "your account"));
///     let app = App::new().service(account).wrap(sessions);
/// #   drop(app);
///     Ok(())
/// }
/// ```
pub struct RequireMiddleware<M = ()> {
    require: Arc<Require>,
    marker: PhantomData<fn() -> M>,
}

impl RequireMiddleware {
    /// Looks at the session behind [`Session`](crate::Session).
    #[must_use]
    pub fn new(require: Require) -> Self {
        Self::named(require)
    }

    /// Looks at the session of this name.
    #[must_use]
    pub fn named<M: 'static>(require: Require) -> RequireMiddleware<M> {
        RequireMiddleware { require: Arc::new(require), marker: PhantomData }
    }
}

impl<S, B, M> Transform<S, ServiceRequest> for RequireMiddleware<M>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
    M: 'static,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Transform = GateService<S, Self>;
    type InitError = ();
    type Future = Ready<Result<Self::Transform, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        GateService::of(inner, self)
    }
}

impl<M: 'static> Gate for RequireMiddleware<M> {
    async fn pass(&self, request: &mut ServiceRequest) -> Result<Option<HttpResponse>, Error> {
        let exchange = exchange::<M>(&request.extensions())?;
        let session = ReadSession::<M>::open(&exchange, request.request().head()).await?;
        let Err(error) = self.require.check(&session) else { return Ok(None) };
        match exchange.sent_to(&self.require, request.method().as_str()) {
            Some(page) => Ok(Some(
                HttpResponse::SeeOther()
                    .insert_header((LOCATION, page.as_str()))
                    .insert_header((CACHE_CONTROL, NO_STORE))
                    .finish(),
            )),
            None => Err(SessionError::from(error).into()),
        }
    }
}

impl<M> Clone for RequireMiddleware<M> {
    fn clone(&self) -> Self {
        Self { require: Arc::clone(&self.require), marker: PhantomData }
    }
}

impl<M> fmt::Debug for RequireMiddleware<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequireMiddleware").field("require", &self.require).finish()
    }
}
