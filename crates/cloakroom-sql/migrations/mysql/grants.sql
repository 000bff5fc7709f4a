-- The least rights of the role that the service signs in as; the store is then opened with
-- `migrate=off`, and somebody with more rights applies the migrations. Put the role in place of
-- 'cloakroom'@'%', and run it in the database of the sessions (`USE` it before).
GRANT SELECT, INSERT, UPDATE, DELETE ON cloakroom_sessions TO 'cloakroom'@'%';
-- UPDATE is the right to lock a row; none is ever changed.
GRANT SELECT, UPDATE ON cloakroom_locks TO 'cloakroom'@'%';
GRANT SELECT ON cloakroom_migrations TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_make_room TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_create TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_update_8 TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_renew TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_delete TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_revoke TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_revoke_all TO 'cloakroom'@'%';
GRANT EXECUTE ON PROCEDURE cloakroom_sweep TO 'cloakroom'@'%';
