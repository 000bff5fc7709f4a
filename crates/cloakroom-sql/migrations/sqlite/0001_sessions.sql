-- Times are milliseconds since 1970. A row is a live session, or, once `ended_at` is set, the
-- tombstone of one: without record, without owner.
CREATE TABLE cloakroom_migrations (
    version INTEGER PRIMARY KEY,
    applied_at INTEGER NOT NULL DEFAULT (unixepoch() * 1000)
) STRICT;

CREATE TABLE cloakroom_sessions (
    id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 26),
    handle BLOB NOT NULL CHECK (length(handle) = 10),
    revision INTEGER NOT NULL,
    principal TEXT COLLATE BINARY,
    created INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    idle_deadline INTEGER NOT NULL,
    absolute_deadline INTEGER NOT NULL,
    -- When to look whether it is over. Stays behind the idle deadline, which every touch moves, so
    -- that a touch or an update writes to no index; the sweep moves it on.
    sweep_at INTEGER NOT NULL,
    ended_at INTEGER,
    ended_reason INTEGER,
    successor BLOB,
    record BLOB,
    CHECK (idle_deadline <= absolute_deadline),
    CHECK ((ended_at IS NULL) = (record IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL))
) STRICT, WITHOUT ROWID;

CREATE INDEX cloakroom_sessions_owner ON cloakroom_sessions (principal, created, handle) WHERE principal IS NOT NULL;
CREATE INDEX cloakroom_sessions_handle ON cloakroom_sessions (handle);
CREATE INDEX cloakroom_sessions_sweep ON cloakroom_sessions (sweep_at) WHERE ended_at IS NULL;
CREATE INDEX cloakroom_sessions_ended ON cloakroom_sessions (ended_at) WHERE ended_at IS NOT NULL;

INSERT INTO cloakroom_migrations (version) VALUES (1);
