//! Where sessions live, as one word or URL.

use std::fmt;
use std::path::PathBuf;

use super::error::Refusal;

/// The store that is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    Memory,
    Sqlite(PathBuf),
    /// Sealed cookies, and the list of ended sessions in memory or in a file.
    Cookie {
        revocations: Option<PathBuf>,
    },
}

/// Stores that come with a feature that this release does not have.
const OTHERS: [(&str, &str); 8] = [
    ("redis", "Redis"),
    ("rediss", "Redis"),
    ("valkey", "Redis"),
    ("valkeys", "Redis"),
    ("postgres", "PostgreSQL"),
    ("postgresql", "PostgreSQL"),
    ("mysql", "MySQL"),
    ("mariadb", "MySQL"),
];

impl Store {
    /// Reads `memory`, `sqlite:PATH`, `cookie` or `cookie+sqlite:PATH`. A refusal names the scheme
    /// only: the rest may hold a password.
    pub(super) fn parse(text: &str) -> Result<Self, Refusal> {
        let (scheme, rest) = text.split_once(':').unwrap_or((text, ""));
        let store = match scheme {
            "memory" | "cookie" if !rest.is_empty() => {
                Err(Refusal::new(format!("nothing can follow `{scheme}`"), format!("write \"{scheme}\"")))
            }
            "memory" => Ok(Self::Memory),
            "sqlite" => path(rest).map(Self::Sqlite),
            "cookie" => Ok(Self::Cookie { revocations: None }),
            "cookie+sqlite" => path(rest).map(|path| Self::Cookie { revocations: Some(path) }),
            scheme => Err(unknown(scheme)),
        }?;
        store.is_built_in().map(|()| store)
    }

    /// Reads what platforms put into `DATABASE_URL`, if it names a store there is.
    pub(super) fn parse_platform(url: &str) -> Result<Self, Refusal> {
        // Options are for the application's own connections.
        let url = url.split('?').next().unwrap_or_default();
        if url.starts_with("sqlite:") {
            Self::parse(url)
        } else {
            Err(unknown(url.split(':').next().unwrap_or_default()))
        }
    }

    /// Whether this build has it.
    pub(super) fn is_built_in(&self) -> Result<(), Refusal> {
        let lacks = |feature: &str| {
            let why = format!("`{self}` needs the feature `{feature}`, which this build does not have");
            Err(Refusal::new(
                why,
                format!("build with `cargo add cloakroom --features {feature}`, or choose another store"),
            ))
        };
        if self.is_self_contained() && !cfg!(feature = "cookie") {
            lacks("cookie")
        } else if self.file().is_some() && !cfg!(feature = "sqlite") {
            lacks("sqlite")
        } else {
            Ok(())
        }
    }

    pub(crate) const fn is_self_contained(&self) -> bool {
        matches!(self, Self::Cookie { .. })
    }

    /// The database file, if there is one.
    pub(crate) const fn file(&self) -> Option<&PathBuf> {
        match self {
            Self::Sqlite(file) => Some(file),
            Self::Cookie { revocations } => revocations.as_ref(),
            Self::Memory => None,
        }
    }
}

impl fmt::Display for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::Sqlite(file) => write!(f, "sqlite:{}", file.display()),
            Self::Cookie { revocations: None } => f.write_str("cookie"),
            Self::Cookie { revocations: Some(file) } => write!(f, "cookie+sqlite:{}", file.display()),
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
    let base = scheme.split('+').next().unwrap_or_default();
    if let Some((_, name)) = OTHERS.into_iter().find(|(known, _)| *known == base) {
        let why = format!("`{base}:` means {name}, which this release has no store for");
        return Refusal::new(why, "choose \"sqlite:PATH\", \"cookie\" or \"memory\"");
    }
    // Anything else may be a secret in the wrong place.
    let is_word = scheme.len() <= 16 && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'+');
    let why = if is_word { format!("there is no store `{scheme}`") } else { "this names no store".to_owned() };
    Refusal::new(why, "write \"memory\", \"sqlite:PATH\", \"cookie\" or \"cookie+sqlite:PATH\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(all(feature = "cookie", feature = "sqlite"))]
    fn stores_print_as_they_are_read() {
        for text in ["memory", "sqlite:a/b.db", "sqlite:/a/b.db", "cookie", "cookie+sqlite:b.db"] {
            assert_eq!(Store::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Store::parse("sqlite:///a/b.db").unwrap(), Store::Sqlite("/a/b.db".into()));
        assert_eq!(Store::parse("sqlite://b.db").unwrap(), Store::Sqlite("b.db".into()));
        assert_eq!(Store::parse_platform("sqlite://b.db?mode=rwc").unwrap(), Store::Sqlite("b.db".into()));
    }

    #[test]
    fn what_names_no_store_is_refused_without_repeating_a_password() {
        for text in [
            "redis://user:hunter2@host/0",
            "redis+cluster://:hunter2@host",
            "postgres://user:hunter2@host/db",
            "hunter2Hunter2",
            "user-hunter2:x",
            "memory:hunter2",
            "cookie+redis://:hunter2@host",
            "sqlite::memory:",
            "sqlite:",
            "sqlite://a.db?key=hunter2",
            "",
        ] {
            let Refusal { why, instead } = Store::parse(text).unwrap_err();
            assert!(!why.contains("unter2") && !instead.contains("unter2"), "{why} {instead}");
        }
        assert!(Store::parse_platform("postgres://user:hunter2@host/db").is_err());
        assert!(Store::parse_platform("sqlite::memory:").is_err());
    }

    #[test]
    #[cfg(not(feature = "cookie"))]
    fn a_store_that_was_not_built_in_names_its_feature() {
        let Refusal { why, instead } = Store::parse("cookie").unwrap_err();
        assert_eq!(why, "`cookie` needs the feature `cookie`, which this build does not have");
        assert_eq!(instead, "build with `cargo add cloakroom --features cookie`, or choose another store");
    }

    #[test]
    #[cfg(not(feature = "sqlite"))]
    fn without_the_sqlite_feature_there_is_no_default_store() {
        let error = crate::Config::load(&crate::Sources::new().in_directory("/nonexistent")).unwrap_err();
        assert!(error.to_string().contains("needs the feature `sqlite`"), "{error}");
    }
}
