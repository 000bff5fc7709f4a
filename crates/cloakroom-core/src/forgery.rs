//! Whether a request may act in the name of the session that comes with it: the decisions of the CSRF
//! middlewares, which only translate.

use std::fmt;

use crate::csrf::Provenance;
use crate::exchange::members;
use crate::session::ReadSession;

/// Which requests a CSRF middleware lets through.
///
/// A request with a method other than `GET`, `HEAD` and `OPTIONS` has to pass two checks:
///
/// 1. Where it says it comes from. `Sec-Fetch-Site` of `same-origin` or `none` passes, `same-site` and
///    `cross-site` do not; where that is missing or unknown, `Origin` has to equal one of ours exactly. Without
///    either it is refused, and so it is where one of them is repeated.
/// 2. The session's [token](crate::Session::csrf_token), in the header [`HEADER`](Self::HEADER) or else in the field
///    [`FIELD`](Self::FIELD) of a URL-encoded form. Once: a repeated one is refused. Neither a query nor a cookie
///    is looked at. Forms in other encodings and JSON send the header.
///
/// The handshake of a WebSocket has to pass the first of them: pages of other sites may open one and read what it says,
/// which no CORS rule prevents; so has any other `CONNECT`. A [ticket](crate::Session::ticket) binds it to the session besides.
///
/// Requests whose token is in a [header](crate::Transport::Header) pass without a check: browsers add cookies to what
/// other sites send, and no such header.
///
/// ```
/// use cloakroom_core::Csrf;
///
/// let csrf = Csrf::new(["https://shop.example"])?.with_exemption("/hooks/payment");
/// # Ok::<_, cloakroom_core::CsrfError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Csrf {
    origins: Vec<String>,
    exemptions: Vec<String>,
    report_only: bool,
    anonymous_by_origin: bool,
}

/// An origin that no browser would send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{origin}` is no origin: write scheme, host and port in lower case and nothing else, such as `https://shop.example`"
)]
pub struct CsrfError {
    origin: String,
}

/// What a request says of itself: the first check looks at this.
#[derive(Clone, Copy, Debug)]
pub struct CsrfRequest<'a, I> {
    /// The method.
    pub method: &'a str,
    /// The path as it was sent, without the query.
    pub path: &'a str,
    /// All `Sec-Fetch-Site` headers.
    pub fetch_site: I,
    /// All `Origin` headers.
    pub origin: I,
    /// All `Upgrade` headers.
    pub upgrade: I,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CsrfRefusal {
    /// It comes from somewhere else, or does not say from where.
    Foreign,
    /// It has no token.
    NoToken,
    /// It has more than one.
    RepeatedToken,
    /// Its token is not one of this session, or there is no session and [that](Csrf::anonymous_by_origin) does not pass.
    WrongToken,
}

/// What the first check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the request has to be treated so"]
pub enum CsrfVerdict {
    /// Let it through.
    Pass,
    /// Ask for the token.
    NeedsToken,
    /// Do not let it through.
    Refuse(CsrfRefusal),
}

impl Csrf {
    /// The header that carries the token, in lower case.
    pub const HEADER: &'static str = "x-csrf-token";
    /// The field of a form that carries the token.
    pub const FIELD: &'static str = "csrf_token";
    /// The longest form that is searched for the token, in bytes. A longer one whose token is needed and in no header is answered
    /// by 413.
    pub const MAX_FORM: usize = 256 * 1024;

    /// For an application at these origins.
    ///
    /// # Errors
    /// Where one of them is not written as browsers do.
    pub fn new<O: Into<String>>(origins: impl IntoIterator<Item = O>) -> Result<Self, CsrfError> {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        if let Some(origin) = origins.iter().find(|origin| !is_origin(origin)) {
            return Err(CsrfError { origin: origin.clone() });
        }
        Ok(Self { origins, exemptions: Vec::new(), report_only: false, anonymous_by_origin: false })
    }

    /// Lets every request to this path through, compared byte by byte with the path as it was sent: no
    /// pattern, no prefix, no other spelling. For what authenticates each request by itself.
    #[must_use]
    pub fn with_exemption(mut self, path: impl Into<String>) -> Self {
        self.exemptions.push(path.into());
        self
    }

    /// Lets through what would be refused, with the [event](crate::Event::RequestForged) all the same: to see who
    /// would be hit. It protects nobody. A form that is too long to be searched counts as one without a token, one that
    /// breaks off is answered by 400, and where
    /// the session cannot be opened there is nothing to report.
    #[must_use]
    pub const fn report_only(mut self) -> Self {
        self.report_only = true;
        self
    }

    /// Lets a request that has no session through by the first check alone: a sign-in form, and what else visitors may
    /// do before there is a session to bind a token to, without creating one for everybody who looks around.
    ///
    /// There is no session then in whose name another site could act; that one signs a visitor in under an account of
    /// its own, which is the other way to forge a sign-in, the first check prevents. Every session, also an anonymous
    /// one, still asks for its token. Without this, a request that has no session is refused.
    #[must_use]
    pub const fn anonymous_by_origin(mut self) -> Self {
        self.anonymous_by_origin = true;
        self
    }

    /// Whether what is refused is let through.
    #[must_use]
    pub const fn reports_only(&self) -> bool {
        self.report_only
    }

    /// The first check.
    pub fn check_request<'a, I: Iterator<Item = &'a [u8]>>(&self, request: CsrfRequest<'a, I>) -> CsrfVerdict {
        let CsrfRequest { method, path, mut fetch_site, mut origin, upgrade } = request;
        let handshake = match method {
            "GET" => members(upgrade).any(|protocol| protocol.eq_ignore_ascii_case("websocket")),
            // Over HTTP/2 (RFC 8441) and 3 (RFC 9220); what else browsers send it for is as little theirs to open.
            method => method == "CONNECT",
        };
        let safe = matches!(method, "GET" | "HEAD" | "OPTIONS") && !handshake;
        if safe || self.exemptions.iter().any(|exempt| exempt == path) {
            return CsrfVerdict::Pass;
        }
        let provenance = Provenance { method, fetch_site: fetch_site.next(), origin: origin.next() };
        let repeated = fetch_site.next().is_some() || origin.next().is_some();
        let origins: Vec<&str> = self.origins.iter().map(String::as_str).collect();
        if repeated || !provenance.names_one_of(&origins) {
            return CsrfVerdict::Refuse(CsrfRefusal::Foreign);
        }
        if handshake { CsrfVerdict::Pass } else { CsrfVerdict::NeedsToken }
    }

    /// Whether the token has to be looked for in the body: one is needed, no header carries it, and this is a form.
    #[must_use]
    pub fn reads_form(&self, session: &ReadSession, has_header: bool, content_type: Option<&[u8]>) -> bool {
        !has_header && content_type.is_some_and(is_form) && !self.passes_by_origin(session)
    }

    /// Whether the first check is all there is to check.
    fn passes_by_origin(&self, session: &ReadSession) -> bool {
        self.anonymous_by_origin && session.handle().is_none()
    }

    /// The second check, with all headers of the name [`HEADER`](Self::HEADER), and with the body where
    /// [`reads_form`](Self::reads_form) says so.
    ///
    /// # Errors
    /// Why the request is refused.
    pub fn check_token<'a>(
        &self,
        session: &ReadSession,
        headers: impl Iterator<Item = &'a [u8]>,
        form: Option<&'a [u8]>,
    ) -> Result<(), CsrfRefusal> {
        if self.passes_by_origin(session) {
            return Ok(());
        }
        let mut tokens: Vec<&[u8]> = headers.collect();
        if tokens.is_empty() {
            // The token is of letters that no form encodes, so there is nothing to decode.
            let fields = form.unwrap_or_default().split(|byte| *byte == b'&');
            let field = |pair: &'a [u8]| pair.strip_prefix(Self::FIELD.as_bytes())?.strip_prefix(b"=");
            tokens.extend(fields.filter_map(field));
        }
        match tokens.as_slice() {
            [] => Err(CsrfRefusal::NoToken),
            [token] => {
                let genuine = std::str::from_utf8(token).is_ok_and(|token| session.verify_csrf(token));
                if genuine { Ok(()) } else { Err(CsrfRefusal::WrongToken) }
            }
            _ => Err(CsrfRefusal::RepeatedToken),
        }
    }
}

impl CsrfRefusal {
    /// A name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::NoToken => "no_token",
            Self::RepeatedToken => "repeated_token",
            Self::WrongToken => "wrong_token",
        }
    }
}

impl fmt::Display for CsrfRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn is_form(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
}

fn is_origin(origin: &str) -> bool {
    let Some((scheme, host)) = origin.split_once("://") else { return false };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
        _ => (host, None),
    };
    let default = if scheme == "https" { 443 } else { 80 };
    matches!(scheme, "http" | "https")
        && !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._[]:".contains(&byte))
        && port
            .is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number != default && number.to_string() == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for good in [
            "https://a.example",
            "http://127.0.0.1:3000",
            "http://localhost:8080",
            "https://[::1]:8443",
            "https://[::1]",
        ] {
            assert!(Csrf::new([good]).is_ok(), "{good}");
        }
        for bad in [
            "",
            "a.example",
            "https://",
            "https://A.example",
            "https://a.example/",
            "https://a.example:443",
            "http://a.example:80",
            "https://a.example:",
            "https://a.example:0443",
            "https://*.example",
            "null",
            "ftp://a.example",
            "https://u@a.example",
            "https://a.example:99999",
        ] {
            let error = Csrf::new([bad]).unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("such as"), "{error}");
        }
    }

    #[test]
    fn only_url_encoded_forms_are_forms() {
        assert!(is_form(b"Application/X-WWW-Form-URLEncoded ; charset=utf-8"));
        assert!(!is_form(b"multipart/form-data; boundary=application/x-www-form-urlencoded"));
        assert!(!is_form(b""));
    }

    #[test]
    fn a_handshake_of_a_websocket_is_checked_by_its_origin_and_asked_for_no_token() {
        let csrf = Csrf::new(["https://shop.example"]).unwrap();
        let verdict = |method, upgrade: &'static str, origin: &'static str| {
            let lines = |line: &'static str| (!line.is_empty()).then_some(line.as_bytes()).into_iter();
            let (fetch_site, origin, upgrade) = (lines(""), lines(origin), lines(upgrade));
            csrf.check_request(CsrfRequest { method, path: "/socket", fetch_site, origin, upgrade })
        };
        for (method, upgrade) in [("GET", "websocket"), ("GET", "h2c, WebSocket"), ("CONNECT", "")] {
            assert_eq!(verdict(method, upgrade, "https://shop.example"), CsrfVerdict::Pass, "{method} {upgrade}");
            for origin in ["", "null", "https://evil.example", "https://evil.shop.example"] {
                let refused = CsrfVerdict::Refuse(CsrfRefusal::Foreign);
                assert_eq!(verdict(method, upgrade, origin), refused, "{method} {upgrade} {origin}");
            }
        }
        for upgrade in ["", "h2c", "websockets"] {
            assert_eq!(verdict("GET", upgrade, "https://evil.example"), CsrfVerdict::Pass, "{upgrade}");
        }
    }
}
