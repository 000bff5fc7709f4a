//! Between the core's words and actix's.

use actix_web::HttpResponse;
use actix_web::dev::RequestHead;
use actix_web::http::header::{
    CACHE_CONTROL, COOKIE, HeaderMap, HeaderName, HeaderValue, SET_COOKIE, USER_AGENT, VARY,
};
use cloakroom_core::{Client, Finish, Outcome};

pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const SESSION_WARNING: HeaderName = HeaderName::from_static("x-session-warning");

/// Writes what the core asks for.
pub(crate) fn write(finish: Finish, headers: &mut HeaderMap) {
    if finish.adds_vary(headers.get_all(VARY).map(HeaderValue::as_bytes)) {
        headers.append(VARY, HeaderValue::from_static("Cookie"));
    }
    let Finish { set_cookie, vary_cookie: _, no_store, warning, error: _ } = finish;
    // Always a header value: the cookie's settings were checked when the manager was built.
    if let Some(Ok(mut cookie)) = set_cookie.map(HeaderValue::try_from) {
        // A token: not to be printed by whoever logs headers, nor kept in HTTP/2's compression table.
        cookie.set_sensitive(true);
        headers.append(SET_COOKIE, cookie);
    }
    if no_store {
        headers.insert(CACHE_CONTROL, NO_STORE);
    }
    if let Some(warning) = warning {
        headers.insert(SESSION_WARNING, HeaderValue::from_static(warning));
    }
}

/// How a handler with this response ended.
pub(crate) fn outcome<B>(response: &HttpResponse<B>) -> Outcome {
    let cache_control = response.headers().get_all(CACHE_CONTROL);
    Outcome::answered(response.status().as_u16(), cache_control.map(HeaderValue::as_bytes))
}

pub(crate) fn cookies(head: &RequestHead) -> impl Iterator<Item = &[u8]> {
    head.headers().get_all(COOKIE).map(HeaderValue::as_bytes)
}

/// Who says they ask, and from where.
pub(crate) fn client(head: &RequestHead) -> Client {
    let user_agent = head.headers().get(USER_AGENT).map(HeaderValue::as_bytes);
    Client::of_request(user_agent, head.peer_addr.map(|address| address.ip()))
}
