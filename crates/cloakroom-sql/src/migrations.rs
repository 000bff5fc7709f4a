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
pub(crate) const SQLITE: &[Migration] =
    &[Migration { version: 1, name: "sessions", sql: include_str!("../migrations/sqlite/0001_sessions.sql") }];
