//! How a store is to be opened, from a URL or by hand.

mod url;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Clock, MemoryStore};

use crate::link::Link;
use crate::store::RedisStore;

pub use self::url::RedisUrlError;
pub(crate) use self::url::{Endpoint, Target};

use self::url::{ParsedUrl, Query, duration};
use crate::link::RedisOpenError;

/// The least rights under which a store with the default prefix works, in the words of `ACL SETUSER`.
///
/// For another prefix replace `cloakroom:` in it. What no command of the store needs is not in it;
/// the commands of the last line are there for [`probe`](cloakroom_core::SessionStore::probe), which
/// says what it could not check where they are missing.
///
/// ```text
/// ACL SETUSER cloakroom on >PASSWORD resetkeys ~cloakroom:* …
/// ```
pub const ACL_RULE: &str = "resetkeys ~cloakroom:* resetchannels &cloakroom:* -@all \
    +select +ping +time +get +mget +getrange +set +setrange +del +exists +pexpire +pttl \
    +zadd +zrem +zrange +zrangebyscore +zrandmember +eval +evalsha +publish +subscribe +scan +wait \
    +cluster|slots +cluster|nodes +asking \
    +info +config|get +cluster|info";

/// How much a [`RedisStore`] waits for before it calls a write done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RedisDurability {
    /// For the primary alone. Replicas get the write a moment later: a failover in that moment loses
    /// it, **and a session whose end is lost lives again**.
    #[default]
    Async,
    /// For this many replicas too. A write that they do not acknowledge in time is reported as of
    /// unknown outcome: it is on the primary, and may be lost in a failover.
    ///
    /// A failover keeps what was acknowledged if it promotes a replica that has it, which is certain
    /// where every replica that may be promoted is asked; of fewer, the one that is known to have most is
    /// preferred, and nothing is promised. Set `min-replicas-to-write` on the server as well, so that a
    /// primary that is cut off stops taking writes. `probe` warns of both.
    Acked {
        /// How many, at least 1.
        replicas: u32,
        /// How long to wait for them.
        timeout: Duration,
    },
}

impl RedisDurability {
    /// How long to wait for replicas unless told otherwise.
    pub const DEFAULT_ACK_TIMEOUT: Duration = Duration::from_secs(1);
}

/// How a [`RedisStore`] is to be opened.
///
/// | URL | server |
/// |---|---|
/// | `redis://[user:password@]host[:port][/database]` | one server |
/// | `redis+unix:///path/of/socket` | one server, through a Unix socket |
/// | `redis+sentinel://[user:password@]host[:port],…/service` | the primary of a service, found through Sentinels |
/// | `redis+cluster://[user:password@]host[:port],…` | a Redis Cluster, found through any of its nodes |
///
/// With `rediss` for `redis` the connections are TLS, with the server's certificate and name
/// verified; nothing switches that off. `valkey` and `valkeys` mean the same. Options follow in the
/// query, `?name=value&name=value`:
///
/// | option | meaning | default |
/// |---|---|---|
/// | `prefix` | what every key begins with, see [`with_prefix`](Self::with_prefix) | `cloakroom:` |
/// | `durability` | `async`, `acked(2)` or `acked(2,500ms)`, see [`RedisDurability`] | `async` |
/// | `connect_timeout` | see [`with_connect_timeout`](Self::with_connect_timeout) | `5s` |
/// | `timeout` | see [`with_timeout`](Self::with_timeout) | `2s` |
/// | `ca` | a PEM file with the authorities that may sign the server's certificate | those of the system |
/// | `cert`, `key` | PEM files: the certificate to show to the server, and its key | none |
/// | `client_name` | the name in the server's `CLIENT LIST` | `cloakroom` |
/// | `db` | the database, where the path is taken otherwise | `0` |
/// | `tombstones` | see [`with_tombstones`](Self::with_tombstones) | `24h` |
/// | `queue` | see [`with_queue`](Self::with_queue) | `4096` |
/// | `sentinel_username`, `sentinel_password` | for the Sentinels themselves, if they ask | none |
///
/// ```no_run
/// use std::time::Duration;
/// use cloakroom_redis::{RedisDurability, RedisOptions};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let store = RedisOptions::new("rediss://app:s3cret@redis.example.com?ca=/etc/ssl/redis.pem")?
///     .with_durability(RedisDurability::Acked { replicas: 1, timeout: Duration::from_millis(500) })
///     .open()
///     .await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is opened before `open`"]
pub struct RedisOptions {
    pub(crate) target: Target,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) sentinel_username: Option<String>,
    pub(crate) sentinel_password: Option<String>,
    pub(crate) database: u32,
    pub(crate) prefix: String,
    pub(crate) durability: RedisDurability,
    pub(crate) connect_timeout: Duration,
    pub(crate) timeout: Duration,
    pub(crate) client_name: String,
    pub(crate) tombstones: Duration,
    pub(crate) queue: usize,
    /// `None`: the server's own.
    pub(crate) clock: Option<Arc<dyn Clock>>,
}

/// The files of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) ca: Option<PathBuf>,
    /// The certificate and its key.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
}

const OPTIONS: [&str; 13] = [
    "prefix",
    "durability",
    "connect_timeout",
    "timeout",
    "ca",
    "cert",
    "key",
    "client_name",
    "db",
    "tombstones",
    "queue",
    "sentinel_username",
    "sentinel_password",
];

impl RedisOptions {
    /// What every key begins with unless told otherwise.
    pub const DEFAULT_PREFIX: &'static str = "cloakroom:";
    /// How long making a connection may take unless told otherwise.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long an answer may take unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
    /// How many calls may wait unless told otherwise.
    pub const DEFAULT_QUEUE: usize = 4096;

    /// What this URL says. Nothing is connected.
    ///
    /// # Errors
    /// When the URL is not of one of the forms above, has an option that is not known, or a value
    /// that cannot be. The error says what to write, and never repeats a password.
    pub fn new(url: &str) -> Result<Self, RedisUrlError> {
        let ParsedUrl { target, tls, username, password, database, mut query } = ParsedUrl::parse(url)?;
        let options = Self {
            database: database_number(&target, database, &mut query)?,
            tls: tls_files(tls, &mut query)?,
            target,
            username,
            password,
            sentinel_username: query.take("sentinel_username"),
            sentinel_password: query.take("sentinel_password"),
            prefix: Self::DEFAULT_PREFIX.to_owned(),
            durability: match query.take("durability") {
                Some(text) => durability(&text)?,
                None => RedisDurability::default(),
            },
            connect_timeout: query.take_duration("connect_timeout")?.unwrap_or(Self::DEFAULT_CONNECT_TIMEOUT),
            timeout: query.take_duration("timeout")?.unwrap_or(Self::DEFAULT_TIMEOUT),
            client_name: match query.take("client_name") {
                Some(name) => client_name(name)?,
                None => "cloakroom".to_owned(),
            },
            tombstones: query.take_duration("tombstones")?.unwrap_or(MemoryStore::DEFAULT_TOMBSTONES),
            queue: match query.take("queue") {
                Some(text) => text.parse().ok().filter(|calls| *calls > 0).ok_or_else(|| {
                    RedisUrlError::new("the option `queue` of the URL is a number of calls, from 1 on")
                })?,
                None => Self::DEFAULT_QUEUE,
            },
            clock: None,
        };
        let options = match query.take("prefix") {
            Some(prefix) => options.with_prefix(prefix)?,
            None => options,
        };
        query.refuse_rest(&OPTIONS)?;
        if options.sentinel_username.is_some() && options.sentinel_password.is_none() {
            return Err(RedisUrlError::new("the URL has `sentinel_username` and no `sentinel_password`"));
        }
        if options.sentinel_password.is_some() && !matches!(options.target, Target::Sentinel { .. }) {
            return Err(RedisUrlError::new(
                "`sentinel_password` is for URLs of the form redis+sentinel://host:port/service",
            ));
        }
        Ok(options)
    }

    /// What every key begins with, so that several applications can share a server. Default
    /// `cloakroom:`. Nothing without this prefix is ever read or written.
    ///
    /// # Errors
    /// When it is empty or over 64 bytes, or holds a control character, a brace (Redis Cluster would
    /// take what stands in braces for the place of the key), or one of `* ? [ ] \`, which mean
    /// something else in patterns.
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Result<Self, RedisUrlError> {
        let prefix = prefix.into();
        let refuse = |why: &str| Err(RedisUrlError::new(format!("the prefix of the keys {why}")));
        if prefix.is_empty() {
            return refuse("must not be empty: name your application, as in `shop:`");
        }
        if prefix.len() > 64 {
            return refuse("is longer than 64 bytes: every key carries it, so a short one saves memory");
        }
        if prefix.contains(['{', '}']) {
            return refuse("must not hold `{` or `}`: Redis Cluster places keys by what stands in braces");
        }
        if prefix.chars().any(|c| c.is_control() || "*?[]\\".contains(c)) {
            return refuse(
                "must not hold control characters or one of `*?[]\\`, as patterns and rights are made of it",
            );
        }
        self.prefix = prefix;
        Ok(self)
    }

    /// What a write waits for before it is called done. Default [`RedisDurability::Async`].
    ///
    /// `Acked` waits for at least one replica, and for at least a millisecond.
    pub fn with_durability(mut self, durability: RedisDurability) -> Self {
        self.durability = match durability {
            RedisDurability::Async => RedisDurability::Async,
            RedisDurability::Acked { replicas, timeout } => {
                RedisDurability::Acked { replicas: replicas.max(1), timeout: timeout.max(Duration::from_millis(1)) }
            }
        };
        self
    }

    /// How long it may take to find a server, connect and sign in. Default 5 seconds. A call while no
    /// server can be reached fails after this time; one that waited behind others after twice this, or after this and the
    /// [timeout](Self::with_timeout) where that is longer, at the latest.
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long the server may take for an answer. Default 2 seconds. After that the call fails, and
    /// the next one gets a new connection. Waiting for replicas has its own time on top.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The authorities that may sign the server's certificate, from a PEM file, instead of those of
    /// the system. Turns TLS on.
    pub fn with_ca_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.tls.get_or_insert_default().ca = Some(file.into());
        self
    }

    /// The certificate to show to the server, and its key, from PEM files. Turns TLS on.
    pub fn with_client_certificate(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.tls.get_or_insert_default().client = Some((certificate.into(), key.into()));
        self
    }

    /// Whom to sign in as, instead of whom the URL names; `default` is the user of a server that
    /// knows only a password.
    pub fn with_credentials(mut self, username: impl Into<String>, password: impl Into<String>) -> Self {
        self.username = Some(username.into());
        self.password = Some(password.into());
        self
    }

    /// How long the reason of an end is remembered. Default 24 hours; must outlast the longest request.
    pub const fn with_tombstones(mut self, kept: Duration) -> Self {
        self.tombstones = kept;
        self
    }

    /// How many loads, updates and touches may wait, each by themselves; one more is refused at once. Default 4096. Other
    /// calls, and all of them in a cluster, wait for nothing but the server.
    pub fn with_queue(mut self, calls: usize) -> Self {
        self.queue = calls.max(1);
        self
    }

    /// For tests: decides by this clock instead of the server's.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Connects, signs in, and makes sure that this is a server the store can work on.
    ///
    /// # Errors
    /// When no server can be reached, the certificate or the password is wrong, the server is no
    /// primary, too old, of another kind than the URL says, or refuses a command that the store
    /// needs. The error says which, and what to do.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(self) -> Result<RedisStore, RedisOpenError> {
        let link = Link::open(&self).await?;
        Ok(RedisStore::start(link, &self))
    }
}

fn database_number(target: &Target, path: Option<String>, query: &mut Query) -> Result<u32, RedisUrlError> {
    let option = query.take("db");
    if path.is_some() && option.is_some() {
        return Err(RedisUrlError::new("the URL names a database twice, in its path and as `db`"));
    }
    let number = match path.or(option) {
        None => 0,
        Some(text) => text.parse().map_err(|_| {
            RedisUrlError::new("a database of Redis is a number: write redis://host:port/0, or leave the path out")
        })?,
    };
    if number != 0 && matches!(target, Target::Cluster { .. }) {
        return Err(RedisUrlError::new("a Redis Cluster has no databases: remove `db` from the URL"));
    }
    Ok(number)
}

fn tls_files(tls: bool, query: &mut Query) -> Result<Option<TlsFiles>, RedisUrlError> {
    let (ca, certificate, key) = (query.take("ca"), query.take("cert"), query.take("key"));
    if !tls {
        return match (ca, certificate, key) {
            (None, None, None) => Ok(None),
            _ => Err(RedisUrlError::new(
                "`ca`, `cert` and `key` are for TLS, and this URL asks for none: write rediss:// instead of redis://",
            )),
        };
    }
    let client = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate.into(), key.into())),
        (None, None) => None,
        _ => return Err(RedisUrlError::new("the URL needs both `cert` and `key`, or neither")),
    };
    Ok(Some(TlsFiles { ca: ca.map(PathBuf::from), client }))
}

/// `async`, `acked(2)`, `acked(2,500ms)`.
fn durability(text: &str) -> Result<RedisDurability, RedisUrlError> {
    let parsed = || {
        if text == "async" {
            return Some(RedisDurability::Async);
        }
        let inner = text.strip_prefix("acked(")?.strip_suffix(')')?;
        let (replicas, timeout) = match inner.split_once(',') {
            Some((replicas, timeout)) => (replicas, duration(timeout.trim())?),
            None => (inner, RedisDurability::DEFAULT_ACK_TIMEOUT),
        };
        let replicas = replicas.trim().parse().ok().filter(|replicas| *replicas > 0)?;
        Some(RedisDurability::Acked { replicas, timeout })
    };
    parsed().ok_or_else(|| {
        RedisUrlError::new(
            "the option `durability` of the URL is `async`, or `acked(2,500ms)` for two replicas within half a second",
        )
    })
}

fn client_name(name: String) -> Result<String, RedisUrlError> {
    if name.is_empty() || name.len() > 64 || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(RedisUrlError::new(
            "the option `client_name` of the URL is a word of up to 64 printable ASCII characters without spaces",
        ));
    }
    Ok(name)
}

impl fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = |secret: &Option<String>| secret.as_ref().map(|_| "…");
        f.debug_struct("RedisOptions")
            .field("target", &self.target.to_string())
            .field("tls", &self.tls)
            .field("username", &self.username)
            .field("password", &masked(&self.password))
            .field("sentinel_username", &self.sentinel_username)
            .field("sentinel_password", &masked(&self.sentinel_password))
            .field("database", &self.database)
            .field("prefix", &self.prefix)
            .field("durability", &self.durability)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("client_name", &self.client_name)
            .field("tombstones", &self.tombstones)
            .field("queue", &self.queue)
            .field("clock", &self.clock)
            .finish()
    }
}
