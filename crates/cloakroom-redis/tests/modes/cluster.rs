use std::time::Duration;

use cloakroom_core::{
    Create, EndReason, Load, Page, Principal, Revision, SessionId, SessionStore as _, StoreError, StoreErrorKind,
    Update, WriteOutcome,
};
use cloakroom_services::{Cluster, Redis};
use tokio::time::Instant;

use crate::{assert_live, file, new_id, options, record_of};

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

    fn keys(&self) -> Vec<String> {
        let keys = self.from.command(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "100"]).unwrap();
        keys.lines().map(str::to_owned).collect()
    }

    fn take(&self, key: &str) {
        let port = self.to.port().to_string();
        let words = ["MIGRATE", "127.0.0.1", &port, "", "0", "5000", "AUTH2", "default", self.password, "KEYS", key];
        self.from.command(&words).unwrap();
    }

    fn take_keys(&self) {
        self.keys().iter().for_each(|key| self.take(key));
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

/// A session and the index that names it are keys of their own, and one is on the other node before the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_its_slot_moves_no_session_is_passed_over() {
    let cluster = tokio::task::block_in_place(|| Cluster::start().unwrap());
    let open =
        options(&cluster.url()).with_timeout(Duration::from_secs(5)).with_connect_timeout(Duration::from_secs(1));
    let store = open.open().await.unwrap();
    let primaries = cluster.primaries().unwrap();
    let (elsewhere, _) = file(&store).await;
    for index_first in [true, false] {
        let alice = Principal::new(format!("alice-{index_first}")).unwrap();
        let sign_in = async || {
            let mut bytes = *new_id().as_bytes();
            bytes[..SessionId::SHARD_LEN].copy_from_slice(&alice.shard());
            let id = SessionId::from_bytes(bytes);
            let record = record_of(&id).owned_by(alice.clone());
            store.create(&id, &record, None).await.map(|created| {
                assert_eq!(created, Create::Created { evicted: Vec::new() });
                (id, record)
            })
        };
        let sessions = [sign_in().await.unwrap(), sign_in().await.unwrap(), sign_in().await.unwrap()];
        let (_, other) = sign_in().await.unwrap();
        let index = format!("*@{}", alice.as_str());
        let find = |node: &&&Redis| !node.command(&["KEYS", &index]).unwrap().is_empty();
        let from = primaries.iter().find(find).unwrap();
        let index = from.command(&["KEYS", &index]).unwrap();
        let slot = from.command(&["CLUSTER", "KEYSLOT", &index]).unwrap();
        let to = primaries.iter().find(|node| node.port() != from.port()).unwrap();
        let step = Move { slot, from, to, password: cluster.password() };
        step.begin();
        assert_eq!(store.list(&alice, Page::FIRST).await.unwrap().sessions.len(), 4, "nothing has moved yet");
        assert!(store.revoke(&alice, other.handle()).await.unwrap());
        assert!(!store.revoke(&alice, other.handle()).await.unwrap());
        match index_first {
            true => step.take(&index),
            false => step.keys().iter().filter(|key| **key != index).for_each(|key| step.take(key)),
        }
        let refused = |what: &str, error: StoreError| {
            let (kind, outcome) = (StoreErrorKind::Unavailable, WriteOutcome::NotDone);
            assert_eq!((error.kind(), error.outcome()), (kind, outcome), "{what}: {error:?}");
            let said = error.to_string();
            assert!(said.contains("mov") || said.contains("the cluster is being changed"), "{what}: {said}");
        };
        refused("revoke_all", store.revoke_all(&alice, None).await.unwrap_err());
        refused("list", store.list(&alice, Page::FIRST).await.unwrap_err());
        refused("create", sign_in().await.unwrap_err());
        refused("scan", store.scan(None, 10).await.unwrap_err());
        refused("explain", store.explain(sessions[0].1.handle()).await.unwrap_err());
        for (id, record) in &sessions {
            assert_live(store.load(id).await.unwrap(), record);
        }
        step.take_keys();
        if !index_first {
            step.end();
        }
        assert_eq!(store.list(&alice, Page::FIRST).await.unwrap().sessions.len(), 3);
        assert_eq!(store.revoke_all(&alice, None).await.unwrap(), 3);
        for (id, _) in &sessions {
            assert_eq!(store.load(id).await.unwrap(), Load::Gone(Some(EndReason::Revoked)));
        }
        assert!(store.list(&alice, Page::FIRST).await.unwrap().sessions.is_empty());
        if index_first {
            step.end();
        }
        let left: Vec<_> = store.scan(None, 10).await.unwrap().into_iter().map(|(id, _)| id).collect();
        assert_eq!(left, [elsewhere]);
        let ended = store.explain(sessions[0].1.handle()).await.unwrap();
        assert_eq!(ended.map(|ended| ended.reason), Some(EndReason::Revoked));
    }
}
