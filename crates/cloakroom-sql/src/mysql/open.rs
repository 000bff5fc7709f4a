//! Opening a store on MySQL or MariaDB, and saying exactly why it cannot be opened.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Clock, MemoryStore};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, query};

use super::MySqlStore;
use super::connector::{Connector, LEAST_PACKET, Server};
use super::fault::{self, Fault};
use super::row::integer;
use crate::dialect::mysql::{LOCK, LOCKS, PARTS, PROCEDURES, Statements, UNLOCK, named};
use crate::migrations;
use crate::open_error::{ServerOpenError, ServerOpenErrorKind};
use crate::prefix::TablePrefix;
use crate::touches::Touches;
use crate::url::{ServerUrl, UrlError, decode};

/// How a [`MySqlStore`] is to be opened.
///
/// From a URL, `mysql://user:password@host:port/database?option=value` (or `mariadb://`). Its options:
///
/// | option | is | default |
/// |---|---|---|
/// | `socket` | the path of a Unix socket, in place of host and port | |
/// | `sslmode` | `verify-full`: encrypted, and the certificate is the host's; `verify-ca`: it is by a trusted authority; `require`: encrypted, whoever answers; `disable` | `verify-full`, and `disable` on a loopback address or a socket |
/// | `ca` | a file with the certificates to trust beside those of the system | |
/// | `cert`, `key` | files with the client's certificate and its key | |
/// | `connections` | [`with_connections`](Self::with_connections) | 4 |
/// | `connect_timeout` | [`with_connect_timeout`](Self::with_connect_timeout) | `5s` |
/// | `timeout` | [`with_timeout`](Self::with_timeout) | `5s` |
/// | `touches` | [`with_touches`](Self::with_touches), `answered` or `background` | `answered` |
/// | `queue` | [`with_queue`](Self::with_queue) | 4096 |
/// | `tombstones` | [`with_tombstones`](Self::with_tombstones) | `24h` |
/// | `table_prefix` | [`with_table_prefix`](Self::with_table_prefix) | `cloakroom_` |
/// | `migrate` | [`with_migrate`](Self::with_migrate), `on` or `off` | `on` |
///
/// ```no_run
/// use cloakroom_sql::MySqlOptions;
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let options = MySqlOptions::new("mariadb://app:secret@127.0.0.1/app?table_prefix=shop_")?;
/// let store = options.with_connections(8).open().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "nothing is opened before `open`"]
pub struct MySqlOptions {
    pub(super) server: MySqlConnectOptions,
    /// What it is called in messages: without the password.
    pub(super) name: String,
    pub(super) connections: usize,
    pub(super) connect_timeout: Duration,
    pub(super) timeout: Duration,
    pub(super) touches: Touches,
    pub(super) queue: usize,
    pub(super) tombstones: Duration,
    pub(super) table_prefix: String,
    pub(super) clock: Option<Arc<dyn Clock>>,
    migrate: bool,
}

const OPTIONS: &[&str] = &[
    "socket",
    "sslmode",
    "ca",
    "cert",
    "key",
    "connections",
    "connect_timeout",
    "timeout",
    "touches",
    "queue",
    "tombstones",
    "table_prefix",
    "migrate",
];

impl MySqlOptions {
    /// How many connections there are unless told otherwise.
    pub const DEFAULT_CONNECTIONS: usize = 4;
    /// The most connections.
    pub const MAX_CONNECTIONS: usize = 64;
    /// How long a connection may take to be made unless told otherwise.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How long an answer may take unless told otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
    /// How many calls may wait unless told otherwise.
    pub const DEFAULT_QUEUE: usize = 4096;

    /// The server and the options of this URL. Reads no file and connects to nothing.
    ///
    /// # Errors
    /// When the URL cannot be read, has no database, or has an option that nobody knows. The error
    /// says what to write instead and never repeats a password.
    pub fn new(url: &str) -> Result<Self, UrlError> {
        let mut url = ServerUrl::parse(url, &["mysql", "mariadb"])?;
        let place = Place::parse(url.base())?;
        let socket = url.take("socket").map(PathBuf::from);
        let is_local = socket.is_some() || place.is_loopback();
        let modes = [
            ("verify-full", MySqlSslMode::VerifyIdentity),
            ("verify-ca", MySqlSslMode::VerifyCa),
            ("require", MySqlSslMode::Required),
            ("disable", MySqlSslMode::Disabled),
        ];
        let ca = url.take("ca");
        // Whoever names an authority wants it asked.
        let default_mode = if is_local && ca.is_none() { MySqlSslMode::Disabled } else { MySqlSslMode::VerifyIdentity };
        let mode = url.take_choice("sslmode", &modes)?.unwrap_or(default_mode);
        let mut server = MySqlConnectOptions::new()
            .host(&place.host)
            .port(place.port)
            .username(&place.user)
            .database(&place.database)
            .ssl_mode(mode)
            .charset("utf8mb4")
            // The session's mode and time zone are set by the connector, and verified.
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .timezone(None)
            .disable_statement_logging();
        if let Some(password) = &place.password {
            server = server.password(password);
        }
        let name = match &socket {
            Some(socket) => format!("mysql://{}@localhost/{}?socket={}", place.user, place.database, socket.display()),
            None => format!("mysql://{}@{}:{}/{}", place.user, place.host, place.port, place.database),
        };
        if let Some(socket) = socket {
            server = server.socket(socket);
        }
        if let Some(ca) = ca {
            server = server.ssl_ca(ca);
        }
        match (url.take("cert"), url.take("key")) {
            (Some(cert), Some(key)) => server = server.ssl_client_cert(cert).ssl_client_key(key),
            (None, None) => {}
            (Some(_), None) | (None, Some(_)) => {
                return Err(UrlError::new("the options `cert` and `key` of the URL are given together or not at all"));
            }
        }
        let touches = [("answered", Touches::Answered), ("background", Touches::Background)];
        let mut options = Self {
            server,
            name,
            connections: Self::DEFAULT_CONNECTIONS,
            connect_timeout: url.take_duration("connect_timeout")?.unwrap_or(Self::DEFAULT_CONNECT_TIMEOUT),
            timeout: url.take_duration("timeout")?.unwrap_or(Self::DEFAULT_TIMEOUT),
            touches: url.take_choice("touches", &touches)?.unwrap_or_default(),
            queue: url.take_number("queue")?.unwrap_or(Self::DEFAULT_QUEUE),
            tombstones: url.take_duration("tombstones")?.unwrap_or(MemoryStore::DEFAULT_TOMBSTONES),
            table_prefix: url.take("table_prefix").unwrap_or_else(|| TablePrefix::DEFAULT.to_owned()),
            clock: None,
            migrate: url.take_switch("migrate")?.unwrap_or(true),
        };
        TablePrefix::new(&options.table_prefix).map_err(UrlError::new)?;
        if let Some(connections) = url.take_number("connections")? {
            options = options.with_connections(connections);
        }
        url.refuse_rest(OPTIONS)?;
        Ok(options)
    }

    /// How many connections there are, each with a task of its own. Default 4, at most 64.
    pub fn with_connections(mut self, connections: usize) -> Self {
        self.connections = connections.clamp(1, Self::MAX_CONNECTIONS);
        self
    }

    /// How long a connection may take to be made. Default 5 seconds.
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long an answer may take; then the connection is given up, and a write is of unknown
    /// outcome. Default 5 seconds. A lock that
    /// somebody holds is waited for a third as long, a second at least; below 3 seconds the outcome may
    /// then be unknown.
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// When a touch is answered. Default [`Touches::Answered`].
    pub const fn with_touches(mut self, touches: Touches) -> Self {
        self.touches = touches;
        self
    }

    /// How many calls may wait, loads and others each; one more is refused at once. Default 4096.
    pub fn with_queue(mut self, calls: usize) -> Self {
        self.queue = calls.max(1);
        self
    }

    /// How long the reason of an end is remembered. Default 24 hours; must outlast the longest request.
    pub const fn with_tombstones(mut self, kept: Duration) -> Self {
        self.tombstones = kept;
        self
    }

    /// What the names of tables and procedures begin with. Default `cloakroom_`.
    pub fn with_table_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.table_prefix = prefix.into();
        self
    }

    /// Whether to create and upgrade the tables and procedures. Default yes; otherwise apply
    /// [`MySqlStore::migrations`] yourself before, and give the role the rights of
    /// [`MySqlStore::grants`] only.
    pub const fn with_migrate(mut self, migrate: bool) -> Self {
        self.migrate = migrate;
        self
    }

    /// For tests: decides by this clock instead of the server's.
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Opens the store. Safe to call from several processes at once.
    ///
    /// # Errors
    /// When the server cannot be reached or signed in to, is too old, read-only or not strict, or
    /// has tables of another release. The error names the server, the cause and what to do.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub async fn open(self) -> Result<MySqlStore, ServerOpenError> {
        let prefix = TablePrefix::new(&self.table_prefix).map_err(|why| {
            let cause = format!("`{}` cannot be a table prefix", self.table_prefix);
            ServerOpenError::new(ServerOpenErrorKind::Option, &self.name, cause, why)
        })?;
        let connector = Connector {
            options: self.server.clone(),
            server: self.name.clone(),
            connect_timeout: self.connect_timeout,
            lock_wait: (self.timeout.as_secs() / 3).max(1),
        };
        let (mut link, server) = connector.connect_and_ask().await.map_err(|fault| open_error(&self.name, &fault))?;
        if let Err(error) = prepare(&mut link.line.connection, &server, &self, &prefix).await {
            // The cause is what matters; a close that fails as well adds nothing to it.
            drop(link.line.connection.close().await);
            return Err(error);
        }
        link.line.prove().await.map_err(|error| open_error(&self.name, &Fault::from(error)))?;
        let mut links = vec![link];
        while links.len() < self.connections {
            links.push(connector.connect().await.map_err(|fault| open_error(&self.name, &fault))?);
        }
        Ok(MySqlStore::start(&self, connector, Statements::new(&prefix), links))
    }
}

impl fmt::Debug for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, connections, connect_timeout, timeout, touches, queue, tombstones, .. } = self;
        f.debug_struct("MySqlOptions")
            .field("server", name)
            .field("connections", connections)
            .field("connect_timeout", connect_timeout)
            .field("timeout", timeout)
            .field("touches", touches)
            .field("queue", queue)
            .field("tombstones", tombstones)
            .field("table_prefix", &self.table_prefix)
            .field("migrate", &self.migrate)
            .finish_non_exhaustive()
    }
}

/// Where a server is and who signs in.
struct Place {
    user: String,
    password: Option<String>,
    host: String,
    port: u16,
    database: String,
}

impl Place {
    fn parse(base: &str) -> Result<Self, UrlError> {
        const EXAMPLE: &str = "mysql://user:password@host:3306/database";
        let (_, rest) = base.split_once("://").unwrap_or(("", base));
        let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
        if database.is_empty() || database.contains('/') {
            return Err(UrlError::new(format!("the URL does not end in the name of a database: write {EXAMPLE}")));
        }
        let Some((credentials, host)) = authority.rsplit_once('@') else {
            return Err(UrlError::new(format!("the URL does not say who signs in: write {EXAMPLE}")));
        };
        let (user, password) = match credentials.split_once(':') {
            Some((user, password)) => (user, Some(decode(password)?)),
            None => (credentials, None),
        };
        if user.is_empty() {
            return Err(UrlError::new(format!("the URL does not say who signs in: write {EXAMPLE}")));
        }
        let (host, port) = match host.strip_prefix('[').and_then(|host| host.split_once(']')) {
            Some((address, port)) => (address, port.strip_prefix(':')),
            None => host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            None => 3306,
            Some(port) => port
                .parse()
                .map_err(|_| UrlError::new(format!("the port of the URL is no number up to 65535: write {EXAMPLE}")))?,
        };
        let host = if host.is_empty() { "localhost".to_owned() } else { decode(host)? };
        Ok(Self { user: decode(user)?, password, host, port, database: decode(database)? })
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
    }
}

/// Brings the tables to the version of this release, and sees that all is there.
async fn prepare(
    connection: &mut MySqlConnection,
    server: &Server,
    options: &MySqlOptions,
    prefix: &TablePrefix,
) -> Result<(), ServerOpenError> {
    let name = &options.name;
    if server.is_read_only() {
        let advice = "connect to the primary, or set read_only to OFF";
        return Err(ServerOpenError::new(ServerOpenErrorKind::Unsuitable, name, "the server is read-only", advice));
    }
    if server.max_allowed_packet < LEAST_PACKET {
        let cause = format!("its max_allowed_packet is {}, too small for a record", server.max_allowed_packet);
        let advice = format!("set max_allowed_packet to {LEAST_PACKET} or more on the server");
        return Err(ServerOpenError::new(ServerOpenErrorKind::Unsuitable, name, cause, advice));
    }
    let driver = |error: sqlx::Error| open_error(name, &Fault::from(error));
    let statements = Statements::new(prefix);
    let newest = migrations::MYSQL.last().map_or(0, |migration| i64::from(migration.version));
    let mut version = migrated_to(connection, &statements).await.map_err(driver)?;
    if version < newest && options.migrate {
        migrate(connection, &statements, prefix).await.map_err(driver)?;
        version = migrated_to(connection, &statements).await.map_err(driver)?;
    }
    if version > newest {
        let cause = format!("its tables have version {version}, and this release knows {newest}");
        let advice = "upgrade this release, or choose another table prefix";
        return Err(ServerOpenError::new(ServerOpenErrorKind::Newer, name, cause, advice));
    }
    if version < newest {
        let cause = format!("its tables have version {version}, and this release needs {newest}");
        let advice = "apply the missing migrations (`MySqlStore::migrations` has them), or let the store apply them";
        return Err(ServerOpenError::new(ServerOpenErrorKind::Unmigrated, name, cause, advice));
    }
    let parts = named(PARTS, prefix);
    let parts = query(parts).persistent(false).fetch_one(connection).await.map_err(driver)?;
    let number = |column| integer(&parts, column).map(Option::unwrap_or_default).map_err(driver);
    let (locks, procedures, strict) = (number(0)?, number(1)?, number(2)?);
    if (locks, procedures) != (LOCKS, PROCEDURES) {
        let cause = format!(
            "it has {locks} of {LOCKS} rows in {prefix}locks and {procedures} of {PROCEDURES} procedures that the role \
             may execute"
        );
        let advice = "run the migrations again (they may), and the script of grants (`MySqlStore::grants`)";
        return Err(ServerOpenError::new(ServerOpenErrorKind::Unmigrated, name, cause, advice));
    }
    if strict != PROCEDURES {
        let cause = format!("{} of its procedures were made without the strict SQL mode", PROCEDURES - strict);
        let advice = "run the migrations again, with the SET SESSION sql_mode that they begin with";
        return Err(ServerOpenError::new(ServerOpenErrorKind::Unsuitable, name, cause, advice));
    }
    Ok(())
}

async fn migrated_to(connection: &mut MySqlConnection, statements: &Statements) -> sqlx::Result<i64> {
    match query(statements.migrated_to.clone()).persistent(false).fetch_one(connection).await {
        Ok(row) => Ok(integer(&row, 0)?.unwrap_or(0)),
        Err(error) if fault::number(&error) == Some(fault::NO_TABLE) => Ok(0),
        Err(error) => Err(error),
    }
}

/// How long another process may take to migrate.
const PATIENCE: Duration = Duration::from_secs(60);

/// Under a lock of the server, so that of several processes one applies each step.
async fn migrate(connection: &mut MySqlConnection, statements: &Statements, prefix: &TablePrefix) -> sqlx::Result<()> {
    let lock = query(LOCK).persistent(false).bind(prefix.as_str()).bind(PATIENCE.as_secs());
    if integer(&lock.fetch_one(&mut *connection).await?, 0)? != Some(1) {
        return Err(sqlx::Error::Configuration("another process has been migrating for too long".into()));
    }
    let applied = apply_missing(connection, statements, prefix).await;
    let unlocked = query(UNLOCK).persistent(false).bind(prefix.as_str()).execute(connection).await;
    applied?;
    unlocked.map(drop)
}

async fn apply_missing(
    connection: &mut MySqlConnection,
    statements: &Statements,
    prefix: &TablePrefix,
) -> sqlx::Result<()> {
    let version = migrated_to(connection, statements).await?;
    for migration in migrations::MYSQL.iter().filter(|migration| i64::from(migration.version) > version) {
        for statement in migrations::split(migration.sql) {
            connection.execute(named(&statement, prefix)).await?;
        }
        tracing::info!(version = migration.version, name = migration.name, "the session tables were migrated");
    }
    Ok(())
}

fn open_error(server: &str, fault: &Fault) -> ServerOpenError {
    use ServerOpenErrorKind as Kind;
    let of = |kind, cause: String, advice: &str| ServerOpenError::new(kind, server, cause, advice);
    let error = match fault {
        Fault::Unfit(why) => return of(Kind::Unsuitable, why.to_string(), "see MySqlStore for what it needs"),
        Fault::NotConnected(cause) => {
            return of(Kind::Unreachable, cause.to_string(), "check that the server runs there");
        }
        Fault::Silent(patience) => {
            let advice = "check host, port and firewall, or raise the timeout";
            return of(Kind::Unreachable, format!("there was no answer within {patience:?}"), advice);
        }
        Fault::Driver(error) => error,
    };
    let open_error = match (fault::number(error), &**error) {
        (Some(fault::ACCESS), _) => {
            of(Kind::Credentials, "the user or the password is wrong".to_owned(), "correct them in the URL")
        }
        (Some(fault::NO_DATABASE), _) => {
            of(Kind::Credentials, "there is no such database".to_owned(), "create it, or correct its name in the URL")
        }
        (
            Some(
                fault::DATABASE_ACCESS
                | fault::TABLE_ACCESS
                | fault::COLUMN_ACCESS
                | fault::ROUTINE_ACCESS
                | fault::SPECIAL_ACCESS,
            ),
            _,
        ) => {
            let advice = "run the script of grants (`MySqlStore::grants`) for the role; to migrate, it also needs \
                CREATE, INDEX, REFERENCES, CREATE ROUTINE and ALTER ROUTINE";
            of(Kind::Denied, "the role lacks a right".to_owned(), advice)
        }
        (Some(fault::TOO_MANY_CONNECTIONS | fault::TOO_MANY_OF_USER), _) => {
            let advice = "raise max_connections, or open fewer";
            of(Kind::Unreachable, "the server takes no more connections".to_owned(), advice)
        }
        (Some(number), _) => {
            of(Kind::Other, format!("the server failed with {number}"), "see the source of this error")
        }
        (None, sqlx::Error::Tls(_)) => {
            let advice = "name the authority of its certificate with `ca=`, and the host as in the certificate";
            of(Kind::Tls, "the connection cannot be encrypted as asked".to_owned(), advice)
        }
        (None, sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
            let advice = "name the authority of its certificate with `ca=`, and the host as in the certificate";
            of(Kind::Tls, "the server's certificate is not to be trusted".to_owned(), advice)
        }
        (None, sqlx::Error::Io(error)) => {
            of(Kind::Unreachable, error.to_string(), "check that the server runs, and its host and port in the URL")
        }
        (None, _) => of(Kind::Other, "the driver failed".to_owned(), "see the source of this error"),
    };
    open_error.with_source(Arc::clone(error))
}
