//! Processes of the demo.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::program::{Program, program};

/// What browsers believe that the shop's address is.
pub(crate) const ORIGIN: &str = "http://shop.test";

/// The settings that all processes of one service share.
pub(crate) struct Fleet {
    directory: tempfile::TempDir,
    store: String,
    key: String,
    started: AtomicUsize,
}

/// A process that serves.
pub(crate) struct Process {
    child: Child,
    output: Lines<BufReader<ChildStdout>>,
    pub(crate) address: SocketAddr,
}

impl Fleet {
    pub(crate) fn new(store: &str) -> Self {
        let random = cloakroom_core::OsRandom::default();
        let key = cloakroom_core::SecretKey::generate(&random).unwrap().expose_base64().to_string();
        Self { directory: tempfile::tempdir().unwrap(), store: store.to_owned(), key, started: AtomicUsize::new(0) }
    }

    /// Starts one more, and comes back when it serves. Every other one runs on actix: they share sessions.
    pub(crate) async fn start(&self) -> Process {
        let framework = ["axum", "actix"][self.started.fetch_add(1, Ordering::Relaxed) % 2];
        let mut child = Command::new(program(Program::Demo).await)
            .args(["--framework", framework, "--listen", "127.0.0.1:0", "--origin", ORIGIN])
            .env_clear()
            .env("CLOAKROOM_STORE", &self.store)
            .env("CLOAKROOM_KEYS", &self.key)
            // Debug builds of four processes and their visitors share a few cores here.
            .env("CLOAKROOM_TIMEOUT", "20s")
            .current_dir(self.directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = None;
        while let Some(line) = output.next_line().await.unwrap() {
            if let Some((_, url)) = line.split_once("is open:  http://") {
                address = Some(url.trim().parse().unwrap());
            }
            if line.contains("Ctrl-C stops it") {
                return Process { child, output, address: address.unwrap() };
            }
        }
        let mut error = String::new();
        child.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
        panic!("it did not start:\n{error}");
    }
}

impl Process {
    /// Asks it to stop, as whoever deploys a new release does, and waits until it has.
    pub(crate) async fn stop(mut self) {
        let id = self.child.id().unwrap().to_string();
        let asked = Command::new("sh").args(["-c", "kill -s TERM -- \"$0\"", &id]).status().await.unwrap();
        assert!(asked.success());
        while self.output.next_line().await.unwrap().is_some() {}
        assert!(self.child.wait().await.unwrap().success(), "a process that is asked to stop ends well");
    }

    /// Ends it in the middle of whatever it does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }
}
