//! Every kind of server: started, asked, hurt, and gone without a trace.

#![allow(
    clippy::unwrap_used,
    reason = "clippy takes only functions marked as tests for tests, and some here are helpers"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

use cloakroom_services::shared::{Running, SERVICES};
use cloakroom_services::state::{Entry, Pid};
use cloakroom_services::{Cluster, MariaDb, PgBouncer, Postgres, Process, Redis, Sentinel};

/// What must not be there any more once a server is gone.
struct Traces {
    pids: Vec<Pid>,
    directories: Vec<PathBuf>,
}

impl Traces {
    fn of(processes: &[&Process]) -> Self {
        let family = processes.iter().flat_map(|process| family(process.pid()));
        Self {
            pids: family.filter_map(Pid::of).collect(),
            directories: processes.iter().map(|process| process.directory().to_owned()).collect(),
        }
    }

    fn assert_gone(&self) {
        assert!(!self.pids.is_empty());
        for pid in &self.pids {
            // The children of a server that was killed may need a moment to notice.
            pid.await_end().unwrap();
        }
        for directory in &self.directories {
            assert!(!directory.exists(), "{} is left over", directory.display());
        }
    }
}

fn family(pid: u32) -> Vec<u32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    [pid].into_iter().chain(children.split_whitespace().map(|child| child.parse().unwrap())).collect()
}

fn psql(url: &str, statement: &str) -> Result<String, String> {
    // libpq knows no `ca`.
    run(Command::new("psql").args([&url.replace("ca=", "sslrootcert="), "-XAtc", statement]))
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// User, password and port of `scheme://USER:PASSWORD@HOST:PORT/…`.
fn login(url: &str) -> [&str; 3] {
    let (_, rest) = url.split_once("://").unwrap();
    let (login, place) = rest.split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let port = place.split(['/', '?']).next().unwrap().rsplit(':').next().unwrap();
    [user, password, port]
}

fn redis_cli(url: &str, words: &[&str]) -> Result<String, String> {
    let [user, password, port] = login(url);
    let mut command = Command::new("redis-cli");
    command.args(["-e", "--no-auth-warning", "-p", port, "--user", user, "--pass", password]);
    if let Some((_, ca)) = url.split_once("?ca=") {
        command.args(["--tls", "--cacert", ca]);
    }
    run(command.args(words))
}

#[test]
fn every_shared_kind_starts_and_leaves_nothing() {
    let started: Vec<Running> = std::thread::scope(|scope| {
        let threads: Vec<_> = SERVICES.iter().map(|service| scope.spawn(|| service.start().unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (service, running) in SERVICES.iter().zip(started) {
        let entry = Entry::of(service.name, &running);
        assert!(entry.runs() && running.url().contains("://"), "{}", service.name);
        let traces = Traces::of(&running.processes());
        drop(running);
        traces.assert_gone();
        assert!(!entry.runs());
    }
}

#[test]
fn redis_asks_for_a_password_and_forgets_when_restarted() {
    let redis = Redis::start().unwrap();
    assert_eq!(redis_cli(&redis.url(), &["SET", "a", "1"]).unwrap(), "OK");
    let port = redis.port().to_string();
    let anonymous = run(Command::new("redis-cli").args(["-e", "-p", &port, "GET", "a"])).unwrap_err();
    assert!(anonymous.contains("NOAUTH"), "{anonymous}");
    redis.restart().unwrap();
    assert_eq!(redis.command(&["GET", "a"]).unwrap(), "");
}

#[test]
fn redis_keeps_its_port_and_what_it_persisted_through_a_crash() {
    let redis = Redis::builder().config("appendonly yes").config("appendfsync always").start().unwrap();
    redis.command(&["SET", "a", "1"]).unwrap();
    redis.kill().unwrap();
    assert!(redis.command(&["PING"]).is_err());
    redis.restart().unwrap();
    assert_eq!(redis_cli(&redis.url(), &["GET", "a"]).unwrap(), "1");
}

#[test]
fn a_paused_redis_is_connected_and_silent() {
    let redis = Redis::start().unwrap();
    redis.process().pause().unwrap();
    std::net::TcpStream::connect(("127.0.0.1", redis.port())).unwrap();
    redis.command(&["PING"]).unwrap_err();
    redis.process().resume().unwrap();
    assert_eq!(redis.command(&["PING"]).unwrap(), "PONG");
}

#[test]
fn the_acl_user_has_its_prefix_and_the_listed_commands_over_tls() {
    let redis = Redis::builder().tls().acl().start().unwrap();
    assert_eq!(redis_cli(&redis.url(), &["SET", "cloakroom:a", "1"]).unwrap(), "OK");
    for refused in [&["SET", "other", "1"][..], &["FLUSHALL"], &["KEYS", "*"], &["CONFIG", "SET", "save", ""]] {
        let error = redis_cli(&redis.url(), refused).unwrap_err();
        assert!(error.contains("NOPERM"), "{refused:?}: {error}");
    }
    let (trusted, _) = redis.url().split_once("?ca=").map(|(url, _)| (url.to_owned(), ())).unwrap();
    let other = cloakroom_services::Certificates::create().unwrap();
    let stranger = redis_cli(&format!("{trusted}?ca={}", other.ca().display()), &["PING"]).unwrap_err();
    assert!(stranger.contains("certificate verify failed"), "{stranger}");
    assert!(redis_cli(&redis.admin_url(), &["CONFIG", "SET", "save", ""]).is_ok());
}

#[test]
fn sentinels_replace_a_primary_and_take_it_back_as_a_replica() {
    let group = Sentinel::start().unwrap();
    let before = group.primary().unwrap();
    before.kill().unwrap();
    let after = group.await_failover(before).unwrap();
    assert_ne!(before.port(), after.port());
    before.restart().unwrap();
    group.await_stable().unwrap();
    assert_eq!(group.primary().unwrap().port(), after.port());
}

#[test]
fn a_cluster_replaces_a_primary_and_moves_every_slot() {
    let cluster = Cluster::start().unwrap();
    let ports = || cluster.primaries().unwrap().iter().map(|node| node.port()).collect::<Vec<_>>();
    let before = ports();
    assert_eq!(before.len(), 3);
    let slot = cluster.nodes()[0].command(&["CLUSTER", "KEYSLOT", "a"]).unwrap().parse().unwrap();
    cluster.primary_of(slot).unwrap().command(&["SET", "a", "1"]).unwrap();

    cluster.reshard().unwrap();
    let moved = ports();
    assert!(before.iter().zip(&moved).all(|(before, after)| before != after), "{before:?} {moved:?}");
    let holder = cluster.primary_of(slot).unwrap();
    assert_eq!(holder.command(&["GET", "a"]).unwrap(), "1");

    holder.kill().unwrap();
    cluster.await_failover(holder).unwrap();
    let successor = cluster.primary_of(slot).unwrap();
    assert_ne!(successor.port(), holder.port());
    assert_eq!(successor.command(&["GET", "a"]).unwrap(), "1");
    holder.restart().unwrap();
    cluster.await_stable().unwrap();
}

#[test]
fn postgres_keeps_what_it_was_told_through_a_restart_and_a_crash() {
    let postgres = Postgres::builder().durable().log_statements().start().unwrap();
    psql(&postgres.url(), "CREATE TABLE a (b int); INSERT INTO a VALUES (1)").unwrap();
    postgres.restart().unwrap();
    assert_eq!(psql(&postgres.url(), "SELECT b FROM a").unwrap(), "1");
    postgres.kill().unwrap();
    postgres.process().restart().unwrap();
    assert_eq!(postgres.sql("SELECT b FROM a; SHOW fsync").unwrap(), "1\non");
    assert_eq!(psql(&postgres.admin_url(), "SELECT current_user").unwrap(), "postgres");
    assert!(postgres.process().log().contains("CREATE TABLE a"));
    let anybody = postgres.url().replace(postgres.password(), "wrong");
    assert!(psql(&anybody, "SELECT 1").unwrap_err().contains("password authentication failed"));
}

#[test]
fn postgres_speaks_only_tls_when_asked_to() {
    let postgres = Postgres::builder().tls().start().unwrap();
    assert_eq!(psql(&postgres.url(), "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").unwrap(), "t");
    let plain = psql(&postgres.url().replace("verify-full", "disable"), "SELECT 1").unwrap_err();
    assert!(plain.contains("no pg_hba.conf entry"), "{plain}");
}

#[test]
fn pgbouncer_pools_transactions_and_ends_with_its_server() {
    let proxy = PgBouncer::start().unwrap();
    assert_eq!(psql(&proxy.url(), "SELECT current_user").unwrap(), "cloakroom");
    proxy.postgres().restart().unwrap();
    proxy.process().restart().unwrap();
    assert_eq!(psql(&proxy.url(), "SELECT 1").unwrap(), "1");
    let traces = Traces::of(&[proxy.process(), proxy.postgres().process()]);
    drop(proxy);
    traces.assert_gone();
}

#[test]
fn mariadb_is_strict_and_keeps_what_it_was_told() {
    let mariadb = MariaDb::builder().durable().tls().start().unwrap();
    let url = mariadb.url();
    let [user, password, port] = login(&url);
    let client = |more: &[&str], statement| {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "-h", "127.0.0.1", "-P", port, "-u", user, &format!("-p{password}")]);
        run(command.args(more).args(["-BNe", statement, "cloakroom"]))
    };
    let (_, ca) = url.split_once("&ca=").unwrap();
    let tls = ["--ssl-ca", ca, "--ssl-verify-server-cert"];
    client(&tls, "CREATE TABLE a (b TINYINT); INSERT INTO a VALUES (1)").unwrap();
    assert!(client(&tls, "INSERT INTO a VALUES (1000)").unwrap_err().contains("Out of range"));
    let plain = client(&["--skip-ssl"], "SELECT 1").unwrap_err();
    assert!(plain.contains("Access denied"), "{plain}");
    mariadb.restart().unwrap();
    mariadb.kill().unwrap();
    mariadb.process().restart().unwrap();
    assert_eq!(mariadb.sql("SELECT b FROM a").unwrap(), "1");
}

#[test]
fn a_server_that_refuses_to_start_says_why_and_leaves_nothing() {
    let redis = Redis::builder().config("no-such-option 1").start().unwrap_err().to_string();
    assert!(redis.starts_with("Redis ended with") && redis.contains("no-such-option"), "{redis}");
    let postgres = Postgres::builder().config("shared_buffers = 'much'").start().unwrap_err().to_string();
    assert!(postgres.contains("invalid value for parameter \"shared_buffers\""), "{postgres}");
    let mariadb = MariaDb::builder().option("--no-such-option").start().unwrap_err().to_string();
    assert!(mariadb.contains("unknown option '--no-such-option'"), "{mariadb}");
    let directory = mariadb.split_whitespace().find_map(|word| word.split_once("--datadir=")).map(|(_, path)| path);
    assert!(directory.is_none_or(|directory| !Path::new(directory).exists()));
}
