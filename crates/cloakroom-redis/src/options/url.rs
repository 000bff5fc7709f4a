//! What the URL of a Redis says: where it is, and options in the query.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// A URL that cannot be used. Says what to write instead, and never repeats a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RedisUrlError(String);

impl RedisUrlError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Which servers, and how to find the one to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Standalone(Endpoint),
    Sentinel { sentinels: Vec<Endpoint>, service: String },
    Cluster { seeds: Vec<Endpoint> },
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, endpoints: &[Endpoint]| {
            endpoints.iter().enumerate().try_for_each(|(n, endpoint)| {
                f.write_str(if n == 0 { "" } else { "," })?;
                endpoint.fmt(f)
            })
        };
        match self {
            Self::Standalone(endpoint) => endpoint.fmt(f),
            Self::Sentinel { sentinels, service } => {
                write!(f, "{service} at ")?;
                list(f, sentinels)
            }
            Self::Cluster { seeds } => list(f, seeds),
        }
    }
}

/// A URL taken apart.
pub(crate) struct ParsedUrl {
    pub(crate) target: Target,
    pub(crate) tls: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    /// From the path.
    pub(crate) database: Option<String>,
    pub(crate) query: Query,
}

const FORMS: &str = "write redis://host:port, rediss://host:port (TLS), redis+unix:///path/of/socket, \
                     redis+sentinel://host:port,host:port/service or redis+cluster://host:port,host:port, with \
                     user:password@ before the host where the server asks for them";
const ESCAPE: &str = "the URL cannot be taken apart: in a user name or password write `@` as %40, `/` as %2F, `?` as \
                      %3F, `#` as %23 and `%` as %25";

impl ParsedUrl {
    pub(crate) fn parse(url: &str) -> Result<Self, RedisUrlError> {
        let (scheme, rest) = url
            .split_once("://")
            .ok_or_else(|| RedisUrlError::new(format!("this is no URL of a Redis server: {FORMS}")))?;
        let (form, tls) = match scheme {
            "redis" | "valkey" => (Form::Standalone, false),
            "rediss" | "valkeys" => (Form::Standalone, true),
            "redis+unix" | "valkey+unix" => (Form::Unix, false),
            "redis+sentinel" | "valkey+sentinel" => (Form::Sentinel, false),
            "rediss+sentinel" | "valkeys+sentinel" => (Form::Sentinel, true),
            "redis+cluster" | "valkey+cluster" => (Form::Cluster, false),
            "rediss+cluster" | "valkeys+cluster" => (Form::Cluster, true),
            // What stands there instead may be a password: it is not repeated.
            _ => return Err(RedisUrlError::new(format!("the scheme of the URL is not one of Redis: {FORMS}"))),
        };
        if rest.contains('#') {
            return Err(RedisUrlError::new(ESCAPE));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = place.split_once('/').map_or((place, None), |(a, path)| (a, Some(path)));
        let (credentials, hosts) = match authority.rsplit_once('@') {
            Some((credentials, hosts)) => (Some(credentials), hosts),
            None => (None, authority),
        };
        // An `@` anywhere else means that a part of a password was taken for something else.
        let stray = |text: &str| text.contains('@');
        if credentials.is_some_and(stray) || path.is_some_and(stray) || stray(query) {
            return Err(RedisUrlError::new(ESCAPE));
        }
        let (username, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
            Some((username, password)) => (non_empty(decode(username)?), non_empty(decode(password)?)),
            None => (None, None),
        };
        if username.is_some() && password.is_none() {
            return Err(RedisUrlError::new(
                "the URL has a user name and no password: write user:password@, or :password@ for a password alone",
            ));
        }
        let query = Query::parse(query)?;
        let path = path.filter(|path| !path.is_empty());
        let (target, database) = match form {
            Form::Standalone => {
                let mut endpoints = endpoints(hosts, 6379)?;
                if endpoints.len() > 1 {
                    return Err(RedisUrlError::new(
                        "the URL names several hosts: for a cluster write redis+cluster://, for Sentinels \
                         redis+sentinel://",
                    ));
                }
                (Target::Standalone(endpoints.remove(0)), path.map(decode).transpose()?)
            }
            Form::Unix => {
                let path = path.filter(|_| hosts.is_empty()).ok_or_else(|| {
                    RedisUrlError::new("a URL of a Unix socket has three slashes: redis+unix:///path/of/socket")
                })?;
                (Target::Standalone(Endpoint::Unix(PathBuf::from(format!("/{}", decode(path)?)))), None)
            }
            Form::Sentinel => {
                let sentinels = endpoints(hosts, 26379)?;
                let service = path.map(decode).transpose()?.ok_or_else(|| {
                    RedisUrlError::new(
                        "the URL does not name the service that the Sentinels watch: write \
                         redis+sentinel://host:port/service (`SENTINEL MASTERS` lists them)",
                    )
                })?;
                (Target::Sentinel { sentinels, service }, None)
            }
            Form::Cluster => {
                if path.is_some_and(|path| path != "0") {
                    return Err(RedisUrlError::new("a Redis Cluster has no databases: remove the path of the URL"));
                }
                (Target::Cluster { seeds: endpoints(hosts, 6379)? }, None)
            }
        };
        Ok(Self { target, tls, username, password, database, query })
    }
}

#[derive(Clone, Copy)]
enum Form {
    Standalone,
    Unix,
    Sentinel,
    Cluster,
}

fn endpoints(hosts: &str, default_port: u16) -> Result<Vec<Endpoint>, RedisUrlError> {
    hosts.split(',').map(|host| endpoint(host, default_port)).collect()
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`.
fn endpoint(text: &str, default_port: u16) -> Result<Endpoint, RedisUrlError> {
    let (host, port) = match text.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) =
                bracketed.split_once(']').ok_or_else(|| RedisUrlError::new("the URL has a `[` without its `]`"))?;
            match rest.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if rest.is_empty() => (host, None),
                None => return Err(RedisUrlError::new("after the `]` of a host in the URL comes `:port` or nothing")),
            }
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let port = match port {
        None => default_port,
        Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or_else(|| {
            RedisUrlError::new(
                "a port in the URL is not a number from 1 to 65535; an IPv6 address is written in brackets, a password \
                 before an `@`",
            )
        })?,
    };
    let host = decode(host)?;
    if host.is_empty() || !host.chars().all(|c| c.is_alphanumeric() || "-._:%".contains(c)) {
        return Err(RedisUrlError::new(format!("the URL lacks the name or the address of a host: {FORMS}")));
    }
    Ok(Endpoint::Tcp { host, port })
}

/// The pairs of a query. Each is taken out once; what is left at the end nobody knows.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    fn parse(query: &str) -> Result<Self, RedisUrlError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').ok_or_else(|| {
                RedisUrlError::new("the query of the URL is not of the form `?name=value&name=value`")
            })?;
            let (name, value) = (decode(name)?, decode(value)?);
            if pairs.iter().any(|(other, _)| *other == name) {
                return Err(RedisUrlError::new(format!("the URL has {} twice", shown(&name))));
            }
            pairs.push((name, value));
        }
        Ok(Self(pairs))
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<String> {
        let place = self.0.iter().position(|(other, _)| other == name)?;
        Some(self.0.swap_remove(place).1)
    }

    pub(crate) fn take_duration(&mut self, name: &str) -> Result<Option<Duration>, RedisUrlError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        duration(&value).map(Some).ok_or_else(|| {
            RedisUrlError::new(format!(
                "the option `{name}` of the URL is a duration, as in `250ms`, `5s`, `2m` or `24h`"
            ))
        })
    }

    pub(crate) fn refuse_rest(&self, known: &[&str]) -> Result<(), RedisUrlError> {
        let Some((unknown, _)) = self.0.first() else { return Ok(()) };
        let distance = |name: &&&str| strsim::damerau_levenshtein(unknown, name);
        let nearest = known.iter().min_by_key(distance).filter(|name| distance(name) <= 1 + name.len() / 3);
        let hint = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        Err(RedisUrlError::new(format!(
            "the URL has {}, which is not known{hint}; the options are {}",
            shown(unknown),
            known.join(", ")
        )))
    }
}

/// The name of an option, unless it may be something else that slipped there.
fn shown(name: &str) -> String {
    if name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_') {
        format!("the option `{name}`")
    } else {
        "an option".to_owned()
    }
}

/// `250ms`, `5s`, `2m`, `24h`, `7d`, or a number of seconds.
pub(crate) fn duration(value: &str) -> Option<Duration> {
    let unit = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let number: u64 = value[..unit].parse().ok()?;
    let duration = match &value[unit..] {
        "ms" => Duration::from_millis(number),
        "" | "s" => Duration::from_secs(number),
        "m" | "min" => Duration::from_secs(number.checked_mul(60)?),
        "h" => Duration::from_secs(number.checked_mul(60 * 60)?),
        "d" => Duration::from_secs(number.checked_mul(24 * 60 * 60)?),
        _ => return None,
    };
    (!duration.is_zero()).then_some(duration)
}

fn non_empty(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Undoes `%41`.
fn decode(text: &str) -> Result<String, RedisUrlError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |at: usize| rest.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err(RedisUrlError::new(
                "the URL has a `%` that two hexadecimal digits do not follow: write `%` itself as %25",
            ));
        };
        bytes.push((high * 16 + low) as u8);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| RedisUrlError::new("the URL holds an escape that is not UTF-8"))
}
