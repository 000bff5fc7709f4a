//! The core's error, as something that handlers can return.

use std::error::Error;
use std::fmt;
use std::ops::Deref;

use actix_web::body::BoxBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, HeaderValue, RETRY_AFTER};
use actix_web::{HttpResponse, ResponseError};
use cloakroom_core::Exchange;

use crate::headers::NO_STORE;

/// Tells the client the status and nothing else, and the log everything.
///
/// Made by `?` from the core's error, and answers in its place: an empty response with
/// [its status](cloakroom_core::SessionError::status), with `Retry-After` where another attempt may
/// succeed. The cause goes to `tracing`, target `cloakroom`: as `ERROR` where it is the server's
/// fault, as `DEBUG` where it is the client's.
///
/// ```
/// use actix_web::web::Redirect;
/// use cloakroom_actix::{Session, SessionError};
/// use cloakroom_core::SessionErrorKind;
///
/// async fn checkout(session: Session) -> Result<Redirect, SessionError> {
///     match session.require_fresh(std::time::Duration::from_secs(300)) {
///         Ok(_) => Ok(Redirect::to("/pay").see_other()),
///         Err(error) if error.kind() == SessionErrorKind::ReauthenticationRequired => {
///             Ok(Redirect::to("/login").see_other())
///         }
///         Err(error) => Err(error.into()),
///     }
/// }
/// ```
#[derive(Debug)]
pub struct SessionError(cloakroom_core::SessionError);

impl From<cloakroom_core::SessionError> for SessionError {
    fn from(error: cloakroom_core::SessionError) -> Self {
        Self(error)
    }
}

impl Deref for SessionError {
    type Target = cloakroom_core::SessionError;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for SessionError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

impl ResponseError for SessionError {
    fn status_code(&self) -> StatusCode {
        status(&self.0)
    }

    fn error_response(&self) -> HttpResponse<BoxBody> {
        self.0.log();
        response(&self.0)
    }
}

/// What the client may know.
pub(crate) fn response(error: &cloakroom_core::SessionError) -> HttpResponse<BoxBody> {
    let mut response = HttpResponse::new(status(error));
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    if error.is_retryable() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(Exchange::RETRY_AFTER));
    }
    response
}

fn status(error: &cloakroom_core::SessionError) -> StatusCode {
    StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}
