//! Answers other than success, as pages that say what to do and nothing of the inside.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use maud::{Markup, html};

use crate::html::document;

const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

/// A page about what went wrong.
pub(crate) fn page(status: StatusCode, title: &str, hint: &Markup) -> Response {
    let nothing = html! {};
    let main = html! {
        section .status-page {
            p .eyebrow { (status.as_u16()) }
            h1 { (title) }
            (hint)
            p { a .button href="/" { "Go to the shop" } }
        }
    };
    (status, document(title, &nothing, &main, &nothing)).into_response()
}

pub(crate) async fn not_found() -> Response {
    let hint = html! { p { "Nothing hangs on this peg. It may have been moved, or the address has a slip in it." } };
    page(StatusCode::NOT_FOUND, "There is no such page", &hint)
}

pub(crate) fn bad_form() -> Response {
    let hint =
        html! { p { "A field is missing, too long or of another kind. Open the page again and repeat what you did." } };
    page(StatusCode::UNPROCESSABLE_ENTITY, "That form is not complete", &hint)
}

/// Gives an error without a body, such as a session's, its page. Headers stay: `Retry-After`, `Set-Cookie`.
pub(crate) async fn explain(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    if !is_error || response.headers().contains_key(CONTENT_TYPE) {
        return response;
    }
    let (title, hint) = match status {
        StatusCode::UNAUTHORIZED => ("Please sign in", "This page is for people who are signed in."),
        StatusCode::METHOD_NOT_ALLOWED => ("That cannot be done here", "The page exists, but not for this method."),
        StatusCode::CONFLICT => (
            "You were signed out meanwhile",
            "The session ended while this request was on its way, so nothing was changed. Sign in and try again.",
        ),
        StatusCode::SERVICE_UNAVAILABLE => (
            "The shop is out of breath",
            "Your session could not be read or written just now. Nothing is lost: try again in a moment.",
        ),
        _ if status.is_client_error() => ("That request does not work", "Open the page again and repeat what you did."),
        _ => ("Something went wrong", "It is not your fault. Whoever runs the shop finds the reason in its log."),
    };
    let mut explained = page(status, title, &html! { p { (hint) } });
    let (mut parts, body) = (response.into_parts().0, std::mem::take(explained.body_mut()));
    parts.headers.remove(axum::http::header::CONTENT_LENGTH);
    parts.headers.extend(explained.into_parts().0.headers);
    Response::from_parts(parts, body)
}

/// What every response says to browsers. Pages belong to one person, so nobody keeps a copy.
pub(crate) async fn secure(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Not `no-referrer`: browsers would send forms with `Origin: null`.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}
