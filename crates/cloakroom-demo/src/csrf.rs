//! Two checks on everything that changes something: where the request says it comes from, and a
//! token that only the session's own pages hold.

use axum::Form;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Request, State};
use axum::http::header::ORIGIN;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use cloakroom::axum::Session;
use cloakroom::{Provenance, State as SessionState};
use maud::html;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::{Shop, status};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The first check, around all routes: refuses what does not come from our own pages.
pub(crate) async fn refuse_foreign(State(shop): State<Shop>, request: Request, next: Next) -> Response {
    let provenance = Provenance {
        method: request.method().as_str(),
        fetch_site: only(request.headers(), &SEC_FETCH_SITE),
        origin: only(request.headers(), &ORIGIN),
    };
    let ours: Vec<_> = shop.options.origins.iter().map(String::as_str).collect();
    if provenance.is_ours(&ours) {
        return next.run(request).await;
    }
    let hint = html! {
        p {
            "The shop takes changes only from its own pages. The request names none of them in "
            code { "Origin" } ", or says itself that it comes from another site."
        }
        ul {
            li {
                "If you use a program such as curl, add "
                @for origin in &ours { code { "-H 'Origin: " (origin) "'" } " " }
            }
            li {
                "If you opened the shop under another address, start it with "
                code { "--origin" } " and that address."
            }
            li { "If you followed a link or a button of another site: it tried to act in your name, and nothing happened." }
        }
    };
    status::page(StatusCode::FORBIDDEN, "That did not come from this shop", &hint)
}

/// The header, unless it is repeated: then nobody knows which one counts.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none()).map(HeaderValue::as_bytes)
}

/// A form that comes with the session's token: the second check. The only way in which handlers get forms.
///
/// A visitor without a session has nothing that a forged request could use, and no token yet,
/// since looking around creates no session; for them the first check stands alone.
pub(crate) struct CsrfForm<T>(pub(crate) T);

/// A form that says nothing but its address.
#[derive(Deserialize)]
pub(crate) struct Nothing {}

#[derive(Deserialize)]
struct Token {
    csrf: Option<String>,
}

impl<T: DeserializeOwned> FromRequest<Shop> for CsrfForm<T> {
    type Rejection = Response;

    async fn from_request(request: Request, shop: &Shop) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        let session = <Session as FromRequestParts<Shop>>::from_request_parts(&mut parts, shop).await;
        let session = session.map_err(IntoResponse::into_response)?;
        let request = |body: Body| Request::from_parts(parts.clone(), body);
        let body = Bytes::from_request(request(body), shop).await.map_err(|_| status::bad_form())?;
        let form = || request(Body::from(body.clone()));
        let Form(Token { csrf }) = Form::from_request(form(), shop).await.map_err(|_| status::bad_form())?;
        let ours = csrf.is_some_and(|token| session.verify_csrf(&token));
        if session.state() != SessionState::Absent && !ours {
            let hint = html! {
                p {
                    "It was made before you signed in or out, or in another session, so nothing was changed. "
                    "Open the page again and repeat what you did."
                }
                p { "If you use a program such as curl, send the value of the form’s hidden field " code { "csrf" } "." }
            };
            return Err(status::page(StatusCode::FORBIDDEN, "That form is out of date", &hint));
        }
        let Form(form) = Form::from_request(form(), shop).await.map_err(|_| status::bad_form())?;
        Ok(Self(form))
    }
}
