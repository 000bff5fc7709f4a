//! Between the core's words and HTTP's.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use cloakroom_core::{Client, Finish};
use http::header::{CACHE_CONTROL, SET_COOKIE, USER_AGENT, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

const SESSION_WARNING: HeaderName = HeaderName::from_static("x-session-warning");

/// Writes what the core asks for.
pub(crate) fn write(finish: Finish, headers: &mut HeaderMap) {
    let Finish { set_cookie, vary_cookie, no_store, warning, error: _ } = finish;
    // Always a header value: the cookie's settings were checked when the manager was built.
    if let Some(Ok(mut cookie)) = set_cookie.map(HeaderValue::try_from) {
        // A token: not to be printed by whoever logs headers, nor kept in HTTP/2's compression table.
        cookie.set_sensitive(true);
        headers.append(SET_COOKIE, cookie);
    }
    if vary_cookie && !list(headers, VARY).any(|name| name == "*" || name.eq_ignore_ascii_case("cookie")) {
        headers.append(VARY, HeaderValue::from_static("Cookie"));
    }
    if no_store {
        headers.insert(CACHE_CONTROL, no_store_value());
    }
    if let Some(warning) = warning {
        headers.insert(SESSION_WARNING, HeaderValue::from_static(warning));
    }
}

/// Whether shared caches may keep the response.
pub(crate) fn is_public(headers: &HeaderMap) -> bool {
    list(headers, CACHE_CONTROL).any(|directive| {
        let name = directive.split_once('=').map_or(directive, |(name, _)| name.trim_end());
        name.eq_ignore_ascii_case("public") || name.eq_ignore_ascii_case("s-maxage")
    })
}

pub(crate) const fn no_store_value() -> HeaderValue {
    HeaderValue::from_static("no-store")
}

/// The members of a list header, over all its lines.
fn list(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
}

/// Who says they ask, and from where.
pub(crate) fn client(user_agent: Option<&HeaderValue>, address: Option<IpAddr>) -> Client {
    Client::new(user_agent.and_then(|text| std::str::from_utf8(text.as_bytes()).ok()), address)
}

pub(crate) fn user_agent(parts: &Parts) -> Option<&HeaderValue> {
    parts.headers.get(USER_AGENT)
}

/// Where the connection comes from, if the server was asked to say so.
pub(crate) fn peer(parts: &Parts) -> Option<IpAddr> {
    let ConnectInfo(address) = parts.extensions.get::<ConnectInfo<SocketAddr>>()?;
    Some(address.ip().to_canonical())
}
