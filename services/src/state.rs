//! What `cargo xtask services up` started, written down in the target directory.

use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Error, Result};
use crate::process;
use crate::shared::Running;

/// One shared server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of its kind.
    pub name: String,
    /// Where tests connect, with a password.
    pub url: String,
    /// The process that started it and ends it.
    pub supervisor: Pid,
    /// Its processes.
    pub servers: Vec<Pid>,
    /// Their directories.
    pub directories: Vec<PathBuf>,
}

/// A process, told from a later one with the same id by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pid {
    id: u32,
    started: u64,
}

/// The directory of the state file, in the target directory of whatever program this is.
#[must_use]
pub fn directory() -> PathBuf {
    target_directory().join("services")
}

/// What was started and not stopped. Whether it still runs is another question: [`Entry::runs`].
///
/// # Errors
///
/// When the file is there and cannot be read.
pub fn read() -> Result<Vec<Entry>> {
    let file = file();
    match fs::read_to_string(&file) {
        Ok(text) => {
            let entries: Option<Vec<_>> = text.lines().map(Entry::parse).collect();
            entries.ok_or_else(|| {
                Error::new(format!("{} has an unknown form: remove it, and end what it lists", file.display()))
            })
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error).context(|| format!("cannot read {}", file.display())),
    }
}

/// Changes what is written down, one process at a time; nobody ever reads half of it.
///
/// # Errors
///
/// When the file cannot be read or written.
pub fn change(change: impl FnOnce(&mut Vec<Entry>)) -> Result<()> {
    let directory = directory();
    fs::create_dir_all(&directory).context(|| format!("cannot create {}", directory.display()))?;
    let lock = File::create(directory.join("lock")).context(|| "cannot write a lock".to_owned())?;
    lock.lock().context(|| "cannot lock the list of servers".to_owned())?;
    let mut entries = read()?;
    change(&mut entries);
    let file = file();
    if entries.is_empty() {
        return match fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context(|| format!("cannot remove {}", file.display()))
            }
            _ => Ok(()),
        };
    }
    let text: String = entries.iter().map(|entry| entry.line() + "\n").collect();
    let new = directory.join("state.new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).context(|| format!("cannot write {}", file.display()))
}

impl Entry {
    /// The entry of a server that this process started.
    #[must_use]
    pub fn of(name: &str, running: &Running) -> Self {
        let processes = running.processes();
        Self {
            name: name.to_owned(),
            url: running.url().to_owned(),
            supervisor: Pid::own(),
            servers: processes.iter().filter_map(|process| Pid::of(process.pid())).collect(),
            directories: processes.iter().map(|process| process.directory().to_owned()).collect(),
        }
    }

    /// Whether all of its processes run.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.supervisor.runs() && self.servers.iter().all(Pid::runs)
    }

    /// One line: fields between tabs, the last two of them lists.
    #[must_use]
    pub fn line(&self) -> String {
        let servers: Vec<_> = self.servers.iter().map(Pid::to_string).collect();
        let directories: Vec<_> = self.directories.iter().map(|path| path.display().to_string()).collect();
        let supervisor = self.supervisor.to_string();
        [&self.name, &self.url, &supervisor, &servers.join(","), &directories.join(",")].map(String::as_str).join("\t")
    }

    /// Reads [`Entry::line`].
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split('\t').collect();
        let [name, url, supervisor, servers, directories] = fields[..] else { return None };
        Some(Self {
            name: name.to_owned(),
            url: url.to_owned(),
            supervisor: Pid::parse(supervisor)?,
            servers: servers.split(',').map(Pid::parse).collect::<Option<_>>()?,
            directories: directories.split(',').map(PathBuf::from).collect(),
        })
    }
}

impl Pid {
    /// A running process.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        Some(Self { id, started: process::start_time(id)? })
    }

    /// This process.
    #[must_use]
    pub fn own() -> Self {
        let id = std::process::id();
        Self { id, started: process::start_time(id).unwrap_or_default() }
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether that very process runs.
    #[must_use]
    pub fn runs(&self) -> bool {
        process::start_time(self.id) == Some(self.started)
    }

    /// Sends a signal, such as `TERM`, if that very process runs.
    ///
    /// # Errors
    ///
    /// When that is not allowed.
    pub fn signal(&self, name: &str) -> Result<()> {
        let sent = if self.runs() { process::signal(name, &[self.id]) } else { Ok(()) };
        // It may have ended in between, by itself.
        if self.runs() { sent } else { Ok(()) }
    }

    /// Waits until that very process is gone.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_end(&self) -> Result<()> {
        process::poll(|| match self.runs() {
            true => Err(Error::new(format!("process {} does not end", self.id))),
            false => Ok(()),
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, started) = text.split_once('@')?;
        Some(Self { id: id.parse().ok()?, started: started.parse().ok()? })
    }
}

impl fmt::Display for Pid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.id, self.started)
    }
}

fn file() -> PathBuf {
    directory().join("state")
}

/// Cargo marks it. Programs of doctests are built elsewhere and take that of the checkout.
fn target_directory() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let marked = program.ancestors().find(|directory| directory.join("CACHEDIR.TAG").exists());
    marked.map(Path::to_owned).unwrap_or_else(|| {
        let own = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
        let root = Path::new(&own).ancestors().find(|directory| directory.join("Cargo.lock").exists());
        root.unwrap_or(Path::new(".")).join("target")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            name: "redis".to_owned(),
            url: "redis://default:secret@127.0.0.1:1/0".to_owned(),
            supervisor: Pid { id: 1, started: 2 },
            servers: vec![Pid { id: 3, started: 4 }, Pid { id: 5, started: 6 }],
            directories: vec![PathBuf::from("a"), PathBuf::from("b")],
        }
    }

    #[test]
    fn an_entry_is_read_as_it_was_written() {
        assert_eq!(Entry::parse(&entry().line()), Some(entry()));
        assert_eq!(Entry::parse("redis\turl"), None);
    }

    #[test]
    fn a_later_process_with_the_same_id_is_not_the_same() {
        let own = Pid::own();
        let earlier = Pid { started: own.started - 1, ..own };
        assert!(own.runs() && !earlier.runs());
        // Nothing is sent: otherwise this test would end here.
        earlier.signal("KILL").unwrap();
    }
}
