//! The servers that all tests share, and on each a place that no other test has.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::SystemTime;

use cloakroom_core::{Clock, SessionStore};
use cloakroom_redis::RedisOptions;
use cloakroom_services::shared;
use cloakroom_sql::{MySqlOptions, PostgresOptions};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

/// A server that tests share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Redis,
    Sentinel,
    Cluster,
    RedisTls,
    Postgres,
    PgBouncer,
    MariaDb,
}

/// Keys or tables with a name of their own.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) server: Server,
    /// With the prefix in its query.
    pub(crate) url: String,
    prefix: String,
}

impl Server {
    pub(crate) fn url(self) -> String {
        match self {
            Self::Redis => shared::redis(),
            Self::Sentinel => shared::sentinel(),
            Self::Cluster => shared::cluster(),
            Self::RedisTls => shared::redis_tls(),
            Self::Postgres => shared::postgres(),
            Self::PgBouncer => shared::pgbouncer(),
            Self::MariaDb => shared::mariadb(),
        }
    }

    /// Few connections, since many tests run at once, and how names begin.
    const fn option(self) -> &'static str {
        match self {
            // The rights of the user behind TLS end at keys that begin with `cloakroom`.
            Self::Redis | Self::Sentinel | Self::Cluster | Self::RedisTls => "prefix=cloakroom-",
            Self::Postgres | Self::MariaDb => "connections=2&table_prefix=t",
            Self::PgBouncer => "connections=2&prepared=off&table_prefix=t",
        }
    }
}

impl Place {
    pub(crate) fn on(server: Server) -> Self {
        Self::at(server, &server.url())
    }

    /// On this server, which may be one of the test's own or stand behind a proxy.
    pub(crate) fn at(server: Server, url: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let own = format!("{}_{nanos}_{}_", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let separator = if url.contains('?') { '&' } else { '?' };
        let option = server.option();
        let (_, beginning) = option.rsplit_once('=').unwrap();
        Self { server, url: format!("{url}{separator}{option}{own}"), prefix: format!("{beginning}{own}") }
    }

    /// The same place by another way, such as through a proxy.
    pub(crate) fn through(&self, address: std::net::SocketAddr) -> Self {
        let (before, rest) = self.url.split_once('@').unwrap();
        let end = rest.find(['/', '?']).unwrap();
        Self { url: format!("{before}@{address}{}", &rest[end..]), ..self.clone() }
    }

    /// The same with this option. Where there is no number of connections, there is none.
    pub(crate) fn with_option(&self, name: &str, value: &str) -> Self {
        let (base, query) = self.url.split_once('?').unwrap();
        let others = query.split('&').filter(|option| !option.starts_with(&format!("{name}=")));
        let known = others.clone().count() < query.split('&').count();
        let mut options: Vec<String> = others.map(str::to_owned).collect();
        if known || name != "connections" {
            options.push(format!("{name}={value}"));
        }
        Self { url: format!("{base}?{}", options.join("&")), ..self.clone() }
    }

    /// The host and port that the URL names.
    pub(crate) fn address(&self) -> std::net::SocketAddr {
        let (_, rest) = self.url.split_once('@').unwrap();
        rest[..rest.find(['/', '?', ',']).unwrap()].parse().unwrap()
    }

    /// A client with connections of its own, as another process has. Decides by the server's clock
    /// unless it is given one.
    pub(crate) async fn open(&self, clock: Option<Arc<dyn Clock>>) -> Arc<dyn SessionStore> {
        match self.server {
            Server::Redis | Server::Sentinel | Server::Cluster | Server::RedisTls => {
                let options = RedisOptions::new(&self.url).unwrap();
                Arc::new(clock.into_iter().fold(options, RedisOptions::with_clock).open().await.unwrap())
            }
            Server::Postgres | Server::PgBouncer => {
                let options = PostgresOptions::new(&self.url).unwrap();
                Arc::new(clock.into_iter().fold(options, PostgresOptions::with_clock).open().await.unwrap())
            }
            Server::MariaDb => {
                let options = MySqlOptions::new(&self.url).unwrap();
                Arc::new(clock.into_iter().fold(options, MySqlOptions::with_clock).open().await.unwrap())
            }
        }
    }

    /// Takes the tables away. Keys go by themselves: each has a time to live.
    pub(crate) async fn remove(self) {
        match self.server {
            Server::Redis | Server::Sentinel | Server::Cluster | Server::RedisTls => {}
            Server::Postgres | Server::PgBouncer => self.drop_in_postgres().await,
            Server::MariaDb => self.drop_in_mariadb().await,
        }
    }

    async fn drop_in_postgres(&self) {
        let (base, _) = self.url.split_once('?').unwrap();
        let (client, connection) = tokio_postgres::connect(base, tokio_postgres::NoTls).await.unwrap();
        let statements = format!(
            "DO $$ DECLARE it record; BEGIN
               FOR it IN SELECT oid::regclass AS name FROM pg_class WHERE relkind = 'r' AND starts_with(relname, '{0}')
               LOOP EXECUTE format('DROP TABLE %s CASCADE', it.name); END LOOP;
               FOR it IN SELECT oid::regprocedure AS name FROM pg_proc WHERE starts_with(proname, '{0}')
               LOOP EXECUTE format('DROP FUNCTION %s CASCADE', it.name); END LOOP;
             END $$",
            self.prefix
        );
        let work = client.batch_execute(&statements);
        tokio::select! {
            done = work => done.unwrap(),
            ended = connection => ended.unwrap(),
        }
    }

    async fn drop_in_mariadb(&self) {
        let (base, _) = self.url.split_once('?').unwrap();
        let options: sqlx::mysql::MySqlConnectOptions = base.replacen("mariadb:", "mysql:", 1).parse().unwrap();
        let mut connection = options.disable_statement_logging().connect().await.unwrap();
        let tables = "SELECT CAST(table_name AS CHAR) FROM information_schema.tables
            WHERE table_schema = DATABASE() AND LEFT(table_name, CHAR_LENGTH(?)) = ?";
        let rows = sqlx::query(tables).bind(&self.prefix).bind(&self.prefix).fetch_all(&mut connection).await.unwrap();
        for row in rows {
            let drop = format!("DROP TABLE `{}`", row.get::<String, _>(0));
            connection.execute(sqlx::AssertSqlSafe(drop)).await.unwrap();
        }
        connection.close().await.unwrap();
    }
}
