//! The process that owns the shared servers.
//!
//! It starts them, says how that went, and then waits on its standard input. Told to keep them, it
//! stays behind when its parent leaves. Otherwise it ends them when the input closes: which is when
//! the parent is done, or dead, however it died.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use cloakroom_services::shared::{Running, Service};
use cloakroom_services::state::{self, Entry, Pid};
use serde_json::{Value, json};

use super::text;
use crate::Result;

const KEEP: &str = "keep";

/// Shared servers that end with this process, unless it said before that they shall stay.
#[derive(Debug)]
pub(crate) struct Held {
    /// `None` where there was nothing to start.
    supervisor: Option<Supervisor>,
}

#[derive(Debug)]
struct Supervisor {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// Starts these servers, and says how each of them went. If one fails, none is left.
pub(super) fn start(services: &[&'static Service]) -> Result<Held> {
    if services.is_empty() {
        return Ok(Held { supervisor: None });
    }
    let names: Vec<_> = services.iter().map(|service| service.name).collect();
    println!("Starting {} in temporary directories, on free ports of 127.0.0.1:", names.join(", "));
    let begun = Instant::now();
    let mut supervisor = Supervisor::spawn(&names)?;
    let failures = supervisor.relay_progress()?;
    if failures == 0 {
        println!("All are up after {:.1} s.", begun.elapsed().as_secs_f64());
        return Ok(Held { supervisor: Some(supervisor) });
    }
    supervisor.end()?;
    Err(format!("of {} servers {failures} did not start, see above; the others were stopped", services.len()))
}

impl Held {
    /// Leaves the servers running after this process.
    pub(super) fn keep(self) -> Result<()> {
        let Some(mut supervisor) = self.supervisor else { return Ok(()) };
        writeln!(supervisor.input, "{KEEP}").map_err(|e| format!("cannot reach the supervisor: {e}"))
    }

    /// Stops the servers, and returns when they are gone.
    pub(crate) fn end(self) -> Result<()> {
        let Some(supervisor) = self.supervisor else { return Ok(()) };
        supervisor.end()?;
        println!("The servers that were started for this are stopped, and their directories removed.");
        Ok(())
    }
}

impl Supervisor {
    fn spawn(names: &[&str]) -> Result<Self> {
        let own = std::env::current_exe().map_err(|e| format!("cannot find this program: {e}"))?;
        let log = fs::create_dir_all(state::directory()).and_then(|()| File::create(log()));
        let log = log.map_err(|e| format!("cannot write the log of the supervisor: {e}"))?;
        let mut command = Command::new(own);
        command.args(["services", "supervise", "--only", &names.join(",")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log);
        // Ctrl-C is for us; it notices that we are gone.
        command.process_group(0);
        let mut process = command.spawn().map_err(|e| format!("cannot start the supervisor: {e}"))?;
        let pipes = process.stdin.take().zip(process.stdout.take());
        let (input, output) = pipes.ok_or("the supervisor was started without pipes")?;
        Ok(Self { process, input, output: BufReader::new(output) })
    }

    /// Prints what the supervisor reports, until it has nothing more to do; returns how many failed.
    fn relay_progress(&mut self) -> Result<usize> {
        let mut failures = 0;
        for line in self.output.by_ref().lines() {
            let line = line.map_err(|e| format!("cannot read from the supervisor: {e}"))?;
            let report: Value = serde_json::from_str(&line).unwrap_or_default();
            let word = |key: &str| report[key].as_str().unwrap_or_default().to_owned();
            let seconds = report["seconds"].as_f64().unwrap_or_default();
            match word("is").as_str() {
                "up" => println!("  {:<11} is up after {seconds:.1} s", word("name")),
                "failed" => {
                    println!("  {:<11} FAILED after {seconds:.1} s: {}", word("name"), word("error"));
                    failures += 1;
                }
                "done" => return Ok(failures),
                _ => return Err(format!("the supervisor says `{line}`")),
            }
        }
        let log = fs::read_to_string(log()).unwrap_or_default();
        Err(format!("the supervisor ended early: {log}"))
    }

    fn end(mut self) -> Result<()> {
        drop(self.input);
        let status = self.process.wait().map_err(|e| format!("cannot await the supervisor: {e}"))?;
        if status.success() { Ok(()) } else { Err(format!("the supervisor ended with {status}")) }
    }
}

/// Where a panic of the supervisor would be.
fn log() -> PathBuf {
    state::directory().join("supervisor.log")
}

/// The supervisor's own work, in a process that `Held` started.
pub(super) fn supervise(services: &[&'static Service]) -> Result<()> {
    let running: Vec<Running> = std::thread::scope(|scope| {
        let starting: Vec<_> = services.iter().map(|service| scope.spawn(move || start_one(service))).collect();
        starting.into_iter().filter_map(|thread| thread.join().ok().flatten()).collect()
    });
    report(&json!({ "is": "done" }));
    let mut line = String::new();
    let read = std::io::stdin().read_line(&mut line);
    while read.is_ok() && line.trim() == KEEP {
        std::thread::park();
    }
    drop(running);
    let own = Pid::own();
    state::change(|entries| entries.retain(|entry| entry.supervisor != own)).map_err(text)
}

fn start_one(service: &Service) -> Option<Running> {
    let begun = Instant::now();
    let started = service.start().and_then(|running| {
        let entry = Entry::of(service.name, &running);
        state::change(|entries| entries.push(entry)).map(|()| running)
    });
    let seconds = begun.elapsed().as_secs_f64();
    match started {
        Ok(running) => {
            report(&json!({ "is": "up", "name": service.name, "seconds": seconds }));
            Some(running)
        }
        Err(error) => {
            report(&json!({ "is": "failed", "name": service.name, "seconds": seconds, "error": error.to_string() }));
            None
        }
    }
}

fn report(report: &Value) {
    // A parent that is gone reads nothing, and the closed input says so next.
    let mut output = std::io::stdout();
    writeln!(output, "{report}").and_then(|()| output.flush()).ok();
}

/// Ends what is left of a server and its supervisor, and removes its directories.
pub(super) fn remove(entry: &Entry) -> Result<()> {
    for pid in [&entry.supervisor].into_iter().chain(&entry.servers) {
        pid.signal("TERM").map_err(text)?;
    }
    for pid in [&entry.supervisor].into_iter().chain(&entry.servers) {
        pid.await_end().map_err(text)?;
    }
    for directory in &entry.directories {
        if directory.exists() {
            fs::remove_dir_all(directory).map_err(|e| format!("cannot remove {}: {e}", directory.display()))?;
        }
    }
    Ok(())
}
