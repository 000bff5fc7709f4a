//! Every statement that is ever sent, by dialect. None is put together at run time.
//!
//! Parameters are positional, so that a statement can be repeated in one text.

#[cfg(test)]
#[cfg(feature = "postgres")]
mod postgres_plans;

/// A text of eight statements, sent at once.
#[cfg(feature = "sqlite")]
macro_rules! eight {
    ($sql:expr) => {
        concat!($sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql, ";", $sql)
    };
}

/// The columns that a record is read back from, in the order of `sqlite::row`.
#[cfg(feature = "sqlite")]
macro_rules! columns {
    () => {
        "handle, revision, last_seen, idle_deadline, ended_reason, record"
    };
}

#[cfg(feature = "sqlite")]
macro_rules! load {
    ($ids:literal) => {
        concat!("SELECT ", columns!(), ", id FROM cloakroom_sessions WHERE id IN (", $ids, ")")
    };
}

/// SQLite's.
#[cfg(feature = "sqlite")]
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

/// MySQL's and MariaDB's. Tables and procedures begin with the prefix, which [`Statements`] puts in
/// place of `cloakroom_` once, when the store is opened.
///
/// A parameter of every statement that a call sends is the number of the question, the last unless it
/// says otherwise, and the answer repeats it: in the first column, or, where there are no rows, as the
/// last inserted id.
#[cfg(feature = "mysql")]
pub(crate) mod mysql {
    use std::sync::Arc;

    use sqlx::{AssertSqlSafe, SqlSafeStr as _, SqlStr};

    use crate::prefix::TablePrefix;

    /// The server's time when the statement waits for no lock any more. Nothing where a parameter is
    /// the time to decide by.
    macro_rules! now {
        () => {
            "COALESCE(?, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED))"
        };
    }

    /// The server's time, and the columns that a record is read back from, in the order of `mysql::row`,
    /// which has the number before them.
    macro_rules! columns {
        () => {
            "CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED), s.handle, s.revision, s.last_seen, s.idle_deadline, \
                CAST(s.ended_reason AS SIGNED) AS ended_reason, s.record"
        };
    }

    /// For the end of the condition of a statement that changes rows: where it changes one, the server
    /// keeps the number.
    macro_rules! and_number {
        () => {
            " AND LAST_INSERT_ID(?) > 0"
        };
    }

    /// Only asks whether the answers still belong to the questions. Parameters: the number.
    pub(crate) const PROOF: &str = "SELECT CAST(? AS SIGNED)";

    /// A row for each id, whether there is a session or not.
    macro_rules! load {
        ($($more:expr),*) => {
            concat!(
                "SELECT CAST(? AS SIGNED), ",
                columns!(),
                ", t.id FROM (SELECT CAST(? AS BINARY(26)) AS id",
                $($more,)*
                ") t LEFT JOIN cloakroom_sessions s ON s.id = t.id"
            )
        };
    }
    /// Without the length, the rows would be kept on the disk.
    macro_rules! id {
        () => {
            " UNION ALL SELECT CAST(? AS BINARY(26))"
        };
    }
    macro_rules! four_ids {
        () => {
            concat!(id!(), id!(), id!(), id!())
        };
    }

    /// Parameters: the number, the id.
    const LOAD: &str = load!();
    /// Parameters: the number, up to 4 ids; what is missing is NULL and equals none.
    const LOAD_4: &str = load!(id!(), id!(), id!());
    /// As `LOAD_4` with 12.
    const LOAD_12: &str = load!(id!(), id!(), id!(), four_ids!(), four_ids!());
    /// As `LOAD_4` with 32.
    const LOAD_32: &str = load!(
        id!(),
        id!(),
        id!(),
        four_ids!(),
        four_ids!(),
        four_ids!(),
        four_ids!(),
        four_ids!(),
        four_ids!(),
        four_ids!()
    );

    /// Parameters: id, handle, principal, created, last seen, idle deadline, absolute deadline, the
    /// time to look at it, record.
    const INSERT: &str = "INSERT INTO cloakroom_sessions \
        (id, handle, principal, created, last_seen, idle_deadline, absolute_deadline, sweep_at, record, revision) \
        VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, SIGN(LAST_INSERT_ID(?)))";
    /// Parameters: last seen, idle deadline, absolute deadline twice, record, id, expected revision,
    /// handle, created, principal, now.
    const UPDATE: &str = concat!(
        "UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, ?), ",
        "idle_deadline = LEAST(GREATEST(idle_deadline, ?), ?), absolute_deadline = ?, record = ? ",
        "WHERE id = ? AND revision = ? AND ended_at IS NULL ",
        "AND handle = ? AND created = ? AND principal <=> ? AND idle_deadline > ",
        now!(),
        and_number!()
    );
    /// Parameters: last seen, idle deadline, id, now.
    const TOUCH: &str = concat!(
        "UPDATE cloakroom_sessions SET last_seen = GREATEST(last_seen, ?), ",
        "idle_deadline = LEAST(GREATEST(idle_deadline, ?), absolute_deadline) ",
        "WHERE id = ? AND ended_at IS NULL AND idle_deadline > ",
        now!(),
        and_number!()
    );

    /// Without the length, the rows would be kept on the disk.
    macro_rules! one_row {
        () => {
            " UNION ALL SELECT CAST(? AS BINARY(26)), ?, ?"
        };
    }
    macro_rules! eight_rows {
        () => {
            concat!(one_row!(), one_row!(), one_row!(), one_row!(), one_row!(), one_row!(), one_row!(), one_row!())
        };
    }
    /// As many touches as [`TOUCHES`], each of a session that is nowhere else in it; what is missing
    /// is NULL. Parameters: of each id, last seen, idle deadline; then now.
    const TOUCH_MANY: &str = concat!(
        "UPDATE cloakroom_sessions s JOIN (SELECT CAST(? AS BINARY(26)) AS id, ? AS last_seen, ? AS idle_deadline",
        eight_rows!(),
        eight_rows!(),
        eight_rows!(),
        eight_rows!(),
        ") t ON s.id = t.id SET s.last_seen = GREATEST(s.last_seen, t.last_seen), ",
        "s.idle_deadline = LEAST(GREATEST(s.idle_deadline, t.idle_deadline), s.absolute_deadline) ",
        "WHERE s.ended_at IS NULL AND s.idle_deadline > ",
        now!(),
        and_number!()
    );
    pub(crate) const TOUCHES: usize = 33;

    /// Parameters: now, id, handle, principal, created, last seen, idle deadline, absolute deadline,
    /// record, the most sessions, whether the oldest make room.
    const CREATE: &str = "CALL cloakroom_create(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    /// Parameters: now, and eight times those of `UPDATE` up to the principal, with the absolute
    /// deadline once.
    const UPDATE_8: &str = concat!(
        "CALL cloakroom_update_8(?, ",
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ",
        "?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    pub(crate) const UPDATES: usize = 8;
    /// Parameters: now, old id, expected revision, format of records, then as of `CREATE`.
    const RENEW: &str = "CALL cloakroom_renew(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    /// Parameters: now, id, reason.
    const DELETE: &str = "CALL cloakroom_delete(?, ?, ?, ?)";
    /// Parameters: now, principal, handle.
    const REVOKE: &str = "CALL cloakroom_revoke(?, ?, ?, ?)";
    /// Parameters: now, principal, the handle to spare or NULL.
    const REVOKE_ALL: &str = "CALL cloakroom_revoke_all(?, ?, ?, ?)";
    /// Parameters: now, how long tombstones are kept, limit.
    const SWEEP: &str = "CALL cloakroom_sweep(?, ?, ?, ?)";

    /// The rows, and how many there are in one more: the driver would not notice if one were missing.
    macro_rules! counted {
        ($also:literal, $from:expr, $order:literal) => {
            concat!(
                "(SELECT NULL, ",
                columns!(),
                $also,
                $from,
                $order,
                " LIMIT ?) UNION ALL SELECT CAST(? AS SIGNED), (SELECT COUNT(*) FROM (SELECT 1",
                $from,
                " LIMIT ?) counted), NULL, NULL, NULL, NULL, NULL, NULL, NULL"
            )
        };
    }

    /// Parameters: principal, created twice and handle to start after, now, limit; the number; once more
    /// those before it.
    const LIST: &str = counted!(
        ", s.created",
        " FROM cloakroom_sessions s FORCE INDEX (owner) \
        WHERE s.principal = ? AND s.created >= ? AND (s.created > ? OR s.handle > ?) \
        AND s.idle_deadline > COALESCE(?, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
        " ORDER BY s.created, s.handle"
    );
    /// Parameters: the id to start after, now, limit; the number; once more those before it.
    const SCAN: &str = counted!(
        ", s.id",
        " FROM cloakroom_sessions s FORCE INDEX (PRIMARY) WHERE s.id > ? AND s.ended_at IS NULL \
        AND s.idle_deadline > COALESCE(?, CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED))",
        " ORDER BY s.id"
    );
    /// A row, whether the server knows of the session or not. A renewal ends a token, not the session.
    /// Parameters: the number, handle.
    const EXPLAIN: &str = "SELECT CAST(? AS SIGNED), CAST(s.ended_reason AS SIGNED), s.ended_at, s.idle_deadline, \
        CAST(UNIX_TIMESTAMP(NOW(3)) * 1000 AS SIGNED) FROM (SELECT 1) one LEFT JOIN (SELECT * FROM cloakroom_sessions \
        WHERE handle = ? AND NOT (ended_reason <=> 3) ORDER BY ended_at IS NULL DESC, ended_at DESC LIMIT 1) s ON TRUE";

    /// The newest migration that was applied.
    const MIGRATED_TO: &str = "SELECT CAST(COALESCE(MAX(version), 0) AS SIGNED) FROM cloakroom_migrations";

    /// How much there is of what the migrations make: rows of locks, procedures, strict procedures.
    pub(crate) const PARTS: &str = "SELECT (SELECT COUNT(*) FROM cloakroom_locks), COUNT(*), \
        CAST(COALESCE(SUM(FIND_IN_SET('STRICT_ALL_TABLES', SQL_MODE) > 0), 0) AS SIGNED) \
        FROM information_schema.ROUTINES WHERE ROUTINE_SCHEMA = DATABASE() AND ROUTINE_NAME IN \
        ('cloakroom_make_room', 'cloakroom_create', 'cloakroom_update_8', 'cloakroom_renew', 'cloakroom_delete', 'cloakroom_revoke', \
        'cloakroom_revoke_all', 'cloakroom_sweep')";
    pub(crate) const LOCKS: i64 = 256;
    pub(crate) const PROCEDURES: i64 = 8;

    /// What a session is to be before its first call. Beside the mode, in which nothing is cut off to
    /// make it fit: every statement sees what is committed when it begins, and none locks the gaps
    /// between rows, so that sign-ins do not wait for each other.
    pub(crate) const SET_UP: [&str; 2] = [
        "SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION', \
            autocommit = 1, time_zone = '+00:00'",
        "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",
    ];
    /// Parameters: seconds.
    pub(crate) const SET_LOCK_WAIT: &str = "SET SESSION innodb_lock_wait_timeout = ?";
    /// What the server and the session are like. Some of these one server has, some the other.
    pub(crate) const VARIABLES: &str = "SHOW SESSION VARIABLES WHERE Variable_name IN ('version', 'version_comment', \
        'sql_mode', 'autocommit', 'tx_isolation', 'transaction_isolation', 'max_allowed_packet', 'read_only', \
        'innodb_read_only', 'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog', \
        'rpl_semi_sync_master_enabled', 'rpl_semi_sync_source_enabled', 'rpl_semi_sync_master_wait_point', \
        'rpl_semi_sync_source_wait_point', 'rpl_semi_sync_source_wait_for_replica_count', \
        'rpl_semi_sync_master_wait_for_slave_count', 'wait_timeout')";
    /// Parameters: the name of the lock, seconds.
    pub(crate) const LOCK: &str = "SELECT GET_LOCK(CONCAT('cloakroom ', SHA1(CONCAT(DATABASE(), '.', ?))), ?)";
    /// Parameters: the name of the lock.
    pub(crate) const UNLOCK: &str = "DO RELEASE_LOCK(CONCAT('cloakroom ', SHA1(CONCAT(DATABASE(), '.', ?))))";

    /// Every statement with the names of one store in it.
    #[derive(Clone, Debug)]
    pub(crate) struct Statements {
        pub(crate) load: SqlStr,
        pub(crate) load_4: SqlStr,
        pub(crate) load_12: SqlStr,
        pub(crate) load_32: SqlStr,
        pub(crate) insert: SqlStr,
        pub(crate) update: SqlStr,
        pub(crate) update_8: SqlStr,
        pub(crate) touch: SqlStr,
        pub(crate) touch_many: SqlStr,
        pub(crate) create: SqlStr,
        pub(crate) renew: SqlStr,
        pub(crate) delete: SqlStr,
        pub(crate) revoke: SqlStr,
        pub(crate) revoke_all: SqlStr,
        pub(crate) sweep: SqlStr,
        pub(crate) list: SqlStr,
        pub(crate) scan: SqlStr,
        pub(crate) explain: SqlStr,
        pub(crate) migrated_to: SqlStr,
    }

    impl Statements {
        pub(crate) fn new(prefix: &TablePrefix) -> Self {
            let named = |text: &str| named(text, prefix);
            Self {
                load: named(LOAD),
                load_4: named(LOAD_4),
                load_12: named(LOAD_12),
                load_32: named(LOAD_32),
                insert: named(INSERT),
                update: named(UPDATE),
                update_8: named(UPDATE_8),
                touch: named(TOUCH),
                touch_many: named(TOUCH_MANY),
                create: named(CREATE),
                renew: named(RENEW),
                delete: named(DELETE),
                revoke: named(REVOKE),
                revoke_all: named(REVOKE_ALL),
                sweep: named(SWEEP),
                list: named(LIST),
                scan: named(SCAN),
                explain: named(EXPLAIN),
                migrated_to: named(MIGRATED_TO),
            }
        }
    }

    /// The text with the names of this prefix. What is in it was checked to need no quoting.
    pub(crate) fn named(text: &str, prefix: &TablePrefix) -> SqlStr {
        AssertSqlSafe(Arc::<str>::from(prefix.apply(text))).into_sql_str()
    }
}

/// PostgreSQL's. Names have the default prefix, and another is put in its place when a store is opened.
///
/// Whoever locks several rows does so in the order of ids, so nobody waits in a circle. An update
/// that had to wait for a row looks at its conditions again by the newest row; what a statement
/// reads elsewhere is as old as its beginning.
#[cfg(feature = "postgres")]
pub(crate) mod postgres {
    /// What a record is read back from, and the server's time, in the order of `postgres::row`.
    macro_rules! columns {
        ($now:literal) => {
            concat!(
                "s.id, s.handle, s.revision, s.last_seen, s.idle_deadline, s.ended_reason, s.record, ",
                "cloakroom_now($",
                $now,
                ")"
            )
        };
    }

    /// Parameters: the id, now or NULL.
    pub(crate) const LOAD: &str = concat!("SELECT ", columns!(2), " FROM cloakroom_sessions s WHERE s.id = $1");
    /// Parameters: the ids, now or NULL.
    pub(crate) const LOAD_MANY: &str =
        concat!("SELECT ", columns!(2), " FROM cloakroom_sessions s WHERE s.id = ANY($1)");

    /// Returns the ids that were free. Parameters: arrays of id, handle, principal, created, last
    /// seen, idle deadline, absolute deadline, record.
    pub(crate) const CREATE: &str = "INSERT INTO cloakroom_sessions \
        (id, handle, revision, principal, created, last_seen, idle_deadline, absolute_deadline, sweep_at, record) \
        SELECT i.id, i.handle, 1, i.principal, i.created, i.last_seen, i.idle_deadline, i.absolute_deadline, \
            i.idle_deadline, i.record \
        FROM unnest($1::bytea[], $2::bytea[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], \
            $8::bytea[]) \
            AS i(id, handle, principal, created, last_seen, idle_deadline, absolute_deadline, record) \
        ORDER BY i.id ON CONFLICT (id) DO NOTHING RETURNING id";

    /// The condition and the changes of an update, with the parameters of one record. The handle is not
    /// asked for by `=`, so that nobody looks for the row in its index.
    macro_rules! update {
        ($from:expr, $id:literal, $expected:literal, $last_seen:literal, $idle:literal, $absolute:literal,
            $record:literal, $handle:literal, $created:literal, $principal:literal, $old:literal, $now:literal) => {
            concat!(
                "UPDATE cloakroom_sessions s SET revision = s.revision + 1, ",
                "last_seen = greatest(s.last_seen, ",
                $last_seen,
                "), ",
                "idle_deadline = least(greatest(s.idle_deadline, ",
                $idle,
                "), ",
                $absolute,
                "), ",
                "absolute_deadline = ",
                $absolute,
                ", record = ",
                $record,
                $from,
                " WHERE s.id = ",
                $id,
                " AND ",
                $old,
                ".revision = ",
                $expected,
                " AND ",
                $old,
                ".ended_reason IS NULL ",
                "AND ",
                $old,
                ".idle_deadline > cloakroom_now(",
                $now,
                ") AND ",
                $old,
                ".handle IS NOT DISTINCT FROM ",
                $handle,
                " AND ",
                $old,
                ".created = ",
                $created,
                " AND ",
                $old,
                ".principal IS NOT DISTINCT FROM ",
                $principal,
                " RETURNING s.id"
            )
        };
    }

    macro_rules! updates {
        () => {
            "unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bytea[], $7::bytea[], \
             $8::bigint[], $9::text[]) \
             AS i(id, expected, last_seen, idle_deadline, absolute_deadline, record, handle, created, principal)"
        };
    }

    /// Returns the id if it was saved; if not, `UPDATE_LOCKED` tells what there is. Parameters: id,
    /// expected revision, last seen, idle deadline, absolute deadline, record, handle, created,
    /// principal; now or NULL.
    pub(crate) const UPDATE: &str =
        update!("", "$1", "$2", "$3", "$4::bigint", "$5::bigint", "$6", "$7", "$8", "$9::text", "s", "$10");

    /// As `UPDATE` of many, whose ids are in order, and with parameters that are arrays. Each row is
    /// locked by a lookup of its id in this order.
    pub(crate) const UPDATE_MANY: &str = update!(
        concat!(" FROM ", updates!()),
        "i.id",
        "i.expected",
        "i.last_seen",
        "i.idle_deadline",
        "i.absolute_deadline",
        "i.record",
        "i.handle",
        "i.created",
        "i.principal",
        "s",
        "$10"
    );

    /// As `UPDATE_MANY`, and in the order of ids however it is planned: the rows are locked first, and
    /// what is decided is decided by the locked row. Returns for each what there is, and whether it was
    /// saved.
    pub(crate) const UPDATE_LOCKED: &str = concat!(
        "WITH locked AS MATERIALIZED ( \
            SELECT s.id, s.handle, s.revision, s.principal, s.created, s.last_seen, s.idle_deadline, s.ended_reason, \
                s.record \
            FROM cloakroom_sessions s WHERE s.id = ANY($1) ORDER BY s.id FOR NO KEY UPDATE \
        ), saved AS (",
        update!(
            concat!(" FROM locked l JOIN ", updates!(), " ON i.id = l.id"),
            "l.id",
            "i.expected",
            "i.last_seen",
            "i.idle_deadline",
            "i.absolute_deadline",
            "i.record",
            "i.handle",
            "i.created",
            "i.principal",
            "l",
            "$10"
        ),
        ") SELECT l.id, l.handle, l.revision, l.last_seen, l.idle_deadline, l.ended_reason, \
            CASE WHEN v.id IS NULL THEN l.record END, cloakroom_now($10), v.id IS NOT NULL \
        FROM locked l LEFT JOIN saved v ON v.id = l.id"
    );

    /// Returns the ids that were touched; of the others `TOUCH_LOCKED` tells what there is. Parameters:
    /// arrays of id, last seen, idle deadline, with the ids in order; now or NULL.
    pub(crate) const TOUCH: &str = "UPDATE cloakroom_sessions s SET last_seen = greatest(s.last_seen, i.last_seen), \
            idle_deadline = least(greatest(s.idle_deadline, i.idle_deadline), s.absolute_deadline) \
        FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS i(id, last_seen, idle_deadline) \
        WHERE s.id = i.id AND s.ended_reason IS NULL AND s.idle_deadline > cloakroom_now($4) \
        RETURNING s.id";

    /// As `TOUCH`, as `UPDATE_LOCKED` does.
    pub(crate) const TOUCH_LOCKED: &str = "WITH locked AS MATERIALIZED ( \
            SELECT s.id, s.idle_deadline, s.ended_reason \
            FROM cloakroom_sessions s WHERE s.id = ANY($1) ORDER BY s.id FOR NO KEY UPDATE \
        ), touched AS ( \
            UPDATE cloakroom_sessions s SET last_seen = greatest(s.last_seen, i.last_seen), \
                idle_deadline = least(greatest(s.idle_deadline, i.idle_deadline), s.absolute_deadline) \
            FROM locked l JOIN unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS i(id, last_seen, idle_deadline) \
                ON i.id = l.id \
            WHERE s.id = l.id AND l.ended_reason IS NULL AND l.idle_deadline > cloakroom_now($4) \
            RETURNING s.id \
        ) \
        SELECT l.id, t.id IS NOT NULL, l.ended_reason, l.idle_deadline, cloakroom_now($4) \
        FROM locked l LEFT JOIN touched t ON t.id = l.id";

    /// Under a limit. Parameters: as of the function.
    pub(crate) const CREATE_LIMITED: &str =
        "SELECT outcome, evicted FROM cloakroom_create($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)";
    /// Parameters: as of the function.
    pub(crate) const RENEW: &str = "SELECT outcome, evicted, handle, revision, last_seen, idle_deadline, ended_reason, \
        record, moment FROM cloakroom_renew($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
    /// Parameters: id, reason, now or NULL.
    pub(crate) const DELETE: &str = "SELECT cloakroom_delete($1, $2, $3)";
    /// Parameters: principal, the handle or NULL for all, the handle to spare or NULL, now or NULL.
    pub(crate) const REVOKE: &str = "SELECT cloakroom_revoke($1, $2, $3, $4)";

    /// Parameters: principal, created and handle to start after, limit, now or NULL.
    pub(crate) const LIST: &str = concat!(
        "SELECT ",
        columns!(5),
        ", s.created FROM cloakroom_sessions s WHERE s.principal = $1 AND s.idle_deadline > cloakroom_now($5) ",
        "AND (s.created, s.handle) > ($2, $3) ORDER BY s.created, s.handle LIMIT $4"
    );

    /// Parameters: the id to start after, limit, now or NULL.
    pub(crate) const SCAN: &str = concat!(
        "SELECT ",
        columns!(3),
        " FROM cloakroom_sessions s WHERE s.id > $1 AND s.ended_at IS NULL ",
        "AND s.idle_deadline > cloakroom_now($3) ORDER BY s.id LIMIT $2"
    );

    /// A renewal ends a token, not the session. Parameters: handle, now or NULL.
    pub(crate) const EXPLAIN: &str = "SELECT s.ended_reason, s.ended_at, s.idle_deadline, cloakroom_now($2) \
        FROM cloakroom_sessions s WHERE s.handle = $1 AND s.ended_reason IS DISTINCT FROM 3 \
        ORDER BY s.ended_at IS NULL DESC, s.ended_at DESC LIMIT 1";

    /// Removes outdated tombstones; of what is due, what is over becomes a tombstone, or goes where
    /// nobody would be told any more, and the rest is due again at its deadline. What somebody else has
    /// locked is left for later.
    ///
    /// Both indexes are read from where the last batch ended: what is before it is gone, but remains in
    /// the index until it is vacuumed, and each batch would go past all that went before. A row is
    /// addressed by its place in the table, which cannot change while it is locked; where it changed
    /// between being seen and being locked, it is left for later.
    ///
    /// Returns how many went, how many were looked at, and where this batch ended in either index, or
    /// NULL. Parameters: how long tombstones are kept, limit, the first time in the index of what ended
    /// and in that of what is due, now or NULL.
    pub(crate) const SWEEP: &str = "WITH moment AS MATERIALIZED ( \
            SELECT m.now, m.now - $1 AS kept_since FROM (SELECT cloakroom_now($5) AS now OFFSET 0) m \
        ), outdated AS ( \
            DELETE FROM cloakroom_sessions s WHERE s.ctid = ANY(ARRAY( \
                SELECT o.ctid FROM cloakroom_sessions o \
                WHERE o.ended_at >= $3 AND o.ended_at < (SELECT m.kept_since FROM moment m) \
                ORDER BY o.ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)) \
            RETURNING s.ended_at \
        ), due AS MATERIALIZED ( \
            SELECT d.ctid AS place, d.sweep_at, d.idle_deadline FROM cloakroom_sessions d \
            WHERE d.ended_at IS NULL AND d.sweep_at >= $4 AND d.sweep_at <= (SELECT m.now FROM moment m) \
            ORDER BY d.sweep_at LIMIT (SELECT $2 - count(*) FROM outdated) FOR NO KEY UPDATE SKIP LOCKED \
        ), forgotten AS ( \
            DELETE FROM cloakroom_sessions s WHERE s.ctid = ANY(ARRAY( \
                SELECT d.place FROM due d WHERE d.idle_deadline < (SELECT m.kept_since FROM moment m))) \
            RETURNING s.id \
        ), kept AS ( \
            UPDATE cloakroom_sessions s SET sweep_at = s.idle_deadline, \
                ended_reason = CASE WHEN s.idle_deadline <= m.now THEN 4 END, \
                ended_at = CASE WHEN s.idle_deadline <= m.now THEN s.idle_deadline END, \
                principal = CASE WHEN s.idle_deadline > m.now THEN s.principal END, \
                record = CASE WHEN s.idle_deadline > m.now THEN s.record END \
            FROM moment m WHERE s.ctid = ANY(ARRAY( \
                SELECT d.place FROM due d WHERE d.idle_deadline >= (SELECT m.kept_since FROM moment m))) \
            RETURNING s.ended_at IS NOT NULL AS gone \
        ) \
        SELECT (SELECT count(*) FROM outdated) + (SELECT count(*) FROM forgotten) \
                + (SELECT count(*) FROM kept k WHERE k.gone), \
            (SELECT count(*) FROM outdated) + (SELECT count(*) FROM due), \
            (SELECT max(o.ended_at) FROM outdated o), (SELECT max(d.sweep_at) FROM due d)";

    /// What a probe looks at.
    pub(crate) const PROBE: &str = "SELECT current_setting('server_version'), \
        current_setting('fsync')::boolean, current_setting('full_page_writes')::boolean, \
        current_setting('autovacuum')::boolean, current_setting('synchronous_commit'), \
        current_setting('synchronous_standby_names'), \
        pg_is_in_recovery() OR current_setting('transaction_read_only')::boolean, \
        (SELECT count(*) FROM pg_stat_replication), \
        (SELECT coalesce(max(version), 0)::bigint FROM cloakroom_migrations), \
        coalesce((SELECT bool_and(coalesce((SELECT option_value::boolean FROM pg_options_to_table(c.reloptions) \
            WHERE option_name = 'autovacuum_enabled'), true)) \
            FROM pg_class c WHERE c.oid = to_regclass('cloakroom_sessions')), true)";

    /// What must be so before anything else: version, encoding, isolation, strings, whether the table
    /// of migrations is there, and the schema where tables would be made. Looks for the table by a
    /// scan: `to_regclass` remembers what was not there when the transaction began.
    pub(crate) const ENVIRONMENT: &str = "SELECT current_setting('server_version_num')::bigint, \
        current_setting('server_encoding'), current_setting('default_transaction_isolation'), \
        current_setting('standard_conforming_strings'), \
        EXISTS (SELECT FROM pg_class c WHERE c.relname = 'cloakroom_migrations' AND pg_table_is_visible(c.oid)), \
        current_schema()";

    /// The newest step, and the oldest release that can work with the tables.
    pub(crate) const MIGRATED_TO: &str = "SELECT coalesce(max(version), 0)::bigint, \
        coalesce(max(compatible_with), 0)::bigint FROM cloakroom_migrations";

    /// Until the end of the transaction.
    pub(crate) const LOCK_MIGRATIONS: &str = "SELECT pg_advisory_xact_lock(hashtextextended('cloakroom_', 7236828))";

    /// The rights that are missing, each as what it is on.
    pub(crate) const MISSING_RIGHTS: &str = "SELECT r.privilege || ' ON ' || r.kind || ' ' || r.name \
        FROM (VALUES ('SELECT', 'TABLE', 'cloakroom_sessions'), ('INSERT', 'TABLE', 'cloakroom_sessions'), \
            ('UPDATE', 'TABLE', 'cloakroom_sessions'), ('DELETE', 'TABLE', 'cloakroom_sessions'), \
            ('SELECT', 'TABLE', 'cloakroom_listening'), ('UPDATE', 'TABLE', 'cloakroom_listening'), \
            ('SELECT', 'TABLE', 'cloakroom_migrations')) AS r(privilege, kind, name) \
        WHERE NOT has_table_privilege(r.name, r.privilege) \
        UNION ALL SELECT 'EXECUTE ON FUNCTION ' || p.oid::regprocedure::text FROM pg_proc p \
        JOIN pg_class c ON c.oid = to_regclass('cloakroom_sessions') AND c.relnamespace = p.pronamespace \
        WHERE p.proname = ANY(ARRAY['cloakroom_now', 'cloakroom_owner_lock', 'cloakroom_create', 'cloakroom_evict', \
            'cloakroom_renew', 'cloakroom_delete', 'cloakroom_revoke']) AND NOT has_function_privilege(p.oid, 'EXECUTE')";

    /// Begins to listen for ends, and says so.
    pub(crate) const LISTEN: &str = "LISTEN \"cloakroom_ends\"; \
        UPDATE cloakroom_listening SET until = greatest(until, cloakroom_now(NULL) + 90000)";

    /// Says that somebody listens, for three times as long as until it is said again.
    pub(crate) const LISTENING: &str =
        "UPDATE cloakroom_listening SET until = greatest(until, cloakroom_now(NULL) + 90000)";

    /// What the role of the service needs, and nothing more. `service_role` stands for it.
    pub(crate) const GRANTS: &str = include_str!("../migrations/postgres/grants.sql");
}

#[cfg(test)]
#[cfg(feature = "sqlite")]
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
