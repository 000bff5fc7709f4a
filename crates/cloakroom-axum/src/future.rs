//! The way of a response: the handler's future, and the commit after it if there is something to commit.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::response::{IntoResponse, Response};
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
    pub struct SessionFuture<F, E> {
        #[pin]
        state: State<F, E>,
        // None where a layer further out finishes the exchange.
        exchange: Option<Arc<Exchange>>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, E> {
        Handling { #[pin] handler: F },
        Finishing { finish: Pin<Box<dyn Future<Output = Finish> + Send>>, ended: Option<Ended<E>> },
    }
}

/// How the handler ended.
enum Ended<E> {
    Returned(Result<Response, E>),
    Panicked(Box<dyn Any + Send>),
}

impl<F, E> SessionFuture<F, E> {
    pub(crate) const fn new(handler: F, exchange: Option<Arc<Exchange>>) -> Self {
        Self { state: State::Handling { handler }, exchange }
    }
}

impl<F, R, E> Future for SessionFuture<F, E>
where
    F: Future<Output = Result<R, E>>,
    R: IntoResponse,
{
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Handling { handler } => {
                    let Some(exchange) = this.exchange else {
                        return handler.poll(cx).map_ok(IntoResponse::into_response);
                    };
                    // The panic goes on once the session is finished; nothing of the handler is used again.
                    let ended = match catch_unwind(AssertUnwindSafe(|| handler.poll(cx))) {
                        Ok(Poll::Pending) => return Poll::Pending,
                        Ok(Poll::Ready(result)) => Ended::Returned(result.map(IntoResponse::into_response)),
                        Err(panic) => Ended::Panicked(panic),
                    };
                    if !exchange.is_used() {
                        exchange.close();
                        return Poll::Ready(ended.resume());
                    }
                    let outcome = ended.outcome();
                    if let Some(finish) = exchange.try_finish(outcome) {
                        return Poll::Ready(ended.finished(finish, exchange).resume());
                    }
                    let exchange = Arc::clone(exchange);
                    let finish = Box::pin(async move { exchange.finish(outcome).await });
                    this.state.set(State::Finishing { finish, ended: Some(ended) });
                }
                StateProjection::Finishing { finish, ended } => {
                    let finish = ready!(finish.as_mut().poll(cx));
                    let (Some(ended), Some(exchange)) = (ended.take(), this.exchange) else { return Poll::Pending };
                    return Poll::Ready(ended.finished(finish, exchange).resume());
                }
            }
        }
    }
}

impl<E> Ended<E> {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Returned(Ok(response)) => headers::outcome(response),
            // Some layer further out makes a response of it, without our headers.
            Self::Returned(Err(_)) | Self::Panicked(_) => Outcome::Lost,
        }
    }

    fn finished(mut self, mut finish: Finish, exchange: &Exchange) -> Self {
        let failed = finish.error.take().inspect(SessionError::log);
        if let Self::Returned(Ok(response)) = &mut self {
            if let Some(error) = failed {
                *response = error::response(&error);
            }
            headers::write(finish, exchange, response.headers_mut());
        }
        self
    }

    fn resume(self) -> Result<Response, E> {
        match self {
            Self::Returned(result) => result,
            Self::Panicked(panic) => resume_unwind(panic),
        }
    }
}

impl<F, E> fmt::Debug for SessionFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionFuture").field("exchange", &self.exchange).finish_non_exhaustive()
    }
}
