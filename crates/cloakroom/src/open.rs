//! From where sessions are to be kept to a store that keeps them there.

use std::sync::Arc;

use cloakroom_core::{MemoryStore, SessionStore};
#[cfg(feature = "redis")]
use cloakroom_redis::RedisStore;
#[cfg(feature = "mysql")]
use cloakroom_sql::MySqlStore;
#[cfg(feature = "postgres")]
use cloakroom_sql::PostgresStore;
#[cfg(feature = "sqlite")]
use cloakroom_sql::{SqliteOptions, SqliteStore};

#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
use crate::config::ServerOptions;
use crate::config::{Config, Place, Refusal};

/// A store that is open, without layers.
#[derive(Debug)]
pub(crate) enum Opened {
    Memory(Arc<MemoryStore>),
    #[cfg(feature = "sqlite")]
    Sqlite(SqliteStore),
    #[cfg(feature = "redis")]
    Redis(RedisStore),
    #[cfg(feature = "postgres")]
    Postgres(PostgresStore),
    #[cfg(feature = "mysql")]
    MySql(MySqlStore),
}

impl Opened {
    /// Opens the store; its tables are made and upgraded where `migrate` says so or its URL does.
    pub(crate) async fn open(config: &Config, place: &Place) -> Result<Self, Refusal> {
        match place {
            Place::Memory => Ok(Self::Memory(Arc::new(MemoryStore::new()))),
            #[cfg(feature = "sqlite")]
            Place::Sqlite(file) => {
                let options = SqliteOptions::new(config.path(file)).with_migrate(config.migrate);
                options.open().await.map(Self::Sqlite).map_err(|error| refusal(&error))
            }
            #[cfg(not(feature = "sqlite"))]
            Place::Sqlite(_) => {
                let _ = config;
                unreachable!("a store that is not built in was refused when the configuration was read")
            }
            #[cfg(not(any(feature = "mysql", feature = "postgres", feature = "redis")))]
            Place::Server(_) => {
                unreachable!("a store that is not built in was refused when the configuration was read")
            }
            #[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
            Place::Server(url) => match url.touching_in_the_background().options()? {
                #[cfg(feature = "redis")]
                ServerOptions::Redis(options) => options.open().await.map(Self::Redis).map_err(|error| refusal(&error)),
                #[cfg(feature = "postgres")]
                ServerOptions::Postgres(options) => {
                    options.open().await.map(Self::Postgres).map_err(|error| refusal(&error))
                }
                #[cfg(feature = "mysql")]
                ServerOptions::MySql(options) => options.open().await.map(Self::MySql).map_err(|error| refusal(&error)),
            },
        }
    }

    pub(crate) fn store(&self) -> Arc<dyn SessionStore> {
        match self {
            Self::Memory(store) => Arc::clone(store) as Arc<dyn SessionStore>,
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => Arc::new(store.clone()),
            #[cfg(feature = "redis")]
            Self::Redis(store) => Arc::new(store.clone()),
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => Arc::new(store.clone()),
            #[cfg(feature = "mysql")]
            Self::MySql(store) => Arc::new(store.clone()),
        }
    }

    /// Writes what waits to be written, and gives the connections back.
    pub(crate) async fn close(self) {
        match self {
            Self::Memory(_) => {}
            #[cfg(feature = "sqlite")]
            Self::Sqlite(store) => store.close().await,
            #[cfg(feature = "redis")]
            Self::Redis(store) => store.close().await,
            #[cfg(feature = "postgres")]
            Self::Postgres(store) => store.close().await,
            #[cfg(feature = "mysql")]
            Self::MySql(store) => store.close().await,
        }
    }
}

/// Takes apart what a store says of why it cannot be opened, down to the cause.
#[cfg_attr(
    not(any(test, feature = "mysql", feature = "postgres", feature = "redis", feature = "sqlite")),
    expect(dead_code, reason = "no store can fail to open")
)]
fn refusal(error: &impl std::error::Error) -> Refusal {
    let text = error.to_string();
    // Some say it themselves.
    let source = error.source().map(ToString::to_string).filter(|source| !text.contains(source.as_str()));
    let source = source.map(|source| format!(" ({source})")).unwrap_or_default();
    let (why, instead) = text
        .rsplit_once("; ")
        .unwrap_or((&text, "check that the server runs, and host, port, user and password in the URL"));
    Refusal::new(format!("{why}{source}"), instead)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Failed(&'static str, std::io::Error);

    impl std::fmt::Display for Failed {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str(self.0)
        }
    }

    impl std::error::Error for Failed {
        fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
            Some(&self.1)
        }
    }

    #[test]
    fn what_a_store_says_of_its_failure_is_said_once() {
        let failed = |text| refusal(&Failed(text, std::io::Error::other("no route to host")));
        let expected = Refusal::new("it is away (no route to host)", "check the host");
        assert_eq!(failed("it is away; check the host"), expected);
        assert_eq!(failed("it is away (no route to host); check the host"), expected);
    }
}
