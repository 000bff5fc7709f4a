//! Between the core's words and HTTP's.

use std::net::{IpAddr, SocketAddr};

use axum::extract::ConnectInfo;
use axum::response::Response;
use cloakroom_core::{Client, Exchange, Finish, Outcome, RequestHeader, ResponseHeader};
use http::header::{AUTHORIZATION, CACHE_CONTROL, COOKIE, SET_COOKIE, USER_AGENT, VARY, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

const SESSION_WARNING: HeaderName = HeaderName::from_static("x-session-warning");

/// The lines of the header that may carry the token.
pub(crate) fn lines<'a>(
    headers: &'a HeaderMap,
    exchange: &Exchange,
) -> impl Iterator<Item = &'a HeaderValue> + use<'a> {
    let lines = match exchange.request_header() {
        RequestHeader::Cookie => headers.get_all(COOKIE),
        RequestHeader::Authorization => headers.get_all(AUTHORIZATION),
        RequestHeader::Named(name) => headers.get_all(name),
    };
    lines.into_iter()
}

/// Writes what the core asks for.
pub(crate) fn write(finish: Finish, exchange: &Exchange, headers: &mut HeaderMap) {
    let header = exchange.request_header();
    if finish.adds_vary(header, headers.get_all(VARY).iter().map(HeaderValue::as_bytes)) {
        let name = match header {
            RequestHeader::Cookie => Some(HeaderValue::from_static("Cookie")),
            RequestHeader::Authorization => Some(HeaderValue::from_static("Authorization")),
            // Always a header value: the names were checked when the manager was built.
            RequestHeader::Named(name) => HeaderValue::from_str(name).ok(),
        };
        name.map(|name| headers.append(VARY, name));
    }
    let removed = headers.iter().filter(|(name, line)| finish.removes(name.as_str(), line.as_bytes()));
    let removed: Vec<_> = removed.map(|(name, _)| name.clone()).collect();
    let Finish { set, vary: _, no_store, warning, challenge, error: _ } = finish;
    // Always a header value, for the same reason.
    if let Some(Ok(mut value)) = set.map(HeaderValue::try_from) {
        // A token: not to be printed by whoever logs headers, nor kept in HTTP/2's compression table.
        value.set_sensitive(true);
        match exchange.response_header() {
            ResponseHeader::SetCookie => {
                headers.append(SET_COOKIE, value);
            }
            ResponseHeader::Named(name) => {
                HeaderName::from_bytes(name.as_bytes()).ok().map(|name| headers.insert(name, value));
            }
        }
    }
    if no_store {
        headers.insert(CACHE_CONTROL, no_store_value());
        for name in removed {
            headers.remove(name);
        }
    }
    if let Some(challenge) = challenge {
        headers.entry(WWW_AUTHENTICATE).or_insert(HeaderValue::from_static(challenge));
    }
    if let Some(warning) = warning {
        headers.insert(SESSION_WARNING, HeaderValue::from_static(warning));
    }
}

/// How a handler with this response ended.
pub(crate) fn outcome(response: &Response) -> Outcome {
    let headers = response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    Outcome::answered(response.status().as_u16(), headers)
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
