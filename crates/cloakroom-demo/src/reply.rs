//! What handlers take and give, in the words of no framework: `axum` and `actix` translate.

use cloakroom::SessionError;
use http::StatusCode;
use maud::Markup;
use serde::Serialize;

/// What a handler answers with.
pub(crate) type Answer = Result<Reply, Failure>;

pub(crate) enum Reply {
    Page(StatusCode, Markup),
    /// After a form, or to another page.
    Redirect(String),
    Json(String),
}

/// Why there is no page. The frameworks answer as their adapters do, and [`status`](crate::status) adds the page.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) SessionError);

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        Self(error)
    }
}

/// The fields of a form.
pub(crate) struct Form<T>(pub(crate) T);

/// What the address says after the question mark.
pub(crate) struct Query<T>(pub(crate) T);

impl Reply {
    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::Redirect(to.into())
    }

    pub(crate) fn json(value: &impl Serialize) -> Self {
        // Of strings and numbers, which always have a form in JSON.
        Self::Json(serde_json::to_string(value).unwrap_or_default())
    }

    pub(crate) const HTML: &'static str = "text/html; charset=utf-8";
    pub(crate) const JSON: &'static str = "application/json";
}
