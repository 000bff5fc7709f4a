//! The tables, as numbered steps that are embedded, can be printed, and are applied in order.

/// One step from one version of the tables to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Migration {
    /// The version of the tables after it.
    pub version: u32,
    /// What it is about.
    pub name: &'static str,
    /// The statements, which also file that they ran.
    pub sql: &'static str,
}

/// SQLite's, oldest first.
#[cfg(feature = "sqlite")]
pub(crate) const SQLITE: &[Migration] =
    &[Migration { version: 1, name: "sessions", sql: include_str!("../migrations/sqlite/0001_sessions.sql") }];

/// MySQL's and MariaDB's, oldest first.
#[cfg(feature = "mysql")]
pub(crate) const MYSQL: &[Migration] =
    &[Migration { version: 1, name: "sessions", sql: include_str!("../migrations/mysql/0001_sessions.sql") }];

/// The statements of a script of MySQL's, whose own client knows them apart by the `DELIMITER` that
/// ends their last line.
#[cfg(feature = "mysql")]
pub(crate) fn split(script: &str) -> Vec<String> {
    let (mut delimiter, mut statements, mut statement) = (";", Vec::new(), String::new());
    for line in script.lines().filter(|line| !line.trim_start().starts_with("--")) {
        if let Some(new) = line.strip_prefix("DELIMITER ") {
            delimiter = new;
        } else if let Some(last) = line.strip_suffix(delimiter) {
            statement.push_str(last);
            statements.push(std::mem::take(&mut statement).trim().to_owned());
        } else {
            statement.push_str(line);
            statement.push('\n');
        }
    }
    statements
}

/// PostgreSQL's, oldest first.
#[cfg(feature = "postgres")]
pub(crate) const POSTGRES: &[Migration] =
    &[Migration { version: 1, name: "sessions", sql: include_str!("../migrations/postgres/0001_sessions.sql") }];
