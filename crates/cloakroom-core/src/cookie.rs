//! The cookie that carries the token: a strict parser, and a writer that emits only what browsers keep.

use std::fmt::Write as _;
use std::time::Duration;

/// How the session cookie is named and scoped.
///
/// The default is `__Host-id; Path=/; Secure; HttpOnly; SameSite=Lax`, without Max-Age: it is sent
/// over TLS only, to this host only, and ends with the browser. `HttpOnly` is always on. Impossible
/// combinations are refused when the [`Manager`](crate::Manager) is built; nothing is silently renamed.
///
/// ```
/// use cloakroom_core::{CookieSettings, SameSite};
///
/// let cookie = CookieSettings::new().with_name("__Host-admin").with_same_site(SameSite::Strict);
/// assert!(cookie.validate().is_ok());
/// assert!(CookieSettings::new().with_domain("example.org").validate().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CookieSettings {
    name: String,
    path: String,
    domain: Option<String>,
    same_site: SameSite,
    secure: bool,
    partitioned: bool,
}

/// Which cross-site requests carry the cookie. Always written out; the browser's default is not relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SameSite {
    /// None: also not when somebody follows a link to the site.
    Strict,
    /// Top-level navigation only.
    #[default]
    Lax,
    /// All. Needs `Secure`, and takes a defence in depth away.
    None,
}

impl SameSite {
    /// The attribute's value.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Strict => "Strict",
            Self::Lax => "Lax",
            Self::None => "None",
        }
    }
}

impl CookieSettings {
    /// The name unless told otherwise.
    pub const DEFAULT_NAME: &'static str = "__Host-id";
    /// The longest name in bytes.
    pub const MAX_NAME: usize = 64;

    /// The settings for production.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: Self::DEFAULT_NAME.to_owned(),
            path: "/".to_owned(),
            domain: None,
            same_site: SameSite::Lax,
            secure: true,
            partitioned: false,
        }
    }

    /// A cookie `id` without `Secure`, for plain http on localhost.
    ///
    /// **Danger:** whoever can read the network owns every session. Never deploy it.
    #[must_use]
    pub fn danger_insecure_for_localhost() -> Self {
        Self { name: "id".to_owned(), secure: false, ..Self::new() }
    }

    /// Another name. A `__Host-` prefix makes browsers refuse the cookie from other hosts.
    #[must_use]
    pub fn with_name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Another path. Not possible with a `__Host-` name.
    #[must_use]
    pub fn with_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    /// Shares the cookie with all hosts under this domain. Not possible with a `__Host-` name.
    #[must_use]
    pub fn with_domain(mut self, domain: impl Into<String>) -> Self {
        self.domain = Some(domain.into());
        self
    }

    /// Another `SameSite`.
    #[must_use]
    pub const fn with_same_site(mut self, same_site: SameSite) -> Self {
        self.same_site = same_site;
        self
    }

    /// Keeps a separate cookie for each site that embeds this one (CHIPS).
    #[must_use]
    pub const fn partitioned(mut self) -> Self {
        self.partitioned = true;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the cookie is sent over TLS only.
    #[must_use]
    pub const fn is_secure(&self) -> bool {
        self.secure
    }

    /// Whether browsers would keep a cookie of these settings.
    ///
    /// # Errors
    /// The first rule that is broken, with what to write instead.
    pub fn validate(&self) -> Result<(), CookieError> {
        // Browsers match the prefixes whatever their case.
        let lower = self.name.to_ascii_lowercase();
        let host_only = lower.starts_with("__host-");
        let prefixed = host_only || lower.starts_with("__secure-") || lower.starts_with("__http-");
        let value_char = |byte: u8| (0x20..0x7f).contains(&byte) && byte != b';' && byte != b',';
        if self.name.is_empty() || self.name.len() > Self::MAX_NAME || !self.name.bytes().all(is_token_char) {
            Err(CookieError::Name(self.name.clone()))
        } else if prefixed && !self.secure {
            Err(CookieError::PrefixWithoutSecure(self.name.clone()))
        } else if host_only && self.domain.is_some() {
            Err(CookieError::HostWithDomain(self.name.clone()))
        } else if host_only && self.path != "/" {
            Err(CookieError::HostWithPath { name: self.name.clone(), path: self.path.clone() })
        } else if self.same_site == SameSite::None && !self.secure {
            Err(CookieError::NoneWithoutSecure)
        } else if self.partitioned && !self.secure {
            Err(CookieError::PartitionedWithoutSecure)
        } else if !self.path.starts_with('/') || self.path.len() > 1024 || !self.path.bytes().all(value_char) {
            Err(CookieError::Path(self.path.clone()))
        } else if self.domain.as_ref().is_some_and(|domain| !is_domain(domain)) {
            Err(CookieError::Domain(self.domain.clone().unwrap_or_default()))
        } else {
            Ok(())
        }
    }
}

impl Default for CookieSettings {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) fn is_token_char(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_domain(domain: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
    };
    domain.len() <= 253 && domain.split('.').all(label)
}

/// Settings that no browser would keep a cookie of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CookieError {
    /// Not an HTTP token of 1 to 64 bytes.
    #[error("{0:?} cannot be a cookie name; use 1 to 64 letters, digits, `-` and `_`")]
    Name(String),
    /// `__Host-`, `__Secure-` and `__Http-` demand `Secure`.
    #[error(
        "browsers drop a cookie named {0:?} without Secure; leave Secure on, or in development use a name without prefix"
    )]
    PrefixWithoutSecure(String),
    /// `__Host-` forbids a domain.
    #[error(
        "browsers drop a cookie named {0:?} with a Domain; remove the domain, or name the cookie with `__Secure-` instead"
    )]
    HostWithDomain(String),
    /// `__Host-` demands `Path=/`.
    #[error(
        "browsers drop a cookie named {name:?} with Path={path}; use the path `/`, or name the cookie with `__Secure-` instead"
    )]
    HostWithPath {
        /// As configured.
        name: String,
        /// As configured.
        path: String,
    },
    /// `SameSite=None` demands `Secure`.
    #[error(
        "browsers drop a cookie with SameSite=None without Secure; use SameSite=Lax, or serve over https with Secure"
    )]
    NoneWithoutSecure,
    /// `Partitioned` demands `Secure`.
    #[error(
        "browsers drop a partitioned cookie without Secure; serve over https with Secure, or leave Partitioned out"
    )]
    PartitionedWithoutSecure,
    /// Not a path.
    #[error("{0:?} cannot be a cookie path; it starts with `/` and holds no `;`, `,` or control character")]
    Path(String),
    /// Not a domain.
    #[error("{0:?} cannot be a cookie domain; write a host name such as `example.org`")]
    Domain(String),
}

/// The settings, ready to read and write headers with.
#[derive(Debug)]
pub(crate) struct Cookie {
    name: Box<str>,
    attributes: Box<str>,
    host_only: bool,
}

/// What a request presented as token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Presented<'a> {
    Nothing,
    One(&'a [u8]),
    /// Several that may be told apart by which of them authenticates.
    Several(Vec<&'a [u8]>),
    /// Several under a name that no browser sends twice, or too many to try.
    Ambiguous,
}

impl Cookie {
    const MAX_CANDIDATES: usize = 4;

    pub(crate) fn new(settings: &CookieSettings) -> Result<Self, CookieError> {
        settings.validate()?;
        let mut attributes = format!("; Path={}", settings.path);
        if let Some(domain) = &settings.domain {
            attributes.push_str("; Domain=");
            attributes.push_str(domain);
        }
        if settings.secure {
            attributes.push_str("; Secure");
        }
        attributes.push_str("; HttpOnly; SameSite=");
        attributes.push_str(settings.same_site.as_str());
        if settings.partitioned {
            attributes.push_str("; Partitioned");
        }
        Ok(Self {
            name: settings.name.as_str().into(),
            attributes: attributes.into(),
            host_only: settings.name.to_ascii_lowercase().starts_with("__host-"),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Finds the cookie in all `Cookie` headers of a request.
    ///
    /// Names are compared as raw bytes: nothing is decoded, unquoted or trimmed beyond spaces and
    /// tabs, so no other spelling can stand in for the name. One pass, no copy.
    pub(crate) fn find<'a>(&self, headers: impl Iterator<Item = &'a [u8]>) -> Presented<'a> {
        let mut first = None;
        let mut more = Vec::new();
        for header in headers {
            let mut rest = header;
            while !rest.is_empty() {
                let end = memchr::memchr(b';', rest).unwrap_or(rest.len());
                let pair = trim(&rest[..end]);
                rest = rest.get(end + 1..).unwrap_or_default();
                let Some(after_name) = pair.strip_prefix(self.name.as_bytes()) else { continue };
                let Some(value) = after_name.strip_prefix(b"=") else { continue };
                if first.is_none() {
                    first = Some(value);
                } else if self.host_only || more.len() + 1 == Self::MAX_CANDIDATES {
                    return Presented::Ambiguous;
                } else {
                    more.push(value);
                }
            }
        }
        match (first, more.is_empty()) {
            (None, _) => Presented::Nothing,
            (Some(value), true) => Presented::One(value),
            (Some(value), false) => {
                more.insert(0, value);
                Presented::Several(more)
            }
        }
    }

    /// The `Set-Cookie` value that hands out a token.
    pub(crate) fn set(&self, token: &str, max_age: Option<Duration>) -> String {
        let mut header = String::with_capacity(self.name.len() + token.len() + self.attributes.len() + 24);
        header.push_str(&self.name);
        header.push('=');
        header.push_str(token);
        header.push_str(&self.attributes);
        if let Some(max_age) = max_age {
            // Writing to a string cannot fail.
            let _infallible = write!(header, "; Max-Age={}", max_age.min(crate::policy::MAX_LIFETIME).as_secs().max(1));
        }
        header
    }

    /// The `Set-Cookie` value that removes the cookie: the same attributes, or browsers ignore it.
    pub(crate) fn clear(&self) -> String {
        format!("{}={}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT", self.name, self.attributes)
    }
}

pub(crate) fn trim(mut pair: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = pair {
        pair = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = pair {
        pair = rest;
    }
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(name: &str, headers: &[&'a [u8]]) -> Presented<'a> {
        let settings = CookieSettings::new().with_name(name);
        Cookie::new(&settings).unwrap().find(headers.iter().copied())
    }

    #[test]
    fn the_name_is_compared_as_raw_bytes() {
        let spoofs: [&[u8]; 14] = [
            b"__host-id=x",
            b"__HOST-ID=x",
            b"%5F%5FHost-id=x",
            b"__Host%2Did=x",
            b"\"__Host-id\"=x",
            b"__Host-id =x",
            "\u{2000}__Host-id=x".as_bytes(),
            b"\x0b__Host-id=x",
            b"\0__Host-id=x",
            b"=__Host-id=x",
            b"$Version=1, __Host-id=x",
            b"a=\"; __Host-id2=x",
            b"__Host-idx=x",
            b"__Host-id",
        ];
        for spoof in spoofs {
            assert_eq!(find("__Host-id", &[spoof]), Presented::Nothing, "{}", String::from_utf8_lossy(spoof));
        }
        assert_eq!(find("__Host-id", &[b"a=b;\t __Host-id=x=y \t;c=d"]), Presented::One(b"x=y"));
        assert_eq!(find("__Host-id", &[b"__Host-id=\"x\""]), Presented::One(b"\"x\""), "quotes belong to the value");
    }

    #[test]
    fn split_headers_are_read_and_duplicates_are_never_resolved_by_order() {
        assert_eq!(find("__Host-id", &[b"a=b", b"c=d; __Host-id=x"]), Presented::One(b"x"));
        assert_eq!(find("__Host-id", &[b"__Host-id=x; __Host-id=x"]), Presented::Ambiguous);
        assert_eq!(find("__Host-id", &[b"__Host-id=x", b"__Host-id=y"]), Presented::Ambiguous);
        assert_eq!(find("sid", &[b"sid=x; sid=y"]), Presented::Several(vec![b"x", b"y"]));
        assert_eq!(find("sid", &[b"sid=1; sid=2; sid=3; sid=4"]), Presented::Several(vec![b"1", b"2", b"3", b"4"]));
        assert_eq!(find("sid", &[b"sid=1; sid=2; sid=3; sid=4; sid=5"]), Presented::Ambiguous);
    }

    #[test]
    fn what_sets_and_what_removes_carry_the_same_attributes() {
        let settings = CookieSettings::new()
            .with_name("__Secure-id")
            .with_domain("example.org")
            .with_path("/app")
            .with_same_site(SameSite::None)
            .partitioned();
        let cookie = Cookie::new(&settings).unwrap();
        let attributes = "; Path=/app; Domain=example.org; Secure; HttpOnly; SameSite=None; Partitioned";
        assert_eq!(cookie.set("token", None), format!("__Secure-id=token{attributes}"));
        let year = Duration::from_secs(365 * 24 * 60 * 60);
        assert_eq!(cookie.set("token", Some(year)), format!("__Secure-id=token{attributes}; Max-Age=31536000"));
        assert_eq!(
            cookie.clear(),
            format!("__Secure-id={attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        );
        let forever = cookie.set("token", Some(Duration::MAX));
        assert!(forever.ends_with("Max-Age=34560000"), "{forever}");
    }

    #[test]
    fn combinations_that_browsers_drop_are_refused() {
        let new = CookieSettings::new;
        let refused = [
            new().with_name(""),
            new().with_name("a b"),
            new().with_name("a;b"),
            new().with_name("a\r\nb"),
            new().with_domain("example.org"),
            new().with_path("/app"),
            new().with_name("__host-id").with_path("/app"),
            CookieSettings::danger_insecure_for_localhost().with_name("__Host-id"),
            CookieSettings::danger_insecure_for_localhost().with_name("__Secure-id"),
            CookieSettings::danger_insecure_for_localhost().with_same_site(SameSite::None),
            CookieSettings::danger_insecure_for_localhost().partitioned(),
            new().with_name("id").with_path("app"),
            new().with_name("id").with_path("/a;b"),
            new().with_name("id").with_path("/a\nb"),
            new().with_name("id").with_domain("exa mple.org"),
            new().with_name("id").with_domain("a\r\nb"),
        ];
        for settings in refused {
            assert!(settings.validate().is_err(), "{settings:?}");
        }
        assert!(CookieSettings::danger_insecure_for_localhost().validate().is_ok());
        assert!(new().with_name("__Host-Http-id").validate().is_ok());
    }

    #[test]
    fn ten_thousand_cookies_and_all_byte_values_are_parsed_in_one_pass() {
        let many = b"a=b;".repeat(10_000);
        assert_eq!(find("__Host-id", &[&many]), Presented::Nothing);
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(find("__Host-id", &[&all, b"__Host-id=x"]), Presented::One(b"x"));
    }
}
