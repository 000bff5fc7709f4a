//! Between the core's words and HTTP's.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::response::Response;
use cloakroom_core::{Client, Finish, Outcome};
use http::header::{CACHE_CONTROL, SET_COOKIE, USER_AGENT, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

const SESSION_WARNING: HeaderName = HeaderName::from_static("x-session-warning");

/// Writes what the core asks for.
pub(crate) fn write(finish: Finish, headers: &mut HeaderMap) {
    if finish.adds_vary(headers.get_all(VARY).iter().map(HeaderValue::as_bytes)) {
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
        headers.insert(CACHE_CONTROL, no_store_value());
    }
    if let Some(warning) = warning {
        headers.insert(SESSION_WARNING, HeaderValue::from_static(warning));
    }
}

/// How a handler with this response ended.
pub(crate) fn outcome(response: &Response) -> Outcome {
    let cache_control = response.headers().get_all(CACHE_CONTROL);
    Outcome::answered(response.status().as_u16(), cache_control.iter().map(HeaderValue::as_bytes))
}

pub(crate) const fn no_store_value() -> HeaderValue {
    HeaderValue::from_static("no-store")
}

/// Who says they ask, and from where.
pub(crate) fn client(user_agent: Option<&HeaderValue>, address: Option<IpAddr>) -> Client {
    Client::of_request(user_agent.map(HeaderValue::as_bytes), address)
}

pub(crate) fn user_agent(parts: &Parts) -> Option<&HeaderValue> {
    parts.headers.get(USER_AGENT)
}

/// Where the connection comes from, if the server was asked to say so.
pub(crate) fn peer(parts: &Parts) -> Option<IpAddr> {
    let ConnectInfo(address) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(address.ip())
}
