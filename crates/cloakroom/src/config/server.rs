//! Stores on servers: what their URL says is theirs to read, and settings reach them as options of it.

use std::fmt;

#[cfg(feature = "redis")]
use cloakroom_redis::RedisOptions;
#[cfg(feature = "mysql")]
use cloakroom_sql::MySqlOptions;
#[cfg(feature = "postgres")]
use cloakroom_sql::PostgresOptions;
use zeroize::Zeroizing;

use super::error::Refusal;

/// What kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Redis,
    Postgres,
    MySql,
}

/// Where a server is, who signs in there, and options. Prints without the password.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ServerUrl {
    pub(crate) server: Server,
    url: Zeroizing<String>,
}

/// What the store makes of a URL.
pub(crate) enum ServerOptions {
    #[cfg(feature = "redis")]
    Redis(RedisOptions),
    #[cfg(feature = "postgres")]
    Postgres(PostgresOptions),
    #[cfg(feature = "mysql")]
    MySql(MySqlOptions),
}

impl Server {
    /// The server that has URLs of this scheme.
    pub(super) fn of(scheme: &str) -> Option<Self> {
        match scheme.split('+').next()? {
            "redis" | "rediss" | "valkey" | "valkeys" => Some(Self::Redis),
            "postgres" | "postgresql" => Some(Self::Postgres),
            "mysql" | "mariadb" => Some(Self::MySql),
            _ => None,
        }
    }

    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::Redis => "redis:",
            Self::Postgres => "postgres:",
            Self::MySql => "mysql:",
        }
    }

    /// The feature that builds its store in.
    pub(super) const fn feature(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    pub(super) const fn is_built_in(self) -> bool {
        match self {
            Self::Redis => cfg!(feature = "redis"),
            Self::Postgres => cfg!(feature = "postgres"),
            Self::MySql => cfg!(feature = "mysql"),
        }
    }

    /// How the advice begins where the store gives none.
    pub(super) const EXAMPLE: &str = "write it as in ";

    const fn example(self) -> &'static str {
        match self {
            Self::Redis => "redis://user:password@host:6379/0",
            Self::Postgres => "postgres://user:password@host/database",
            Self::MySql => "mysql://user:password@host/database",
        }
    }

    /// The options of a platform's URL that are about how connections are encrypted, and what they are
    /// called here. The others are for the application's own connections.
    const fn platform_options(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Redis => &[],
            Self::Postgres => &[("sslmode", "sslmode"), ("sslrootcert", "ca")],
            Self::MySql => &[("sslmode", "sslmode"), ("ssl-mode", "sslmode"), ("ssl-ca", "ca"), ("sslca", "ca")],
        }
    }
}

impl ServerUrl {
    /// A URL of this server, which its store can read if it is built in.
    pub(super) fn new(server: Server, url: &str) -> Result<Self, Refusal> {
        let url = Self { server, url: Zeroizing::new(url.to_owned()) };
        if server.is_built_in() { url.options().map(|_| url) } else { Ok(url) }
    }

    /// As platforms put it into the environment.
    pub(super) fn of_platform(server: Server, url: &str) -> Result<Self, Refusal> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut kept = Zeroizing::new(base.to_owned());
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let known = pairs.filter_map(|(name, value)| {
            let (_, ours) = server.platform_options().iter().find(|(theirs, _)| *theirs == name)?;
            Some((*ours, value))
        });
        for (number, (name, value)) in known.enumerate() {
            kept.push(if number == 0 { '?' } else { '&' });
            kept.push_str(name);
            kept.push('=');
            kept.push_str(value);
        }
        Self::new(server, &kept)
    }

    /// The same with one more option, which it must not have yet.
    pub(super) fn with_option(&self, name: &str, value: &str) -> Result<Self, Refusal> {
        if self.url.contains(&format!("?{name}=")) || self.url.contains(&format!("&{name}=")) {
            let why = format!("the URL of the store has the option `{name}` as well, and nobody knows which is meant");
            return Err(Refusal::new(why, "remove one of the two"));
        }
        let separator = if self.url.contains('?') { '&' } else { '?' };
        Self::new(self.server, &Zeroizing::new(format!("{}{separator}{name}={}", *self.url, encoded(value))))
    }

    /// The same, with touches that no request waits for unless it says otherwise: the worst that a lost one
    /// does is to end a session a minute and a half early.
    #[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
    pub(crate) fn touching_in_the_background(&self) -> Self {
        match self.server {
            Server::Redis => self.clone(),
            // Refused where the URL has the option already.
            Server::Postgres | Server::MySql => {
                self.with_option("touches", "background").unwrap_or_else(|_| self.clone())
            }
        }
    }

    /// What the store makes of it.
    pub(crate) fn options(&self) -> Result<ServerOptions, Refusal> {
        match self.server {
            #[cfg(feature = "redis")]
            Server::Redis => {
                RedisOptions::new(&self.url).map(ServerOptions::Redis).map_err(|error| self.refusal(&error))
            }
            #[cfg(feature = "postgres")]
            Server::Postgres => {
                PostgresOptions::new(&self.url).map(ServerOptions::Postgres).map_err(|error| self.refusal(&error))
            }
            #[cfg(feature = "mysql")]
            Server::MySql => {
                MySqlOptions::new(&self.url).map(ServerOptions::MySql).map_err(|error| self.refusal(&error))
            }
            #[cfg(not(all(feature = "mysql", feature = "postgres", feature = "redis")))]
            other => Err(Refusal::new(format!("`{}` is not built in", other.scheme()), "choose another store")),
        }
    }

    /// Takes apart an error of a store, which reads “why: write this” or “why; do this”.
    #[cfg_attr(
        not(any(feature = "mysql", feature = "postgres", feature = "redis")),
        expect(dead_code, reason = "no store on a server is built in")
    )]
    fn refusal(&self, error: &impl fmt::Display) -> Refusal {
        let text = error.to_string();
        if let Some((why, instead)) = text.rsplit_once("; ") {
            return Refusal::new(why, instead);
        }
        match text.rsplit_once(": write ") {
            Some((why, instead)) => Refusal::new(why, format!("write {instead}")),
            None => Refusal::new(text, format!("{}`{}`", Server::EXAMPLE, self.server.example())),
        }
    }
}

/// Scheme, user, host and path: not the password, and of the query only that there is one.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.url.split_once("://").unwrap_or((self.server.feature(), ""));
        // From the last `@` on: a password may hold one, and whatever ends a host, unescaped.
        let (credentials, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let place = place.split(['?', '#']).next().unwrap_or_default();
        write!(f, "{scheme}://")?;
        match credentials.split_once(':') {
            Some((user, _)) => write!(f, "{user}:***@")?,
            None if credentials.is_empty() => {}
            None => f.write_str("***@")?,
        }
        f.write_str(place)?;
        if self.url.contains('?') { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// As the value of an option in a URL.
fn encoded(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~/(),".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        out
    })
}
