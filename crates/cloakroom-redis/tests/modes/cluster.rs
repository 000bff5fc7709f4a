use std::time::Duration;

use cloakroom_core::Revision;
use cloakroom_core::{EndReason, Load, SessionStore as _, Update};
use cloakroom_services::{Cluster, Redis};
use tokio::time::Instant;

use crate::{assert_live, file, options};

/// A slot on its way from one primary to another, step by step.
struct Move<'a> {
    slot: String,
    from: &'a Redis,
    to: &'a Redis,
    password: &'a str,
}

impl Move<'_> {
    fn begin(&self) {
        let (from, to) = (id(self.from), id(self.to));
        self.to.command(&["CLUSTER", "SETSLOT", &self.slot, "IMPORTING", &from]).unwrap();
        self.from.command(&["CLUSTER", "SETSLOT", &self.slot, "MIGRATING", &to]).unwrap();
    }

    fn take_keys(&self) {
        let keys = self.from.command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).unwrap();
        for key in keys.lines() {
            let port = self.to.port().to_string();
            let words =
                ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH2", "default", self.password, "KEYS", key];
            self.from.command(&words).unwrap();
        }
    }

    fn end(&self) {
        let to = id(self.to);
        for node in [self.to, self.from] {
            node.command(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &to]).unwrap();
        }
    }
}

fn id(node: &Redis) -> String {
    node.command(&["CLUSTER", "MYID"]).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_followed_while_slots_move_and_when_a_primary_dies() {
    let cluster = tokio::task::block_in_place(|| Cluster::start().unwrap());
    let prefix = format!("cloakroom-modes-{}:", std::process::id());
    let store = options(&cluster.url())
        .with_prefix(&prefix)
        .unwrap()
        .with_timeout(Duration::from_millis(500))
        .with_connect_timeout(Duration::from_secs(10))
        .open()
        .await
        .unwrap();
    let mut sessions = Vec::new();
    for _ in 0..60 {
        sessions.push(file(&store).await);
    }
    let primaries = cluster.primaries().unwrap();
    for primary in &primaries {
        assert_ne!(primary.command(&["DBSIZE"]).unwrap(), "0", "the sessions are not spread");
    }

    // ASK while the keys of a slot are there already and the slot is not; MOVED afterwards.
    let (from, to) = (primaries[0], primaries[1]);
    let key = from.command(&["RANDOMKEY"]).unwrap();
    let slot = from.command(&["CLUSTER", "KEYSLOT", &key]).unwrap();
    let step = Move { slot, from, to, password: cluster.password() };
    step.begin();
    for (id, record) in &sessions {
        assert_live(store.load(id).await.unwrap(), record);
    }
    step.take_keys();
    for (id, record) in &sessions {
        assert_live(store.load(id).await.unwrap(), record);
        assert_eq!(store.update(id, Revision::FIRST, record).await.unwrap(), Update::Saved(Revision::FIRST.next()));
    }
    step.end();
    for (id, record) in &sessions {
        assert_live(store.load(id).await.unwrap(), record);
        let second = Revision::FIRST.next();
        assert_eq!(store.update(id, second, record).await.unwrap(), Update::Saved(second.next()));
    }
    assert!(from.command(&["INFO", "errorstats"]).unwrap().contains("errorstat_ASK"));
    assert!(from.command(&["INFO", "errorstats"]).unwrap().contains("errorstat_MOVED"));
    assert!(store.probe().await.unwrap().server.contains("cluster of 3"));

    // A primary dies: its replica takes over, and calls wait for that.
    cluster.await_stable().unwrap();
    let primaries = cluster.primaries().unwrap();
    let held: Vec<_> = primaries[2].command(&["KEYS", "*"]).unwrap().lines().map(str::to_owned).collect();
    assert!(!held.is_empty());
    primaries[2].kill().unwrap();
    let started = Instant::now();
    for (id, record) in &sessions {
        assert_live(store.load(id).await.unwrap(), record);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    for (id, _) in &sessions {
        assert!(store.delete(id, EndReason::Destroyed).await.unwrap());
        assert_eq!(store.load(id).await.unwrap(), Load::Gone(Some(EndReason::Destroyed)));
    }
}
