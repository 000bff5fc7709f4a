//! The servers that all tests share: those that the environment names, otherwise those that
//! `cargo xtask services up` (or `cargo xtask ci`) started.
//!
//! Each function returns a URL with a password in it, and panics with what to run if there is no
//! server: a test that cannot reach its server has failed. Who shares a server keeps to a key or
//! table prefix of their own.

use crate::cluster::Cluster;
use crate::error::Result;
use crate::mariadb::MariaDb;
use crate::pgbouncer::PgBouncer;
use crate::postgres::Postgres;
use crate::process::Process;
use crate::redis::Redis;
use crate::sentinel::Sentinel;
use crate::state;

/// A kind of server that tests share.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// What it is called on command lines, and the tests' modules after it.
    pub name: &'static str,
    /// The environment variable that names another one.
    pub variable: &'static str,
    /// What it is.
    pub about: &'static str,
    start: fn() -> Result<Running>,
}

/// A started server of some kind: it runs until this is dropped.
#[derive(Debug)]
pub struct Running {
    url: String,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Redis(Redis),
    Sentinel(Sentinel),
    Cluster(Cluster),
    Postgres(Postgres),
    PgBouncer(PgBouncer),
    MariaDb(MariaDb),
}

const REDIS: Service = Service {
    name: "redis",
    variable: "CLOAKROOM_TEST_REDIS",
    about: "one Redis server",
    start: || Redis::start().map(running),
};
const REDIS_UNIX: Service = Service {
    name: "redis_unix",
    variable: "CLOAKROOM_TEST_REDIS_UNIX",
    about: "one Redis server on a Unix socket",
    start: || Redis::builder().unix_socket().start().map(running),
};
const REDIS_TLS: Service = Service {
    name: "redis_tls",
    variable: "CLOAKROOM_TEST_REDIS_TLS",
    about: "one Redis server with TLS and an ACL user",
    start: || Redis::builder().tls().acl().start().map(running),
};
const SENTINEL: Service = Service {
    name: "sentinel",
    variable: "CLOAKROOM_TEST_SENTINEL",
    about: "three Redis Sentinels over a primary and two replicas",
    start: || Sentinel::start().map(|group| Running { url: group.url(), server: Server::Sentinel(group) }),
};
const CLUSTER: Service = Service {
    name: "cluster",
    variable: "CLOAKROOM_TEST_CLUSTER",
    about: "a Redis Cluster of three primaries and three replicas",
    start: || Cluster::start().map(|cluster| Running { url: cluster.url(), server: Server::Cluster(cluster) }),
};
const POSTGRES: Service = Service {
    name: "postgres",
    variable: "CLOAKROOM_TEST_POSTGRES",
    about: "one PostgreSQL server",
    start: || Postgres::start().map(|server| Running { url: server.url(), server: Server::Postgres(server) }),
};
const PGBOUNCER: Service = Service {
    name: "pgbouncer",
    variable: "CLOAKROOM_TEST_PGBOUNCER",
    about: "PgBouncer pooling transactions, before a PostgreSQL server of its own",
    start: || PgBouncer::start().map(|proxy| Running { url: proxy.url(), server: Server::PgBouncer(proxy) }),
};
const MARIADB: Service = Service {
    name: "mariadb",
    variable: "CLOAKROOM_TEST_MARIADB",
    about: "one MariaDB server",
    start: || MariaDb::start().map(|server| Running { url: server.url(), server: Server::MariaDb(server) }),
};

/// All of them.
pub const SERVICES: &[Service] = &[REDIS, REDIS_UNIX, REDIS_TLS, SENTINEL, CLUSTER, POSTGRES, PGBOUNCER, MARIADB];

/// The URL of a Redis server.
#[must_use]
pub fn redis() -> String {
    REDIS.shared()
}

/// The URL of a Redis server on a Unix socket.
#[must_use]
pub fn redis_unix() -> String {
    REDIS_UNIX.shared()
}

/// The URL of a Redis server with TLS, with the authority to trust, and of a user limited by
/// [`ACL_RULES`](crate::ACL_RULES): key prefixes have to begin with `cloakroom`.
#[must_use]
pub fn redis_tls() -> String {
    REDIS_TLS.shared()
}

/// The URL of a primary that three Sentinels know.
#[must_use]
pub fn sentinel() -> String {
    SENTINEL.shared()
}

/// The URL of a Redis Cluster.
#[must_use]
pub fn cluster() -> String {
    CLUSTER.shared()
}

/// The URL of a PostgreSQL server.
#[must_use]
pub fn postgres() -> String {
    POSTGRES.shared()
}

/// The URL of a PgBouncer that pools transactions.
#[must_use]
pub fn pgbouncer() -> String {
    PGBOUNCER.shared()
}

/// The URL of a MariaDB server.
#[must_use]
pub fn mariadb() -> String {
    MARIADB.shared()
}

impl Service {
    /// What the environment names, if it does.
    #[must_use]
    pub fn named_by_environment(&self) -> Option<String> {
        std::env::var(self.variable).ok().filter(|url| !url.is_empty())
    }

    /// Starts one of one's own.
    ///
    /// # Errors
    ///
    /// When it is not installed or does not answer: with the end of its log.
    pub fn start(&self) -> Result<Running> {
        (self.start)()
    }

    #[allow(clippy::panic, reason = "only tests call this, and without a server they have failed")]
    fn shared(&self) -> String {
        if let Some(url) = self.named_by_environment() {
            return url;
        }
        let trouble = match state::read() {
            Ok(entries) => match entries.into_iter().find(|entry| entry.name == self.name) {
                Some(entry) if entry.runs() => return entry.url,
                Some(_) => "was started and does not run any more".to_owned(),
                None => "was not started".to_owned(),
            },
            Err(error) => error.to_string(),
        };
        panic!(
            "{name} ({about}) {trouble}: run `cargo xtask services up`, or name a server in {variable}",
            name = self.name,
            about = self.about,
            variable = self.variable,
        )
    }
}

impl Running {
    /// Where tests connect.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every process that belongs to it.
    #[must_use]
    pub fn processes(&self) -> Vec<&Process> {
        match &self.server {
            Server::Redis(redis) => vec![redis.process()],
            Server::Sentinel(group) => group.processes(),
            Server::Cluster(cluster) => cluster.processes(),
            Server::Postgres(server) => vec![server.process()],
            Server::PgBouncer(proxy) => vec![proxy.process(), proxy.postgres().process()],
            Server::MariaDb(server) => vec![server.process()],
        }
    }
}

fn running(redis: Redis) -> Running {
    Running { url: redis.url(), server: Server::Redis(redis) }
}
