//! The rights that tests run with are those that the documentation gives to operators.

#[test]
fn the_acl_user_has_the_rights_that_the_store_asks_for_and_no_others() {
    let documented = cloakroom_redis::ACL_RULE.replace("cloakroom:*", "cloakroom*");
    assert_eq!(cloakroom_services::ACL_RULES, documented, "services/src/redis.rs and cloakroom-redis differ");
}
