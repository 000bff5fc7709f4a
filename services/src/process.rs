//! One server process: started, awaited, killed, paused, restarted, and never left behind.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Context as _, Error, Result};
use crate::place::Place;
use crate::programs::{find_program, program};

/// Far more than any of them needs, on a machine with far too much to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropping it ends the process and removes its directory.
pub struct Process {
    launch: Launch,
    place: Place,
    child: Mutex<Child>,
}

/// How a server is started and ended.
pub(crate) struct Launch {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    /// The signal after which it ends by itself, with everything written that should be.
    pub(crate) stop: &'static str,
    /// The signal for when its data are not needed any more.
    pub(crate) abandon: &'static str,
    /// Whether it answers; otherwise what it said.
    pub(crate) answers: Box<dyn Fn() -> Result<()> + Send + Sync>,
}

impl Process {
    /// Returns when the server answers.
    pub(crate) fn start(place: Place, launch: Launch) -> Result<Self> {
        let child = Mutex::new(spawn(&launch, &place)?);
        let process = Self { launch, place, child };
        process.await_answer()?;
        Ok(process)
    }

    /// The id of the process, or of the last one if it was killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// What the server wrote, since its first start.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.file(LOG)).unwrap_or_default()
    }

    /// The server's own directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    /// Ends it with SIGKILL, as a crash would, and returns when it and its children are gone.
    ///
    /// # Errors
    ///
    /// When it is still there after a minute.
    pub fn kill(&self) -> Result<()> {
        let mut child = self.child();
        let family = family(child.id());
        child.kill().context(|| format!("cannot kill {}", self.launch.name))?;
        child.wait().context(|| format!("cannot await the end of {}", self.launch.name))?;
        // The children of a server notice that it died, and must not be there when it starts again.
        poll(|| match family.iter().any(|pid| is_running(*pid)) {
            true => Err(Error::new(format!("children of {} outlive it", self.launch.name))),
            false => Ok(()),
        })
    }

    /// Stops it and its children with SIGSTOP: connections stay open, and nothing answers.
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn pause(&self) -> Result<()> {
        signal("STOP", &family(self.pid()))
    }

    /// Lets it go on after [`Process::pause`].
    ///
    /// # Errors
    ///
    /// When it is not running.
    pub fn resume(&self) -> Result<()> {
        signal("CONT", &family(self.pid()))
    }

    /// Ends it in an orderly way if it runs, starts it on the same port with the same data, and
    /// returns when it answers.
    ///
    /// # Errors
    ///
    /// When it does not end or does not answer within a minute: with the end of its log.
    pub fn restart(&self) -> Result<()> {
        self.end(self.launch.stop)?;
        *self.child() = spawn(&self.launch, &self.place)?;
        self.await_answer()
    }

    /// Ends it in an orderly way; [`Process::restart`] starts it again.
    ///
    /// # Errors
    ///
    /// When it does not end within a minute.
    pub fn stop(&self) -> Result<()> {
        self.end(self.launch.stop)
    }

    fn end(&self, with: &str) -> Result<()> {
        let mut child = self.child();
        let name = self.launch.name;
        if exited(&mut child)?.is_some() {
            return Ok(());
        }
        let family = family(child.id());
        signal(with, &[child.id()])?;
        // A paused process would notice it later only. Those of the family that are gone need not.
        signal("CONT", &family).ok();
        poll(|| match exited(&mut child)? {
            Some(_) => Ok(()),
            None => Err(Error::new(format!("{name} does not end"))),
        })
    }

    fn await_answer(&self) -> Result<()> {
        let name = self.launch.name;
        let answered = poll(|| {
            if let Some(status) = exited(&mut self.child())? {
                return Ok(Err(Error::new(format!("{name} ended with {status}"))));
            }
            (self.launch.answers)().map(Ok)
        });
        match answered {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.with_log(&error)),
            Err(error) => Err(self.with_log(&Error::new(format!("{name} does not answer: {error}")))),
        }
    }

    pub(crate) fn with_log(&self, error: &Error) -> Error {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(20)..];
        let last: String = last.iter().map(|line| format!("\n    {line}")).collect();
        Error::new(format!("{error}; the end of its log:{last}"))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let directory = self.directory();
        f.debug_struct("Process").field("name", &self.launch.name).field("directory", &directory).finish()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Whatever fails here, the next line is the last resort, and there is nobody to tell.
        if self.end(self.launch.abandon).is_err() {
            self.kill().ok();
        }
    }
}

const LOG: &str = "log";

fn spawn(launch: &Launch, place: &Place) -> Result<Child> {
    let mut command = match find_program("setpriv") {
        Some(setpriv) => {
            // The server ends with us even if we are killed.
            let mut command = Command::new(setpriv);
            command.args(["--pdeathsig", launch.abandon, "--"]).arg(&launch.program);
            command
        }
        None => Command::new(&launch.program),
    };
    place.settle(&mut command);
    let log = place.file(LOG);
    let open = || OpenOptions::new().create(true).append(true).open(&log);
    let log_error = || format!("cannot write {}", log.display());
    let (stdout, stderr): (File, File) = (open().context(log_error)?, open().context(log_error)?);
    place.own(&log)?;
    command.args(&launch.args).stdin(Stdio::null()).stdout(stdout).stderr(stderr);
    // Messages in one language, so that they can be understood by a program.
    command.env("LC_ALL", "C").env_remove("PGPASSWORD").env_remove("REDISCLI_AUTH");
    spawn_for_life(command).context(|| format!("cannot run {}", launch.program.display()))
}

/// Spawns from a thread that lives as long as the process: "ends with its parent" means the thread.
fn spawn_for_life(command: Command) -> std::io::Result<Child> {
    type Request = (Command, Sender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Sender<Request>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = channel::<Request>();
        std::thread::spawn(move || {
            for (mut command, reply) in requests {
                // Whoever asked is waiting for it.
                reply.send(command.spawn()).ok();
            }
        });
        sender
    });
    let (reply, child) = channel();
    let gone = || std::io::Error::other("the thread that starts servers is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn exited(child: &mut Child) -> Result<Option<ExitStatus>> {
    child.try_wait().context(|| "cannot ask for the state of a child process".to_owned())
}

/// Tries until it succeeds; after a minute the last error stands.
pub(crate) fn poll<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(2);
    loop {
        match attempt() {
            Err(_) if begun.elapsed() < PATIENCE => pause_between_attempts(pause),
            Err(error) => {
                return Err(Error::new(format!("{error} (waited {} s)", PATIENCE.as_secs())));
            }
            done => return done,
        }
        pause = (pause * 3 / 2).min(Duration::from_millis(50));
    }
}

#[allow(clippy::disallowed_methods, reason = "another process gives no event to wait for, and no runtime is here")]
fn pause_between_attempts(pause: Duration) {
    std::thread::sleep(pause);
}

/// Sends a signal by the shell, which has it built in.
pub(crate) fn signal(name: &str, pids: &[u32]) -> Result<()> {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    let line = format!("kill -{name} {}", pids.join(" "));
    crate::programs::run(Command::new(program("sh")?).args(["-c", &line])).map(drop)
}

/// A process and what it started.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    let mut family = vec![pid];
    family.extend(children.flat_map(self::family));
    family
}

/// Whether there is such a process, and it has not ended.
pub(crate) fn is_running(pid: u32) -> bool {
    start_time(pid).is_some()
}

/// When a running process started, in the kernel's ticks: tells it from a later one with its id.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program may contain anything, also blanks and parentheses.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(script: &str, answers: fn() -> Result<()>) -> Result<Process> {
        let launch = Launch {
            name: "a server",
            program: program("sh")?,
            args: vec!["-c".to_owned(), script.to_owned()],
            stop: "TERM",
            abandon: "KILL",
            answers: Box::new(answers),
        };
        Process::start(Place::new("test")?, launch)
    }

    #[test]
    fn a_server_that_ends_at_once_is_refused_with_its_log() {
        let refused = start("echo out; echo no such option >&2; exit 7", || Err(Error::new("silent"))).unwrap_err();
        let expected = "a server ended with exit status: 7; the end of its log:\n    out\n    no such option";
        assert_eq!(refused.to_string(), expected);
    }

    #[test]
    fn dropping_ends_the_process_and_removes_the_directory() {
        let process = start("exec sleep 1000", || Ok(())).unwrap();
        let (pid, directory) = (process.pid(), process.directory().to_owned());
        assert!(is_running(pid) && directory.exists());
        drop(process);
        assert!(!is_running(pid) && !directory.exists());
    }

    #[test]
    fn dropping_a_paused_process_ends_it() {
        let process = start("exec sleep 1000", || Ok(())).unwrap();
        process.pause().unwrap();
        let pid = process.pid();
        drop(process);
        assert!(!is_running(pid));
    }

    #[test]
    fn a_restart_is_another_process_in_the_same_directory() {
        let process = start("exec sleep 1000", || Ok(())).unwrap();
        let before = process.pid();
        process.restart().unwrap();
        let restarted = process.pid();
        assert!(before != restarted && !is_running(before) && is_running(restarted));
        process.kill().unwrap();
        process.kill().unwrap();
        process.restart().unwrap();
        assert!(!is_running(restarted) && is_running(process.pid()));
    }

    #[test]
    fn a_server_outlives_the_thread_that_started_it() {
        let started = std::thread::spawn(|| start("exec sleep 1000", || Ok(())).unwrap());
        let process = started.join().unwrap();
        assert!(exited(&mut process.child()).unwrap().is_none());
        assert!(is_running(process.pid()));
    }

    #[test]
    fn a_process_that_ended_has_no_start_time() {
        let own = std::process::id();
        assert!(start_time(own).is_some());
        let mut child = Command::new("true").spawn().unwrap();
        poll(|| if is_running(child.id()) { Err(Error::new("runs")) } else { Ok(()) }).unwrap();
        child.wait().unwrap();
        assert!(!is_running(child.id()));
    }
}
