//! Where the servers' programs are.

use std::path::PathBuf;
use std::process::Command;

use crate::error::{Context as _, Error, Result};

/// Every program that is run here, and the Debian package that has it.
pub const PROGRAMS: &[(&str, &str)] = &[
    ("redis-server", "redis-server"),
    ("redis-cli", "redis-tools"),
    ("postgres", "postgresql"),
    ("initdb", "postgresql"),
    ("psql", "postgresql-client"),
    ("pgbouncer", "pgbouncer"),
    ("mariadbd", "mariadb-server"),
    ("mariadb-install-db", "mariadb-server"),
    ("mariadb", "mariadb-client"),
    ("openssl", "openssl"),
];

/// Finds a program on the search path, among the system's programs, and where Debian keeps those of
/// PostgreSQL (the newest version first).
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let directories = std::env::split_paths(&path).chain(system).chain(postgres_directories());
    directories.map(|directory| directory.join(name)).find(|file| file.is_file())
}

fn postgres_directories() -> Vec<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    let mut versions: Vec<_> = versions.map(|entry| entry.path()).filter(|path| number(path).is_some()).collect();
    versions.sort_by_key(number);
    versions.into_iter().rev().map(|version| version.join("bin")).collect()
}

/// As [`find_program`], with the package to install as the error.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    find_program(name).ok_or_else(|| {
        let package = PROGRAMS.iter().find(|(program, _)| *program == name).map_or(name, |(_, package)| package);
        Error::new(format!("there is no `{name}`: `cargo xtask services up` installs it, or apt-get install {package}"))
    })
}

/// Runs a command to its end and returns what it wrote; its own words are the error when it fails.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().context(|| format!("cannot run {name}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = [text(&output.stderr), text(&output.stdout)];
    let said: Vec<_> = said.iter().filter(|text| !text.is_empty()).map(String::as_str).collect();
    Err(Error::new(format!("{name} ended with {}: {}", output.status, said.join("\n"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_refused_with_the_package_that_has_it() {
        assert!(find_program("no-such-program").is_none());
        let error = program("no-such-program").unwrap_err().to_string();
        assert!(error.contains("apt-get install no-such-program"), "{error}");
    }

    #[test]
    fn a_failed_command_speaks_for_itself() {
        let error = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err();
        assert_eq!(error.to_string(), "sh ended with exit status: 3: err\nout");
    }
}
