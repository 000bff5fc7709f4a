//! How a store on PostgreSQL is to be opened.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Clock, MemoryStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use super::PostgresStore;
use super::open::open;
use crate::dialect::postgres as sql;
use crate::migrations::{self, Migration};
use crate::open_error::ServerOpenError;
use crate::prefix::TablePrefix;
use crate::touches::Touches;
use crate::url::{ServerUrl, UrlError, encode};

/// How a [`PostgresStore`] is to be opened.
///
/// ```
/// use cloakroom_sql::PostgresOptions;
///
/// # fn main() -> Result<(), cloakroom_sql::UrlError> {
/// let options = PostgresOptions::new("postgres://app:secret@db1,db2/app?ca=/etc/ssl/db.pem&connections=8")?;
/// assert!(!format!("{options:?}").contains("secret"));
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is opened before `open`"]
pub struct PostgresOptions {
    pub(super) config: Config,
    pub(super) verify: bool,
    pub(super) authorities: Option<PathBuf>,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) connections: usize,
    pub(super) queue: usize,
    pub(super) prefix: TablePrefix,
    pub(super) prepared: bool,
    pub(super) touches: Touches,
    pub(super) tombstones: Duration,
    pub(super) migrate: bool,
    pub(super) clock: Option<Arc<dyn Clock>>,
}

/// What this store takes from the query of its URL.
const OWN_OPTIONS: &[&str] = &[
    "sslmode",
    "ca",
    "connect_timeout",
    "timeout",
    "connections",
    "queue",
    "table_prefix",
    "prepared",
    "touches",
    "tombstones",
    "migrate",
];
/// What it hands on to the driver.
const DRIVER_OPTIONS: &[&str] = &[
    "user",
    "password",
    "dbname",
    "host",
    "hostaddr",
    "port",
    "options",
    "application_name",
    "sslnegotiation",
    "channel_binding",
    "load_balance_hosts",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "tcp_user_timeout",
];

impl PostgresOptions {
    /// How long a connection may take to make unless told otherwise.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long an answer may take unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How many connections there are unless told otherwise.
    pub const DEFAULT_CONNECTIONS: usize = 4;
    /// The most connections.
    pub const MAX_CONNECTIONS: usize = 64;
    /// How many calls may wait, for reading and for writing each, unless told otherwise.
    pub const DEFAULT_QUEUE: usize = 4096;

    /// The database at this URL: `postgres://user:password@host:port/database`, with several hosts
    /// (`host1,host2:5433`) of which the one that takes writes is used, also where others are silent (but for those that
    /// `load_balance_hosts=random` begins with), or with a Unix socket
    /// (`postgres:///database?host=/run/postgresql`).
    ///
    /// In the query, as in `?connections=8&prepared=off`:
    ///
    /// | option | default | |
    /// |---|---|---|
    /// | `sslmode` | `verify-full`; on this machine `disable` | whether the connection is encrypted and the certificate checked, name included; `require` and `verify-ca`, which check less elsewhere, are the same here |
    /// | `ca` | the system's | a file with the authorities to trust instead |
    /// | `connect_timeout` | `5s` | how long a connection may take to make; to one address half as long |
    /// | `timeout` | `5s` | how long an answer may take |
    /// | `connections` | `4` | half of them for reading |
    /// | `queue` | `4096` | how many calls may wait, for reading and for writing each |
    /// | `table_prefix` | `cloakroom_` | what the names of tables and functions begin with |
    /// | `prepared` | `on` | `off` behind a proxy that pools transactions |
    /// | `touches` | `answered` | or `background` |
    /// | `tombstones` | `24h` | how long the reason of an end is remembered |
    /// | `migrate` | `on` | whether tables are made and upgraded |
    ///
    /// and what `libpq` knows: `user`, `password`, `dbname`, `host`, `hostaddr`, `port`, `options`,
    /// `application_name`, `sslnegotiation`, `channel_binding`, `load_balance_hosts`, `keepalives`,
    /// `keepalives_idle`, `keepalives_interval`, `keepalives_retries`, `tcp_user_timeout`.
    ///
    /// # Errors
    /// When the URL is none, or has an option that nobody knows. Nothing is connected yet.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let mut url = ServerUrl::parse(url, &["postgres", "postgresql"])?;
        let mut driver_url = url.base().to_owned();
        let mut separator = '?';
        for name in DRIVER_OPTIONS {
            if let Some(value) = url.take(name) {
                driver_url.push_str(&format!("{separator}{name}={}", encode(&value)));
                separator = '&';
            }
        }
        let mut config: Config = driver_url.parse().map_err(|_| {
            UrlError::new(
                "the URL cannot be understood: write postgres://user:password@host:port/database, with %XX for special \
                 characters in the password",
            )
        })?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(UrlError::new("the URL names no host: write postgres://user:password@host:port/database"));
        }
        let verified = ["verify-full", "verify-ca", "require"].map(|mode| (mode, Some(true)));
        let other = [("disable", Some(false)), ("allow", None), ("prefer", None)];
        let modes = [verified, other].concat();
        let verify = match url.take_choice("sslmode", &modes)? {
            None => !is_local(&config),
            Some(Some(verify)) => verify,
            Some(None) => {
                return Err(UrlError::new(
                    "of the values of `sslmode` this store has `verify-full` (encrypted, and the server proves its \
                     name; with `ca=/path.pem` by an authority of your own) and `disable`: with `prefer` and `allow` \
                     whoever sits on the line could choose",
                ));
            }
        };
        let authorities = url.take("ca").map(PathBuf::from);
        if authorities.is_some() && !verify {
            return Err(UrlError::new(
                "`ca` without `sslmode=verify-full` has no effect: add the one or remove the other",
            ));
        }
        config.ssl_mode(if verify { SslMode::Require } else { SslMode::Disable });
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_application_name().is_none() {
            config.application_name("cloakroom");
        }
        let connections = url.take_number("connections")?.unwrap_or(Self::DEFAULT_CONNECTIONS);
        let prefix = match url.take("table_prefix") {
            Some(prefix) => TablePrefix::new(&prefix).map_err(UrlError::new)?,
            None => TablePrefix::default(),
        };
        let touches = [("answered", Touches::Answered), ("background", Touches::Background)];
        let options = Self {
            config,
            verify,
            authorities,
            connect_timeout: url.take_duration("connect_timeout")?.unwrap_or(Self::DEFAULT_CONNECT_TIMEOUT),
            timeout: url.take_duration("timeout")?.unwrap_or(Self::DEFAULT_TIMEOUT),
            connections: Self::DEFAULT_CONNECTIONS,
            queue: url.take_number("queue")?.unwrap_or(Self::DEFAULT_QUEUE),
            prefix,
            prepared: url.take_switch("prepared")?.unwrap_or(true),
            touches: url.take_choice("touches", &touches)?.unwrap_or_default(),
            tombstones: url.take_duration("tombstones")?.unwrap_or(MemoryStore::DEFAULT_TOMBSTONES),
            migrate: url.take_switch("migrate")?.unwrap_or(true),
            clock: None,
        };
        url.refuse_rest(&[OWN_OPTIONS, DRIVER_OPTIONS].concat())?;
        Ok(options.with_connections(connections))
    }

    /// How long a connection may take to make, and half as long to one address of a host. Default 5 seconds. A host that is
    /// silent for as long is passed over by the next attempt.
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer may take; then the connection is given up. Default 5 seconds.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many connections there are, at least 2: half of them read, the others write. Default 4.
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(2, Self::MAX_CONNECTIONS);
        self
    }

    /// How many calls may wait, for reading and for writing each; one more is refused at once.
    /// Default 4096.
    pub fn with_queue(mut self, calls: usize) -> Self {
        self.queue = calls.max(1);
        self
    }

    /// What the names of tables, indexes and functions begin with. Default `cloakroom_`.
    ///
    /// # Errors
    /// When it is not a lowercase letter and then lowercase letters, digits and underscores, or is
    /// longer than 40.
    pub fn with_table_prefix(mut self, prefix: &str) -> Result<Self, UrlError> {
        self.prefix = TablePrefix::new(prefix).map_err(UrlError::new)?;
        Ok(self)
    }

    /// Whether statements are prepared once for each connection. Default yes; no behind a proxy that
    /// pools transactions, where the next statement may reach another connection.
    pub const fn with_prepared(mut self, prepared: bool) -> Self {
        self.prepared = prepared;
        self
    }

    /// When a touch is answered. Default [`Touches::Answered`].
    pub const fn with_touches(mut self, touches: Touches) -> Self {
        self.touches = touches;
        self
    }

    /// How long the reason of an end is remembered. Default 24 hours; must outlast the longest request.
    pub const fn with_tombstones(mut self, kept: Duration) -> Self {
        self.tombstones = kept;
        self
    }

    /// For tests: decides by this clock instead of the server's.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Whether to create and upgrade the tables. Default yes; otherwise apply
    /// [`migrations`](Self::migrations) yourself before, as a role that may.
    pub const fn with_migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// The steps that make and upgrade the tables, with the prefix of these options, oldest first.
    #[must_use]
    pub fn migrations(&self) -> Vec<(Migration, String)> {
        migrations::POSTGRES.iter().map(|migration| (*migration, self.prefix.apply(migration.sql))).collect()
    }

    /// The statements that give a role what the service needs, and nothing more, for the owner of
    /// the tables to run. Open the store as that role [without migrating](Self::with_migrate).
    ///
    /// ```
    /// # fn main() -> Result<(), cloakroom_sql::UrlError> {
    /// let options = cloakroom_sql::PostgresOptions::new("postgres://owner@localhost/app")?;
    /// assert!(options.grants("web").contains(r#"ON cloakroom_sessions TO "web";"#));
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn grants(&self, role: &str) -> String {
        let quoted = format!("\"{}\"", role.replace('"', "\"\""));
        self.prefix.apply(sql::GRANTS).replace("TO service_role", &format!("TO {quoted}"))
    }

    /// Opens the store: connects, makes or upgrades the tables, and checks that everything is as it
    /// must be. Safe to call from several processes at once.
    ///
    /// # Errors
    /// When the server cannot be reached or trusted, is too old or set up unfit, when a right is
    /// missing, or when the tables are of another release. The error names the server, the cause and
    /// what to do.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(self) -> Result<PostgresStore, ServerOpenError> {
        open(self).await
    }

    /// The server as errors name it: without user and password.
    pub(super) fn server(&self) -> String {
        let hosts = self.config.get_hosts();
        let ports = self.config.get_ports();
        let place = |(index, host): (usize, &Host)| {
            let port = ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                Host::Unix(path) => path.display().to_string(),
            }
        };
        let mut places: Vec<_> = hosts.iter().enumerate().map(place).collect();
        if places.is_empty() {
            places = self.config.get_hostaddrs().iter().map(IpAddr::to_string).collect();
        }
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("postgres({}/{database})", places.join(","))
    }
}

/// Whether what is sent stays on this machine.
fn is_local(config: &Config) -> bool {
    let local_host = |host: &Host| match host {
        Host::Tcp(name) => name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback()),
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    // Where there are addresses, those are connected to, whatever the names say.
    if config.get_hostaddrs().is_empty() {
        config.get_hosts().iter().all(local_host)
    } else {
        config.get_hostaddrs().iter().all(IpAddr::is_loopback)
    }
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("server", &self.server())
            .field("verify", &self.verify)
            .field("authorities", &self.authorities)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("connections", &self.connections)
            .field("queue", &self.queue)
            .field("table_prefix", &self.prefix.as_str())
            .field("prepared", &self.prepared)
            .field("touches", &self.touches)
            .field("tombstones", &self.tombstones)
            .field("migrate", &self.migrate)
            .finish_non_exhaustive()
    }
}
