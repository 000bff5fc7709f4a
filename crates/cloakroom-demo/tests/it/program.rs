//! The program itself: how it starts, what it says, and how it stops.

use std::path::Path;
use std::process::{ExitStatus, Stdio};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines};
use tokio::net::TcpListener;
use tokio::process::{Child, ChildStdout, Command};

use crate::support::{Framework, Visitor, on_both_frameworks, signal};

on_both_frameworks!(
    a_first_start_makes_what_it_needs_and_a_second_one_finds_it,
    one_variable_chooses_where_sessions_live,
    the_lines_for_curl_in_the_help_sign_in_and_add_64_articles,
);

const PROGRAM: &str = env!("CARGO_BIN_EXE_cloakroom-demo");

fn command(directory: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().envs(variables.iter().copied()).current_dir(directory);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// A program that serves.
struct Running {
    process: Child,
    output: Lines<BufReader<ChildStdout>>,
    said: String,
    url: String,
}

impl Running {
    async fn start(framework: Framework, directory: &Path, variables: &[(&str, &str)]) -> Self {
        let framework = framework.to_string();
        let arguments = ["--framework", &framework, "--listen", "127.0.0.1:0"];
        let mut process = command(directory, &arguments, variables).spawn().unwrap();
        let mut output = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = String::new();
        while let Some(line) = output.next_line().await.unwrap() {
            said += &line;
            said.push('\n');
            if line.contains("Ctrl-C stops it") {
                let (_, url) = said.split_once("is open:  ").unwrap();
                let url = url.lines().next().unwrap().to_owned();
                return Self { process, output, said, url };
            }
        }
        let mut error = String::new();
        process.stderr.take().unwrap().read_to_string(&mut error).await.unwrap();
        panic!("it did not start:\n{said}\n{error}");
    }

    async fn stop(mut self) -> ExitStatus {
        signal("TERM", &self.process.id().unwrap().to_string());
        while self.output.next_line().await.unwrap().is_some() {}
        self.process.wait().await.unwrap()
    }
}

async fn a_first_start_makes_what_it_needs_and_a_second_one_finds_it(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let first = Running::start(framework, directory.path(), &[]).await;
    assert!(first.said.contains("sessions are in .cloakroom/sessions.db"), "{}", first.said);
    assert!(first.said.contains(".cloakroom/key"), "{}", first.said);
    assert!(first.said.contains(&format!("Served by  {framework}")), "{}", first.said);
    let visitor = Visitor::of(&first.url);
    visitor.add("coat").await;
    visitor.sign_in("ada@example.org").await;
    assert!(first.stop().await.success());

    let second = Running::start(framework, directory.path(), &[]).await;
    let returning = Visitor::of(&second.url);
    returning.set_cookie(visitor.cookie());
    assert!(returning.is_signed_in().await);
    assert_eq!(returning.cart_count().await, 1);
    assert!(second.stop().await.success());
}

async fn one_variable_chooses_where_sessions_live(framework: Framework) {
    for store in ["memory", "cookie", "sqlite:a.db", "cookie+sqlite:b.db"] {
        let directory = tempfile::tempdir().unwrap();
        let running = Running::start(framework, directory.path(), &[("CLOAKROOM_STORE", store)]).await;
        let kind = store.split([':', '+']).next().unwrap();
        assert!(running.said.contains(kind), "{store}: {}", running.said);
        let visitor = Visitor::of(&running.url);
        visitor.sign_in("ada@example.org").await;
        assert!(visitor.is_signed_in().await, "{store}");
        assert!(running.stop().await.success(), "{store}");
    }
}

/// What a start that fails says.
async fn refused(arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let output = command(directory.path(), arguments, variables).output().await.unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none(), "a refused start left files");
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_start_that_cannot_work_says_why_and_what_to_do() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refused(&["--listen", &address], &[]).await;
    assert!(
        said.contains(&format!("cannot listen on {address}")) && said.contains("-- --listen 127.0.0.1:3001"),
        "{said}"
    );
    let said = refused(&[], &[("CLOAKROOM_DEMO_LISTEN", "nonsense")]).await;
    assert!(said.contains("cannot listen on nonsense"), "{said}");
    let said = refused(&[], &[("CLOAKROOM_IDLE", "forever")]).await;
    assert!(said.contains("idle (environment variable CLOAKROOM_IDLE)") && said.contains("instead:"), "{said}");
    let said = refused(&["--port", "1"], &[]).await;
    assert!(said.contains("there is no argument `--port`; see --help"), "{said}");
    let said = refused(&["--framework", "rocket"], &[]).await;
    assert!(said.contains("there is no framework `rocket`; there are: axum, actix"), "{said}");
    let said = refused(&["--listen"], &[]).await;
    assert!(said.contains("--listen needs a value"), "{said}");
}

async fn the_lines_for_curl_in_the_help_sign_in_and_add_64_articles(framework: Framework) {
    let directory = tempfile::tempdir().unwrap();
    let help = command(directory.path(), &["--help"], &[]).output().await.unwrap();
    assert!(help.status.success());
    let help = String::from_utf8(help.stdout).unwrap();
    let running = Running::start(framework, directory.path(), &[]).await;
    let (_, recipe) = help.split_once("  url=http://127.0.0.1:3000\n").unwrap();
    let script = format!("set -e\nurl={}\n{recipe}", running.url);
    let done = Command::new("sh").arg("-c").arg(&script).current_dir(directory.path()).output().await.unwrap();
    let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(
        done.status.success() && out.ends_with("id=\"count\">64\n"),
        "is curl installed?\n{script}\n{out}\n{error}"
    );
    assert!(running.stop().await.success());
}
