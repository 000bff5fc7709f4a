//! How tokens travel: one way, and no setting about another.

use cloakroom_core::{CookieError, CookieSettings, HeaderSettings, SameSite, Transport};

use super::error::{Refusal, quoted};
use super::reader::{Reader, boolean, one_of, verbatim};

pub(super) const DANGER: &str = "danger_insecure_cookie_for_localhost";
const HEADER: &str = "header:";
/// What says nothing where tokens travel in headers.
const OF_COOKIES: [&str; 7] =
    ["cookie.name", "cookie.path", "cookie.domain", "cookie.same_site", "cookie.secure", "cookie.partitioned", DANGER];

/// Whether a setting means something in this transport.
pub(super) fn concerns(setting: &str, transport: &Transport) -> bool {
    let cookie = matches!(transport, Transport::Cookie(_));
    if setting == "response_header" { !cookie } else { cookie || !OF_COOKIES.contains(&setting) }
}

pub(super) fn is_insecure(transport: &Transport) -> bool {
    matches!(transport, Transport::Cookie(cookie) if !cookie.is_secure())
}

/// What is in force of a setting whose default depends on others.
pub(super) fn shown(setting: &str, transport: &Transport) -> Option<String> {
    match (setting, transport) {
        ("cookie.name", Transport::Cookie(cookie)) => Some(cookie.name().to_owned()),
        ("cookie.secure", Transport::Cookie(cookie)) => Some(cookie.is_secure().to_string()),
        ("response_header", Transport::Header(header)) => Some(header.response().to_owned()),
        _ => None,
    }
}

impl Reader<'_> {
    pub(super) fn transport(&mut self, production: bool) -> Transport {
        let transport = self.read("transport", parse);
        // One that cannot be read was refused already, and nobody knows what else goes with it.
        let refused = transport.is_none() && self.is_set("transport");
        let Some(headers) = transport.flatten() else {
            if !refused && self.read("response_header", verbatim).is_some() {
                let why = "a cookie is handed out in Set-Cookie and in no other header";
                self.refuse("response_header", Refusal::new(why, "remove it, or set `transport` to \"bearer\""));
            }
            return Transport::Cookie(self.cookie(production));
        };
        for setting in OF_COOKIES {
            if self.read(setting, verbatim).is_some() {
                let why = "tokens travel in headers, and no cookie is set";
                self.refuse(setting, Refusal::new(why, "remove it, or set `transport` to \"cookie\""));
            }
        }
        let response = self.read("response_header", |name| {
            HeaderSettings::named(name).validate().map(|()| name.to_owned()).map_err(|error| Refusal::of(&error))
        });
        Transport::Header(match response {
            Some(name) => headers.with_response(name),
            None => headers,
        })
    }

    fn cookie(&mut self, production: bool) -> CookieSettings {
        let insecure = self.read(DANGER, boolean).unwrap_or(false);
        if insecure && production {
            let why = "in production whoever can read the network would own every session";
            self.refuse(DANGER, Refusal::new(why, "serve over https and remove this"));
        } else if insecure {
            self.notices.push("the session cookie is sent without encryption; never deploy this".to_owned());
        }
        match self.read("cookie.secure", boolean) {
            Some(false) if !insecure => {
                let why = "a cookie without Secure can be read by everybody on the network";
                let instead = format!("leave it on; for development on plain http set `{DANGER} = true` instead");
                self.refuse("cookie.secure", Refusal::new(why, instead));
            }
            Some(true) if insecure => {
                self.refuse(
                    "cookie.secure",
                    Refusal::new(format!("`{DANGER}` says the opposite"), "remove one of the two"),
                );
            }
            Some(_) | None => {}
        }
        let mut name = self.read("cookie.name", verbatim);
        let mut path = self.read("cookie.path", verbatim);
        let mut domain = self.read("cookie.domain", verbatim);
        let mut same_site = self
            .read(
                "cookie.same_site",
                one_of(&[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)]),
            )
            .unwrap_or_default();
        let mut partitioned = self.read("cookie.partitioned", boolean).unwrap_or(false);
        // As for the policy: one rule at a time, and each time less that can break one.
        loop {
            let mut cookie =
                if insecure { CookieSettings::danger_insecure_for_localhost() } else { CookieSettings::new() };
            cookie = cookie.with_same_site(same_site);
            cookie = if partitioned { cookie.partitioned() } else { cookie };
            cookie = if let Some(name) = &name { cookie.with_name(name) } else { cookie };
            cookie = if let Some(path) = &path { cookie.with_path(path) } else { cookie };
            cookie = if let Some(domain) = &domain { cookie.with_domain(domain) } else { cookie };
            let Err(error) = cookie.validate() else { return cookie };
            let mut exhausted = false;
            let refused = match error {
                CookieError::HostWithDomain(_) | CookieError::Domain(_) => {
                    domain = None;
                    "cookie.domain"
                }
                CookieError::HostWithPath { .. } | CookieError::Path(_) => {
                    path = None;
                    "cookie.path"
                }
                CookieError::NoneWithoutSecure => {
                    same_site = SameSite::Lax;
                    "cookie.same_site"
                }
                CookieError::PartitionedWithoutSecure => {
                    partitioned = false;
                    "cookie.partitioned"
                }
                CookieError::Name(_) | CookieError::PrefixWithoutSecure(_) | _ => {
                    exhausted = name.take().is_none();
                    "cookie.name"
                }
            };
            self.refuse(refused, Refusal::of(&error));
            if exhausted {
                return CookieSettings::new();
            }
        }
    }
}

/// `None` is a cookie.
fn parse(text: &str) -> Result<Option<HeaderSettings>, Refusal> {
    match text.split_at_checked(HEADER.len()) {
        _ if text.eq_ignore_ascii_case("cookie") => Ok(None),
        _ if text.eq_ignore_ascii_case("bearer") => Ok(Some(HeaderSettings::bearer())),
        Some((scheme, name)) if scheme.eq_ignore_ascii_case(HEADER) => {
            let headers = HeaderSettings::named(name);
            headers.validate().map(|()| Some(headers)).map_err(|error| Refusal::of(&error))
        }
        _ => {
            let why = format!("{} is none of the choices", quoted(text));
            Err(Refusal::new(why, "write \"cookie\", \"bearer\" or \"header:X-Session-Token\""))
        }
    }
}
