//! `renew`.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;

use cloakroom_core::{EndReason, Load, Page, Principal, Renew, Renewal, Revision, SessionId, Stored, Update};

use super::Fixture;
use super::stage::{Client, Stage, new_id, number, principal, remade, together, with_number};

const SECOND: Revision = Revision::FIRST.next();

/// Afterwards the new id is live with the new record, and the old one is gone because of it.
pub async fn renew_moves_the_session_to_the_new_id(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let new = new_id(Some(&alice));
    let record = with_number(&session.record, 1);
    let renewed = stage.client.renew_fresh(&session.id, &new, &record).await;
    assert_eq!(renewed, Renew::Renewed { revision: SECOND, evicted: vec![] }, "renew: a live session at its revision");
    let loaded = stage.client.load(&session.id).await;
    assert_eq!(loaded, Load::Gone(Some(EndReason::Renewed)), "renew: the old id must be dead, and say why");
    let stored = stage.client.live(&new).await;
    assert_eq!(
        stored,
        Stored { record, revision: SECOND },
        "renew: what stands under the new id is not what was given"
    );
    assert_eq!(stage.client.handles(&alice).await, [session.handle()], "renew: the list must show the session once");
    let found: Vec<_> = stage.client.scan_all(10).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!(found, [new], "renew: exactly the new id must be found by a scan");
}

/// Whoever renews from an old copy is told, gets what is there, and changes nothing.
pub async fn renew_conflict_brings_the_current_record_and_writes_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(Some(&principal("alice"))).await;
    let record = with_number(&session.record, 1);
    assert_eq!(stage.client.update(&session.id, Revision::FIRST, &record).await, Update::Saved(SECOND));
    let current = Stored { record, revision: SECOND };
    let new = new_id(session.record.principal());
    for expected in [Revision::FIRST, SECOND.next()] {
        let renewal = Renewal { old: &session.id, new: &new, expected, record: &session.record, limit: None };
        let renewed = stage.client.renew(renewal).await;
        assert_eq!(
            renewed,
            Renew::Conflict(current.clone()),
            "renew: at another revision must bring the current record"
        );
    }
    assert_eq!(stage.client.live(&session.id).await, current, "renew: a conflict changed the old session");
    assert_nothing_under(&stage, &new).await;
}

/// What was ended cannot be renewed, and the caller learns why.
pub async fn renew_of_what_is_not_live_is_gone_and_writes_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let new = new_id(Some(&alice));
    let record = stage.record(Some(&alice));
    let unknown = stage.client.renew_fresh(&new_id(None), &new, &record).await;
    assert_eq!(unknown, Renew::Gone(None), "renew: there is nothing under an unknown id");
    let deleted = stage.session(Some(&alice)).await;
    stage.client.delete(&deleted.id).await;
    let renewed = stage.client.renew_fresh(&deleted.id, &new, &record).await;
    assert_eq!(renewed, Renew::Gone(Some(EndReason::Destroyed)), "renew: revived a deleted session");
    let revoked = stage.session(Some(&alice)).await;
    stage.client.revoke_all(&alice, None).await;
    let renewed = stage.client.renew_fresh(&revoked.id, &new, &record).await;
    assert_eq!(renewed, Renew::Gone(Some(EndReason::Revoked)), "renew: revived a revoked session");
    let expired = stage.fleeting(Some(&alice)).await;
    stage.expire(std::slice::from_ref(&expired)).await;
    let renewed = stage.client.renew_fresh(&expired.id, &new, &record).await;
    let allowed = [Renew::Gone(Some(EndReason::Expired)), Renew::Gone(None)];
    assert!(allowed.contains(&renewed), "renew: an expired session must be gone: {renewed:?}");
    assert_nothing_under(&stage, &new).await;
    assert!(stage.client.handles(&alice).await.is_empty(), "renew: listed a session that it did not renew");
}

/// The new id has to be one that never was.
pub async fn renew_onto_a_taken_id_is_occupied_and_writes_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let (live, dead) = (stage.session(None).await, stage.session(None).await);
    stage.client.delete(&dead.id).await;
    for taken in [&live, &dead] {
        let renewed = stage.client.renew_fresh(&session.id, &taken.id, &session.record).await;
        assert_eq!(renewed, Renew::Occupied, "renew: an id that is or was taken must be occupied");
        let stored = stage.client.live(&session.id).await;
        assert_eq!(stored.revision, Revision::FIRST, "renew: an occupied id changed the old session");
    }
    assert_eq!(stage.client.live(&live.id).await.record, live.record, "renew: overwrote another session");
    assert!(!stage.client.is_live(&dead.id).await, "renew: brought an id back to life");
}

/// A session cannot be moved to where it is.
pub async fn renew_onto_its_own_id_is_occupied(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let renewed = stage.client.renew_fresh(&session.id, &session.id, &session.record).await;
    assert_eq!(renewed, Renew::Occupied, "renew: the old id is a taken one");
    assert!(stage.client.is_live(&session.id).await, "renew: lost a session that was renewed onto its own id");
}

/// A sign-in, a sign-out and a change of account take the session out of one list and into another.
pub async fn renew_to_another_owner_moves_between_the_lists(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (alice, bob) = (principal("alice"), principal("bob"));
    let mut session = stage.session(None).await;
    let mut revision = Revision::FIRST;
    for owner in [Some(&alice), Some(&bob), Some(&bob), None, Some(&alice)] {
        let record = remade(&session.record, session.handle(), owner);
        let new = new_id(owner);
        let renewal = Renewal { old: &session.id, new: &new, expected: revision, record: &record, limit: None };
        let renewed = stage.client.renew(renewal).await;
        revision = revision.next();
        assert_eq!(renewed, Renew::Renewed { revision, evicted: vec![] }, "renew: may change the owner");
        (session.id, session.record) = (new, record);
        for principal in [&alice, &bob] {
            let listed = !stage.client.handles(principal).await.is_empty();
            assert_eq!(
                listed,
                owner == Some(principal),
                "renew: the session must be in its new owner's list and no other"
            );
        }
        assert_eq!(stage.client.live(&new).await.record, session.record, "renew: must file the record as given");
    }
    assert_eq!(
        stage.client.revoke_all(&bob, None).await,
        0,
        "revoke_all: ended a session that was renewed to another owner"
    );
    assert_eq!(
        stage.client.revoke_all(&alice, None).await,
        1,
        "revoke_all: missed a session that was renewed to its owner"
    );
}

/// A session may be renewed any number of times, and only the last id is live.
pub async fn renew_can_be_chained(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let ids = chain(&stage, &session.id, 10).await;
    let (last, before) = ids.split_last().unwrap_or((&session.id, &[]));
    assert!(stage.client.is_live(last).await, "renew: the last id of a chain must be live");
    for id in before {
        let loaded = stage.client.load(id).await;
        assert_eq!(loaded, Load::Gone(Some(EndReason::Renewed)), "renew: all earlier ids of a chain must be dead");
    }
}

/// Renews so many times; all ids, the first included.
pub(super) async fn chain(stage: &Stage<'_>, first: &SessionId, renewals: u64) -> Vec<SessionId> {
    let mut ids = vec![*first];
    let mut stored = stage.client.live(first).await;
    for _ in 0..renewals {
        let (old, new) = (ids[ids.len() - 1], new_id(stored.record.principal()));
        let expected = stored.revision;
        let renewed =
            stage.client.renew(Renewal { old: &old, new: &new, expected, record: &stored.record, limit: None }).await;
        stored.revision = stored.revision.next();
        assert_eq!(renewed, Renew::Renewed { revision: stored.revision, evicted: vec![] }, "renew: part of a chain");
        ids.push(new);
    }
    ids
}

/// Readers that watch both ids and the list while the session moves: never neither, never both.
pub async fn renew_shows_every_observer_exactly_one_live_id(fixture: &dyn Fixture) {
    const RENEWALS: usize = 100;
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let ids: Vec<_> = std::iter::once(session.id).chain((0..RENEWALS).map(|_| new_id(Some(&alice)))).collect();
    let ids = Arc::new(ids);
    // How many renewals have begun; the observers look where it happens.
    let begun = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let observers: Vec<_> = (0..4)
        .map(|observer| {
            let client = match (observer % 2, fixture.second_handle()) {
                (1, Some(second)) => Client(second),
                (_, _) => stage.client.clone(),
            };
            let (ids, begun, over, alice) = (ids.clone(), begun.clone(), over.clone(), alice.clone());
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    let at = begun.load(Ordering::SeqCst).clamp(1, RENEWALS);
                    observe(&client, &alice, &ids[at - 1], &ids[at]).await;
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for at in 1..=RENEWALS {
        begun.store(at, Ordering::SeqCst);
        let expected = Revision::from_u64(at as u64);
        let renewal = Renewal { old: &ids[at - 1], new: &ids[at], expected, record: &session.record, limit: None };
        // Every other renewal is looked at from here, wherever it awaits something.
        let mut renewing = pin!(stage.client.renew(renewal));
        let renewed = loop {
            if at % 2 == 0 {
                break renewing.await;
            }
            match poll_fn(|context| Poll::Ready(renewing.as_mut().poll(context))).await {
                Poll::Ready(renewed) => break renewed,
                Poll::Pending => observe(&stage.client, &alice, &ids[at - 1], &ids[at]).await,
            }
        };
        assert_eq!(renewed, Renew::Renewed { revision: expected.next(), evicted: vec![] }, "renew: part of a chain");
        tokio::task::yield_now().await;
    }
    over.store(true, Ordering::SeqCst);
    for observer in observers {
        if let Err(error) = observer.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}

/// Looks at both ids and at the list while the first is renewed to the second, or the second further.
async fn observe(client: &Client, alice: &Principal, old: &SessionId, new: &SessionId) {
    // Once the old id is seen dead, the new one has been live.
    if let Load::Gone(reason) = client.load(old).await {
        assert_eq!(reason, Some(EndReason::Renewed), "renew: the old id ended for another reason");
        let next = client.load(new).await;
        let moved_on = next == Load::Gone(Some(EndReason::Renewed));
        assert!(matches!(next, Load::Live(_)) || moved_on, "renew: an observer saw neither id live: {next:?}");
    }
    // Once the new id is seen live, the old one is dead.
    if client.is_live(new).await {
        assert!(!client.is_live(old).await, "renew: an observer saw both ids live");
    }
    let listed = client.list(alice, Page::FIRST).await.sessions.len();
    assert_eq!(listed, 1, "renew: an observer saw the session {listed} times in the list");
}

/// Requests that renew one session at once: one does, the others are told, and one session is left.
pub async fn renew_has_one_winner_among_parallel_calls(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for turn in 0..10 {
        let alice = principal(&format!("alice-{turn}"));
        let session = stage.session(Some(&alice)).await;
        let results = together((0..16).map(|_| {
            let (client, session, new) = (stage.client.clone(), session.clone(), new_id(Some(&alice)));
            async move { (new, client.renew_fresh(&session.id, &new, &session.record).await) }
        }))
        .await;
        let mut winners = 0;
        for (new, renewed) in results {
            let won = matches!(renewed, Renew::Renewed { .. });
            winners += usize::from(won);
            assert_eq!(
                stage.client.is_live(&new).await,
                won,
                "renew: answered {renewed:?}, but the new id says otherwise"
            );
            let told = won || renewed == Renew::Gone(Some(EndReason::Renewed));
            assert!(told, "renew: a losing call must learn that the session was renewed: {renewed:?}");
        }
        assert_eq!(winners, 1, "renew: of parallel calls exactly one must win");
        assert!(!stage.client.is_live(&session.id).await, "renew: left the old id live");
        assert_eq!(stage.client.handles(&alice).await.len(), 1, "renew: parallel calls made a second session");
    }
}

/// An update and a renewal at once: whichever comes second is told, so that no change is lost.
pub async fn renew_in_parallel_with_updates_loses_none(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..100 {
        let session = stage.session(None).await;
        let new = new_id(None);
        let updating = {
            let (client, id, record) = (stage.client.clone(), session.id, with_number(&session.record, 1));
            tokio::spawn(async move { client.update(&id, Revision::FIRST, &record).await })
        };
        let renewed = stage.client.renew_fresh(&session.id, &new, &session.record).await;
        let updated = updating.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        match (renewed, updated) {
            (Renew::Renewed { .. }, Update::Gone(Some(EndReason::Renewed))) => {
                assert!(!stage.client.is_live(&session.id).await, "renew: left the old id live");
                assert!(stage.client.is_live(&new).await, "renew: lost the session");
            }
            (Renew::Conflict(current), Update::Saved(SECOND)) => {
                assert_eq!(number(&current.record), 1, "renew: a conflict must bring the update that came first");
                assert_eq!(stage.client.live(&session.id).await, current, "renew: a conflict wrote something");
                assert_nothing_under(&stage, &new).await;
            }
            (renewed, updated) => panic!("renew, update: one must win and the other be told: {renewed:?}, {updated:?}"),
        }
    }
}

async fn assert_nothing_under(stage: &Stage<'_>, id: &SessionId) {
    let loaded = stage.client.load(id).await;
    assert_eq!(loaded, Load::Gone(None), "renew: wrote to the new id though it did not renew");
}
