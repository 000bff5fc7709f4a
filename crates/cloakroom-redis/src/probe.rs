//! How the servers are, and what is set up so that they can lose something.

use std::time::Duration;

use cloakroom_core::{Durability, Probe, StoreErrorKind, Verb};
use futures_util::future::join_all;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use crate::fault::Fault;
use crate::link::{Link, Primary};
use crate::options::RedisDurability;

impl Link {
    /// Asks every primary. What the ACL does not let it see is named in a warning, and no error.
    pub(crate) async fn probe(&self) -> Result<Probe, Fault> {
        let primaries = self.primaries().await?;
        let (mut server, mut latency, mut warnings) = (String::new(), Duration::ZERO, Vec::new());
        let mut failure = None;
        for (primary, answer) in primaries.iter().zip(join_all(primaries.iter().map(|it| self.look_at(it))).await) {
            let found = match answer {
                Ok(report) => {
                    server = report.server;
                    latency = latency.max(report.latency);
                    report.warnings
                }
                Err(fault) => {
                    let warning = format!("it does not answer: {fault}");
                    failure = Some(fault);
                    vec![warning]
                }
            };
            for warning in found {
                let warning = if primaries.len() > 1 { format!("{primary}: {warning}") } else { warning };
                warnings.push(warning);
            }
        }
        if let Some(fault) = failure.filter(|_| server.is_empty()) {
            return Err(fault);
        }
        let durability = match self.durability() {
            RedisDurability::Async => Durability::Async,
            RedisDurability::Acked { replicas, .. } => Durability::Acked { replicas },
        };
        let server = if self.is_cluster() { format!("{server}, cluster of {}", primaries.len()) } else { server };
        Ok(Probe { server, latency, durability, warnings })
    }

    async fn look_at(&self, primary: &Primary) -> Result<Report, Fault> {
        let server = self.server_name(primary).await?;
        let started = Instant::now();
        let mut ping = Pipeline::new();
        ping.cmd("PING");
        for answer in self.send_to(primary, ping, Verb::Probe).await? {
            answer?;
        }
        let latency = started.elapsed();
        let mut questions = Pipeline::new();
        questions.cmd("INFO");
        for setting in SETTINGS {
            questions.cmd("CONFIG").arg("GET").arg(setting);
        }
        if self.is_cluster() {
            questions.cmd("CLUSTER").arg("INFO");
        }
        let mut answers = self.send_to(primary, questions, Verb::Probe).await?.into_iter();
        let mut unseen = Vec::new();
        let info = match answers.next() {
            Some(Ok(value)) => Some(Facts(text(value).unwrap_or_default())),
            Some(Err(fault)) if fault.kind() == StoreErrorKind::Misconfigured => {
                unseen.push("+info");
                None
            }
            Some(Err(fault)) => return Err(fault),
            None => return Err(Fault::wrong_answer("INFO")),
        };
        let mut settings = Settings::default();
        for (setting, answer) in SETTINGS.into_iter().zip(answers.by_ref()) {
            match answer {
                Ok(value) => settings.0.push((setting, value_of(value))),
                Err(_) if unseen.contains(&"+config|get") => {}
                Err(_) => unseen.push("+config|get"),
            }
        }
        let cluster = match answers.next() {
            Some(Ok(value)) => text(value).map(Facts),
            Some(Err(_)) => {
                unseen.push("+cluster|info");
                None
            }
            None => None,
        };
        let mut warnings = warnings(info.as_ref(), &settings, cluster.as_ref(), self.durability());
        if !unseen.is_empty() {
            warnings.push(format!(
                "not everything could be checked, as the ACL does not let this user ask: grant `{}` to have eviction, \
                 persistence and replication looked at",
                unseen.join(" ")
            ));
        }
        Ok(Report { server, latency, warnings })
    }
}

/// What only `CONFIG GET` tells.
const SETTINGS: [&str; 4] = ["maxmemory-policy", "save", "appendfsync", "min-replicas-to-write"];

struct Report {
    server: String,
    latency: Duration,
    warnings: Vec<String>,
}

/// Lines of the form `name:value`.
struct Facts(String);

impl Facts {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.lines().find_map(|line| line.trim_end().split_once(':').filter(|(key, _)| *key == name)).map(|it| it.1)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }

    /// `slave0:ip=…,port=…,state=online,offset=…,lag=0`: the lags, in seconds, of those that follow.
    fn lags(&self) -> Vec<u64> {
        let replicas = self.0.lines().filter_map(|line| {
            let (name, fields) = line.trim_end().split_once(':')?;
            let number = name.strip_prefix("slave")?;
            (!number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())).then_some(fields)
        });
        let field = |fields: &str, name: &str| {
            fields
                .split(',')
                .find_map(|field| field.split_once('=').filter(|it| it.0 == name))
                .map(|it| it.1.to_owned())
        };
        replicas
            .filter(|fields| field(fields, "state").is_some_and(|state| state == "online"))
            .map(|fields| field(fields, "lag").and_then(|lag| lag.parse().ok()).unwrap_or(0))
            .collect()
    }
}

#[derive(Default)]
struct Settings(Vec<(&'static str, Option<String>)>);

impl Settings {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(setting, _)| *setting == name)?.1.as_deref()
    }
}

/// Longer behind than this, and a failover loses what users notice.
const MUCH_LAG: u64 = 10;

fn warnings(
    info: Option<&Facts>,
    settings: &Settings,
    cluster: Option<&Facts>,
    durability: RedisDurability,
) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut warn = |warning: String| warnings.push(warning);
    let fact = |name| info.and_then(|info| info.get(name));

    let policy = fact("maxmemory_policy").or_else(|| settings.get("maxmemory-policy"));
    if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
        warn(format!(
            "maxmemory-policy is {policy}: when memory runs short the server silently drops sessions, and the marks of \
             those that ended or were revoked. Set it to noeviction, and maxmemory high enough"
        ));
    }
    if let Some(aof) = fact("aof_enabled") {
        match (aof, settings.get("save")) {
            ("0", Some("")) => warn(
                "nothing is saved to disk: a restart signs everybody out. Set appendonly yes".to_owned(),
            ),
            ("0", Some(_)) => warn(
                "only snapshots are saved: a crash takes the time since the last one back, and sessions that ended in \
                 it live again. Set appendonly yes"
                    .to_owned(),
            ),
            ("0", None) => {
                warn("the append-only file is off, so a crash may bring ended sessions back: set appendonly yes".to_owned());
            }
            _ if settings.get("appendfsync") == Some("no") => warn(
                "appendfsync is no: a crash of the machine takes back what the system had not written yet, the ends of \
                 sessions included. Set it to everysec or always"
                    .to_owned(),
            ),
            _ => {}
        }
    }
    if fact("aof_last_write_status").is_some_and(|status| status != "ok") {
        warn(
            "the last write to the append-only file failed: see the server's log, and the room on its disk".to_owned(),
        );
    }
    if fact("rdb_last_bgsave_status").is_some_and(|status| status != "ok") {
        warn("the last snapshot failed: see the server's log, and the room on its disk".to_owned());
    }
    if let Some(role) = fact("role").filter(|role| *role != "master") {
        warn(format!("the server's role is {role}: it takes no writes"));
    }
    if let Some(info) = info {
        let lags = info.lags();
        if let RedisDurability::Acked { replicas, .. } = durability {
            if lags.len() < replicas as usize {
                warn(format!(
                    "{} replicas follow, and every write is to be acknowledged by {replicas}: writes fail with an \
                     unknown outcome. Start replicas, or ask for fewer",
                    lags.len()
                ));
            } else if lags.len() > replicas as usize {
                warn(format!(
                    "{} replicas follow, and a write is acknowledged by {replicas}: a failover to another one, unless \
                     its replica-priority is 0, may drop it. Ask for as many as may be promoted",
                    lags.len()
                ));
            }
            if settings.get("min-replicas-to-write") == Some("0") {
                warn(format!(
                    "min-replicas-to-write is 0: a primary that is cut off from its replicas goes on taking writes, \
                     which a failover then drops. Set it to {replicas}, and min-replicas-max-lag to a few seconds"
                ));
            }
        }
        if let Some(lag) = lags.iter().max().filter(|lag| **lag > MUCH_LAG) {
            warn(format!("a replica is {lag} s behind: a failover to it takes that time back"));
        }
        if info.number("loading").is_some_and(|loading| loading != 0) {
            warn("the server is loading its data, and serves nobody yet".to_owned());
        }
    }
    if let Some(state) = cluster.and_then(|cluster| cluster.get("cluster_state")).filter(|state| *state != "ok") {
        warn(format!("cluster_state is {state}: parts of the cluster are not served (see CLUSTER SHARDS)"));
    }
    warnings
}

fn text(value: Value) -> Option<String> {
    if let Value::BulkString(bytes) = value {
        return Some(String::from_utf8_lossy(&bytes).into_owned());
    }
    if let Value::VerbatimString { text, .. } | Value::SimpleString(text) = value { Some(text) } else { None }
}

/// The value in the answer to `CONFIG GET` of one setting.
fn value_of(answer: Value) -> Option<String> {
    let Value::Map(pairs) = answer else { return None };
    text(pairs.into_iter().next()?.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "# Memory\r\nmaxmemory_policy:noeviction\r\n# Persistence\r\nloading:0\r\naof_enabled:1\r\n\
                        aof_last_write_status:ok\r\nrdb_last_bgsave_status:ok\r\n# Replication\r\nrole:master\r\n\
                        connected_slaves:2\r\nslave0:ip=10.0.0.1,port=6379,state=online,offset=9,lag=1\r\n\
                        slave1:ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0\r\nslave_x:1\r\n";
    const ACKED: RedisDurability = RedisDurability::Acked { replicas: 1, timeout: Duration::from_secs(1) };

    fn settings(pairs: &[(&'static str, &str)]) -> Settings {
        Settings(pairs.iter().map(|(name, value)| (*name, Some((*value).to_owned()))).collect())
    }

    fn of(info: &str, pairs: &[(&'static str, &str)], durability: RedisDurability) -> Vec<String> {
        warnings(Some(&Facts(info.to_owned())), &settings(pairs), None, durability)
    }

    #[test]
    fn a_server_that_is_set_up_well_gives_no_warning() {
        let good = [("save", "3600 1"), ("appendfsync", "everysec"), ("min-replicas-to-write", "1")];
        assert_eq!(of(INFO, &good, RedisDurability::Async), Vec::<String>::new());
        assert_eq!(of(INFO, &good, ACKED), Vec::<String>::new());
    }

    #[test]
    fn each_thing_that_can_lose_something_is_named() {
        let one = |info: &str, pairs: &[(&'static str, &str)], durability, word: &str| {
            let warnings = of(info, pairs, durability);
            assert!(warnings.len() == 1 && warnings[0].contains(word), "{word}: {warnings:?}");
        };
        for policy in ["allkeys-lru", "allkeys-random", "volatile-lru", "volatile-ttl", "volatile-lfu"] {
            one(&INFO.replace("noeviction", policy), &[], RedisDurability::Async, policy);
        }
        let no_aof = INFO.replace("aof_enabled:1", "aof_enabled:0");
        one(&no_aof, &[("save", "")], RedisDurability::Async, "nothing is saved");
        one(&no_aof, &[("save", "3600 1")], RedisDurability::Async, "only snapshots");
        one(&no_aof, &[], RedisDurability::Async, "append-only file is off");
        one(INFO, &[("appendfsync", "no")], RedisDurability::Async, "appendfsync");
        one(INFO, &[("min-replicas-to-write", "0")], ACKED, "min-replicas-to-write");
        one(&INFO.replace("state=online", "state=wait_bgsave"), &[], ACKED, "0 replicas follow");
        one(&INFO.replace("state=wait_bgsave", "state=online"), &[], ACKED, "2 replicas follow");
        one(&INFO.replace("lag=1", "lag=60"), &[], RedisDurability::Async, "60 s behind");
        one(&INFO.replace("role:master", "role:slave"), &[], RedisDurability::Async, "role is slave");
        one(&INFO.replace("loading:0", "loading:1"), &[], RedisDurability::Async, "loading");
        let failed = INFO.replace("aof_last_write_status:ok", "aof_last_write_status:err");
        one(&failed, &[], RedisDurability::Async, "append-only file failed");
        let cluster = Facts("cluster_enabled:1\r\ncluster_state:fail\r\n".to_owned());
        let warnings = warnings(None, &Settings::default(), Some(&cluster), RedisDurability::Async);
        assert!(warnings.len() == 1 && warnings[0].contains("cluster_state is fail"), "{warnings:?}");
    }
}
