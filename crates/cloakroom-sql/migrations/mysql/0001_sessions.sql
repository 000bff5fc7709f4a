-- Every statement may run again: MySQL cannot undo one that defines something, so a run that was cut
-- short is simply repeated. The version is filed last.

-- A procedure keeps the mode that it was made under.
SET SESSION sql_mode = 'STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION';

CREATE TABLE IF NOT EXISTS cloakroom_migrations (
    version INT NOT NULL PRIMARY KEY,
    applied_at BIGINT NOT NULL
) ENGINE = InnoDB;

-- Times are milliseconds since 1970. A row is a live session, or, once `ended_at` is set, the
-- tombstone of one: without record, without owner. Ids, handles and principals are bytes: no
-- collation folds their case or trims them.
CREATE TABLE IF NOT EXISTS cloakroom_sessions (
    id BINARY(26) NOT NULL PRIMARY KEY,
    handle BINARY(10) NOT NULL,
    revision BIGINT NOT NULL,
    principal VARBINARY(255),
    created BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    idle_deadline BIGINT NOT NULL,
    absolute_deadline BIGINT NOT NULL,
    -- When to look whether it is over. Stays behind the idle deadline, which every touch moves, so
    -- that a touch or an update writes to no index; the sweep moves it on. Empty once it is over.
    sweep_at BIGINT,
    ended_at BIGINT,
    ended_reason TINYINT UNSIGNED,
    successor BINARY(26),
    record MEDIUMBLOB,
    KEY owner (principal, created, handle),
    KEY handle (handle),
    KEY sweep (sweep_at),
    KEY ended (ended_at),
    CHECK (idle_deadline <= absolute_deadline),
    CHECK ((ended_at IS NULL) = (record IS NOT NULL)),
    CHECK ((ended_at IS NULL) = (ended_reason IS NULL))
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- What the sessions of a principal as a whole are locked by. The principal with the checksum n has
-- row n modulo 256. Always taken before any row of a session; two of them in their order.
--
-- Whoever needs all sessions of a principal to stay as they are (a limit, a revocation of all) takes
-- it for himself; a renewal, which moves one of them to a new row, takes it together with others.
CREATE TABLE IF NOT EXISTS cloakroom_locks (stripe SMALLINT UNSIGNED NOT NULL PRIMARY KEY) ENGINE = InnoDB;

INSERT IGNORE INTO cloakroom_locks (stripe)
WITH RECURSIVE stripes (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM stripes WHERE n < 255) SELECT n FROM stripes;

-- The procedures are several steps in one round trip, with the rights of whoever calls. `p_now` is
-- the time to decide by, or nothing for the server's, which is read once the locks are held. Whoever
-- calls gives `p_proof` and has it back in the first column: so he knows that the answer is his.

DROP PROCEDURE IF EXISTS cloakroom_make_room;
DROP PROCEDURE IF EXISTS cloakroom_create;
DROP PROCEDURE IF EXISTS cloakroom_update_8;
DROP PROCEDURE IF EXISTS cloakroom_renew;
DROP PROCEDURE IF EXISTS cloakroom_delete;
DROP PROCEDURE IF EXISTS cloakroom_revoke;
DROP PROCEDURE IF EXISTS cloakroom_revoke_all;
DROP PROCEDURE IF EXISTS cloakroom_sweep;

DELIMITER //

-- Whether the principal, whose stripe is held, may have one more session beside all but one; ends
-- the oldest where `p_evict` says so, and gives their handles.
CREATE PROCEDURE cloakroom_make_room(
    IN p_now BIGINT, IN p_principal VARBINARY(255), IN p_beside BINARY(26), IN p_max BIGINT, IN p_evict BOOL,
    OUT p_room BOOL, OUT p_evicted MEDIUMBLOB)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_too_many BIGINT DEFAULT 0;
    DECLARE v_id BINARY(26);
    DECLARE v_handle BINARY(10);
    DECLARE v_none_left BOOL DEFAULT FALSE;
    DECLARE v_oldest CURSOR FOR SELECT id, handle FROM cloakroom_sessions
        WHERE principal = p_principal AND idle_deadline > p_now AND id <> p_beside
        ORDER BY created, handle LIMIT v_too_many;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_none_left = TRUE;

    SET p_evicted = '';
    SET v_too_many = 1 - p_max + (SELECT COUNT(*) FROM cloakroom_sessions
        WHERE principal = p_principal AND idle_deadline > p_now AND id <> p_beside);
    SET p_room = v_too_many <= 0 OR p_evict;
    IF v_too_many > 0 AND p_evict THEN
        OPEN v_oldest;
        evicting: LOOP
            FETCH v_oldest INTO v_id, v_handle;
            IF v_none_left THEN
                LEAVE evicting;
            END IF;
            UPDATE cloakroom_sessions SET ended_reason = 5, ended_at = LEAST(p_now, idle_deadline),
                sweep_at = NULL, principal = NULL, record = NULL
                WHERE id = v_id AND ended_at IS NULL;
            IF ROW_COUNT() > 0 THEN
                SET p_evicted = CONCAT(p_evicted, v_handle);
            END IF;
        END LOOP;
        CLOSE v_oldest;
    END IF;
END//

-- Gives what happened (0 created, 1 occupied, 2 limit reached) and the handles of the evicted.
CREATE PROCEDURE cloakroom_create(
    IN p_now BIGINT, IN p_id BINARY(26), IN p_handle BINARY(10), IN p_principal VARBINARY(255), IN p_created BIGINT,
    IN p_last_seen BIGINT, IN p_idle_deadline BIGINT, IN p_absolute_deadline BIGINT, IN p_record MEDIUMBLOB,
    IN p_max BIGINT, IN p_evict BOOL, IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT;
    DECLARE v_locked INT;
    DECLARE v_room BOOL;
    DECLARE v_evicted MEDIUMBLOB;
    DECLARE v_outcome INT DEFAULT 0;
    DECLARE EXIT HANDLER FOR 1062
    BEGIN
        ROLLBACK;
        SELECT p_proof, 1, '';
    END;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;

    START TRANSACTION;
    SELECT COUNT(*) INTO v_locked FROM cloakroom_locks WHERE stripe = CRC32(p_principal) MOD 256 FOR UPDATE;
    IF v_locked = 0 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'cloakroom_locks lacks a row';
    END IF;
    SET v_now = COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    IF EXISTS (SELECT 1 FROM cloakroom_sessions WHERE id = p_id) THEN
        SET v_outcome = 1;
    ELSE
        CALL cloakroom_make_room(v_now, p_principal, p_id, p_max, p_evict, v_room, v_evicted);
        IF v_room THEN
            INSERT INTO cloakroom_sessions (id, handle, revision, principal, created, last_seen, idle_deadline,
                absolute_deadline, sweep_at, record)
                VALUES (p_id, p_handle, 1, p_principal, p_created, p_last_seen, p_idle_deadline,
                p_absolute_deadline, p_idle_deadline, p_record);
        ELSE
            SET v_outcome = 2;
        END IF;
    END IF;
    COMMIT;
    SELECT p_proof, v_outcome, v_evicted;
END//

-- Up to eight updates that share a commit, each of another session and in the order of their ids;
-- what is missing is empty. Gives which found their session: 1 the first, 2 the second, 4 the third, in sum.
CREATE PROCEDURE cloakroom_update_8(IN p_now BIGINT,
    IN p_last_seen_1 BIGINT, IN p_idle_deadline_1 BIGINT, IN p_absolute_deadline_1 BIGINT, IN p_record_1 MEDIUMBLOB,
    IN p_id_1 BINARY(26), IN p_expected_1 BIGINT, IN p_handle_1 BINARY(10), IN p_created_1 BIGINT, IN p_principal_1 VARBINARY(255),
    IN p_last_seen_2 BIGINT, IN p_idle_deadline_2 BIGINT, IN p_absolute_deadline_2 BIGINT, IN p_record_2 MEDIUMBLOB,
    IN p_id_2 BINARY(26), IN p_expected_2 BIGINT, IN p_handle_2 BINARY(10), IN p_created_2 BIGINT, IN p_principal_2 VARBINARY(255),
    IN p_last_seen_3 BIGINT, IN p_idle_deadline_3 BIGINT, IN p_absolute_deadline_3 BIGINT, IN p_record_3 MEDIUMBLOB,
    IN p_id_3 BINARY(26), IN p_expected_3 BIGINT, IN p_handle_3 BINARY(10), IN p_created_3 BIGINT, IN p_principal_3 VARBINARY(255),
    IN p_last_seen_4 BIGINT, IN p_idle_deadline_4 BIGINT, IN p_absolute_deadline_4 BIGINT, IN p_record_4 MEDIUMBLOB,
    IN p_id_4 BINARY(26), IN p_expected_4 BIGINT, IN p_handle_4 BINARY(10), IN p_created_4 BIGINT, IN p_principal_4 VARBINARY(255),
    IN p_last_seen_5 BIGINT, IN p_idle_deadline_5 BIGINT, IN p_absolute_deadline_5 BIGINT, IN p_record_5 MEDIUMBLOB,
    IN p_id_5 BINARY(26), IN p_expected_5 BIGINT, IN p_handle_5 BINARY(10), IN p_created_5 BIGINT, IN p_principal_5 VARBINARY(255),
    IN p_last_seen_6 BIGINT, IN p_idle_deadline_6 BIGINT, IN p_absolute_deadline_6 BIGINT, IN p_record_6 MEDIUMBLOB,
    IN p_id_6 BINARY(26), IN p_expected_6 BIGINT, IN p_handle_6 BINARY(10), IN p_created_6 BIGINT, IN p_principal_6 VARBINARY(255),
    IN p_last_seen_7 BIGINT, IN p_idle_deadline_7 BIGINT, IN p_absolute_deadline_7 BIGINT, IN p_record_7 MEDIUMBLOB,
    IN p_id_7 BINARY(26), IN p_expected_7 BIGINT, IN p_handle_7 BINARY(10), IN p_created_7 BIGINT, IN p_principal_7 VARBINARY(255),
    IN p_last_seen_8 BIGINT, IN p_idle_deadline_8 BIGINT, IN p_absolute_deadline_8 BIGINT, IN p_record_8 MEDIUMBLOB,
    IN p_id_8 BINARY(26), IN p_expected_8 BIGINT, IN p_handle_8 BINARY(10), IN p_created_8 BIGINT, IN p_principal_8 VARBINARY(255),
    IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_found INT DEFAULT 0;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;

    START TRANSACTION;
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_1),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_1), p_absolute_deadline_1),
        absolute_deadline = p_absolute_deadline_1, record = p_record_1
        WHERE id = p_id_1 AND revision = p_expected_1 AND ended_at IS NULL
        AND handle = p_handle_1 AND created = p_created_1 AND principal <=> p_principal_1
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 1 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_2),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_2), p_absolute_deadline_2),
        absolute_deadline = p_absolute_deadline_2, record = p_record_2
        WHERE id = p_id_2 AND revision = p_expected_2 AND ended_at IS NULL
        AND handle = p_handle_2 AND created = p_created_2 AND principal <=> p_principal_2
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 2 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_3),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_3), p_absolute_deadline_3),
        absolute_deadline = p_absolute_deadline_3, record = p_record_3
        WHERE id = p_id_3 AND revision = p_expected_3 AND ended_at IS NULL
        AND handle = p_handle_3 AND created = p_created_3 AND principal <=> p_principal_3
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 4 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_4),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_4), p_absolute_deadline_4),
        absolute_deadline = p_absolute_deadline_4, record = p_record_4
        WHERE id = p_id_4 AND revision = p_expected_4 AND ended_at IS NULL
        AND handle = p_handle_4 AND created = p_created_4 AND principal <=> p_principal_4
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 8 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_5),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_5), p_absolute_deadline_5),
        absolute_deadline = p_absolute_deadline_5, record = p_record_5
        WHERE id = p_id_5 AND revision = p_expected_5 AND ended_at IS NULL
        AND handle = p_handle_5 AND created = p_created_5 AND principal <=> p_principal_5
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 16 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_6),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_6), p_absolute_deadline_6),
        absolute_deadline = p_absolute_deadline_6, record = p_record_6
        WHERE id = p_id_6 AND revision = p_expected_6 AND ended_at IS NULL
        AND handle = p_handle_6 AND created = p_created_6 AND principal <=> p_principal_6
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 32 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_7),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_7), p_absolute_deadline_7),
        absolute_deadline = p_absolute_deadline_7, record = p_record_7
        WHERE id = p_id_7 AND revision = p_expected_7 AND ended_at IS NULL
        AND handle = p_handle_7 AND created = p_created_7 AND principal <=> p_principal_7
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 64 * (ROW_COUNT() > 0);
    UPDATE cloakroom_sessions SET revision = revision + 1, last_seen = GREATEST(last_seen, p_last_seen_8),
        idle_deadline = LEAST(GREATEST(idle_deadline, p_idle_deadline_8), p_absolute_deadline_8),
        absolute_deadline = p_absolute_deadline_8, record = p_record_8
        WHERE id = p_id_8 AND revision = p_expected_8 AND ended_at IS NULL
        AND handle = p_handle_8 AND created = p_created_8 AND principal <=> p_principal_8
        AND idle_deadline > COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    SET v_found = v_found + 128 * (ROW_COUNT() > 0);
    COMMIT;
    SELECT p_proof, v_found;
END//

-- Gives what happened (0 renewed, 1 occupied, 2 limit reached, 3 look at the row of the old id), the
-- handles of the evicted, and for 3 the row, if there is one, with the time that decided. `p_format` is the newest
-- format of records that the caller reads; whether one that is none ends here, he says himself.
CREATE PROCEDURE cloakroom_renew(
    IN p_now BIGINT, IN p_old BINARY(26), IN p_expected BIGINT, IN p_format INT, IN p_id BINARY(26),
    IN p_handle BINARY(10), IN p_principal VARBINARY(255), IN p_created BIGINT, IN p_last_seen BIGINT,
    IN p_idle_deadline BIGINT, IN p_absolute_deadline BIGINT, IN p_record MEDIUMBLOB, IN p_max BIGINT, IN p_evict BOOL,
    IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT;
    DECLARE v_from INT;
    DECLARE v_to INT;
    DECLARE v_locked INT DEFAULT 1;
    DECLARE v_room BOOL DEFAULT TRUE;
    DECLARE v_evicted MEDIUMBLOB DEFAULT '';
    DECLARE v_is_as_expected BOOL DEFAULT FALSE;
    DECLARE v_outcome INT DEFAULT 0;
    DECLARE EXIT HANDLER FOR 1062
    BEGIN
        ROLLBACK;
        SELECT p_proof, 1, '', NULL, NULL, NULL, NULL, NULL, NULL, NULL;
    END;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;

    START TRANSACTION;
    -- As long as it is live a session keeps its owner, so this needs no lock.
    SET v_from = (SELECT CRC32(principal) MOD 256 FROM cloakroom_sessions WHERE id = p_old);
    SET v_to = CRC32(p_principal) MOD 256;
    IF p_max IS NOT NULL AND v_to IS NOT NULL THEN
        SELECT COUNT(*) INTO v_locked FROM cloakroom_locks
            WHERE stripe = LEAST(COALESCE(v_from, v_to), v_to) FOR UPDATE;
        IF v_locked > 0 AND v_from <> v_to THEN
            SELECT COUNT(*) INTO v_locked FROM cloakroom_locks WHERE stripe = GREATEST(v_from, v_to) FOR UPDATE;
        END IF;
    ELSEIF v_from IS NOT NULL THEN
        SELECT COUNT(*) INTO v_locked FROM cloakroom_locks WHERE stripe = v_from LOCK IN SHARE MODE;
    END IF;
    IF v_locked = 0 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'cloakroom_locks lacks a row';
    END IF;
    SELECT COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)),
        ended_at IS NULL AND revision = p_expected AND ORD(record) BETWEEN 1 AND p_format
        AND SUBSTRING(record, 4, 10) = handle
        INTO v_now, v_is_as_expected FROM cloakroom_sessions WHERE id = p_old FOR UPDATE;
    IF NOT v_is_as_expected OR NOT EXISTS
        (SELECT 1 FROM cloakroom_sessions WHERE id = p_old AND idle_deadline > v_now) THEN
        SET v_outcome = 3;
    ELSEIF EXISTS (SELECT 1 FROM cloakroom_sessions WHERE id = p_id) THEN
        SET v_outcome = 1;
    ELSE
        IF p_max IS NOT NULL AND p_principal IS NOT NULL THEN
            CALL cloakroom_make_room(v_now, p_principal, p_old, p_max, p_evict, v_room, v_evicted);
        END IF;
        IF v_room THEN
            UPDATE cloakroom_sessions SET ended_reason = 3, ended_at = v_now, successor = p_id,
                sweep_at = NULL, principal = NULL, record = NULL
                WHERE id = p_old;
            INSERT INTO cloakroom_sessions (id, handle, revision, principal, created, last_seen, idle_deadline,
                absolute_deadline, sweep_at, record)
                VALUES (p_id, p_handle, p_expected + 1, p_principal, p_created, p_last_seen, p_idle_deadline,
                p_absolute_deadline, p_idle_deadline, p_record);
        ELSE
            SET v_outcome = 2;
        END IF;
    END IF;
    IF v_outcome = 3 THEN
        SELECT p_proof, 3, '', v_now, s.handle, s.revision, s.last_seen, s.idle_deadline, s.ended_reason, s.record
            FROM (SELECT 1) AS one LEFT JOIN cloakroom_sessions s ON s.id = p_old;
        COMMIT;
    ELSE
        COMMIT;
        SELECT p_proof, v_outcome, v_evicted, NULL, NULL, NULL, NULL, NULL, NULL, NULL;
    END IF;
END//

-- Gives whether a live session was ended. Every step is right by itself, whatever happens between
-- two of them, so none holds a lock that another waits for.
CREATE PROCEDURE cloakroom_delete(IN p_now BIGINT, IN p_id BINARY(26), IN p_reason TINYINT UNSIGNED, IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT DEFAULT COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    DECLARE v_id BINARY(26) DEFAULT p_id;
    DECLARE v_steps INT DEFAULT 0;
    DECLARE v_was_live BOOL;

    trail: WHILE v_id IS NOT NULL DO
        UPDATE cloakroom_sessions SET ended_reason = p_reason, ended_at = v_now,
            sweep_at = NULL, principal = NULL, record = NULL
            WHERE id = v_id AND ended_at IS NULL AND idle_deadline > v_now;
        IF ROW_COUNT() > 0 THEN
            SET v_was_live = TRUE;
            LEAVE trail;
        END IF;
        UPDATE cloakroom_sessions SET ended_reason = 4, ended_at = idle_deadline,
            sweep_at = NULL, principal = NULL, record = NULL
            WHERE id = v_id AND ended_at IS NULL AND idle_deadline <= v_now;
        IF ROW_COUNT() > 0 THEN
            LEAVE trail;
        END IF;
        -- What is not over has come between the steps, and is ended in the next turn.
        SET v_id = (SELECT IF(ended_at IS NULL, id, successor) FROM cloakroom_sessions WHERE id = v_id);
        SET v_steps = v_steps + 1;
        -- More renewals than a session can have within the time that tombstones are kept.
        IF v_steps > 10000 THEN
            SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'the tombstones lead in a circle';
        END IF;
    END WHILE;
    SELECT p_proof, v_was_live IS NOT NULL;
END//

-- Gives whether a live session was ended. At every moment at most one row of a session is live: where
-- a renewal has moved it between the two steps, the next turn finds it.
CREATE PROCEDURE cloakroom_revoke(IN p_now BIGINT, IN p_principal VARBINARY(255), IN p_handle BINARY(10),
    IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT DEFAULT COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    DECLARE v_id BINARY(26);
    DECLARE v_was_live BOOL DEFAULT FALSE;

    ending: LOOP
        SET v_id = (SELECT id FROM cloakroom_sessions WHERE handle = p_handle AND principal = p_principal
            AND idle_deadline > v_now LIMIT 1);
        IF v_id IS NULL THEN
            LEAVE ending;
        END IF;
        UPDATE cloakroom_sessions SET ended_reason = 2, ended_at = v_now,
            sweep_at = NULL, principal = NULL, record = NULL
            WHERE id = v_id AND ended_at IS NULL;
        SET v_was_live = v_was_live OR ROW_COUNT() > 0;
    END LOOP;
    SELECT p_proof, v_was_live;
END//

-- Gives how many live sessions were ended. The stripe holds back every renewal, so the sessions that
-- are found are all there are; each is then locked by its id, as by everyone else.
CREATE PROCEDURE cloakroom_revoke_all(IN p_now BIGINT, IN p_principal VARBINARY(255), IN p_except BINARY(10),
    IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT;
    DECLARE v_locked INT;
    DECLARE v_id BINARY(26);
    DECLARE v_count BIGINT DEFAULT 0;
    DECLARE v_none_left BOOL DEFAULT FALSE;
    DECLARE v_sessions CURSOR FOR SELECT id FROM cloakroom_sessions
        WHERE principal = p_principal AND NOT (handle <=> p_except) ORDER BY id;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_none_left = TRUE;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;

    START TRANSACTION;
    SELECT COUNT(*) INTO v_locked FROM cloakroom_locks WHERE stripe = CRC32(p_principal) MOD 256 FOR UPDATE;
    IF v_locked = 0 THEN
        SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'cloakroom_locks lacks a row';
    END IF;
    SET v_now = COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    OPEN v_sessions;
    ending: LOOP
        FETCH v_sessions INTO v_id;
        IF v_none_left THEN
            LEAVE ending;
        END IF;
        UPDATE cloakroom_sessions SET ended_reason = 2, ended_at = v_now,
            sweep_at = NULL, principal = NULL, record = NULL
            WHERE id = v_id AND ended_at IS NULL AND idle_deadline > v_now;
        SET v_count = v_count + ROW_COUNT();
    END LOOP;
    CLOSE v_sessions;
    COMMIT;
    SELECT p_proof, v_count;
END//

-- Gives how many rows went, and how many were looked at: of what is due, what is over becomes a
-- tombstone and the rest is due again at its deadline. Rows that somebody else holds are passed by.
CREATE PROCEDURE cloakroom_sweep(IN p_now BIGINT, IN p_tombstones BIGINT, IN p_limit INT, IN p_proof BIGINT)
    MODIFIES SQL DATA SQL SECURITY INVOKER
BEGIN
    DECLARE v_now BIGINT DEFAULT COALESCE(p_now, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED));
    DECLARE v_id BINARY(26);
    DECLARE v_is_over BOOL;
    DECLARE v_room INT DEFAULT p_limit;
    DECLARE v_kept_since BIGINT DEFAULT v_now - p_tombstones;
    DECLARE v_gone BIGINT DEFAULT 0;
    DECLARE v_looked_at BIGINT DEFAULT 0;
    DECLARE v_none_left BOOL DEFAULT FALSE;
    DECLARE v_outdated CURSOR FOR SELECT id FROM cloakroom_sessions FORCE INDEX (ended)
        WHERE ended_at < v_kept_since ORDER BY ended_at LIMIT p_limit FOR UPDATE SKIP LOCKED;
    DECLARE v_due CURSOR FOR SELECT id, idle_deadline <= v_now FROM cloakroom_sessions FORCE INDEX (sweep)
        WHERE sweep_at <= v_now ORDER BY sweep_at LIMIT v_room FOR UPDATE SKIP LOCKED;
    DECLARE CONTINUE HANDLER FOR NOT FOUND SET v_none_left = TRUE;
    DECLARE EXIT HANDLER FOR SQLEXCEPTION
    BEGIN
        ROLLBACK;
        RESIGNAL;
    END;

    START TRANSACTION;
    OPEN v_outdated;
    removing: LOOP
        FETCH v_outdated INTO v_id;
        IF v_none_left THEN
            LEAVE removing;
        END IF;
        DELETE FROM cloakroom_sessions WHERE id = v_id;
        SET v_gone = v_gone + 1, v_looked_at = v_looked_at + 1, v_room = v_room - 1;
    END LOOP;
    CLOSE v_outdated;
    IF v_room > 0 THEN
        SET v_none_left = FALSE;
        OPEN v_due;
        looking: LOOP
            FETCH v_due INTO v_id, v_is_over;
            IF v_none_left THEN
                LEAVE looking;
            END IF;
            IF v_is_over THEN
                UPDATE cloakroom_sessions SET ended_reason = 4, ended_at = idle_deadline,
                    sweep_at = NULL, principal = NULL, record = NULL
                    WHERE id = v_id;
                SET v_gone = v_gone + 1;
            ELSE
                UPDATE cloakroom_sessions SET sweep_at = idle_deadline WHERE id = v_id;
            END IF;
            SET v_looked_at = v_looked_at + 1;
        END LOOP;
        CLOSE v_due;
    END IF;
    COMMIT;
    SELECT p_proof, v_gone, v_looked_at;
END//

DELIMITER ;

INSERT IGNORE INTO cloakroom_migrations (version, applied_at) VALUES (1, UNIX_TIMESTAMP() * 1000);
