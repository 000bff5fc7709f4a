//! `scan`.

use std::collections::BTreeMap;

use cloakroom_core::{Revision, Stored};

use super::Fixture;
use super::stage::{Stage, new_id, principal, remade, with_number};

/// In batches of any size, everything that is live comes once, whole, with its revision.
pub async fn scan_brings_every_live_record_exactly_once(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    assert!(stage.client.scan(None, 10).await.is_empty(), "scan: of an empty store");
    let alice = principal("alice");
    let mut expected = BTreeMap::new();
    for turn in 0..100 {
        let session = stage.session((turn % 3 == 0).then_some(&alice)).await;
        let mut stored = Stored { record: session.record, revision: Revision::FIRST };
        if turn % 5 == 0 {
            stored = Stored { record: with_number(&stored.record, turn), revision: Revision::FIRST.next() };
            stage.client.update(&session.id, Revision::FIRST, &stored.record).await;
        }
        expected.insert(session.id, stored);
    }
    for size in [1, 7, 99, 100, 101, 1000] {
        let found = stage.client.scan_all(size).await;
        assert_eq!(found.len(), expected.len(), "scan: batches of {size} bring a record twice or miss one");
        let found: BTreeMap<_, _> = found.into_iter().collect();
        assert!(found == expected, "scan: batches of {size} bring a record twice, miss one, or change one");
    }
}

/// Nothing that ended or expired comes, before a sweep and after.
pub async fn scan_brings_no_record_that_ended(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 4).await;
    let fleeting = stage.fleeting(None).await;
    stage.client.delete(&sessions[0].id).await;
    stage.client.revoke(&alice, sessions[1].handle()).await;
    let new = new_id(None);
    stage.client.renew_fresh(&sessions[2].id, &new, &remade(&sessions[2].record, sessions[2].handle(), None)).await;
    stage.expire(&[fleeting]).await;
    let mut live = [sessions[3].id, new];
    live.sort_unstable();
    for _ in 0..2 {
        let mut found: Vec<_> = stage.client.scan_all(1).await.into_iter().map(|(id, _)| id).collect();
        found.sort_unstable();
        assert_eq!(found, live, "scan: brings a record that is not live, or misses one that is");
        stage.client.sweep_out(10).await;
    }
}

/// Whatever comes and goes between two batches, what is live all the time comes exactly once.
pub async fn scan_is_not_disturbed_by_writes_in_between(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let staying = stage.sessions(None, 60).await;
    let mut passing = stage.sessions(None, 60).await;
    let mut seen: BTreeMap<_, usize> = BTreeMap::new();
    let mut after = None;
    loop {
        let batch = stage.client.scan(after, 5).await;
        let Some((last, _)) = batch.last() else { break };
        after = Some(*last);
        for (id, _) in &batch {
            *seen.entry(*id).or_default() += 1;
        }
        // The record that the cursor stands on may go, too.
        for id in passing.pop().map(|session| session.id).into_iter().chain(batch.iter().map(|(id, _)| *id)) {
            if !staying.iter().any(|session| session.id == id) {
                stage.client.delete(&id).await;
            }
        }
        stage.session(None).await;
        assert!(seen.len() <= 500, "scan: does not come to an end");
    }
    for session in &staying {
        assert_eq!(seen.get(&session.id), Some(&1), "scan: a record that was live all the time must come exactly once");
    }
}
