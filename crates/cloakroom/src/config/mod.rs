//! The configuration: read, checked as a whole, and printed with where each value came from.

mod duration;
mod error;
pub(crate) mod keys;
mod reader;
mod server;
mod settings;
mod sources;
mod store;
mod transport;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cloakroom_core::{KeyRing, Policy, Transport};

pub use error::ConfigError;
pub(crate) use error::{Problem, Refusal};
use reader::Reader;
use server::Server;
#[cfg(any(feature = "mysql", feature = "postgres", feature = "redis"))]
pub(crate) use server::ServerOptions;
pub use sources::Sources;
pub(crate) use store::{Place, Store};

#[doc = include_str!("../../guide/configuration.md")]
pub struct Config {
    pub(crate) store: Store,
    /// Where the ends of sessions are kept as well, because the store may lose them.
    pub(crate) ledger: Option<Place>,
    /// Whether tables are made and upgraded, where no URL says so.
    #[cfg_attr(not(feature = "sqlite"), expect(dead_code, reason = "servers have it in their URL"))]
    pub(crate) migrate: bool,
    pub(crate) keys: Keys,
    pub(crate) audience: String,
    pub(crate) transport: Transport,
    pub(crate) policy: Policy,
    #[cfg_attr(not(feature = "cookie"), expect(dead_code, reason = "read where there are seals"))]
    pub(crate) seal: SealKind,
    pub(crate) timeout: Duration,
    pub(crate) sweep_interval: Duration,
    pub(crate) notices: Vec<String>,
    /// What relative paths start from.
    directory: PathBuf,
    /// Every setting in force, and who set it.
    table: Vec<(&'static str, String, String)>,
}

/// The keys that are configured.
#[derive(Debug)]
pub(crate) enum Keys {
    Given(KeyRing),
    /// In the default file, which is made if it does not exist.
    Generated,
}

/// How self-contained sessions are sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SealKind {
    XChaCha20Poly1305,
    Aes256GcmSiv,
    Signed,
}

impl Config {
    /// The directory of what is made where nothing is configured.
    pub(crate) const DIRECTORY: &str = ".cloakroom";
    pub(crate) const KEY_FILE: &str = ".cloakroom/key";
    const DATABASE: &str = ".cloakroom/sessions.db";
    const DEFAULT_AUDIENCE: &str = "cloakroom";
    const DEFAULT_SWEEP_INTERVAL: Duration = Duration::from_secs(60);

    /// The configuration in these sources. Makes and opens nothing but the files it reads.
    ///
    /// # Errors
    /// Everything that is wrong with it, at once.
    pub fn load(sources: &Sources) -> Result<Self, ConfigError> {
        Reader::new(sources).config()
    }

    /// What an operator should know about this configuration, a sentence each.
    #[must_use]
    pub fn notices(&self) -> &[String] {
        &self.notices
    }

    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.directory.join(path)
    }

    /// Whether the database is the one that nobody configured.
    pub(crate) fn has_default_store(&self) -> bool {
        self.origin("store") == "default"
    }

    pub(crate) fn origin(&self, setting: &str) -> &str {
        self.table.iter().find(|(name, ..)| *name == setting).map_or("default", |(_, _, origin)| origin)
    }
}

/// A table of every setting, its value and where it comes from. Of keys only their ids are shown.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.table.iter().map(|(name, ..)| name.len()).max().unwrap_or(0);
        let values = self.table.iter().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0);
        write!(f, "{:names$}  {:values$}  from", "setting", "value")?;
        for (name, value, origin) in &self.table {
            write!(f, "\n{name:names$}  {value:values$}  {origin}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl SealKind {
    const ALL: [Self; 3] = [Self::XChaCha20Poly1305, Self::Aes256GcmSiv, Self::Signed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::XChaCha20Poly1305 => "xchacha20poly1305",
            Self::Aes256GcmSiv => "aes256gcmsiv",
            Self::Signed => "danger-signed-readable-by-client",
        }
    }
}
