//! Processes of the demo.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

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
        let mut child = Command::new(program().await)
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

/// The demo's program: the one that was built with these tests if it is of this source, otherwise built
/// now.
async fn program() -> &'static Path {
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let find = async || match up_to_date() {
        Some(program) => program,
        None => build().await,
    };
    PROGRAM.get_or_init(find).await
}

/// The program beside this one, unless a source file is newer.
fn up_to_date() -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap().parent()?.parent()?.join("cloakroom-demo");
    let built = program.metadata().ok()?.modified().ok()?;
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    (newest(&sources) < built).then_some(program)
}

/// When a file of a crate changed last, its tests aside.
fn newest(directory: &Path) -> SystemTime {
    let entries = directory.read_dir().unwrap().map(Result::unwrap);
    let times = entries.filter(|entry| entry.file_name() != "tests").map(|entry| {
        if entry.file_type().unwrap().is_dir() {
            newest(&entry.path())
        } else {
            entry.metadata().unwrap().modified().unwrap()
        }
    });
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

async fn build() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--package", "cloakroom-demo", "--message-format", "json-render-diagnostics"])
        .arg("--manifest-path")
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(built.status.success(), "the demo does not build");
    let messages = String::from_utf8(built.stdout).unwrap();
    let executable = messages.lines().rev().find_map(|line| {
        let (_, path) = line.split_once("\"executable\":\"")?;
        path.split('"').next().map(PathBuf::from)
    });
    executable.expect("cargo built the demo and did not say where")
}
