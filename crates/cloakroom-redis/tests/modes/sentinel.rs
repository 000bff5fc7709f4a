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

/// What the store needs to be granted by Sentinels.
const RIGHTS: [&str; 3] = ["+ping", "+sentinel|get-master-addr-by-name", "+sentinel|master"];

fn grant(sentinel: &Redis, user: &str, rights: &[&str]) {
    let rules = [&["ACL", "SETUSER", user, "on", ">s3cret", "-@all"], rights].concat();
    sentinel.command(&rules).unwrap();
}

/// Where these Sentinels lead, as the user of their own.
fn led_by(sentinels: &[&Redis], server: &Redis, user: &str) -> String {
    let hosts: Vec<_> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port())).collect();
    format!(
        "redis+sentinel://default:{}@{}/{}?sentinel_username={user}&sentinel_password=s3cret",
        server.password(),
        hosts.join(","),
        Sentinel::SERVICE
    )
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
        for sentinel in group.sentinels().iter().chain([&behind]) {
            grant(sentinel, "cloakroom", &RIGHTS);
        }
        (group, old, behind)
    });
    let [one, two, three] = group.sentinels() else { panic!("there are three Sentinels") };
    let options = options(&led_by(&[&behind, one, two, three], &old, "cloakroom"));
    let store = options.clone().open().await.unwrap();
    let (id, record) = file(&store).await;
    for _ in 0..40 {
        let store = options.clone().open().await.unwrap();
        assert_live(store.load(&id).await.unwrap(), &record);
        store.close().await;
    }
}

/// Two of two know no number. The one that was set up anew names what is no primary; the other one leads there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinels_that_may_not_tell_of_failovers_lead_to_whatever_is_a_primary() {
    let (primary, replica, sentinels) = tokio::task::block_in_place(|| {
        let primary = Redis::start().unwrap();
        let replica = Redis::builder().password(primary.password());
        let replica = replica.config(format!("replicaof 127.0.0.1 {}", primary.port())).start().unwrap();
        let right = Sentinel::watching(&primary, "one").unwrap();
        let wrong = Sentinel::watching(&primary, "two").unwrap();
        let port = replica.port().to_string();
        let auth = ["SENTINEL", "SET", Sentinel::SERVICE, "auth-pass", primary.password()];
        for words in [
            &["SENTINEL", "REMOVE", Sentinel::SERVICE][..],
            &["SENTINEL", "MONITOR", Sentinel::SERVICE, "127.0.0.1", &port, "2"],
            &auth,
        ] {
            wrong.command(words).unwrap();
        }
        for sentinel in [&right, &wrong] {
            grant(sentinel, "cloakroom", &RIGHTS[..2]);
        }
        (primary, replica, [right, wrong])
    });
    let [right, wrong] = &sentinels;
    for _ in 0..10 {
        let store = options(&led_by(&[wrong, right], &primary, "cloakroom")).open().await.unwrap();
        let (id, record) = file(&store).await;
        assert_live(store.load(&id).await.unwrap(), &record);
    }
    // Where nothing is a primary, the error says what else was named.
    tokio::task::block_in_place(|| primary.kill().unwrap());
    let options = options(&led_by(&[wrong, right], &primary, "cloakroom"));
    let error = options.with_connect_timeout(Duration::from_secs(4)).open().await.unwrap_err();
    let text = error.to_string();
    for port in [primary.port(), replica.port()] {
        assert!(text.contains(&format!("127.0.0.1:{port}")), "{text}");
    }
    assert!(text.contains("do not agree"), "{text}");
}
