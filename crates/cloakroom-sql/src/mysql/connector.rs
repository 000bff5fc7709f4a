//! Making connections that are set up as every call relies on.

use std::collections::HashMap;
use std::time::Duration;

use cloakroom_core::Durability;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{ConnectOptions as _, Executor as _, Row as _, query};

use super::fault::Fault;
use super::line::Line;
use super::worker::within;
use crate::dialect::mysql::{SET_LOCK_WAIT, SET_UP, VARIABLES};

/// Makes connections.
#[derive(Debug)]
pub(crate) struct Connector {
    pub(crate) options: MySqlConnectOptions,
    /// What it is called in messages: without the password.
    pub(crate) server: String,
    pub(crate) connect_timeout: Duration,
    /// How long a statement may wait for a lock, in seconds. Shorter than the wait for an answer, so
    /// that the server says that nothing was done before nobody knows.
    pub(crate) lock_wait: u64,
}

/// A connection that is set up.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) line: Line,
    /// The longest record that fits into a packet.
    pub(crate) longest_record: usize,
}

impl Connector {
    pub(crate) async fn connect(&self) -> Result<Link, Fault> {
        self.connect_and_ask().await.map(|(link, _)| link)
    }

    /// The connection, and what the server is like.
    pub(crate) async fn connect_and_ask(&self) -> Result<(Link, Server), Fault> {
        let (line, server) = within(self.connect_timeout, self.set_up()).await?;
        if let Some(why) = server.unfit() {
            return Err(Fault::Unfit(why.into()));
        }
        let longest_record = server.max_allowed_packet.saturating_sub(OF_A_CALL);
        Ok((Link { line, longest_record }, server))
    }

    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    async fn set_up(&self) -> sqlx::Result<(Line, Server)> {
        let mut connection = self.options.connect().await?;
        for text in SET_UP {
            connection.execute(text).await?;
        }
        // Prepared once and used once, so not to be kept.
        query(SET_LOCK_WAIT).bind(self.lock_wait).persistent(false).execute(&mut connection).await?;
        let server = Server::ask(&mut connection).await?;
        let mut line = Line::new(connection);
        line.prove().await?;
        Ok((line, server))
    }
}

/// What a call sends beside its record, at most.
const OF_A_CALL: usize = 4096;

/// What a server says of itself and of this session.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    variables: HashMap<String, String>,
    pub(crate) max_allowed_packet: usize,
}

impl Server {
    pub(crate) async fn ask(connection: &mut MySqlConnection) -> sqlx::Result<Self> {
        let rows = connection.fetch_all(VARIABLES).await?;
        Self::from_rows(&rows)
    }

    pub(crate) fn from_rows(rows: &[sqlx::mysql::MySqlRow]) -> sqlx::Result<Self> {
        let mut variables = HashMap::with_capacity(rows.len());
        for row in rows {
            variables.insert(row.try_get_unchecked(0)?, row.try_get_unchecked(1)?);
        }
        let mut server = Self { variables, max_allowed_packet: 0 };
        server.max_allowed_packet = server.number("max_allowed_packet").unwrap_or(0);
        Ok(server)
    }

    /// Empty where this server has no such variable.
    pub(crate) fn variable(&self, name: &str) -> &str {
        self.variables.get(name).map_or("", String::as_str)
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.variable(name).parse().ok()
    }

    pub(crate) fn is_on(&self, name: &str) -> bool {
        matches!(self.variable(name), "ON" | "1")
    }

    pub(crate) fn is_read_only(&self) -> bool {
        // MariaDB says `ON` or `1`, and from 12.0 also which kind.
        !matches!(self.variable("read_only"), "" | "OFF" | "0") || self.is_on("innodb_read_only")
    }

    pub(crate) fn is_mariadb(&self) -> bool {
        self.variable("version").to_ascii_lowercase().contains("mariadb")
            || self.variable("version_comment").to_ascii_lowercase().contains("mariadb")
    }

    /// The flavour and the version.
    pub(crate) fn name(&self) -> String {
        let version = self.variable("version");
        if self.is_mariadb() {
            format!("MariaDB {}", version.split('-').next().unwrap_or(version))
        } else {
            format!("MySQL {version}")
        }
    }

    fn version(&self) -> [u32; 3] {
        let mut numbers = self.variable("version").split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
        std::array::from_fn(|_| numbers.next().unwrap_or(0))
    }

    /// Why it must not be used, if so.
    fn unfit(&self) -> Option<String> {
        let oldest = if self.is_mariadb() { [10, 6, 0] } else { [8, 0, 13] };
        if self.version() < oldest {
            let [major, minor, patch] = oldest;
            return Some(format!("{} is too old: upgrade it to {major}.{minor}.{patch} or later", self.name()));
        }
        let mode = self.variable("sql_mode");
        if !mode.split(',').any(|word| word == "STRICT_ALL_TABLES") {
            return Some(format!(
                "its SQL mode is not strict although it was set ({mode}), so what does not fit would be cut off: is \
                 there a proxy in between that drops SET SESSION?"
            ));
        }
        if !self.is_on("autocommit") {
            return Some("autocommit is off although it was set on: is there a proxy in between?".to_owned());
        }
        let isolation = [self.variable("transaction_isolation"), self.variable("tx_isolation")].concat();
        if !isolation.contains("READ-COMMITTED") {
            return Some(format!(
                "the isolation level is {isolation} although it was set: is there a proxy in between?"
            ));
        }
        None
    }

    /// What an acknowledged write survives, and what to do where that is less than it could be.
    pub(crate) fn durability(&self) -> (Durability, Vec<String>) {
        let mut warnings = Vec::new();
        let flush = self.variable("innodb_flush_log_at_trx_commit");
        let flushed = matches!(flush, "1" | "3");
        if !flushed {
            warnings.push(format!(
                "innodb_flush_log_at_trx_commit is {flush}: a crash of the machine takes back the last moments, \
                 sign-outs included; set it to 1"
            ));
        }
        if !self.is_on("log_bin") {
            return (if flushed { Durability::Machine } else { Durability::Crash }, warnings);
        }
        if self.variable("sync_binlog") != "1" {
            warnings.push(format!(
                "sync_binlog is {}: after a crash of the machine replicas may lack the last moments, or have more; \
                 set it to 1",
                self.variable("sync_binlog")
            ));
        }
        let source = self.is_on("rpl_semi_sync_source_enabled") || self.is_on("rpl_semi_sync_master_enabled");
        let wait_point =
            [self.variable("rpl_semi_sync_source_wait_point"), self.variable("rpl_semi_sync_master_wait_point")]
                .concat();
        if source && wait_point == "AFTER_SYNC" {
            let replicas = self
                .number("rpl_semi_sync_source_wait_for_replica_count")
                .or_else(|| self.number("rpl_semi_sync_master_wait_for_slave_count"));
            return (Durability::Acked { replicas: replicas.and_then(|n| n.try_into().ok()).unwrap_or(1) }, warnings);
        }
        if source {
            warnings.push(format!(
                "semi-synchronous replication waits {wait_point}: others see a write that a failover may still take \
                 back; set the wait point to AFTER_SYNC"
            ));
        }
        (Durability::Async, warnings)
    }

    /// What else is set up so that it loses sessions or fails.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.is_read_only() {
            warnings.push("the server is read-only: connect to the primary, or set read_only to OFF".to_owned());
        }
        if self.max_allowed_packet < LEAST_PACKET {
            warnings.push(format!(
                "max_allowed_packet is {}: the longest records do not fit; set it to at least {LEAST_PACKET} on the \
                 server",
                self.max_allowed_packet
            ));
        }
        if self.number("wait_timeout").is_some_and(|seconds| seconds < 60) {
            warnings.push(format!(
                "wait_timeout is {} seconds: idle connections are cut before they are used again; set it to 60 or \
                 more",
                self.variable("wait_timeout")
            ));
        }
        warnings
    }
}

/// Fits the longest record that the engine writes by default, with room for what else a call sends.
pub(crate) const LEAST_PACKET: usize = 1024 * 1024;
