//! Where sessions live, as one word or URL.

use std::fmt;
use std::path::PathBuf;

use super::error::Refusal;
use super::server::{Server, ServerUrl};

/// The store that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Store {
    /// Sessions are sealed into cookies, and what is stored is the list of those that ended.
    sealed: bool,
    pub(crate) place: Place,
}

/// Where records are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Sqlite(PathBuf),
    Server(ServerUrl),
}

impl Store {
    /// Reads `memory`, `sqlite:PATH`, the URL of a server, `cookie`, or `cookie+` and one of them. A
    /// refusal names the scheme only: the rest may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let store = match text.split_once(':').unwrap_or((text, "")) {
            ("memory" | "cookie", "") => Self { sealed: text.starts_with("cookie"), place: Place::Memory },
            (word @ ("memory" | "cookie"), _) => {
                return Err(Refusal::new(format!("nothing can follow `{word}`"), format!("write \"{word}\"")));
            }
            _ => match text.strip_prefix("cookie+") {
                Some(list) => Self { sealed: true, place: Place::parse(list)? },
                None => Self { sealed: false, place: Place::parse(text)? },
            },
        };
        store.is_built_in().map(|()| store)
    }

    /// Reads what platforms put into `DATABASE_URL` and `REDIS_URL`, if it names a store there is.
    pub(super) fn parse_platform(url: &str) -> Result<Self, Refusal> {
        let scheme = url.split(':').next().unwrap_or_default();
        let place = match Server::of(scheme) {
            Some(server) => Place::Server(ServerUrl::of_platform(server, url)?),
            // Options are for the application's own connections.
            None if scheme == "sqlite" => Place::parse(url.split('?').next().unwrap_or_default())?,
            None => return Err(unknown(scheme)),
        };
        let store = Self { sealed: false, place };
        store.is_built_in().map(|()| store)
    }

    pub(super) const fn sqlite(file: PathBuf) -> Self {
        Self { sealed: false, place: Place::Sqlite(file) }
    }

    /// Whether this build has it.
    pub(super) fn is_built_in(&self) -> Result<(), Refusal> {
        if self.sealed && !cfg!(feature = "cookie") {
            return Err(lacks(self, "cookie"));
        }
        self.place.is_built_in()
    }

    pub(crate) const fn is_self_contained(&self) -> bool {
        self.sealed
    }
}

impl Place {
    /// Reads `sqlite:PATH` or the URL of a server.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        match Server::of(scheme) {
            Some(server) => ServerUrl::new(server, text).map(Self::Server),
            None if scheme == "sqlite" => path(rest).map(Self::Sqlite),
            None => Err(unknown(scheme)),
        }
    }

    pub(super) fn is_built_in(&self) -> Result<(), Refusal> {
        match self {
            Self::Sqlite(_) if !cfg!(feature = "sqlite") => Err(lacks(self, "sqlite")),
            // Nobody has looked yet where its password is.
            Self::Server(url) if !url.server.is_built_in() => Err(lacks(&url.server.scheme(), url.server.feature())),
            Self::Memory | Self::Sqlite(_) | Self::Server(_) => Ok(()),
        }
    }

    pub(crate) const fn server(&self) -> Option<Server> {
        match self {
            Self::Server(url) => Some(url.server),
            Self::Memory | Self::Sqlite(_) => None,
        }
    }
}

fn lacks(what: &impl fmt::Display, feature: &str) -> Refusal {
    Refusal::new(
        format!("`{what}` needs the feature `{feature}`, which this build does not have"),
        format!("build with `cargo add cloakroom --features {feature}`, or choose another store"),
    )
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { sealed: true, place: Place::Memory } => f.write_str("cookie"),
            Self { sealed: true, place } => write!(f, "cookie+{place}"),
            Self { sealed: false, place } => fmt::Display::fmt(place, f),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::Server(url) => fmt::Display::fmt(url, f),
        }
    }
}

/// `PATH` or `//PATH`, so that `sqlite:///srv/s.db` is absolute and `sqlite://s.db` relative.
fn path(rest: &str) -> Result<PathBuf, Refusal> {
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if path.is_empty() || path == ":memory:" {
        return Err(Refusal::new(
            "no file is named",
            "write \"sqlite:sessions.db\", or \"memory\" for sessions in memory",
        ));
    }
    if path.contains('?') {
        return Err(Refusal::new("options after `?` mean nothing here", "end the value with the path of the file"));
    }
    Ok(PathBuf::from(path))
}

fn unknown(scheme: &str) -> Refusal {
    // Anything else may be a secret in the wrong place.
    let is_word = scheme.len() <= 16 && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+');
    let why = if is_word { format!("there is no store `{scheme}`") } else { "this names no store".to_owned() };
    Refusal::new(
        why,
        "write \"memory\", \"sqlite:PATH\", \"cookie\", or a URL that begins with redis://, postgres:// or mysql://; \
         \"cookie+sqlite:PATH\" and \"cookie+redis://…\" keep the list of ended sessions there",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each form, with a password wherever one can be.
    const URLS: [&str; 14] = [
        "redis://app:hunter2@host:6379/1",
        "redis://:hunter2@host",
        "rediss://app:hunter2@host:6380?prefix=shop:",
        "redis+unix:///run/redis.sock",
        "redis+sentinel://app:hunter2@a:1,b:2,c:3/shop",
        "rediss+sentinel://a:1,b:2/shop?sentinel_password=hunter2",
        "redis+cluster://app:hunter2@a:1,b:2",
        "rediss+cluster://app:hunter2@a:1,b:2",
        "valkey://app:hunter2@host",
        "valkey+cluster://app:hunter2@a:1",
        "postgres://app:hunter2@host:5432/shop",
        "postgresql://app:hunter2@host/shop",
        "mysql://app:hunter2@host/shop",
        "mariadb://app:hunter2@host/shop",
    ];

    fn is_built_in(url: &str) -> bool {
        Server::of(url.split(':').next().unwrap()).unwrap().is_built_in()
    }

    #[test]
    #[cfg(all(feature = "cookie", feature = "sqlite"))]
    fn stores_print_as_they_are_read() {
        for text in ["memory", "sqlite:a/b.db", "sqlite:/a/b.db", "cookie", "cookie+sqlite:b.db"] {
            assert_eq!(Store::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Store::parse("sqlite:///a/b.db").unwrap(), Store::sqlite("/a/b.db".into()));
        assert_eq!(Store::parse("sqlite://b.db").unwrap(), Store::sqlite("b.db".into()));
        assert_eq!(Store::parse_platform("sqlite://b.db?mode=rwc").unwrap(), Store::sqlite("b.db".into()));
    }

    #[test]
    fn every_form_of_url_is_read_and_prints_without_its_password() {
        for url in URLS.into_iter().filter(|url| is_built_in(url)) {
            let place = Place::parse(url).unwrap_or_else(|refusal| panic!("{url}: {refusal:?}"));
            for printed in [place.to_string(), format!("{place:?}")] {
                assert!(!printed.contains("hunter2"), "{printed}");
            }
            assert_eq!(place.to_string().split("://").next(), url.split("://").next());
        }
    }

    #[test]
    #[cfg(all(feature = "cookie", feature = "postgres", feature = "redis"))]
    fn a_list_of_ended_sessions_can_be_on_any_server() {
        let store = Store::parse("cookie+redis://:hunter2@host:1/0").unwrap();
        assert!(store.is_self_contained());
        assert_eq!(store.to_string(), "cookie+redis://:***@host:1/0");
        let store = Store::parse("cookie+postgres://app:hunter2@host/shop?connections=1").unwrap();
        assert_eq!(store.to_string(), "cookie+postgres://app:***@host/shop?…");
        assert!(Store::parse("cookie+memory").is_err() && Store::parse("cookie+cookie").is_err());
    }

    #[test]
    #[cfg(all(feature = "mysql", feature = "postgres", feature = "redis"))]
    fn of_a_platforms_options_only_those_about_encryption_are_taken() {
        let read = |url: &str| Store::parse_platform(url).unwrap_or_else(|refusal| panic!("{url}: {refusal:?}"));
        let postgres = "postgres://app:hunter2@host/shop";
        let sql = |options: &str| Store::parse(&format!("{postgres}{options}")).unwrap();
        assert_eq!(read(&format!("{postgres}?application_name=shop&pool_size=5")), sql(""));
        let theirs = format!("{postgres}?pool_size=5&sslmode=verify-full&sslrootcert=/etc/ca.pem");
        assert_eq!(read(&theirs), sql("?sslmode=verify-full&ca=/etc/ca.pem"));
        assert_eq!(read("redis://host/1?timeout=5"), Store::parse("redis://host/1").unwrap());
        assert_eq!(
            read("mysql://app:hunter2@host/shop?ssl-ca=/etc/ca.pem&charset=utf8"),
            Store::parse("mysql://app:hunter2@host/shop?ca=/etc/ca.pem").unwrap()
        );
        assert!(Store::parse_platform("sqlite::memory:").is_err());
        assert!(Store::parse_platform("cookie").is_err() && Store::parse_platform("memory").is_err());
    }

    #[test]
    fn what_names_no_store_is_refused_without_repeating_a_password() {
        for text in [
            "redis://user:hunter2@host/shop",
            "redis+clutser://:hunter2@host",
            "redis://user:hunter2@host?passwrd=hunter2",
            "redis://user:hunter2#@host",
            "redis://user:hunter2/@host",
            "redis:hunter2",
            "postgres://user:hunter2@host/db?conections=hunter2",
            "postgres://user:hunter2@host:port/db",
            "postgres:hunter2",
            "mysql://user:hunter2@host",
            "mysql://user:hunter2@host/db?hunter2",
            "mysql://host:hunter2/db",
            "mongodb://user:hunter2@host/db",
            "hunter2Hunter2",
            "user-hunter2:x",
            "memory:hunter2",
            "cookie+redis://:hunter2@host/shop",
            "cookie+hunter2",
            "sqlite::memory:",
            "sqlite:",
            "sqlite://a.db?key=hunter2",
            "",
        ] {
            let Err(Refusal { why, instead }) = Store::parse(text) else { panic!("{text}") };
            assert!(!why.contains("unter2") && !instead.contains("unter2"), "{why} {instead}");
            let Err(Refusal { why, instead }) = Store::parse_platform(text) else { continue };
            assert!(!why.contains("unter2") && !instead.contains("unter2"), "{why} {instead}");
        }
    }

    #[test]
    #[cfg(not(feature = "cookie"))]
    fn a_store_that_was_not_built_in_names_its_feature() {
        let Refusal { why, instead } = Store::parse("cookie").unwrap_err();
        assert_eq!(why, "`cookie` needs the feature `cookie`, which this build does not have");
        assert_eq!(instead, "build with `cargo add cloakroom --features cookie`, or choose another store");
    }

    #[test]
    fn a_server_that_was_not_built_in_names_its_feature_and_no_password() {
        for url in URLS.into_iter().filter(|url| !is_built_in(url)) {
            let Refusal { why, instead } = Store::parse(url).unwrap_err();
            assert!(why.contains("needs the feature") && !why.contains("hunter2"), "{why}");
            assert!(instead.starts_with("build with `cargo add cloakroom --features "), "{instead}");
        }
    }

    #[test]
    #[cfg(not(feature = "sqlite"))]
    fn without_the_sqlite_feature_there_is_no_default_store() {
        let error = crate::Config::load(&crate::Sources::new().in_directory("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("needs the feature `sqlite`"), "{error}");
    }
}
