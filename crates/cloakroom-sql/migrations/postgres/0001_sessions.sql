-- Times are milliseconds since 1970. A row is a live session, or, once `ended_at` is set, the
-- tombstone of one: without record, without owner.
CREATE TABLE cloakroom_migrations (
    version integer PRIMARY KEY,
    -- The oldest release that still works after this step, by the newest step it knows.
    compatible_with integer NOT NULL,
    applied_at bigint NOT NULL DEFAULT floor(date_part('epoch', clock_timestamp()) * 1000)::bigint
);

-- Room in every page, so that an update or a touch finds it in the same page and writes to no index.
-- No checks: the server prepares them anew for each statement, which took a fifth of an update.
CREATE TABLE cloakroom_sessions (
    id bytea NOT NULL PRIMARY KEY,
    handle bytea NOT NULL,
    revision bigint NOT NULL,
    principal text COLLATE "C",
    created bigint NOT NULL,
    last_seen bigint NOT NULL,
    idle_deadline bigint NOT NULL,
    absolute_deadline bigint NOT NULL,
    -- When to look whether it is over. Stays behind the idle deadline, which every touch moves, so
    -- that a touch or an update writes to no index; the sweep moves it on.
    sweep_at bigint NOT NULL,
    ended_at bigint,
    ended_reason bigint,
    successor bytea,
    record bytea
) WITH (fillfactor = 80);

-- Sealed records do not compress; trying costs more than it saves.
ALTER TABLE cloakroom_sessions ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE INDEX cloakroom_sessions_owner ON cloakroom_sessions (principal, created, handle) WHERE principal IS NOT NULL;
CREATE INDEX cloakroom_sessions_handle ON cloakroom_sessions (handle);
CREATE INDEX cloakroom_sessions_sweep ON cloakroom_sessions (sweep_at) WHERE ended_at IS NULL;
CREATE INDEX cloakroom_sessions_ended ON cloakroom_sessions (ended_at) WHERE ended_at IS NOT NULL;

-- What takes several steps is a function: one statement, one round trip, one transaction. Functions
-- are VOLATILE, so each step sees what was committed before that step began.
--
-- Whoever adds a session to an owner who may have others (a renewal, a sign-in under a limit) holds
-- the owner's lock, shared if it counts nothing; whoever must find all of an owner's sessions (a
-- revocation, a sign-in under a limit) holds it alone. So a session that is just being renewed is
-- neither missed under its old id nor under its new one. Owner's lock first, then rows, by id:
-- nobody waits in a circle. The clock is read once the rows are locked.
--
-- What ended has no owner and has a reason, so rows of an owner, or of some ids, are never asked for by `ended_at IS NULL`
-- as well: a plan made while the table was empty would then go through all that is due to be swept.

CREATE FUNCTION cloakroom_now(given bigint) RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT coalesce(given, floor(date_part('epoch', clock_timestamp()) * 1000)::bigint)
$$;

CREATE FUNCTION cloakroom_owner_lock(owner text) RETURNS bigint
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT hashtextextended('cloakroom_' || owner COLLATE "C", 7236829)
$$;

-- Outcomes: 1 created, 2 occupied, 3 limit reached.
CREATE FUNCTION cloakroom_create(
    new_id bytea, new_handle bytea, new_principal text, new_created bigint, new_last_seen bigint,
    new_idle_deadline bigint, new_absolute_deadline bigint, new_record bytea,
    most bigint, evict boolean, given_now bigint,
    OUT outcome bigint, OUT evicted bytea[]
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    others bytea[];
    too_many bigint;
    moment bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(cloakroom_owner_lock(new_principal));
    PERFORM 1 FROM cloakroom_sessions s WHERE s.principal = new_principal
        ORDER BY s.id FOR NO KEY UPDATE;
    moment := cloakroom_now(given_now);
    evicted := '{}';
    IF EXISTS (SELECT FROM cloakroom_sessions s WHERE s.id = new_id) THEN
        outcome := 2;
        RETURN;
    END IF;
    -- What is counted as over has to be: a touch that waits for a row that is only locked looks at no deadline again.
    UPDATE cloakroom_sessions s
        SET ended_reason = 4, ended_at = s.idle_deadline, principal = NULL, record = NULL
        WHERE s.principal = new_principal AND s.idle_deadline <= moment;
    others := ARRAY(SELECT s.id FROM cloakroom_sessions s
        WHERE s.principal = new_principal AND s.idle_deadline > moment
        ORDER BY s.created, s.handle);
    too_many := cardinality(others) + 1 - most;
    IF too_many > 0 AND NOT evict THEN
        outcome := 3;
        RETURN;
    END IF;
    INSERT INTO cloakroom_sessions
        (id, handle, revision, principal, created, last_seen, idle_deadline, absolute_deadline, sweep_at, record)
        VALUES (new_id, new_handle, 1, new_principal, new_created, new_last_seen, new_idle_deadline,
            new_absolute_deadline, new_idle_deadline, new_record)
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        outcome := 2;
        RETURN;
    END IF;
    IF too_many > 0 THEN
        evicted := cloakroom_evict(others[1:too_many], moment);
    END IF;
    outcome := 1;
END $$;

-- Ends these sessions, whose rows the caller has locked; returns their handles in this order.
CREATE FUNCTION cloakroom_evict(ids bytea[], moment bigint) RETURNS bytea[]
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    handles bytea[];
BEGIN
    WITH ended AS (
        UPDATE cloakroom_sessions s SET ended_reason = 5, ended_at = moment, principal = NULL, record = NULL
            WHERE s.id = ANY(ids) AND s.ended_reason IS NULL
            RETURNING s.handle, s.created
    )
    SELECT coalesce(array_agg(e.handle ORDER BY e.created, e.handle), '{}') INTO handles FROM ended e;
    RETURN handles;
END $$;

-- Outcomes: 1 renewed, 2 occupied, 3 limit reached, 4 gone, 5 conflict; what there is under the old
-- id comes with the last two.
CREATE FUNCTION cloakroom_renew(
    old_id bytea, expected bigint,
    new_id bytea, new_handle bytea, new_principal text, new_created bigint, new_last_seen bigint,
    new_idle_deadline bigint, new_absolute_deadline bigint, new_record bytea,
    most bigint, evict boolean, given_now bigint,
    OUT outcome bigint, OUT evicted bytea[], OUT handle bytea, OUT revision bigint, OUT last_seen bigint,
    OUT idle_deadline bigint, OUT ended_reason bigint, OUT record bytea, OUT moment bigint
) LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    others bytea[];
    too_many bigint := 0;
    old_row cloakroom_sessions;
BEGIN
    evicted := '{}';
    IF most IS NULL THEN
        IF new_principal IS NOT NULL THEN
            PERFORM pg_advisory_xact_lock_shared(cloakroom_owner_lock(new_principal));
        END IF;
        SELECT * INTO old_row FROM cloakroom_sessions s WHERE s.id = old_id FOR NO KEY UPDATE;
    ELSE
        PERFORM pg_advisory_xact_lock(cloakroom_owner_lock(new_principal));
        PERFORM 1 FROM cloakroom_sessions s
            WHERE s.id = old_id OR s.principal = new_principal
            ORDER BY s.id FOR NO KEY UPDATE;
        SELECT * INTO old_row FROM cloakroom_sessions s WHERE s.id = old_id;
    END IF;
    moment := cloakroom_now(given_now);
    IF old_row.id IS NULL OR old_row.ended_at IS NOT NULL OR old_row.idle_deadline <= moment
        OR old_row.revision <> expected THEN
        outcome := CASE WHEN old_row.revision <> expected AND old_row.ended_at IS NULL
            AND old_row.idle_deadline > moment THEN 5 ELSE 4 END;
        -- As in `cloakroom_create`: who heard that it is over is not to see it live.
        IF old_row.ended_at IS NULL AND old_row.idle_deadline <= moment THEN
            UPDATE cloakroom_sessions s
                SET ended_reason = 4, ended_at = s.idle_deadline, principal = NULL, record = NULL
                WHERE s.id = old_id;
        END IF;
        handle := old_row.handle;
        revision := old_row.revision;
        last_seen := old_row.last_seen;
        idle_deadline := old_row.idle_deadline;
        ended_reason := old_row.ended_reason;
        IF outcome = 5 THEN
            record := old_row.record;
        END IF;
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM cloakroom_sessions s WHERE s.id = new_id) THEN
        outcome := 2;
        RETURN;
    END IF;
    IF most IS NOT NULL THEN
        -- As in `cloakroom_create`.
        UPDATE cloakroom_sessions s
            SET ended_reason = 4, ended_at = s.idle_deadline, principal = NULL, record = NULL
            WHERE s.principal = new_principal AND s.idle_deadline <= moment;
        others := ARRAY(SELECT s.id FROM cloakroom_sessions s
            WHERE s.principal = new_principal AND s.idle_deadline > moment AND s.id <> old_id
            ORDER BY s.created, s.handle);
        too_many := cardinality(others) + 1 - most;
        IF too_many > 0 AND NOT evict THEN
            outcome := 3;
            RETURN;
        END IF;
    END IF;
    INSERT INTO cloakroom_sessions AS s
        (id, handle, revision, principal, created, last_seen, idle_deadline, absolute_deadline, sweep_at, record)
        VALUES (new_id, new_handle, expected + 1, new_principal, new_created, new_last_seen, new_idle_deadline,
            new_absolute_deadline, new_idle_deadline, new_record)
        ON CONFLICT (id) DO NOTHING;
    IF NOT FOUND THEN
        outcome := 2;
        RETURN;
    END IF;
    IF too_many > 0 THEN
        evicted := cloakroom_evict(others[1:too_many], moment);
    END IF;
    UPDATE cloakroom_sessions s
        SET ended_reason = 3, ended_at = moment, successor = new_id, principal = NULL, record = NULL
        WHERE s.id = old_id;
    outcome := 1;
    revision := expected + 1;
END $$;

-- Follows renewals.
CREATE FUNCTION cloakroom_delete(which bytea, reason bigint, given_now bigint, OUT was_live boolean)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    next_id bytea := which;
    deadline bigint;
    moment bigint;
BEGIN
    was_live := false;
    FOR step IN 0..10000 LOOP
        SELECT s.idle_deadline INTO deadline
            FROM cloakroom_sessions s WHERE s.id = next_id AND s.ended_at IS NULL FOR NO KEY UPDATE;
        IF FOUND THEN
            moment := cloakroom_now(given_now);
            was_live := deadline > moment;
            UPDATE cloakroom_sessions s SET ended_reason = CASE WHEN was_live THEN reason ELSE 4 END,
                ended_at = least(moment, s.idle_deadline), principal = NULL, record = NULL
                WHERE s.id = next_id;
            RETURN;
        END IF;
        -- A renewal that was waited for shows only here.
        SELECT s.successor INTO next_id FROM cloakroom_sessions s WHERE s.id = next_id;
        IF next_id IS NULL THEN
            RETURN;
        END IF;
    END LOOP;
    RAISE EXCEPTION 'the tombstones of sessions lead in a circle' USING ERRCODE = 'data_corrupted';
END $$;

-- Ends the sessions of an owner: all, all but one, or only one, by handle.
CREATE FUNCTION cloakroom_revoke(owner text, only_handle bytea, except_handle bytea, given_now bigint)
RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    ids bytea[];
    moment bigint;
    live bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(cloakroom_owner_lock(owner));
    IF only_handle IS NULL THEN
        ids := ARRAY(SELECT s.id FROM cloakroom_sessions s
            WHERE s.principal = owner AND s.handle IS DISTINCT FROM except_handle
            ORDER BY s.id FOR NO KEY UPDATE);
    ELSE
        ids := ARRAY(SELECT s.id FROM cloakroom_sessions s
            WHERE s.handle = only_handle AND s.principal = owner
            ORDER BY s.id FOR NO KEY UPDATE);
    END IF;
    moment := cloakroom_now(given_now);
    WITH ended AS (
        UPDATE cloakroom_sessions s SET ended_reason = CASE WHEN s.idle_deadline > moment THEN 2 ELSE 4 END,
            ended_at = least(moment, s.idle_deadline), principal = NULL, record = NULL
            WHERE s.id = ANY(ids)
            RETURNING s.ended_at < s.idle_deadline AS was_live
    )
    SELECT count(*) FILTER (WHERE e.was_live) INTO live FROM ended e;
    RETURN live;
END $$;

-- Until when somebody listens for ends. Telling takes a lock on the whole database until the
-- transaction is committed, so nobody is told who does not listen.
CREATE TABLE cloakroom_listening (until bigint NOT NULL);
INSERT INTO cloakroom_listening (until) VALUES (0);

CREATE FUNCTION cloakroom_tell() RETURNS trigger LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    IF EXISTS (SELECT FROM cloakroom_listening l WHERE l.until > cloakroom_now(NULL)) THEN
        PERFORM pg_notify('cloakroom_ends', encode(NEW.handle, 'hex'));
    END IF;
    RETURN NULL;
END $$;

-- Of what the statements of live traffic change, nothing fires it. What expired is told to nobody.
CREATE TRIGGER cloakroom_ended AFTER UPDATE OF ended_at ON cloakroom_sessions FOR EACH ROW
    WHEN (OLD.ended_at IS NULL AND NEW.ended_at IS NOT NULL AND NEW.ended_reason <> 4)
    EXECUTE FUNCTION cloakroom_tell();

INSERT INTO cloakroom_migrations (version, compatible_with) VALUES (1, 1);
