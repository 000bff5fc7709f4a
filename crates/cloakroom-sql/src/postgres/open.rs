//! Opening a store, and saying exactly why it cannot be opened.

use std::sync::Arc;

use futures_util::future::try_join_all;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::connect::{Connection, Connector};
use super::fault::DriverError;
use super::hosts::Hosts;
use super::options::PostgresOptions;
use super::statement::Texts;
use super::{PostgresStore, tls};
use crate::dialect::postgres as sql;
use crate::migrations;
use crate::open_error::{ServerOpenError, ServerOpenErrorKind as Kind};
use crate::prefix::TablePrefix;
use crate::url::UrlError;

/// PostgreSQL 13.
const OLDEST_SERVER: i64 = 130_000;

pub(super) async fn open(options: PostgresOptions) -> Result<PostgresStore, ServerOpenError> {
    let server: Arc<str> = options.server().into();
    let tls = if options.verify {
        let tls = tls::verifying(options.authorities.as_deref()).map_err(|cause| {
            let advice = "name a file with the certificate of the authority that signed the server's, as in \
                          `ca=/etc/ssl/db.pem`, or connect without encryption with `sslmode=disable`";
            ServerOpenError::new(Kind::Tls, &server, cause, advice)
        })?;
        Some(tls)
    } else {
        None
    };
    let mut config = options.config.clone();
    // A name may have several addresses: the second has its turn as well.
    config.connect_timeout(options.connect_timeout / 2);
    if options.prepared {
        // A statement that is prepared is planned once and for good, also while the tables are empty:
        // a plan that reads them whole would then look cheap. What is joined is joined by looking up
        // one id after the other, in their order, which is also the order of the locks. No proxy is
        // between, or it is one that gives each client a connection of its own. The functions see what was
        // committed while they waited for a lock, on a server that took another's place too.
        let settings = "-c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c enable_hashjoin=off \
                        -c enable_mergejoin=off -c jit=off -c default_transaction_isolation=read\\ committed";
        config.options(match config.get_options() {
            Some(given) => format!("{settings} {given}"),
            None => settings.to_owned(),
        });
    }
    let connector = Arc::new(Connector {
        hosts: Hosts::new(&config),
        tls,
        timeout: options.connect_timeout,
        prepared: options.prepared,
        texts: Arc::new(Texts::new(&options.prefix)),
        server: Arc::clone(&server),
    });
    let setting_up = async {
        let mut connection = connect_first(&connector).await?;
        let set_up = SetUp { client: &connection.session.client, server: &server, prefix: &options.prefix };
        let result = connection.driving.drive(set_up.run(options.migrate)).await;
        connection.close().await;
        result
    };
    // No timeout: another process may be migrating for a while.
    setting_up.await?;
    let connections = try_join_all((0..options.connections).map(|_| connector.connect())).await;
    let connections = connections.map_err(|fault| {
        let advice = "see the cause; a server that allows too few connections needs fewer, as in `connections=2`";
        ServerOpenError::new(Kind::Unreachable, &server, fault.to_string(), advice)
    })?;
    Ok(PostgresStore::start(&options, &connector, connections))
}

/// Has each host have its time: a later attempt passes over those that were silent.
async fn connect_first(connector: &Connector) -> Result<Connection, ServerOpenError> {
    let (server, patience) = (&*connector.server, connector.timeout);
    for _ in 0..connector.hosts.len() {
        if let Ok(connected) = tokio::time::timeout(patience, connector.connect_plainly()).await {
            return connected.map_err(|error| unreachable(server, &error));
        }
    }
    let advice = "check host and port of the URL, and whether the server is overloaded or stopped";
    Err(ServerOpenError::new(Kind::Unreachable, server, format!("it did not greet within {patience:?}"), advice))
}

/// What is done with the first connection. Simple statements only, which every proxy lets through.
struct SetUp<'a> {
    client: &'a Client,
    server: &'a str,
    prefix: &'a TablePrefix,
}

impl SetUp<'_> {
    async fn run(&self, migrate: bool) -> Result<(), ServerOpenError> {
        let has_tables = self.check_server().await?;
        let newest = migrations::POSTGRES.last().map_or(0, |migration| i64::from(migration.version));
        let (mut version, mut compatible_with) = if has_tables { self.migrated_to().await? } else { (0, 0) };
        if version < newest && migrate {
            self.migrate().await?;
            (version, compatible_with) = self.migrated_to().await?;
        }
        if version > newest && compatible_with > newest {
            let cause = format!("its tables have version {version}, and this release knows {newest}");
            return Err(self.error(Kind::Newer, cause, "upgrade this release, or choose another `table_prefix`"));
        }
        if version < newest {
            let cause = format!("its tables have version {version}, and this release needs {newest}");
            let advice = "apply the missing migrations (`PostgresOptions::migrations` has them) as the owner of the \
                          tables, or let the store apply them with `migrate=on`";
            return Err(self.error(Kind::Unmigrated, cause, advice));
        }
        self.check_rights().await
    }

    /// Whether there is a table of migrations.
    async fn check_server(&self) -> Result<bool, ServerOpenError> {
        let row = self.one(sql::ENVIRONMENT).await?;
        let text = |place| row.get(place).unwrap_or_default();
        let number: i64 = text(0).parse().unwrap_or(0);
        let unsuitable = |cause, advice| Err(self.error(Kind::Unsuitable, cause, advice));
        if number < OLDEST_SERVER {
            let cause = format!("it is PostgreSQL {}", number / 10_000);
            return unsuitable(cause, "upgrade it to 13 or later");
        }
        if text(1) != "UTF8" {
            return unsuitable(format!("the database has the encoding {}", text(1)), "create one with ENCODING 'UTF8'");
        }
        if text(2) != "read committed" {
            let cause = format!("default_transaction_isolation is {}", text(2));
            return unsuitable(
                cause,
                "ALTER ROLE … SET default_transaction_isolation = 'read committed' for this role",
            );
        }
        if text(3) != "on" {
            let cause = "standard_conforming_strings is off".to_owned();
            return unsuitable(cause, "ALTER ROLE … SET standard_conforming_strings = on for this role");
        }
        if row.get(5).is_none() {
            let cause = "no schema of the search_path exists, or this role may use none of them".to_owned();
            return Err(self.error(
                Kind::Denied,
                cause,
                "GRANT USAGE ON SCHEMA … to this role, or set its search_path",
            ));
        }
        Ok(text(4) == "t")
    }

    async fn migrated_to(&self) -> Result<(i64, i64), ServerOpenError> {
        let row = self.one(sql::MIGRATED_TO).await?;
        let number = |place| row.get(place).and_then(|number| number.parse().ok()).unwrap_or(0);
        Ok((number(0), number(1)))
    }

    /// Of several processes one applies each step: in one transaction, under a lock that ends with it.
    async fn migrate(&self) -> Result<(), ServerOpenError> {
        self.run_batch("BEGIN").await?;
        let applied = self.apply_missing().await;
        self.run_batch(if applied.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
        applied
    }

    async fn apply_missing(&self) -> Result<(), ServerOpenError> {
        self.run_batch(&self.prefix.apply(sql::LOCK_MIGRATIONS)).await?;
        let version =
            if self.one(sql::ENVIRONMENT).await?.get(4) == Some("t") { self.migrated_to().await?.0 } else { 0 };
        for migration in migrations::POSTGRES.iter().filter(|migration| i64::from(migration.version) > version) {
            self.run_batch(&self.prefix.apply(migration.sql)).await?;
            tracing::info!(version = migration.version, name = migration.name, server = self.server, "tables migrated");
        }
        Ok(())
    }

    async fn check_rights(&self) -> Result<(), ServerOpenError> {
        let rows = self.rows(sql::MISSING_RIGHTS).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let role = self.one("SELECT current_user").await?.get(0).unwrap_or_default().to_owned();
        let missing: Vec<_> = rows.iter().filter_map(|row| row.get(0)).map(|right| format!("GRANT {right}")).collect();
        let cause = format!("the role {role} lacks rights");
        let advice =
            format!("let the owner of the tables run what `PostgresOptions::grants` prints: {}", missing.join(", "));
        Err(self.error(Kind::Denied, cause, advice))
    }

    async fn run_batch(&self, text: &str) -> Result<(), ServerOpenError> {
        self.client.batch_execute(text).await.map_err(|error| self.failure(&error))
    }

    async fn rows(&self, template: &str) -> Result<Vec<SimpleQueryRow>, ServerOpenError> {
        let messages = self.client.simple_query(&self.prefix.apply(template)).await;
        let rows = messages
            .map_err(|error| self.failure(&error))?
            .into_iter()
            .filter_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
        Ok(rows.collect())
    }

    async fn one(&self, template: &str) -> Result<SimpleQueryRow, ServerOpenError> {
        let rows = self.rows(template).await?;
        rows.into_iter().next().ok_or_else(|| {
            self.error(Kind::Other, "it answered without a row".to_owned(), "check that this is a PostgreSQL server")
        })
    }

    fn error(&self, kind: Kind, cause: String, advice: impl Into<String>) -> ServerOpenError {
        ServerOpenError::new(kind, self.server, cause, advice)
    }

    fn failure(&self, error: &tokio_postgres::Error) -> ServerOpenError {
        let denied = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
        let result = if denied {
            let advice = "GRANT USAGE, CREATE ON SCHEMA … to this role so that it can make the tables, or make them as \
                          another role and open the store with `migrate=off`";
            self.error(Kind::Denied, "this role lacks a right".to_owned(), advice)
        } else if error.code().is_some_and(|state| state.code().starts_with("42")) {
            let advice = "check whether tables or functions of these names were made by something else, and choose \
                          another `table_prefix`";
            self.error(Kind::Other, "its tables cannot be read or created".to_owned(), advice)
        } else {
            self.error(Kind::Other, "it failed while the store was opened".to_owned(), "see the source of this error")
        };
        result.with_source(DriverError::new(error))
    }
}

fn unreachable(server: &str, error: &tokio_postgres::Error) -> ServerOpenError {
    let source = DriverError::new(error);
    let text = source.to_string();
    let (kind, cause, advice) = match error.code() {
        Some(state) if *state == SqlState::INVALID_CATALOG_NAME => {
            (Kind::Credentials, "there is no such database", "create it, or name another in the URL")
        }
        Some(state) if state.code().starts_with("28") => (
            Kind::Credentials,
            "it does not let this user in",
            "check user, password and database of the URL, and pg_hba.conf of the server",
        ),
        Some(state) if state.code() == "08P01" && text.contains("startup parameter") => {
            (Kind::Unsuitable, "a proxy that pools transactions is in front of it", "add `prepared=off` to the URL")
        }
        Some(_) => (Kind::Unreachable, "it takes no connection", "see the source of this error"),
        None if text.contains("certificate") => (
            Kind::Tls,
            "its certificate is not to be trusted",
            "name the authority that signed it with `ca=/path.pem`, and the server by a name that the certificate has",
        ),
        None if text.contains("TLS") => (
            Kind::Tls,
            "it does not encrypt connections",
            "switch ssl on there, or connect without encryption with `sslmode=disable`",
        ),
        None if text.contains("does not allow writes") => (
            Kind::Unreachable,
            "it is read-only",
            "name all servers in the URL, so that the one that takes writes is found",
        ),
        None => (Kind::Unreachable, "it cannot be reached", "check host and port of the URL, and that it runs"),
    };
    ServerOpenError::new(kind, server, format!("{cause} ({text})"), advice).with_source(source)
}

impl From<UrlError> for ServerOpenError {
    fn from(error: UrlError) -> Self {
        Self::new(Kind::Option, "the database of this URL", error.to_string(), "correct the URL").with_source(error)
    }
}
