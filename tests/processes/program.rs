//! The programs that run: those that were built with these tests if they are of this source, otherwise built now.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::SystemTime;

use tokio::process::Command;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Program {
    Demo,
    /// The example of connections that end with their session, on axum.
    Live,
    /// The same on actix-web.
    LiveActix,
}

impl Program {
    /// Beside the directory of the tests.
    const fn file(self) -> &'static str {
        match self {
            Self::Demo => "cloakroom-demo",
            Self::Live => "examples/live",
            Self::LiveActix => "examples/live_actix",
        }
    }

    const fn build(self) -> &'static [&'static str] {
        match self {
            Self::Demo => &["--package", "cloakroom-demo"],
            Self::Live => &["--package", "cloakroom", "--all-features", "--example", "live"],
            Self::LiveActix => &["--package", "cloakroom", "--all-features", "--example", "live_actix"],
        }
    }
}

pub(crate) async fn program(which: Program) -> PathBuf {
    match up_to_date(which) {
        Some(program) => program,
        None => build(which).await,
    }
}

/// The program beside this one, unless a source file is newer.
fn up_to_date(which: Program) -> Option<PathBuf> {
    let program = std::env::current_exe().unwrap().parent()?.parent()?.join(which.file());
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

async fn build(which: Program) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--message-format", "json-render-diagnostics"])
        .args(which.build())
        .arg("--manifest-path")
        .arg(manifest)
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(built.status.success(), "{which:?} does not build");
    let messages = String::from_utf8(built.stdout).unwrap();
    let executable = messages.lines().rev().find_map(|line| {
        let (_, path) = line.split_once("\"executable\":\"")?;
        path.split('"').next().map(PathBuf::from)
    });
    executable.expect("cargo built it and did not say where")
}
