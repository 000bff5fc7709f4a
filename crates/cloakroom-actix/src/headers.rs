//! Between the core's words and actix's.

use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::header::{
    AUTHORIZATION, CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT, VARY,
    WWW_AUTHENTICATE,
};
use cloakroom_core::{Client, Exchange, Finish, Outcome, RequestHeader, ResponseHeader};

pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const SESSION_WARNING: HeaderName = HeaderName::from_static("x-session-warning");

/// Writes what the core asks for.
pub(crate) fn write(finish: Finish, exchange: &Exchange, headers: &mut HeaderMap) {
    let header = exchange.request_header();
    if finish.adds_vary(header, headers.get_all(VARY).map(HeaderValue::as_bytes)) {
        let name = match header {
            RequestHeader::Cookie => Some(HeaderValue::from_static("Cookie")),
            RequestHeader::Authorization => Some(HeaderValue::from_static("Authorization")),
            // Always a header value: the names were checked when the manager was built.
            RequestHeader::Named(name) => HeaderValue::from_str(name).ok(),
        };
        if let Some(name) = name {
            headers.append(VARY, name);
        }
    }
    let removed = headers.iter().filter(|(name, line)| finish.removes(name.as_str(), line.as_bytes()));
    let removed: Vec<_> = removed.map(|(name, _)| name.clone()).collect();
    let Finish { set, vary: _, no_store, warning, challenge, error: _ } = finish;
    // Always a header value, for the same reason.
    if let Some(Ok(mut value)) = set.map(HeaderValue::try_from) {
        // A token: not to be printed by whoever logs headers, nor kept in HTTP/2's compression table.
        value.set_sensitive(true);
        match exchange.response_header() {
            ResponseHeader::SetCookie => headers.append(SET_COOKIE, value),
            ResponseHeader::Named(name) => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    headers.insert(name, value);
                }
            }
        }
    }
    if no_store {
        headers.insert(CACHE_CONTROL, NO_STORE);
        for name in removed {
            headers.remove(name);
        }
    }
    if let Some(challenge) = challenge
        && !headers.contains_key(WWW_AUTHENTICATE)
    {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    if let Some(warning) = warning {
        headers.insert(SESSION_WARNING, HeaderValue::from_static(warning));
    }
}

/// How a handler with this response ended.
pub(crate) fn outcome<B>(response: &HttpResponse<B>) -> Outcome {
    let headers = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Outcome::answered(response.status().as_u16(), headers)
}

/// The lines of the header that may carry the token.
pub(crate) fn lines<'a>(head: &'a RequestHead, exchange: &Exchange) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
    match exchange.request_header() {
        RequestHeader::Cookie => head.headers().get_all(COOKIE),
        RequestHeader::Authorization => head.headers().get_all(AUTHORIZATION),
        RequestHeader::Named(name) => head.headers().get_all(name),
    }
}

/// Who says they ask, and from where.
pub(crate) fn client(head: &RequestHead) -> Client {
    let user_agent = head.headers().get(USER_AGENT).map(HeaderValue::as_bytes);
    Client::of_request(user_agent, head.peer_addr.map(|address| address.ip()))
}
