//! `update`.

use std::time::Duration;

use cloakroom_core::{EndReason, Load, Revision, Stored, Touch, Update};

use super::Fixture;
use super::stage::{HOUR, Stage, new_handle, new_id, number, principal, remade, together, with_number};

const SECOND: Revision = Revision::FIRST.next();

/// Each update takes the revision one further, and is what is read next.
pub async fn update_raises_the_revision_by_one(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(Some(&principal("alice"))).await;
    let mut revision = Revision::FIRST;
    for turn in 1..=5 {
        let record = with_number(&session.record, turn);
        let updated = stage.client.update(&session.id, revision, &record).await;
        revision = revision.next();
        assert_eq!(updated, Update::Saved(revision), "update: must be saved at the next revision");
        assert_eq!(
            stage.client.live(&session.id).await,
            Stored { record, revision },
            "update: is not what is read next"
        );
    }
}

/// An id that never was stays nothing.
pub async fn update_of_an_unknown_id_creates_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let id = new_id(Some(&alice));
    for revision in [Revision::FIRST, Revision::from_u64(0), SECOND] {
        let updated = stage.client.update(&id, revision, &stage.record(Some(&alice))).await;
        assert_eq!(updated, Update::Gone(None), "update: there is nothing under an unknown id");
    }
    assert_eq!(stage.client.load(&id).await, Load::Gone(None), "update: created a session");
    assert!(stage.client.handles(&alice).await.is_empty(), "update: listed a session that is not there");
}

/// A request that was under way when its owner signed out writes nothing, and learns why.
pub async fn update_does_not_recreate_a_deleted_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    stage.client.delete(&session.id).await;
    assert_gone(&stage, &session, EndReason::Destroyed).await;
}

/// The same for a session that was ended from outside.
pub async fn update_does_not_recreate_a_revoked_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let (one, other) = (stage.session(Some(&alice)).await, stage.session(Some(&alice)).await);
    stage.client.revoke(&alice, one.handle()).await;
    assert_gone(&stage, &one, EndReason::Revoked).await;
    stage.client.revoke_all(&alice, None).await;
    assert_gone(&stage, &other, EndReason::Revoked).await;
    assert!(stage.client.handles(&alice).await.is_empty(), "update: a revoked session is listed again");
}

/// A session that is over stays over, whatever deadlines the late writer brings.
pub async fn update_does_not_revive_an_expired_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.fleeting(None).await;
    stage.expire(std::slice::from_ref(&session)).await;
    for _ in 0..2 {
        let record = session.record.clone().seen(stage.now(), stage.now() + HOUR);
        let updated = stage.client.update(&session.id, Revision::FIRST, &record).await;
        let allowed = [Update::Gone(Some(EndReason::Expired)), Update::Gone(None)];
        assert!(allowed.contains(&updated), "update: an expired session must be gone: {updated:?}");
        assert!(!stage.client.is_live(&session.id).await, "update: revived an expired session");
        stage.client.sweep_out(10).await;
    }
}

/// A late writer to the old id of a renewed session is told, and the successor is not touched.
pub async fn update_of_a_renewed_away_id_is_gone_and_spares_the_successor(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let new = new_id(None);
    stage.client.renew_fresh(&session.id, &new, &session.record).await;
    assert_gone(&stage, &session, EndReason::Renewed).await;
    let successor = stage.client.live(&new).await;
    assert_eq!(successor.record, session.record, "update: of the old id changed the successor");
}

async fn assert_gone(stage: &Stage<'_>, session: &super::stage::Filed, reason: EndReason) {
    for revision in [Revision::FIRST, SECOND] {
        let updated = stage.client.update(&session.id, revision, &with_number(&session.record, 7)).await;
        assert_eq!(updated, Update::Gone(Some(reason)), "update: of an ended session must be gone, with the reason");
    }
    let loaded = stage.client.load(&session.id).await;
    assert_eq!(loaded, Load::Gone(Some(reason)), "update: brought an ended session back");
}

/// Whoever comes second is told, gets what is there, and changes nothing.
pub async fn update_conflict_brings_the_current_record_and_writes_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let first = with_number(&session.record, 1);
    assert_eq!(stage.client.update(&session.id, Revision::FIRST, &first).await, Update::Saved(SECOND));
    let current = Stored { record: first, revision: SECOND };
    let updated = stage.client.update(&session.id, Revision::FIRST, &with_number(&session.record, 2)).await;
    assert_eq!(updated, Update::Conflict(current.clone()), "update: at an old revision must bring the current record");
    assert_eq!(stage.client.live(&session.id).await, current, "update: a conflict wrote something: an update was lost");
}

/// Only the very revision counts, not one at least as high.
pub async fn update_at_a_revision_that_was_never_reached_is_a_conflict(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let current = Stored { record: session.record.clone(), revision: Revision::FIRST };
    for revision in [0, 2, 3, i64::MAX as u64, u64::MAX] {
        let revision = Revision::from_u64(revision);
        let updated = stage.client.update(&session.id, revision, &with_number(&session.record, 2)).await;
        assert_eq!(updated, Update::Conflict(current.clone()), "update: at {revision:?}, which the record is not at");
    }
    assert_eq!(stage.client.live(&session.id).await, current, "update: a conflict wrote something");
}

/// Only `renew` changes the owner: an update that tries is an error and writes nothing.
pub async fn update_does_not_change_the_owner(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (alice, mallory) = (principal("alice"), principal("mallory"));
    let session = stage.session(Some(&alice)).await;
    let anonymous = stage.session(None).await;
    for (session, to) in [(&session, Some(&mallory)), (&session, None), (&anonymous, Some(&mallory))] {
        let stolen = remade(&session.record, session.handle(), to);
        let updated = stage.client.0.update(&session.id, Revision::FIRST, &stolen).await;
        assert!(updated.is_err(), "update: accepted another owner: {updated:?}");
        let stored = stage.client.live(&session.id).await;
        assert_eq!(stored.record.principal(), session.record.principal(), "update: changed the owner");
    }
    assert_eq!(
        stage.client.handles(&alice).await,
        [session.handle()],
        "update: took a session out of its owner's list"
    );
    assert!(stage.client.handles(&mallory).await.is_empty(), "update: put a session into another's list");
}

/// The handle is the session's public name for good: an update that changes it is an error.
pub async fn update_does_not_change_the_handle(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let other = remade(&session.record, new_handle(), Some(&alice));
    let updated = stage.client.0.update(&session.id, Revision::FIRST, &other).await;
    assert!(updated.is_err(), "update: accepted another handle: {updated:?}");
    assert_eq!(stage.client.live(&session.id).await.record, session.record, "update: changed the handle");
    assert_eq!(stage.client.handles(&alice).await, [session.handle()], "update: changed the handle in the list");
}

/// An update made from an older copy does not undo a touch that came meanwhile.
pub async fn update_does_not_pull_back_a_pushed_idle_deadline(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let (seen, pushed) = (session.record.last_seen() + HOUR / 2, session.record.idle_deadline() + HOUR);
    assert_eq!(stage.client.touch(&session.id, seen, pushed).await, Touch::Touched);
    let updated = stage.client.update(&session.id, Revision::FIRST, &with_number(&session.record, 1)).await;
    assert_eq!(updated, Update::Saved(SECOND), "update: a touch is no conflict");
    let stored = stage.client.live(&session.id).await.record;
    assert_eq!(stored.idle_deadline(), pushed, "update: pulled back the idle deadline that a touch had pushed");
    assert_eq!(stored.last_seen(), seen, "update: pulled back the last activity that a touch had recorded");
    let listed = stage.client.list_all(&alice).await;
    assert_eq!(listed[0].idle_deadline, pushed, "update: pulled back the idle deadline in the list");
    stage.advance(HOUR + HOUR / 2);
    assert!(stage.client.is_live(&session.id).await, "update: the session ended at the deadline before the touch");
}

/// What the record says of the last activity does not decide whether the session is over.
pub async fn update_decides_by_the_stores_clock(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (live, over) = (stage.session(None).await, stage.fleeting(None).await);
    let future = live.record.clone().seen(live.record.idle_deadline() + HOUR, live.record.idle_deadline());
    let updated = stage.client.update(&live.id, Revision::FIRST, &future).await;
    assert_eq!(updated, Update::Saved(SECOND), "update: took a caller's clock that is ahead for the time");
    stage.expire(std::slice::from_ref(&over)).await;
    let past =
        over.record.clone().seen(over.record.created() - Duration::from_secs(1), over.record.idle_deadline() + HOUR);
    let updated = stage.client.update(&over.id, Revision::FIRST, &past).await;
    assert!(matches!(updated, Update::Gone(_)), "update: took a caller's clock that is late for the time: {updated:?}");
}

/// Of any number of writers that saw the same revision, one is saved and the others are told.
pub async fn update_of_one_revision_has_one_winner(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..10 {
        let session = stage.session(None).await;
        let results = together((1..=16).map(|number| {
            let (client, id) = (stage.client.clone(), session.id);
            let record = with_number(&session.record, number);
            async move { (number, client.update(&id, Revision::FIRST, &record).await) }
        }))
        .await;
        let winners: Vec<_> = results.iter().filter(|(_, updated)| *updated == Update::Saved(SECOND)).collect();
        assert_eq!(winners.len(), 1, "update: of parallel writers at one revision exactly one must be saved");
        let stored = stage.client.live(&session.id).await;
        assert_eq!(number(&stored.record), winners[0].0, "update: what is there is not what the one winner wrote");
        for (_, updated) in &results {
            let told = *updated == Update::Saved(SECOND) || *updated == Update::Conflict(stored.clone());
            assert!(told, "update: a losing writer must get the winner's record: {updated:?}");
        }
    }
}

/// A hundred requests add one each, repeating on a conflict: the sum is a hundred.
pub async fn update_by_a_hundred_parallel_writers_adds_up(fixture: &dyn Fixture) {
    const WRITERS: u64 = 100;
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    together((0..WRITERS).map(|writer| {
        let client = if writer % 2 == 0 { fixture.second_handle().map(super::stage::Client) } else { None };
        let (client, id) = (client.unwrap_or_else(|| stage.client.clone()), session.id);
        async move {
            let mut stored = client.live(&id).await;
            loop {
                // Let others come between the read and the write.
                tokio::task::yield_now().await;
                let more = with_number(&stored.record, number(&stored.record) + 1);
                match client.update(&id, stored.revision, &more).await {
                    Update::Saved(_) => return,
                    Update::Conflict(current) => stored = current,
                    Update::Gone(reason) => panic!("update: a live session is gone ({reason:?})"),
                }
            }
        }
    }))
    .await;
    let stored = stage.client.live(&session.id).await;
    assert_eq!(number(&stored.record), WRITERS, "update: some of {WRITERS} parallel updates were lost");
    assert_eq!(stored.revision, Revision::from_u64(WRITERS + 1), "update: each takes the revision one further");
}
