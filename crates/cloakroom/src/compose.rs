//! From a configuration to the stack that serves it: observe ▸ timeout ▸ store.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cookie")]
use cloakroom_cookie::{Cipher, EncryptedSeal, SignedSeal};
use cloakroom_core::layer::{ObserveLayer, StoreExt as _, TimeoutLayer};
use cloakroom_core::{Backend, KeyRing, Manager, MemoryStore, SessionStore, Sweeper, TracingSink};
#[cfg(feature = "cookie")]
use cloakroom_core::{OsRandom, Revocations, Seal};
#[cfg(feature = "sqlite")]
use cloakroom_sql::SqliteStore;

#[cfg(feature = "cookie")]
use crate::config::SealKind;
use crate::config::{Config, ConfigError, Keys, Problem, Refusal, Store, keys as key_file};

/// A manager, and what works for it in the background.
pub(crate) struct Composed {
    pub(crate) manager: Arc<Manager>,
    pub(crate) background: Background,
    pub(crate) notices: Vec<String>,
}

/// What runs beside the requests.
#[derive(Debug)]
pub(crate) struct Background {
    sweeper: Sweeper,
    #[cfg(feature = "sqlite")]
    sqlite: Option<SqliteStore>,
}

impl Background {
    /// Ends the sweeper, does what waits to be written, and closes the database.
    pub(crate) async fn close(self) {
        drop(self.sweeper);
        #[cfg(feature = "sqlite")]
        if let Some(sqlite) = self.sqlite {
            sqlite.close().await;
        }
    }
}

/// Makes what is missing, opens what is there and puts it together.
pub(crate) async fn compose(mut config: Config) -> Result<Composed, ConfigError> {
    let mut notices = std::mem::take(&mut config.notices);
    let keys = keys(&config, &mut notices)?;
    let opened = open(&config).await?;
    let store = layered(Arc::clone(&opened.store), config.timeout);
    let manager = Manager::builder(backend(&config, store, &keys), keys)
        .cookie(config.cookie.clone())
        .policy(config.policy.clone())
        .build()
        .map_err(|error| Refusal::of(&error).at("the configuration", "taken together"))?;
    for notice in &notices {
        tracing::warn!(target: "cloakroom", "{notice}");
    }
    tracing::debug!(target: "cloakroom", "the configuration in force:\n{config}");
    // Sweeping is no request: it neither waits in line with them nor has to be as quick.
    let sweeper = Sweeper::start(opened.store, config.sweep_interval);
    let background = Background {
        sweeper,
        #[cfg(feature = "sqlite")]
        sqlite: opened.sqlite,
    };
    Ok(Composed { manager, background, notices })
}

fn keys(config: &Config, notices: &mut Vec<String>) -> Result<KeyRing, ConfigError> {
    if let Keys::Given(ring) = &config.keys {
        return Ok(ring.clone());
    }
    let shown = Path::new(Config::KEY_FILE);
    let refuse = |refusal: Refusal| refusal.at("key_file", "default");
    make_directory(config, "key_file")?;
    let (keys, generated) = key_file::read_or_generate(&config.path(shown), shown).map_err(refuse)?;
    let verb = if generated { "was generated into" } else { "is the one generated earlier into" };
    notices
        .push(format!("no key is configured: it {verb} {}; whoever has that file can forge sessions", shown.display()));
    KeyRing::new(&config.audience, &keys).map_err(|error| refuse(Refusal::of(&error)).into())
}

fn make_directory(config: &Config, setting: &str) -> Result<(), Problem> {
    let shown = Path::new(Config::DIRECTORY);
    key_file::make_directory(&config.path(shown), shown).map_err(|refusal| refusal.at(setting, "default"))
}

/// The bare store of records, or of the list of ended sessions.
struct Opened {
    store: Arc<dyn SessionStore>,
    #[cfg(feature = "sqlite")]
    sqlite: Option<SqliteStore>,
}

async fn open(config: &Config) -> Result<Opened, ConfigError> {
    match config.store.file() {
        None => Ok(Opened {
            store: Arc::new(MemoryStore::new()),
            #[cfg(feature = "sqlite")]
            sqlite: None,
        }),
        #[cfg(feature = "sqlite")]
        Some(file) => {
            if config.has_default_store() {
                make_directory(config, "store")?;
            }
            let sqlite = SqliteStore::open(config.path(file)).await.map_err(|error| {
                let source = std::error::Error::source(&error).map(|source| format!(" ({source})")).unwrap_or_default();
                let Refusal { why, instead } = Refusal::of(&error);
                Refusal::new(why + &source, instead).at("store", config.origin("store"))
            })?;
            Ok(Opened { store: Arc::new(sqlite.clone()), sqlite: Some(sqlite) })
        }
        #[cfg(not(feature = "sqlite"))]
        Some(_) => unreachable!("a store that is not built in was refused when the configuration was read"),
    }
}

/// The order matters: what is observed includes the calls that timed out.
fn layered(store: Arc<dyn SessionStore>, timeout: Duration) -> Arc<dyn SessionStore> {
    store.layer(TimeoutLayer::new(timeout)).layer(ObserveLayer::new(Arc::new(TracingSink)))
}

#[cfg_attr(not(feature = "cookie"), expect(unused_variables, reason = "only seals take the keys"))]
fn backend(config: &Config, store: Arc<dyn SessionStore>, keys: &KeyRing) -> Backend {
    match config.store {
        Store::Memory | Store::Sqlite(_) => Backend::store(store),
        #[cfg(feature = "cookie")]
        Store::Cookie { .. } => {
            let random = Arc::new(OsRandom::default());
            let encrypted = |cipher| EncryptedSeal::new(keys.clone(), random).sealing_with(cipher);
            let seal: Arc<dyn Seal> = match config.seal {
                SealKind::XChaCha20Poly1305 => Arc::new(encrypted(Cipher::XChaCha20Poly1305)),
                SealKind::Aes256GcmSiv => Arc::new(encrypted(Cipher::Aes256GcmSiv)),
                SealKind::Signed => Arc::new(SignedSeal::danger_readable_by_client(keys.clone())),
            };
            Backend::self_contained(seal, Revocations::new(store))
        }
        #[cfg(not(feature = "cookie"))]
        Store::Cookie { .. } => {
            unreachable!("a store that is not built in was refused when the configuration was read")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_observed_around_its_timeout() {
        let store = layered(Arc::new(MemoryStore::new()), Duration::from_secs(2));
        assert_eq!(store.to_string(), "observe(timeout(2s, memory))");
    }
}
