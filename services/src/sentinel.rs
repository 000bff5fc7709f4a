//! Three Sentinels over one primary and two replicas.

use crate::error::{Error, Result};
use crate::place::password;
use crate::process::{Process, poll};
use crate::redis::Redis;

/// Three Sentinels with a quorum of two, over one primary and two replicas in sync with it. A
/// primary that is gone for a second is replaced.
#[derive(Debug)]
pub struct Sentinel {
    sentinels: Vec<Redis>,
    servers: Vec<Redis>,
}

impl Sentinel {
    /// The name under which the Sentinels know the primary.
    pub const SERVICE: &'static str = "cloakroom";

    /// Starts all six, and returns when every Sentinel knows the others and both replicas.
    ///
    /// # Errors
    ///
    /// When one is not installed or does not answer: with the end of its log.
    pub fn start() -> Result<Self> {
        let primary = Redis::start()?;
        let mut servers = vec![primary];
        for _ in 0..2 {
            let replica = Redis::builder().password(servers[0].password());
            servers.push(replica.config(format!("replicaof 127.0.0.1 {}", servers[0].port())).start()?);
        }
        // A Sentinel asks for replicas when it starts, and then every ten seconds.
        poll(|| match servers[0].replicas_in_sync()? {
            2 => Ok(()),
            online => Err(Error::new(format!("{online} of 2 replicas are in sync"))),
        })?;
        let mut sentinels = Vec::new();
        let password = password()?;
        for _ in 0..3 {
            sentinels.push(Self::watching(&servers[0], &password)?);
        }
        let group = Self { sentinels, servers };
        for sentinel in &group.sentinels {
            poll(|| knows_everybody(sentinel)).map_err(|error| sentinel.process().with_log(&error))?;
        }
        Ok(group)
    }

    /// `redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT,HOST:PORT/SERVICE?sentinel_password=…`; user
    /// and password are those of the servers.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
        format!(
            "redis+sentinel://default:{}@{}/{}?sentinel_password={}",
            self.servers[0].password(),
            hosts.join(","),
            Self::SERVICE,
            self.sentinels[0].password(),
        )
    }

    /// The primary and the replicas, in no order that lasts.
    #[must_use]
    pub fn servers(&self) -> &[Redis] {
        &self.servers
    }

    /// The three Sentinels.
    #[must_use]
    pub fn sentinels(&self) -> &[Redis] {
        &self.sentinels
    }

    /// The server that most of the Sentinels call the primary at this moment.
    ///
    /// # Errors
    ///
    /// When two of them do not answer or do not agree.
    pub fn primary(&self) -> Result<&Redis> {
        let answers: Vec<_> = self.sentinels.iter().filter_map(|sentinel| primary_by(sentinel).ok()).collect();
        let named = |server: &&Redis| answers.iter().filter(|port| **port == server.port()).count() >= 2;
        let primary = self.servers.iter().find(named);
        primary.ok_or_else(|| Error::new(format!("the Sentinels name as primary the ports {answers:?}")))
    }

    /// Waits until another server than this one is the primary and says so itself.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_failover(&self, from: &Redis) -> Result<&Redis> {
        poll(|| {
            let primary = self.primary()?;
            if primary.port() == from.port() {
                return Err(Error::new("there was no failover"));
            }
            match primary.command(&["ROLE"])?.lines().next() {
                Some("master") => Ok(primary),
                role => Err(Error::new(format!("the new primary says that it is {role:?}"))),
            }
        })
    }

    /// Waits until the primary has both replicas in sync and every Sentinel knows it: the state
    /// after a start.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_stable(&self) -> Result<()> {
        poll(|| {
            let online = self.primary()?.replicas_in_sync()?;
            if online != 2 {
                return Err(Error::new(format!("{online} of 2 replicas are in sync")));
            }
            self.sentinels.iter().try_for_each(knows_everybody)
        })
    }

    /// Starts one more Sentinel with this password over this server. It learns of others from those that watch the
    /// same server.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn watching(primary: &Redis, password: &str) -> Result<Redis> {
        let service = Self::SERVICE;
        let mut sentinel = Redis::builder();
        sentinel.sentinel = true;
        sentinel
            .password(password)
            .config(format!("sentinel sentinel-pass {password}"))
            .config(format!("sentinel monitor {service} 127.0.0.1 {} 2", primary.port()))
            .config(format!("sentinel auth-pass {service} {}", primary.password()))
            .config(format!("sentinel down-after-milliseconds {service} 1000"))
            .config(format!("sentinel failover-timeout {service} 3000"))
            .config(format!("sentinel parallel-syncs {service} 2"))
            .start()
    }

    pub(crate) fn processes(&self) -> Vec<&Process> {
        self.sentinels.iter().chain(&self.servers).map(Redis::process).collect()
    }
}

fn primary_by(sentinel: &Redis) -> Result<u16> {
    let address = sentinel.command(&["SENTINEL", "get-master-addr-by-name", Sentinel::SERVICE])?;
    let port = address.lines().nth(1).and_then(|port| port.parse().ok());
    port.ok_or_else(|| Error::new(format!("a Sentinel names as primary `{address}`")))
}

fn knows_everybody(sentinel: &Redis) -> Result<()> {
    let state = sentinel.command(&["SENTINEL", "MASTER", Sentinel::SERVICE])?;
    let lines: Vec<_> = state.lines().collect();
    let value = |name: &str| lines.windows(2).find(|pair| pair[0] == name).map_or("", |pair| pair[1]);
    let known = (value("flags"), value("num-slaves"), value("num-other-sentinels"));
    match known {
        ("master", "2", "2") => Ok(()),
        _ => Err(Error::new(format!("a Sentinel knows (state, replicas, other Sentinels) {known:?}"))),
    }
}
