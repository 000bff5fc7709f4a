-- For the owner of the tables to run. `service_role` is the role that the service connects as.
REVOKE ALL ON cloakroom_sessions, cloakroom_listening, cloakroom_migrations FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON cloakroom_sessions TO service_role;
GRANT SELECT, UPDATE ON cloakroom_listening TO service_role;
GRANT SELECT ON cloakroom_migrations TO service_role;
REVOKE ALL ON FUNCTION cloakroom_now, cloakroom_owner_lock, cloakroom_create, cloakroom_evict, cloakroom_renew,
    cloakroom_delete, cloakroom_revoke, cloakroom_tell FROM PUBLIC;
GRANT EXECUTE ON FUNCTION cloakroom_now, cloakroom_owner_lock, cloakroom_create, cloakroom_evict, cloakroom_renew,
    cloakroom_delete, cloakroom_revoke TO service_role;
