use std::time::Duration;

use cloakroom_core::{
    Durability, EndReason, Renew, Renewal, Revision, SessionStore as _, StoreErrorKind, WriteOutcome,
};
use cloakroom_redis::RedisDurability;
use cloakroom_services::Redis;

use crate::{file, open, options};

#[tokio::test]
async fn what_can_lose_sessions_is_warned_of() {
    let server = Redis::start().unwrap();
    let store = open(&server.url()).await;
    let probe = store.probe().await.unwrap();
    assert!(probe.server.starts_with("Redis "), "{}", probe.server);
    assert_eq!(probe.durability, Durability::Async);
    assert!(probe.warnings.len() == 1 && probe.warnings[0].contains("nothing is saved"), "{:?}", probe.warnings);

    server.command(&["CONFIG", "SET", "appendonly", "yes"]).unwrap();
    assert_eq!(store.probe().await.unwrap().warnings, Vec::<String>::new());
    server.command(&["CONFIG", "SET", "maxmemory-policy", "volatile-ttl"]).unwrap();
    let warnings = store.probe().await.unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].contains("volatile-ttl"), "{warnings:?}");
}

#[tokio::test]
async fn what_the_acl_hides_is_named_and_no_error() {
    let server = Redis::builder().acl().start().unwrap();
    let store = open(&server.url()).await;
    server.command(&["ACL", "SETUSER", "cloakroom", "-info", "-config|get"]).unwrap();
    let probe = store.probe().await.unwrap();
    assert!(probe.warnings.len() == 1, "{:?}", probe.warnings);
    assert!(probe.warnings[0].contains("grant `+info +config|get`"), "{:?}", probe.warnings);
}

/// `WAIT` may look only at what its own connection wrote: what a logout relies on, somebody else may have written, and no
/// replica acknowledged.
#[tokio::test]
async fn a_logout_writes_under_each_id_that_it_relies_on() {
    let server = Redis::builder().start().unwrap();
    let store = open(&server.url()).await;
    let written = async |id, ended| {
        let writes = || {
            let info = server.command(&["INFO", "persistence"]).unwrap();
            let writes = info.lines().find_map(|line| line.strip_prefix("rdb_changes_since_last_save:"));
            writes.unwrap().trim().parse::<u64>().unwrap()
        };
        let before = writes();
        assert_eq!(store.delete(id, EndReason::Destroyed).await.unwrap(), ended);
        writes() - before
    };
    let (old, record) = file(&store).await;
    let new = crate::new_id();
    let renewal = Renewal { old: &old, new: &new, expected: Revision::FIRST, record: &record, limit: None };
    assert!(matches!(store.renew(renewal).await.unwrap(), Renew::Renewed { .. }));
    assert_eq!(written(&old, true).await, 2);
    assert_eq!(written(&old, false).await, 2);
    assert_eq!(written(&new, false).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas_make_an_acknowledged_write_unknown() {
    let primary = Redis::builder().config("appendonly yes").start().unwrap();
    let acked = |replicas| RedisDurability::Acked { replicas, timeout: Duration::from_millis(100) };
    let store = options(&primary.url()).with_durability(acked(1)).open().await.unwrap();
    let id = crate::new_id();
    let error = store.create(&id, &crate::record_of(&id), None).await.unwrap_err();
    assert_eq!((error.kind(), error.outcome()), (StoreErrorKind::Unavailable, WriteOutcome::Unknown), "{error}");
    assert!(error.to_string().contains("0 of 1 replicas"), "{error}");
    let warnings = store.probe().await.unwrap().warnings;
    assert!(warnings.iter().any(|warning| warning.contains("0 replicas follow")), "{warnings:?}");
    assert!(warnings.iter().any(|warning| warning.contains("min-replicas-to-write is 0")), "{warnings:?}");

    let port = primary.port();
    let replica = Redis::builder().password(primary.password()).config(format!("replicaof 127.0.0.1 {port}")).start();
    let replica = replica.unwrap();
    // Waits for the replica to be in sync: acknowledged once, all that follows is.
    let waited = primary.command(&["WAIT", "1", "4000"]).unwrap();
    assert_eq!(waited, "1");
    let patient = RedisDurability::Acked { replicas: 1, timeout: Duration::from_secs(2) };
    let store = options(&primary.url()).with_durability(patient).open().await.unwrap();
    let (id, _) = file(&store).await;
    assert_eq!(store.probe().await.unwrap().durability, Durability::Acked { replicas: 1 });

    // A replica that stands still acknowledges nothing; the write is on the primary all the same.
    replica.process().pause().unwrap();
    let hasty = options(&primary.url()).with_durability(acked(1)).open().await.unwrap();
    let (early, late) = (crate::new_id(), id);
    let error = hasty.create(&early, &crate::record_of(&early), None).await.unwrap_err();
    assert_eq!(error.outcome(), WriteOutcome::Unknown, "{error}");
    assert!(hasty.load(&early).await.unwrap().live().is_some());
    replica.process().resume().unwrap();
    assert!(store.delete(&late, EndReason::Destroyed).await.unwrap());
}
