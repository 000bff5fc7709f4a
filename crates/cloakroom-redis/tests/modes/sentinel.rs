use std::time::Duration;

use cloakroom_core::{EndReason, Load, SessionStore as _};
use cloakroom_redis::{RedisDurability, RedisOpenErrorKind};
use cloakroom_services::{Redis, Sentinel, shared};
use tokio::time::Instant;

use crate::{assert_live, file, options};

#[tokio::test]
async fn the_sentinels_lead_to_the_primary() {
    let url = shared::sentinel();
    let store = options(&url).open().await.unwrap();
    let (id, record) = file(&store).await;
    assert_live(store.load(&id).await.unwrap(), &record);

    let (hosts, query) = url.split_once('?').unwrap();
    let (hosts, _) = hosts.rsplit_once('/').unwrap();
    let error = options(&format!("{hosts}/unheard-of?{query}")).open().await.unwrap_err();
    assert_eq!(error.kind(), RedisOpenErrorKind::UnknownService, "{error}");
    let error = options(&url.replace("sentinel_password=", "sentinel_password=x")).open().await.unwrap_err();
    assert_eq!(error.kind(), RedisOpenErrorKind::Credentials, "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_is_followed_and_what_was_acknowledged_survives_it() {
    let group = tokio::task::block_in_place(|| Sentinel::start().unwrap());
    let acked = RedisDurability::Acked { replicas: 2, timeout: Duration::from_secs(2) };
    let store = options(&group.url())
        .with_durability(acked)
        .with_timeout(Duration::from_millis(500))
        .with_connect_timeout(Duration::from_secs(15))
        .open()
        .await
        .unwrap();
    let mut sessions = Vec::new();
    for _ in 0..10 {
        sessions.push(file(&store).await);
    }
    assert!(store.delete(&sessions[0].0, EndReason::Destroyed).await.unwrap());
    group.primary().unwrap().kill().unwrap();
    let started = Instant::now();
    // The call waits until the Sentinels have chosen another, which then has all of it.
    assert_eq!(store.load(&sessions[0].0).await.unwrap(), Load::Gone(Some(EndReason::Destroyed)));
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    for (id, record) in &sessions[1..] {
        assert_live(store.load(id).await.unwrap(), record);
    }
    // One replica is left, and two were to acknowledge.
    let error = store.delete(&sessions[1].0, EndReason::Destroyed).await.unwrap_err();
    assert!(error.to_string().contains("of 2 replicas acknowledged"), "{error}");
}

/// What a failover replaced comes back empty and calls itself a primary, and a Sentinel that has not
/// heard of the failover names it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sentinel_that_missed_the_failover_leads_nobody_to_the_old_primary() {
    let (group, old, behind) = tokio::task::block_in_place(|| {
        let group = Sentinel::start().unwrap();
        let first = group.primary().unwrap();
        group.sentinels()[0].command(&["SENTINEL", "FAILOVER", Sentinel::SERVICE]).unwrap();
        group.await_failover(first).unwrap();
        let old = Redis::builder().password(first.password()).start().unwrap();
        let behind = Sentinel::watching(&old, group.sentinels()[0].password()).unwrap();
        (group, old, behind)
    });
    let with_one_behind = group.url().replacen('@', &format!("@127.0.0.1:{},", behind.port()), 1);
    let options = options(&with_one_behind);
    let store = options.clone().open().await.unwrap();
    let (id, record) = file(&store).await;
    for _ in 0..40 {
        let store = options.clone().open().await.unwrap();
        assert_live(store.load(&id).await.unwrap(), &record);
        store.close().await;
    }
    drop(old);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_only_ask_for_the_primary_is_enough() {
    const ASKS: &str = "+hello +auth +ping +client|setname +sentinel|get-master-addr-by-name";
    let (server, sentinel) = tokio::task::block_in_place(|| {
        let server = Redis::start().unwrap();
        let sentinel = Sentinel::watching(&server, "operator").unwrap();
        for (user, rights) in [("newest", format!("{ASKS} +sentinel|master")), ("any", ASKS.to_owned())] {
            let rules = [["ACL", "SETUSER", user, "on", ">s3cret", "-@all"].to_vec(), rights.split(' ').collect()];
            sentinel.command(&rules.concat()).unwrap();
        }
        (server, sentinel)
    });
    for user in ["newest", "any"] {
        let url = format!(
            "redis+sentinel://default:{}@127.0.0.1:{}/{}?sentinel_username={user}&sentinel_password=s3cret",
            server.password(),
            sentinel.port(),
            Sentinel::SERVICE
        );
        let store = options(&url).open().await.unwrap();
        let (id, record) = file(&store).await;
        assert_live(store.load(&id).await.unwrap(), &record);
    }
}
