//! `cargo xtask services` as one types it, in a target directory of its own.

#![allow(
    clippy::unwrap_used,
    reason = "clippy takes only functions marked as tests for tests, and some here are helpers"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use cloakroom_services::state::{Entry, Pid};

/// A copy of the program in a target directory with nothing in it, and the servers it started.
struct Checkout {
    target: tempfile::TempDir,
}

impl Checkout {
    fn new() -> Self {
        let target = tempfile::tempdir().unwrap();
        fs::write(target.path().join("CACHEDIR.TAG"), "").unwrap();
        fs::copy(env!("CARGO_BIN_EXE_xtask"), target.path().join("xtask")).unwrap();
        Self { target }
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(self.target.path().join("xtask"));
        command.arg("services").args(line.split(' '));
        for service in cloakroom_services::shared::SERVICES {
            command.env_remove(service.variable);
        }
        command
    }

    fn output(&self, line: &str) -> String {
        let output = self.command(line).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn state(&self) -> Vec<Entry> {
        let text = fs::read_to_string(self.state_file()).unwrap_or_default();
        text.lines().map(|line| Entry::parse(line).unwrap()).collect()
    }

    fn state_file(&self) -> PathBuf {
        self.target.path().join("services/state")
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        // Also after a failed assertion; what it says then is not the point.
        self.command("down").output().ok();
    }
}

fn assert_gone(entries: &[Entry]) {
    assert!(!entries.is_empty());
    for entry in entries {
        for pid in entry.servers.iter().chain([&entry.supervisor]) {
            pid.await_end().unwrap();
        }
        for directory in &entry.directories {
            assert!(!directory.exists(), "{} is left over", directory.display());
        }
    }
}

fn fake_program(directory: &Path, name: &str, script: &str) -> String {
    let file = directory.join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", directory.display(), std::env::var("PATH").unwrap())
}

#[test]
fn up_leaves_servers_running_until_down() {
    let checkout = Checkout::new();
    let up = checkout.output("up --only redis,postgres");
    assert!(up.contains("Starting redis, postgres") && up.contains("All are up after"), "{up}");
    let entries = checkout.state();
    assert!(entries.len() == 2 && entries.iter().all(Entry::runs));

    let urls = checkout.output("urls");
    for entry in &entries {
        assert!(urls.contains(&format!("='{}'\n", entry.url)), "{urls}");
    }
    let status = checkout.output("status");
    assert!(status.contains("redis       up     redis://default:***@127.0.0.1:"), "{status}");
    assert!(status.contains("mariadb     down "), "{status}");

    let again = checkout.output("up --only redis");
    assert!(again.contains("redis       is up already"), "{again}");
    assert_eq!(checkout.state(), entries, "nothing was started twice");
    let more = checkout.output("up --only redis,redis_unix");
    assert!(more.contains("Starting redis_unix in"), "{more}");
    let all = checkout.state();
    assert_eq!(all.len(), 3);

    let down = checkout.output("down");
    assert_eq!(down.matches("is down").count(), 3, "{down}");
    assert_gone(&all);
    assert!(!checkout.state_file().exists());
    assert_eq!(checkout.output("down"), "Nothing is up.\n");
    assert!(!checkout.command("urls").output().unwrap().status.success());
}

#[test]
fn what_the_environment_names_is_not_started() {
    let checkout = Checkout::new();
    let run = |line| {
        let output = checkout.command(line).env("CLOAKROOM_TEST_REDIS", "redis://mine:1").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run("up --only redis").contains("redis       is yours: CLOAKROOM_TEST_REDIS names it"));
    assert!(checkout.state().is_empty());
    assert!(run("status").contains("redis       yours  CLOAKROOM_TEST_REDIS names it"));
    assert_eq!(run("urls"), "export CLOAKROOM_TEST_REDIS='redis://mine:1'\n");
}

#[test]
fn a_server_that_does_not_start_is_shown_with_its_log_and_takes_the_others_down() {
    let checkout = Checkout::new();
    let fakes = tempfile::tempdir().unwrap();
    let path = fake_program(fakes.path(), "redis-server", "echo the disk is full; exit 3");
    let output = checkout.command("up --only redis,postgres").env("PATH", path).output().unwrap();
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!output.status.success());
    assert!(stdout.contains("redis       FAILED after") && stdout.contains("    the disk is full"), "{stdout}");
    assert!(stdout.contains("postgres    is up after"), "{stdout}");
    assert!(stderr.contains("of 2 servers 1 did not start, see above; the others were stopped"), "{stderr}");
    assert!(!checkout.state_file().exists());
}

#[test]
fn a_missing_program_is_named_with_its_package_before_anything_is_done() {
    let checkout = Checkout::new();
    let empty = tempfile::tempdir().unwrap();
    let output = checkout.command("up --only redis").env("PATH", empty.path()).output().unwrap();
    assert!(!output.status.success());
    let (stdout, stderr) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(stdout.starts_with("Missing: redis-server, redis-cli, "), "{stdout}");
    assert!(stderr.contains("on Debian the packages are redis-server, redis-tools, "), "{stderr}");
}

#[test]
fn servers_end_with_the_process_that_did_not_say_keep() {
    let checkout = Checkout::new();
    let mut supervisor = checkout.command("supervise --only redis");
    let mut supervisor = supervisor.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut reports = BufReader::new(supervisor.stdout.take().unwrap());
    let mut report = String::new();
    while !report.contains("done") {
        assert_ne!(reports.read_line(&mut report).unwrap(), 0, "{report}");
    }
    let entries = checkout.state();
    assert!(entries[0].runs());
    // As when the parent dies.
    drop(supervisor.stdin.take());
    assert!(supervisor.wait().unwrap().success());
    assert_gone(&entries);
    assert!(!checkout.state_file().exists());
}

#[test]
fn servers_of_a_supervisor_that_was_killed_are_gone_and_replaced() {
    let checkout = Checkout::new();
    checkout.output("up --only redis,postgres");
    let entries = checkout.state();
    entries[0].supervisor.signal("KILL").unwrap();
    for entry in &entries {
        entry.servers.iter().for_each(|pid| pid.await_end().unwrap());
    }
    assert!(checkout.output("status").contains("postgres    DIED"));
    let up = checkout.output("up --only redis,postgres");
    assert_eq!(up.matches("has died: what is left of it is removed").count(), 2, "{up}");
    assert_gone(&entries);
    assert!(checkout.state().iter().all(Entry::runs));
}

#[test]
fn down_ends_no_process_that_only_has_the_number_of_an_old_one() {
    let checkout = Checkout::new();
    let mut bystander = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    checkout.output("up --only redis");
    let redis = checkout.state().remove(0);
    let earlier = format!("{}@1", bystander.id());
    let line = redis.line().replace(&redis.servers[0].to_string(), &earlier);
    fs::write(checkout.state_file(), line + "\n").unwrap();
    checkout.output("down");
    assert!(Pid::of(bystander.id()).is_some());
    redis.servers[0].await_end().unwrap();
    drop(bystander.stdin.take());
    let mut rest = String::new();
    bystander.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert!(bystander.wait().unwrap().success());
}
