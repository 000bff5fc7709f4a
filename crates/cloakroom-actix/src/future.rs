//! The way of a response: the handler's future, and the commit after it if there is something to commit.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BoxBody, EitherBody};
use actix_web::dev::ServiceResponse;
use actix_web::error::InternalError;
use actix_web::{Error, HttpResponse};
use cloakroom_core::{Exchange, Finish, Outcome, SessionError};
use pin_project_lite::pin_project;

use crate::{error, headers};

pin_project! {
    /// The response of a [`SessionService`](crate::SessionService).
    ///
    /// Allocates only for a request that has something to write.
    ///
    /// # Cancellation
    /// Dropped before the handler ends, nothing is written that was not
    /// [committed](cloakroom_core::Session::commit). Dropped after it, what was pending may or may
    /// not be written, and no token leaves.
    pub struct SessionFuture<F, B> {
        #[pin]
        state: State<F, B>,
        // None where a middleware further out finishes the exchange.
        exchange: Option<Arc<Exchange>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, B> {
        Handling { #[pin] handler: F },
        Finishing { finish: Pin<Box<dyn Future<Output = Finish>>>, ended: Option<Ended<B>> },
    }
}

/// How the handler ended.
enum Ended<B> {
    Returned(ServiceResponse<B>),
    /// A middleware returned an error, which would become this response.
    Refused(Error, HttpResponse),
    Panicked(Box<dyn Any + Send>),
}

impl<F, B> SessionFuture<F, B> {
    pub(crate) const fn new(handler: F, exchange: Option<Arc<Exchange>>) -> Self {
        Self { state: State::Handling { handler }, exchange }
    }
}

impl<F, B> Future for SessionFuture<F, B>
where
    F: Future<Output = Result<ServiceResponse<B>, Error>>,
{
    type Output = Result<ServiceResponse<EitherBody<B, BoxBody>>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Handling { handler } => {
                    let Some(exchange) = this.exchange else {
                        return handler.poll(cx).map_ok(ServiceResponse::map_into_left_body);
                    };
                    // The panic goes on once the session is finished; nothing of the handler is used again.
                    let ended = match catch_unwind(AssertUnwindSafe(|| handler.poll(cx))) {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(result)) if !exchange.is_used() => {
                            exchange.close();
                            return Poll::Ready(result.map(ServiceResponse::map_into_left_body));
                        }
                        Ok(Poll::Ready(Ok(response))) => Ended::Returned(response),
                        Ok(Poll::Ready(Err(error))) => {
                            let response = error.error_response();
                            Ended::Refused(error, response)
                        }
                        Err(panic) if !exchange.is_used() => {
                            exchange.close();
                            resume_unwind(panic)
                        }
                        Err(panic) => Ended::Panicked(panic),
                    };
                    let outcome = ended.outcome();
                    if let Some(finish) = exchange.try_finish(outcome) {
                        return Poll::Ready(ended.finished(finish, exchange));
                    }
                    let exchange = Arc::clone(exchange);
                    let finish = Box::pin(async move { exchange.finish(outcome).await });
                    this.state.set(State::Finishing { finish, ended: Some(ended) });
                }
                StateProjection::Finishing { finish, ended } => {
                    let finish = ready!(finish.as_mut().poll(cx));
                    let (Some(ended), Some(exchange)) = (ended.take(), this.exchange) else { return Poll::Pending };
                    return Poll::Ready(ended.finished(finish, exchange));
                }
            }
        }
    }
}

impl<B> Ended<B> {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Returned(response) => headers::outcome(response.response()),
            Self::Refused(_, response) => headers::outcome(response),
            Self::Panicked(_) => Outcome::Lost,
        }
    }

    /// What goes further out. A failed commit takes the place of whatever the handler said.
    fn finished(
        self,
        mut finish: Finish,
        exchange: &Exchange,
    ) -> Result<ServiceResponse<EitherBody<B, BoxBody>>, Error> {
        let failed = finish.error.take().inspect(SessionError::log).map(|error| error::response(&error));
        match self {
            Self::Returned(response) => {
                let mut response = match failed {
                    Some(failed) => response.into_response(failed).map_into_right_body(),
                    None => response.map_into_left_body(),
                };
                headers::write(finish, exchange, response.headers_mut());
                Ok(response)
            }
            Self::Refused(error, response) => {
                let mut response = failed.unwrap_or(response);
                headers::write(finish, exchange, response.headers_mut());
                Err(InternalError::from_response(error, response).into())
            }
            Self::Panicked(panic) => resume_unwind(panic),
        }
    }
}

impl<F, B> fmt::Debug for SessionFuture<F, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFuture").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}
