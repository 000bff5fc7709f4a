//! Answers other than success, as pages that say what to do and nothing of the inside.

use http::StatusCode;
use maud::{Markup, html};

use crate::Shop;
use crate::html::document;
use crate::reply::Reply;

/// What every response says to browsers.
pub(crate) const HEADERS: [(&str, &str); 3] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
         form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    // Not `no-referrer`: browsers would send forms with `Origin: null`.
    ("referrer-policy", "same-origin"),
];

/// Pages belong to one person, so nobody keeps a copy, unless a response says otherwise.
pub(crate) const UNLESS_SAID: (&str, &str) = ("cache-control", "no-store");

/// A page about what went wrong.
pub(crate) fn page(status: StatusCode, title: &str, hint: &Markup) -> Reply {
    Reply::Page(status, markup(status, title, hint))
}

fn markup(status: StatusCode, title: &str, hint: &Markup) -> Markup {
    let nothing = html! {};
    let main = html! {
        section .status-page {
            p .eyebrow { (status.as_u16()) }
            h1 { (title) }
            (hint)
            p { a .button href="/" { "Go to the shop" } }
        }
    };
    document(title, &nothing, &main, &nothing)
}

pub(crate) async fn not_found() -> Reply {
    let hint = html! { p { "Nothing hangs on this peg. It may have been moved, or the address has a slip in it." } };
    page(StatusCode::NOT_FOUND, "There is no such page", &hint)
}

pub(crate) fn bad_form() -> Reply {
    let hint =
        html! { p { "A field is missing, too long or of another kind. Open the page again and repeat what you did." } };
    page(StatusCode::UNPROCESSABLE_ENTITY, "That form is not complete", &hint)
}

/// The page for an error without a body, such as a session's or a middleware's. None for what is no error.
pub(crate) fn explain(shop: &Shop, status: u16) -> Option<String> {
    let status = StatusCode::from_u16(status).ok()?;
    if !status.is_client_error() && !status.is_server_error() {
        return None;
    }
    let (title, hint) = match status {
        StatusCode::FORBIDDEN => return Some(forged(shop).into_string()),
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
    let sign_in = html! { @if status == StatusCode::UNAUTHORIZED { p { a href="/sign-in" { "Sign in" } } } };
    Some(markup(status, title, &html! { p { (hint) } (sign_in) }).into_string())
}

/// Only the CSRF middleware forbids. It keeps the reason for the log, so the page names both.
fn forged(shop: &Shop) -> Markup {
    let hint = html! {
        p { "Nothing was changed. There are two reasons why the shop refuses a form:" }
        ul {
            li {
                "That form is out of date: it was made before you signed in or out, or in another session. "
                "Open the page again and repeat what you did."
            }
            li {
                "It did not come from this shop: a link or a button of another site tried to act in your name. "
                "If you opened the shop under another address, start it with " code { "--origin" } " and that address."
            }
        }
        p {
            "If you use a program such as curl, add "
            @for origin in &shop.options.origins { code { "-H 'Origin: " (origin) "'" } " " }
            "and send the value of the form’s hidden field " code { (cloakroom::Csrf::FIELD) } "."
        }
    };
    markup(StatusCode::FORBIDDEN, "The shop did not take that", &hint)
}
