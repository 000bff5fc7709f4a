//! Where a server lives: a directory, a port, a password and an account of its own.

use std::collections::HashSet;
use std::fs;
use std::io::Read as _;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use tempfile::TempDir;

use crate::error::{Context as _, Error, Result};

/// A temporary directory that only its server's account (and root) can list.
#[derive(Debug)]
pub(crate) struct Place {
    directory: TempDir,
    account: Option<Account>,
}

impl Place {
    /// A directory for a server that runs as whoever we are.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix(&format!("cloakroom-{name}-")).tempdir();
        Ok(Self { directory: directory.context(|| "cannot create a temporary directory".to_owned())?, account: None })
    }

    /// A directory for a server that refuses to run as root: with root's rights it gets the first of
    /// these accounts that the system has.
    pub(crate) fn unprivileged(name: &str, accounts: &[&str]) -> Result<Self> {
        let mut place = Self::new(name)?;
        let owner = fs::metadata(place.path()).context(|| "cannot read a directory just created".to_owned())?.uid();
        if owner == 0 {
            let account = accounts.iter().chain(&["nobody"]).find_map(|name| Account::named(name));
            place.account =
                Some(account.ok_or_else(|| {
                    Error::new(format!("this system has none of the accounts {}", accounts.join(", ")))
                })?);
            place.own(place.path())?;
        }
        Ok(place)
    }

    /// A directory in this one, for the server's account.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.file(name);
        fs::create_dir(&directory).context(|| format!("cannot create {}", directory.display()))?;
        self.own(&directory)?;
        Ok(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file that only the server's account can read.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let file = self.file(name);
        let written = fs::write(&file, text).and_then(|()| {
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&file, private)
        });
        written.context(|| format!("cannot write {}", file.display()))?;
        self.own(&file)?;
        Ok(file)
    }

    /// Gives a file or directory to the server's account.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        let Some(account) = &self.account else { return Ok(()) };
        chown(path, Some(account.uid), Some(account.gid)).context(|| format!("cannot change the owner of {path:?}"))
    }

    /// Copies a directory with everything in it, for the server's account to own.
    pub(crate) fn copy_in(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let to = self.file(name);
        let said = crate::programs::run(Command::new("cp").args(["-a", "--reflink=auto"]).arg(from).arg(&to));
        said?;
        if let Some(account) = &self.account {
            let owner = format!("{}:{}", account.uid, account.gid);
            crate::programs::run(Command::new("chown").args(["-R", &owner]).arg(&to))?;
        }
        Ok(to)
    }

    /// Makes `command` run in this directory as the server's account.
    pub(crate) fn settle(&self, command: &mut Command) {
        use std::os::unix::process::CommandExt as _;
        command.current_dir(self.path());
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    fn named(name: &str) -> Option<Self> {
        let accounts = fs::read_to_string("/etc/passwd").ok()?;
        let mut fields = accounts.lines().map(|line| line.split(':'));
        let mut fields = fields.find_map(|mut fields| (fields.next() == Some(name)).then_some(fields))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Self { uid, gid })
    }
}

/// A loopback port that nobody listens on.
///
/// Below those that the system gives to outgoing connections, so that a server which is down for a
/// moment finds its port free again.
pub(crate) fn free_port() -> Result<u16> {
    static TAKEN: Mutex<Option<HashSet<u16>>> = Mutex::new(None);
    const FIRST: u16 = 16_000;
    const COUNT: u16 = 16_000;
    for _ in 0..200 {
        let port = FIRST + u16::from_le_bytes(random()?) % COUNT;
        let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = taken.get_or_insert_default();
        if !taken.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    Err(Error::new("found no free port among 200 tried"))
}

/// Starts a server, again with other ports if somebody took its own in the meantime.
pub(crate) fn on_free_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    let mut outcome = start();
    for _ in 0..2 {
        if !outcome.as_ref().is_err_and(Error::is_port_taken) {
            break;
        }
        outcome = start();
    }
    outcome
}

/// A password that needs no quoting anywhere.
pub(crate) fn password() -> Result<String> {
    let bytes: [u8; 16] = random()?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let read = fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    read.context(|| "cannot read /dev/urandom".to_owned())?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_given_once() {
        let ports: Vec<_> = (0..20).map(|_| free_port().unwrap()).collect();
        let distinct: HashSet<_> = ports.iter().collect();
        assert_eq!(distinct.len(), ports.len());
        let listener = TcpListener::bind(("127.0.0.1", ports[0])).unwrap();
        assert!(ports[0] < 32_768, "{listener:?} is in the range of outgoing connections");
    }

    #[test]
    fn only_a_taken_port_is_a_reason_to_try_again() {
        let tries = std::cell::Cell::new(0);
        let fail = |text: &'static str| {
            tries.set(0);
            on_free_ports(|| {
                tries.set(tries.get() + 1);
                Err::<(), _>(Error::new(text))
            })
            .unwrap_err();
            tries.get()
        };
        assert_eq!(fail("bind: Address already in use"), 3);
        assert_eq!(fail("no such option"), 1);
    }

    #[test]
    fn an_account_is_found_by_its_whole_name() {
        let root = Account::named("root").unwrap();
        assert_eq!((root.uid, root.gid), (0, 0));
        assert!(Account::named("roo").is_none());
    }
}
