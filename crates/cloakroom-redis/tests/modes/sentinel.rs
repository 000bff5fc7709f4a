use std::time::Duration;

use cloakroom_core::{EndReason, Load, SessionStore as _};
use cloakroom_redis::{RedisDurability, RedisOpenErrorKind};
use cloakroom_services::{Sentinel, shared};
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
