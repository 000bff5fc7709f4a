//! The session for code that holds a request and takes no extractors.

use std::future::Future;

use crate::error::SessionError;
use crate::extract::{ReadSession, Session, exchange};
use crate::middleware::Slot;

use self::sealed::Carrier;

/// The session of a request, for middlewares and guards.
///
/// Behind a [`SessionMiddleware`](crate::SessionMiddleware), so wrapped before it:
///
/// ```
/// use actix_web::body::{EitherBody, MessageBody};
/// use actix_web::dev::{ServiceRequest, ServiceResponse};
/// use actix_web::middleware::{Next, from_fn};
/// use actix_web::{App, Error, HttpResponse};
/// use cloakroom_actix::{SessionExt, SessionMiddleware};
///
/// async fn members<B: MessageBody>(
///     request: ServiceRequest,
///     next: Next<B>,
/// ) -> Result<ServiceResponse<EitherBody<B>>, Error> {
///     if request.session().await?.principal().is_none() {
///         return Ok(request.into_response(HttpResponse::Forbidden()).map_into_right_body());
///     }
///     Ok(next.call(request).await?.map_into_left_body())
/// }
///
/// fn app(sessions: SessionMiddleware) {
///     let app = App::new().wrap(from_fn(members::<actix_web::body::BoxBody>)).wrap(sessions);
/// #   drop(app);
/// }
/// ```
///
/// A guard decides without waiting, so it sees what somebody before it has [opened](Self::opened_session).
pub trait SessionExt: Carrier {
    /// Opens the session, or returns the one that was opened before.
    ///
    /// # Errors
    /// As [`Session`].
    fn session(&self) -> impl Future<Output = Result<Session, SessionError>> {
        self.session_named()
    }

    /// The same, of a [name](crate::SessionMiddleware::named).
    ///
    /// # Errors
    /// As [`Session`].
    fn session_named<M: 'static>(&self) -> impl Future<Output = Result<Session<M>, SessionError>> {
        let exchange = exchange::<M>(&self.extensions());
        async move { Session::open(exchange?.as_ref(), self.head()).await }
    }

    /// Opens the session to read from only. Does not count as activity.
    ///
    /// # Errors
    /// As [`Session`].
    fn read_session(&self) -> impl Future<Output = Result<ReadSession, SessionError>> {
        let exchange = exchange::<()>(&self.extensions());
        async move { ReadSession::open(exchange?.as_ref(), self.head()).await }
    }

    /// The session, if a middleware further out has opened it. Does not wait and does not ask the store.
    fn opened_session(&self) -> Option<ReadSession> {
        Slot::<()>::exchange(&self.extensions())?.opened().map(ReadSession::new)
    }
}

impl<R: Carrier> SessionExt for R {}

mod sealed {
    use std::cell::Ref;

    use actix_web::dev::{Extensions, RequestHead, ServiceRequest};
    use actix_web::guard::GuardContext;
    use actix_web::{HttpMessage, HttpRequest};

    /// A request in one of its forms. Not for others to implement, so that it can grow.
    pub trait Carrier {
        fn head(&self) -> &RequestHead;
        fn extensions(&self) -> Ref<'_, Extensions>;
    }

    impl Carrier for HttpRequest {
        fn head(&self) -> &RequestHead {
            self.head()
        }

        fn extensions(&self) -> Ref<'_, Extensions> {
            HttpMessage::extensions(self)
        }
    }

    impl Carrier for ServiceRequest {
        fn head(&self) -> &RequestHead {
            self.request().head()
        }

        fn extensions(&self) -> Ref<'_, Extensions> {
            HttpMessage::extensions(self)
        }
    }

    impl Carrier for GuardContext<'_> {
        fn head(&self) -> &RequestHead {
            self.head()
        }

        fn extensions(&self) -> Ref<'_, Extensions> {
            self.req_data()
        }
    }
}
