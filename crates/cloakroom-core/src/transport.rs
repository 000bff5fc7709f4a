//! How tokens travel: in a cookie, or in headers for clients that are no browsers. An application has one way, and
//! looks nowhere else.

use std::time::Duration;

use crate::cookie::{Cookie, CookieSettings, Presented, is_token_char, trim};
use crate::manager::BuildError;

/// Where a client's token arrives and leaves. One for an application: with headers no cookie is read or set, with
/// a cookie no other header is read, and a token in a URL or a body is none in either.
///
/// A token opens in the transport that it was made for: that of a cookie is refused as a bearer token of the same
/// keys, and that of one header in another.
///
/// ```
/// use cloakroom_core::{CookieSettings, HeaderSettings, Transport};
///
/// let browsers = Transport::Cookie(CookieSettings::new());
/// let native = Transport::bearer(); // `Authorization: Bearer TOKEN` in, `X-Session-Token: TOKEN` out
/// let named = Transport::Header(HeaderSettings::named("X-Shop-Token")); // `X-Shop-Token: TOKEN` in and out
/// # drop((browsers, native, named));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// In a cookie, for browsers.
    Cookie(CookieSettings),
    /// In headers, for clients that store the token themselves.
    Header(HeaderSettings),
}

impl Transport {
    /// `Authorization: Bearer TOKEN` in, `X-Session-Token: TOKEN` out.
    #[must_use]
    pub const fn bearer() -> Self {
        Self::Header(HeaderSettings::bearer())
    }

    /// Whether this transport works.
    ///
    /// # Errors
    /// The first rule that is broken, with what to write instead.
    pub fn validate(&self) -> Result<(), BuildError> {
        match self {
            Self::Cookie(cookie) => Ok(cookie.validate()?),
            Self::Header(header) => Ok(header.validate()?),
        }
    }
}

impl Default for Transport {
    fn default() -> Self {
        Self::Cookie(CookieSettings::new())
    }
}

/// Which headers carry the token of a client that is no browser.
///
/// The response to a request that made a session or renewed it carries the new token, once, with
/// `Cache-Control: no-store`. The client keeps it in place of the one it had; the old one is dead. Tokens that
/// carry their session are replaced after each change, too. When a session ends no header says so: the client
/// either asked for it, or learns it from a 401, with `error="invalid_token"` for a bearer token.
///
/// Scripts of other origins read the response header only where the application names it in
/// `Access-Control-Expose-Headers`, and send the request header where `Access-Control-Allow-Headers` does.
/// Nothing of the like is set here.
///
/// # What this does not do
/// It does not keep the token safe on the client: a page that stores it where scripts can read it loses what
/// `HttpOnly` gives. Browsers are better served by cookies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSettings {
    /// `None` is `Authorization: Bearer`.
    request: Option<String>,
    /// `None` is the name of the request's, or the default.
    response: Option<String>,
}

impl HeaderSettings {
    /// What carries the token out where the request has it in `Authorization`.
    pub const DEFAULT_RESPONSE: &'static str = "X-Session-Token";
    /// The longest name in bytes.
    pub const MAX_NAME: usize = 64;

    /// `Authorization: Bearer TOKEN` (RFC 6750). Other schemes are left alone: they are somebody else's.
    #[must_use]
    pub const fn bearer() -> Self {
        Self { request: None, response: None }
    }

    /// A header of this name, with the token and nothing else as value; the response has the same.
    #[must_use]
    pub fn named(name: impl Into<String>) -> Self {
        Self { request: Some(name.into()), response: None }
    }

    /// Hands tokens out in a header of this name.
    #[must_use]
    pub fn with_response(mut self, name: impl Into<String>) -> Self {
        self.response = Some(name.into());
        self
    }

    /// The name of the header that hands tokens out.
    #[must_use]
    pub fn response(&self) -> &str {
        self.response.as_deref().or(self.request.as_deref()).unwrap_or(Self::DEFAULT_RESPONSE)
    }

    /// Whether these headers are free to carry a token.
    ///
    /// # Errors
    /// Which is not, and what to write instead.
    pub fn validate(&self) -> Result<(), HeaderError> {
        for name in [self.request.as_ref(), self.response.as_ref()].into_iter().flatten() {
            if name.is_empty() || name.len() > Self::MAX_NAME || !name.bytes().all(is_token_char) {
                return Err(HeaderError::Name(name.clone()));
            }
            if is_taken(&name.to_ascii_lowercase()) {
                return Err(HeaderError::Taken(name.clone()));
            }
        }
        Ok(())
    }
}

/// A header that cannot carry a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not an HTTP token of 1 to 64 bytes.
    #[error("{0:?} cannot be a header name; use 1 to 64 letters, digits and `-`, such as \"X-Session-Token\"")]
    Name(String),
    /// HTTP, browsers, proxies or this library give it a meaning already.
    #[error(
        "the header {0:?} has a meaning of its own to HTTP, proxies or this library; choose a name that nothing else uses, such as \"X-Session-Token\", or the bearer transport for `Authorization`"
    )]
    Taken(String),
}

/// Whether something between client and application, or the application itself, would read or rewrite it.
fn is_taken(name: &str) -> bool {
    const PREFIXES: [&str; 11] = [
        "accept",
        "access-control-",
        "content-",
        "cross-origin-",
        "if-",
        "proxy-",
        "sec-",
        "x-accel-",
        "x-content-type-",
        "x-forwarded-",
        "x-http-method",
    ];
    const NAMES: [&str; 60] = [
        "age",
        "allow",
        "alt-svc",
        "authentication-info",
        "authorization",
        "cache-control",
        "cf-connecting-ip",
        "clear-site-data",
        "connection",
        "cookie",
        "cookie2",
        "date",
        "etag",
        "expect",
        "expires",
        "forwarded",
        "from",
        "host",
        "keep-alive",
        "last-event-id",
        "last-modified",
        "link",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "priority",
        "range",
        "referer",
        "referrer-policy",
        "refresh",
        "retry-after",
        "save-data",
        "server",
        "server-timing",
        "set-cookie",
        "set-cookie2",
        "strict-transport-security",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "true-client-ip",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "x-client-ip",
        "x-csrf-token",
        "x-frame-options",
        "x-method-override",
        "x-original-url",
        "x-real-ip",
        "x-request-id",
        "x-rewrite-url",
        "x-sendfile",
        "x-session-warning",
    ];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The header of requests that may carry a token; no other is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestHeader<'a> {
    /// `Cookie`.
    Cookie,
    /// `Authorization`.
    Authorization,
    /// One of this name, in lower case.
    Named(&'a str),
}

impl<'a> RequestHeader<'a> {
    /// Its name, as `Vary` has it.
    #[must_use]
    pub const fn as_str(self) -> &'a str {
        match self {
            Self::Cookie => "Cookie",
            Self::Authorization => "Authorization",
            Self::Named(name) => name,
        }
    }
}

/// The header of responses that carries a token out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResponseHeader<'a> {
    /// `Set-Cookie`, beside those of others.
    SetCookie,
    /// One of this name, in lower case, in place of any other of the name.
    Named(&'a str),
}

/// A transport, ready to read and write headers with.
#[derive(Debug)]
pub(crate) enum Carrier {
    Cookie(Cookie),
    Header(Header),
}

#[derive(Debug)]
pub(crate) struct Header {
    /// What tokens are bound to. Holds a colon, which no name of a cookie does.
    binding: Box<str>,
    request: Option<Box<str>>,
    response: Box<str>,
}

impl Carrier {
    pub(crate) fn new(transport: &Transport) -> Result<Self, BuildError> {
        match transport {
            Transport::Cookie(settings) => Ok(Self::Cookie(Cookie::new(settings)?)),
            Transport::Header(settings) => {
                settings.validate()?;
                let request = settings.request.as_ref().map(|name| name.to_ascii_lowercase().into_boxed_str());
                let binding = request.as_ref().map_or("authorization: bearer".to_owned(), |name| format!("{name}:"));
                let response = settings.response().to_ascii_lowercase().into();
                Ok(Self::Header(Header { binding: binding.into(), request, response }))
            }
        }
    }

    /// The name that is authenticated with each token, so that none opens in another transport.
    pub(crate) fn binding(&self) -> &str {
        match self {
            Self::Cookie(cookie) => cookie.name(),
            Self::Header(header) => &header.binding,
        }
    }

    pub(crate) const fn is_cookie(&self) -> bool {
        matches!(self, Self::Cookie(_))
    }

    pub(crate) fn request_header(&self) -> RequestHeader<'_> {
        match self {
            Self::Cookie(_) => RequestHeader::Cookie,
            Self::Header(Header { request: None, .. }) => RequestHeader::Authorization,
            Self::Header(Header { request: Some(name), .. }) => RequestHeader::Named(name),
        }
    }

    /// Whether tokens of both arrive in one place, or leave in one.
    pub(crate) fn is_confusable_with(&self, other: &Self) -> bool {
        let leaves = match (self.response_header(), other.response_header()) {
            (ResponseHeader::Named(one), ResponseHeader::Named(other)) => one == other,
            _ => false,
        };
        leaves || self.binding() == other.binding()
    }

    pub(crate) fn response_header(&self) -> ResponseHeader<'_> {
        match self {
            Self::Cookie(_) => ResponseHeader::SetCookie,
            Self::Header(header) => ResponseHeader::Named(&header.response),
        }
    }

    /// Finds the token in all lines of the request header.
    pub(crate) fn find<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> Presented<'a> {
        match self {
            Self::Cookie(cookie) => cookie.find(lines),
            Self::Header(header) => header.find(lines),
        }
    }

    /// The value of the response header that hands out a token.
    pub(crate) fn set(&self, token: &str, max_age: Option<Duration>) -> String {
        match self {
            Self::Cookie(cookie) => cookie.set(token, max_age),
            Self::Header(_) => token.to_owned(),
        }
    }

    /// The value of the response header that has the client forget its token, if it has to be told.
    pub(crate) fn clear(&self) -> Option<String> {
        match self {
            Self::Cookie(cookie) => Some(cookie.clear()),
            Self::Header(_) => None,
        }
    }
}

impl Header {
    /// One line with one token, or nobody. Several lines, and several in one, are never told apart: whoever adds a
    /// header on the way must not choose whose session it is.
    fn find<'a>(&self, mut lines: impl Iterator<Item = &'a [u8]>) -> Presented<'a> {
        let Some(line) = lines.next() else { return Presented::Nothing };
        if lines.next().is_some() {
            return Presented::Ambiguous;
        }
        let value = trim(line);
        let token = if self.request.is_some() { Some(value) } else { bearer(value) };
        match token {
            // Of another scheme.
            None => Presented::Nothing,
            Some(token) if memchr::memchr(b',', token).is_some() => Presented::Ambiguous,
            Some(token) => Presented::One(token),
        }
    }
}

/// The token of `"Bearer" 1*SP token68`, where it is that scheme. What follows is for the token's own check.
fn bearer(credentials: &[u8]) -> Option<&[u8]> {
    let end = memchr::memchr(b' ', credentials).unwrap_or(credentials.len());
    let (scheme, mut token) = credentials.split_at(end);
    while let [b' ', rest @ ..] = token {
        token = rest;
    }
    scheme.eq_ignore_ascii_case(b"bearer").then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(settings: HeaderSettings, lines: &[&'a [u8]]) -> Presented<'a> {
        Carrier::new(&Transport::Header(settings)).unwrap().find(lines.iter().copied())
    }

    #[test]
    fn a_bearer_token_is_one_line_of_one_scheme_with_one_token() {
        let find = |lines: &[&'static [u8]]| find(HeaderSettings::bearer(), lines);
        for line in [&b"Bearer x"[..], b"bearer x", b"BEARER x", b"bEaReR   x", b" Bearer x\t"] {
            assert_eq!(find(&[line]), Presented::One(b"x"), "{}", String::from_utf8_lossy(line));
        }
        for other in [
            &b""[..],
            b"Basic YTpi",
            b"DPoP x",
            b"Digest username=\"a\", realm=\"b\"",
            b"Bearerx",
            b"BearerToken x",
            b"Bearer\tx",
            b"Bearer\xc2\xa0x",
            b"Bearer=x",
            b"\"Bearer\" x",
            b"x",
        ] {
            assert_eq!(find(&[other]), Presented::Nothing, "{}", String::from_utf8_lossy(other));
        }
        assert_eq!(find(&[]), Presented::Nothing);
        assert_eq!(find(&[b"Bearer"]), Presented::One(b""), "a token was promised, and it is none");
        assert_eq!(find(&[b"Bearer x y"]), Presented::One(b"x y"), "which no token is");
        let ambiguous: [&[&[u8]]; 6] = [
            &[b"Bearer x", b"Bearer x"],
            &[b"Bearer x", b"Basic YTpi"],
            &[b"Basic YTpi", b"Bearer x"],
            &[b"Bearer x,Bearer x"],
            &[b"Bearer x, Basic YTpi"],
            &[b"Bearer x,"],
        ];
        for lines in ambiguous {
            assert_eq!(find(lines), Presented::Ambiguous, "{lines:?}");
        }
    }

    #[test]
    fn a_named_header_has_the_token_and_nothing_else() {
        let find = |lines: &[&'static [u8]]| find(HeaderSettings::named("X-Shop-Token"), lines);
        assert_eq!(find(&[b" x "]), Presented::One(b"x"));
        assert_eq!(find(&[b"Bearer x"]), Presented::One(b"Bearer x"), "which no token is");
        assert_eq!(find(&[]), Presented::Nothing);
        assert_eq!(find(&[b"x", b"x"]), Presented::Ambiguous);
        assert_eq!(find(&[b"x,x"]), Presented::Ambiguous);
    }

    #[test]
    fn headers_that_others_read_or_write_are_refused() {
        for name in ["", "a b", "a:b", "a\r\nb", "\u{e9}", &"a".repeat(65)] {
            for settings in [HeaderSettings::named(name), HeaderSettings::bearer().with_response(name)] {
                assert_eq!(settings.validate(), Err(HeaderError::Name(name.to_owned())));
            }
        }
        for name in [
            "Cookie",
            "SET-COOKIE",
            "Host",
            "Authorization",
            "Proxy-Authorization",
            "Content-Length",
            "Transfer-Encoding",
            "Connection",
            "X-Forwarded-For",
            "Sec-Fetch-Site",
            "Access-Control-Allow-Origin",
            "If-None-Match",
            "Accept",
            "Vary",
            "X-CSRF-Token",
            "X-Session-Warning",
            "X-Accel-Redirect",
            "X-Sendfile",
            "X-HTTP-Method-Override",
            "X-Original-URL",
            "True-Client-IP",
            "Last-Event-ID",
            "traceparent",
        ] {
            for settings in [HeaderSettings::named(name), HeaderSettings::bearer().with_response(name)] {
                assert_eq!(settings.validate(), Err(HeaderError::Taken(name.to_owned())));
            }
        }
        for name in ["X-Session-Token", "x", "Session", "X-Auth-Token", "Fromage"] {
            assert_eq!(HeaderSettings::named(name).validate(), Ok(()));
        }
    }

    #[test]
    fn every_transport_binds_tokens_to_a_name_of_its_own() {
        let cookie = |name: &str| Transport::Cookie(CookieSettings::new().with_name(name));
        let header = |name: &str| Transport::Header(HeaderSettings::named(name));
        let transports = [
            cookie("authorization"),
            cookie("bearer"),
            cookie("x-session-token"),
            Transport::bearer(),
            header("x-session-token"),
            header("bearer"),
        ];
        let bindings: std::collections::HashSet<String> =
            transports.iter().map(|transport| Carrier::new(transport).unwrap().binding().to_owned()).collect();
        assert_eq!(bindings.len(), transports.len(), "{bindings:?}");
        let binding = |transport: &Transport| Carrier::new(transport).unwrap().binding().to_owned();
        assert_eq!(binding(&header("X-A")), binding(&header("x-a")), "names of headers have no case");
        let other_way_out = Transport::Header(HeaderSettings::bearer().with_response("X-Other"));
        assert_eq!(binding(&other_way_out), binding(&Transport::bearer()), "where it leaves signs nobody out");
    }
}
