//! From a configuration to the stack that serves it: observe ▸ timeout ▸ epoch ▸ store.
//!
//! The timeout bounds what a request waits for, which is store and ledger together; a call that it
//! cuts between the two was not acknowledged, or has ended the session. Each of the two bounds its own calls as
//! well, so what goes on behind the cut ends.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cookie")]
use cloakroom_cookie::{Cipher, EncryptedSeal, SignedSeal};
use cloakroom_core::layer::{EpochLayer, ObserveLayer, StoreExt as _, TimeoutLayer};
use cloakroom_core::{Backend, KeyRing, Manager, SessionStore, Sweeper, TracingSink};
#[cfg(feature = "cookie")]
use cloakroom_core::{OsRandom, Revocations, Seal};

#[cfg(feature = "cookie")]
use crate::config::SealKind;
use crate::config::{Config, ConfigError, Keys, Place, Problem, Refusal, keys as key_file};
use crate::open::Opened;

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
    /// What is below the layers that every store has.
    base: Arc<dyn SessionStore>,
    store: Opened,
    ledger: Option<Opened>,
}

impl Background {
    /// Ends the sweeper, does what waits to be written, and closes the stores.
    pub(crate) async fn close(self) {
        drop(self.sweeper);
        self.store.close().await;
        if let Some(ledger) = self.ledger {
            ledger.close().await;
        }
    }
}

/// Makes what is missing, opens what is there and puts it together.
pub(crate) async fn compose(mut config: Config) -> Result<Composed, ConfigError> {
    let mut notices = std::mem::take(&mut config.notices);
    let keys = keys(&config, &mut notices)?;
    let background = open(&config, &mut notices).await?;
    let manager =
        Manager::builder(backend(&config, layered(Arc::clone(&background.base), config.timeout), &keys), keys)
            .transport(config.transport.clone())
            .policy(config.policy.clone())
            .build();
    let manager = match manager {
        Ok(manager) => manager,
        Err(error) => {
            background.close().await;
            return Err(Refusal::of(&error).at("the configuration", "taken together").into());
        }
    };
    for notice in &notices {
        tracing::warn!(target: "cloakroom", "{notice}");
    }
    tracing::debug!(target: "cloakroom", "the configuration in force:\n{config}");
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

/// Opens the store of records, or of the list of ended sessions, and its ledger, and has it swept.
async fn open(config: &Config, notices: &mut Vec<String>) -> Result<Background, ConfigError> {
    if config.has_default_store() {
        make_directory(config, "store")?;
    }
    let refuse = |setting: &'static str| move |refusal: Refusal| refusal.at(setting, config.origin(setting));
    let store = Opened::open(config, &config.store.place).await.map_err(refuse("store"))?;
    let ledger = match &config.ledger {
        None => None,
        Some(place) => match Opened::open(config, place).await {
            Ok(ledger) => Some(ledger),
            Err(refusal) => {
                store.close().await;
                return Err(refuse("ledger")(refusal).into());
            }
        },
    };
    let base = base(&store, ledger.as_ref());
    if matches!(config.store.place, Place::Server(_)) {
        match base.probe().await {
            Ok(probe) => notices.extend(probe.warnings.into_iter().map(|warning| format!("the store: {warning}"))),
            Err(error) => tracing::warn!(target: "cloakroom", %error, "the store cannot be asked how it is set up"),
        }
    }
    // Sweeping is no request: it neither waits in line with them nor has to be as quick.
    let sweeper = Sweeper::start(Arc::clone(&base), config.sweep_interval);
    Ok(Background { sweeper, base, store, ledger })
}

/// The store, with its ledger around it if it has one.
fn base(store: &Opened, ledger: Option<&Opened>) -> Arc<dyn SessionStore> {
    match ledger {
        None => store.store(),
        Some(ledger) => store.store().layer(EpochLayer::new(ledger.store())),
    }
}

/// The order matters: what is observed includes the calls that timed out.
fn layered(store: Arc<dyn SessionStore>, timeout: Duration) -> Arc<dyn SessionStore> {
    store.layer(TimeoutLayer::new(timeout)).layer(ObserveLayer::new(Arc::new(TracingSink)))
}

#[cfg_attr(not(feature = "cookie"), expect(unused_variables, reason = "only seals take the keys"))]
fn backend(config: &Config, store: Arc<dyn SessionStore>, keys: &KeyRing) -> Backend {
    if !config.store.is_self_contained() {
        return Backend::store(store);
    }
    #[cfg(feature = "cookie")]
    {
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
    unreachable!("a store that is not built in was refused when the configuration was read")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloakroom_core::MemoryStore;

    #[test]
    fn a_store_is_observed_around_its_timeout() {
        let store = layered(Arc::new(MemoryStore::new()), Duration::from_secs(2));
        assert_eq!(store.to_string(), "observe(timeout(2s, memory))");
        let memory = || Opened::Memory(Arc::new(MemoryStore::new()));
        let store = layered(base(&memory(), Some(&memory())), Duration::from_secs(2));
        assert_eq!(store.to_string(), "observe(timeout(2s, epoch(memory, memory)))");
    }
}
