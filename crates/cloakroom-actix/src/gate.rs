//! In front of the handlers, inside of the sessions: lets a request on, or answers in their place.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceRequest, ServiceResponse};
use actix_web::{Error, HttpResponse};

/// What decides whether a request goes on.
pub trait Gate: Clone + 'static {
    /// Nothing if it does, or the response in place of the handler's.
    fn pass(&self, request: &mut ServiceRequest) -> impl Future<Output = Result<Option<HttpResponse>, Error>>;
}

/// What [`CsrfMiddleware`](crate::CsrfMiddleware) and [`RequireMiddleware`](crate::RequireMiddleware) make of a
/// service.
#[derive(Debug)]
pub struct GateService<S, G> {
    inner: Rc<S>,
    gate: G,
}

impl<S, G: Gate> GateService<S, G> {
    pub(crate) fn of(inner: S, gate: &G) -> Ready<Result<Self, ()>> {
        ready(Ok(Self { inner: Rc::new(inner), gate: gate.clone() }))
    }
}

impl<S, B, G> Service<ServiceRequest> for GateService<S, G>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
    G: Gate,
{
    type Response = ServiceResponse<EitherBody<B, BoxBody>>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Error>>>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&self, mut request: ServiceRequest) -> Self::Future {
        let (inner, gate) = (Rc::clone(&self.inner), self.gate.clone());
        Box::pin(async move {
            match gate.pass(&mut request).await {
                Ok(None) => Ok(inner.call(request).await?.map_into_left_body()),
                Ok(Some(response)) => Ok(request.into_response(response).map_into_right_body()),
                Err(error) => Ok(request.error_response(error).map_into_right_body()),
            }
        })
    }
}
