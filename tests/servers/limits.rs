//! A limit on sessions, against a crowd that signs in as one person.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom_core::{Create, Excess, Load, Page, Principal, SessionId, SessionLimit, SessionStore};
use tokio::sync::Barrier;

use crate::sessions::{new_id, principal, record};
use crate::stores::{Stores, on_every_store};

const ROUNDS: usize = 20;
const SIGN_INS: usize = 50;
const MAX: usize = 5;

on_every_store!(
    fifty_parallel_sign_ins_never_exceed_a_limit_that_rejects,
    fifty_parallel_sign_ins_never_exceed_a_limit_that_evicts,
);

async fn fifty_parallel_sign_ins_never_exceed_a_limit_that_rejects(stores: Stores) {
    for round in 0..ROUNDS {
        let created = sign_in(&stores, &principal(&format!("rejected{round}")), Excess::Reject).await;
        assert_eq!(created, MAX);
    }
}

async fn fifty_parallel_sign_ins_never_exceed_a_limit_that_evicts(stores: Stores) {
    for round in 0..ROUNDS {
        let created = sign_in(&stores, &principal(&format!("evicted{round}")), Excess::EvictOldest).await;
        assert_eq!(created, SIGN_INS);
    }
}

/// Signs in fifty times at once, and says how often that worked. Two observers look on.
async fn sign_in(stores: &Stores, who: &Principal, excess: Excess) -> usize {
    let limit = SessionLimit { max: NonZeroU32::new(u32::try_from(MAX).unwrap()).unwrap(), excess };
    let (start, over) = (Arc::new(Barrier::new(SIGN_INS)), Arc::new(AtomicBool::new(false)));
    let observers = [stores.one.clone(), stores.two.clone()].map(|store| {
        let (who, over) = (who.clone(), over.clone());
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                assert_within_limit(&*store, &who).await;
                // Of a server that is asked without a pause, the other processes may wait for a processor for seconds.
                // tidy: sleep — who only looks on must not keep from their turn those that it looks at
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
    });
    let tasks: Vec<_> = (0..SIGN_INS)
        .map(|n| {
            let (store, who, start) = (stores.either(n), who.clone(), start.clone());
            tokio::spawn(async move {
                let (id, record) = (new_id(&who), record(&who));
                start.wait().await;
                (id, store.create(&id, &record, Some(limit)).await.unwrap())
            })
        })
        .collect();
    let mut created: Vec<SessionId> = Vec::new();
    for task in tasks {
        match task.await.unwrap() {
            (id, Create::Created { .. }) => created.push(id),
            (_, Create::LimitReached) => assert_eq!(excess, Excess::Reject),
            (_, Create::Occupied) => panic!("an id that nobody had was taken"),
        }
    }
    over.store(true, Ordering::Relaxed);
    for observer in observers {
        observer.await.unwrap();
    }
    assert_eq!(assert_within_limit(&*stores.two, who).await, MAX);
    let mut live = 0;
    for id in &created {
        live += usize::from(matches!(stores.one.load(id).await.unwrap(), Load::Live(_)));
    }
    assert_eq!(live, MAX, "those that are listed are those that open");
    created.len()
}

async fn assert_within_limit(store: &dyn SessionStore, who: &Principal) -> usize {
    let listed = store.list(who, Page::FIRST).await.unwrap().sessions.len();
    assert!(listed <= MAX, "{listed} sessions at once");
    listed
}
