//! In front of the handlers, inside of the sessions: lets a request on, or answers in their place.

use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use tower_service::Service;

/// What decides whether a request goes on.
pub trait Gate: Clone + Send + Sync + 'static {
    /// The request to go on with, or the response in its place.
    fn pass(&self, request: Request) -> impl Future<Output = Result<Request, Response>> + Send;
}

/// What [`CsrfLayer`](crate::CsrfLayer) and [`RequireLayer`](crate::RequireLayer) make of a service.
#[derive(Clone, Debug)]
pub struct GateService<S, G> {
    inner: S,
    gate: G,
}

impl<S, G> GateService<S, G> {
    pub(crate) const fn new(inner: S, gate: G) -> Self {
        Self { inner, gate }
    }
}

impl<S, G> Service<Request> for GateService<S, G>
where
    S: Service<Request> + Clone + Send + 'static,
    S::Response: IntoResponse,
    S::Future: Send,
    G: Gate,
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
        let gate = self.gate.clone();
        Box::pin(async move {
            match gate.pass(request).await {
                Ok(request) => inner.call(request).await.map(IntoResponse::into_response),
                Err(response) => Ok(response),
            }
        })
    }
}
