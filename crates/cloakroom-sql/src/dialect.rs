//! Every statement that is ever sent, by dialect. None is put together at run time.
//!
//! Parameters are positional, so that a statement can be repeated in one text.

/// A text of eight statements, sent at once.
macro_rules! eight {
    ($sql:expr) => {
        concat!($sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql)
    };
}

/// The columns that a record is read back from, in the order of `sqlite::row`.
macro_rules! columns {
    () => {
        "handle, revision, last_seen, idle_deadline, ended_reason, record"
    };
}

macro_rules! load {
    ($ids:literal) => {
        concat!("SELECT ", columns!(), ", id FROM cloakroom_sessions WHERE id IN (", $ids, ")")
    };
}

/// SQLite's.
pub(crate) mod sqlite {
    /// Parameters: the id.
    pub(crate) const LOAD: &str = concat!("SELECT ", columns!(), " FROM cloakroom_sessions WHERE id = ?");
    /// Parameters: up to 8 ids; what is missing is NULL and equals none.
    pub(crate) const LOAD_8: &str = load!("?,?,?,?,?,?,?,?");
    /// As `LOAD_8` with 32.
    pub(crate) const LOAD_32: &str = load!("?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?");

    /// Parameters: id, handle, revision, principal, created, last seen, idle deadline, absolute
    /// deadline, the time to look at it, record.
    pub(crate) const INSERT: &str = "INSERT INTO cloakroom_sessions \
        (id, handle, revision, principal, created, last_seen, idle_deadline, absolute_deadline, sweep_at, record) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING";

    macro_rules! update {
        () => {
            "UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = max(last_seen, ?), \
                idle_deadline = min(max(idle_deadline, ?), ?), absolute_deadline = ?, record = ? \
                WHERE id = ? AND revision = ? AND ended_at IS NULL AND idle_deadline > ? \
                AND handle = ? AND created = ? AND principal IS ?"
        };
    }
    /// Parameters: last seen, idle deadline, absolute deadline twice, record, id, expected revision,
    /// now, handle, created, principal.
    pub(crate) const UPDATE: &str = update!();
    pub(crate) const UPDATE_8: &str = eight!(update!());

    macro_rules! touch {
        () => {
            "UPDATE cloakroom_sessions SET last_seen = max(last_seen, ?), \
                idle_deadline = min(max(idle_deadline, ?), absolute_deadline) \
                WHERE id = ? AND ended_at IS NULL AND idle_deadline > ?"
        };
    }
    /// Parameters: last seen, idle deadline, id, now.
    pub(crate) const TOUCH: &str = touch!();
    pub(crate) const TOUCH_8: &str = eight!(touch!());

    /// Makes a tombstone of what is live; of what is expired, one that says so. Returns which it was.
    macro_rules! end {
        ($which:literal) => {
            concat!(
                "UPDATE cloakroom_sessions SET ended_reason = CASE WHEN idle_deadline > ? THEN ? ELSE 4 END, ",
                "ended_at = min(?, idle_deadline), principal = NULL, record = NULL ",
                "WHERE ",
                $which,
                " AND ended_at IS NULL RETURNING ended_at < idle_deadline"
            )
        };
    }
    /// Parameters: now, reason, now, id.
    pub(crate) const END: &str = end!("id = ?");
    /// Parameters: now, reason, now, principal, handle. The handle's index is the narrower one.
    pub(crate) const END_OF_OWNER: &str = end!("+principal = ? AND handle = ?");
    /// Parameters: now, reason, now, principal, the handle to spare or NULL.
    pub(crate) const END_ALL_OF_OWNER: &str = end!("principal = ? AND handle IS NOT ?");
    /// Parameters: now, successor, id.
    pub(crate) const END_RENEWED: &str = "UPDATE cloakroom_sessions \
        SET ended_reason = 3, ended_at = ?, successor = ?, principal = NULL, record = NULL \
        WHERE id = ? AND ended_at IS NULL";
    /// Parameters: id.
    pub(crate) const SUCCESSOR: &str = "SELECT successor FROM cloakroom_sessions WHERE id = ?";

    /// The live sessions of an owner but for one, oldest first. Parameters: principal, now, id.
    pub(crate) const OTHERS_OF_OWNER: &str = "SELECT id, handle FROM cloakroom_sessions \
        WHERE principal = ? AND idle_deadline > ? AND id <> ? ORDER BY created, handle";

    /// Parameters: principal, now, created and handle to start after, limit.
    pub(crate) const LIST: &str = concat!(
        "SELECT ",
        columns!(),
        ", created FROM cloakroom_sessions WHERE principal = ? AND idle_deadline > ? ",
        "AND (created, handle) > (?, ?) ORDER BY created, handle LIMIT ?"
    );

    /// Parameters: the id to start after, now, limit.
    pub(crate) const SCAN: &str = concat!(
        "SELECT ",
        columns!(),
        ", id FROM cloakroom_sessions WHERE id > ? AND ended_at IS NULL AND idle_deadline > ? ORDER BY id LIMIT ?"
    );

    /// A renewal ends a token, not the session. Parameters: handle.
    pub(crate) const EXPLAIN: &str = "SELECT ended_reason, ended_at, idle_deadline FROM cloakroom_sessions \
        WHERE handle = ? AND ended_reason IS NOT 3 ORDER BY ended_at IS NULL DESC, ended_at DESC LIMIT 1";

    /// Parameters: the oldest time to keep, limit.
    pub(crate) const SWEEP_ENDED: &str = "DELETE FROM cloakroom_sessions WHERE id IN \
        (SELECT id FROM cloakroom_sessions WHERE ended_at < ? LIMIT ?)";
    /// Of what is due, what is over becomes a tombstone and the rest is due again at its deadline.
    /// Returns which it was. Parameters: now five times, limit.
    pub(crate) const SWEEP_DUE: &str = "UPDATE cloakroom_sessions SET sweep_at = idle_deadline, \
        ended_reason = CASE WHEN idle_deadline <= ? THEN 4 END, \
        ended_at = CASE WHEN idle_deadline <= ? THEN idle_deadline END, \
        principal = CASE WHEN idle_deadline <= ? THEN NULL ELSE principal END, \
        record = CASE WHEN idle_deadline <= ? THEN NULL ELSE record END WHERE id IN \
        (SELECT id FROM cloakroom_sessions WHERE ended_at IS NULL AND sweep_at <= ? ORDER BY sweep_at LIMIT ?) \
        RETURNING ended_at IS NOT NULL";

    pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";
    pub(crate) const COMMIT: &str = "COMMIT";
    pub(crate) const ROLLBACK: &str = "ROLLBACK";

    pub(crate) const VERSION: &str = "SELECT sqlite_version()";
    pub(crate) const JOURNAL_MODE: &str = "PRAGMA journal_mode";
    pub(crate) const SET_WAL: &str = "PRAGMA journal_mode = WAL";
    pub(crate) const SYNCHRONOUS: &str = "PRAGMA synchronous";
    pub(crate) const CHECKPOINT: &str = "PRAGMA wal_checkpoint(TRUNCATE)";

    /// Whether there is a table of migrations.
    pub(crate) const HAS_MIGRATIONS: &str =
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'cloakroom_migrations'";
    /// The newest migration that was applied.
    pub(crate) const MIGRATED_TO: &str = "SELECT coalesce(max(version), 0) FROM cloakroom_migrations";
}

#[cfg(test)]
mod tests {
    use super::sqlite::*;
    use sqlx::sqlite::SqliteConnection;
    use sqlx::{AssertSqlSafe, Connection as _, Executor as _, Row as _};

    /// The steps of a statement, one a line.
    async fn plan(statement: &str) -> String {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        connection.execute(crate::migrations::SQLITE[0].sql).await.unwrap();
        let rows = connection.fetch_all(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}"))).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>("detail") + "\n").collect()
    }

    #[tokio::test]
    async fn no_statement_reads_the_whole_table_or_sorts() {
        for (statement, index) in [
            (LOAD, "PRIMARY KEY (id=?)"),
            (LOAD_32, "PRIMARY KEY (id=?)"),
            (UPDATE, "PRIMARY KEY (id=?)"),
            (TOUCH, "PRIMARY KEY (id=?)"),
            (END, "PRIMARY KEY (id=?)"),
            (END_RENEWED, "PRIMARY KEY (id=?)"),
            (SUCCESSOR, "PRIMARY KEY (id=?)"),
            (SCAN, "PRIMARY KEY (id>?)"),
            (END_OF_OWNER, "cloakroom_sessions_handle (handle=?)"),
            (EXPLAIN, "cloakroom_sessions_handle (handle=?)"),
            (END_ALL_OF_OWNER, "cloakroom_sessions_owner (principal=?)"),
            (OTHERS_OF_OWNER, "cloakroom_sessions_owner (principal=?)"),
            (LIST, "cloakroom_sessions_owner (principal=? AND (created,handle)>(?,?))"),
            (SWEEP_ENDED, "cloakroom_sessions_ended (ended_at<?)"),
            (SWEEP_DUE, "cloakroom_sessions_sweep (sweep_at<?)"),
        ] {
            let plan = plan(statement).await;
            assert!(plan.contains(index), "{statement}\n{plan}");
            let reads_all = plan.lines().any(|line| line.starts_with("SCAN") && !line.contains("CONSTANT"));
            let sorts = plan.contains("USE TEMP B-TREE FOR ORDER BY") && statement != EXPLAIN;
            assert!(!reads_all && !sorts, "{statement}\n{plan}");
        }
    }
}
