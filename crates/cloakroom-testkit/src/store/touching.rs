//! `touch`.

use std::time::Duration;

use cloakroom_core::{EndReason, Load, Revision, Stored, Touch, Update};

use super::Fixture;
use super::stage::{Client, Filed, HOUR, MILLISECOND, Stage, new_id, principal, together, with_number};

/// The idle deadline and the last activity move, in the record and in the list. Nothing else does.
pub async fn touch_pushes_the_idle_deadline_and_nothing_else(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.file(with_number(&stage.record(Some(&alice)), 7)).await;
    let (seen, pushed) = (session.record.last_seen() + HOUR / 2, session.record.idle_deadline() + HOUR);
    assert_eq!(stage.client.touch(&session.id, seen, pushed).await, Touch::Touched, "touch: the session is live");
    let touched = Stored { record: session.record.seen(seen, pushed), revision: Revision::FIRST };
    assert_eq!(stage.client.live(&session.id).await, touched, "touch: must move the two times and nothing else");
    let listed = stage.client.list_all(&alice).await;
    assert_eq!(listed, [(&touched.record).into()], "touch: the list must show the two times moved and nothing else");
}

/// A request that changes data and one that only shows activity never disturb each other.
pub async fn touch_never_conflicts_with_an_update(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let mut revision = Revision::FIRST;
    for turn in 1..=20 {
        let pushed = session.record.idle_deadline() + MILLISECOND * turn;
        let touching = {
            let (client, id, seen): (Client, _, _) = (stage.client.clone(), session.id, session.record.last_seen());
            tokio::spawn(async move { client.touch(&id, seen, pushed).await })
        };
        let updated = stage.client.update(&session.id, revision, &with_number(&session.record, turn.into())).await;
        revision = revision.next();
        assert_eq!(updated, Update::Saved(revision), "update: must not conflict with a touch");
        let touched = touching.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        assert_eq!(touched, Touch::Touched, "touch: must not fail because of an update");
        let stored = stage.client.live(&session.id).await;
        assert_eq!(super::stage::number(&stored.record), u64::from(turn), "touch: undid an update");
        assert_eq!(stored.record.idle_deadline(), pushed, "update: undid a touch");
        assert_eq!(stored.revision, revision, "touch: changed the revision");
    }
}

/// A late request with an earlier deadline takes nothing away.
pub async fn touch_never_moves_the_deadline_backwards(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let record = &session.record;
    for back in [MILLISECOND, HOUR / 2, 3 * HOUR] {
        stage.client.touch(&session.id, record.last_seen() - back, record.idle_deadline() - back).await;
        assert_eq!(
            &stage.client.live(&session.id).await.record,
            record,
            "touch: moved a deadline or the activity backwards"
        );
    }
}

/// The absolute deadline ends the session however active it is.
pub async fn touch_never_passes_the_absolute_limit(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.file(stage.record_until(None, HOUR, 2 * HOUR)).await;
    let absolute = session.record.absolute_deadline();
    for beyond in [MILLISECOND, 24 * HOUR, Duration::from_secs(200_000_000_000)] {
        stage.client.touch(&session.id, session.record.last_seen(), absolute + beyond).await;
        let stored = stage.client.live(&session.id).await.record;
        assert_eq!(stored.idle_deadline(), absolute, "touch: moved the idle deadline past the absolute one");
        assert_eq!(stored.absolute_deadline(), absolute, "touch: moved the absolute deadline");
    }
    if stage.is_manual() {
        stage.advance(2 * HOUR);
        assert!(!stage.client.is_live(&session.id).await, "touch: kept a session alive past its absolute deadline");
    }
}

/// Who is active stays signed in. Needs a [`ManualClock`](crate::ManualClock).
pub async fn touch_keeps_the_session_alive_past_its_old_deadline(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    if !stage.is_manual() {
        return;
    }
    let session = stage.session(None).await;
    for _ in 0..7 {
        stage.advance(HOUR - MILLISECOND);
        assert_eq!(stage.client.touch(&session.id, stage.now(), stage.now() + HOUR).await, Touch::Touched);
    }
    stage.advance(HOUR - MILLISECOND);
    assert!(stage.client.is_live(&session.id).await, "touch: an active session ended at a deadline that was pushed");
    stage.client.sweep_out(10).await;
    assert!(stage.client.is_live(&session.id).await, "sweep: went by a deadline that was pushed");
}

/// An id that never was stays nothing.
pub async fn touch_of_an_unknown_id_creates_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let id = new_id(None);
    let touched = stage.client.touch(&id, stage.now(), stage.now() + HOUR).await;
    assert_eq!(touched, Touch::Gone(None), "touch: there is nothing under an unknown id");
    assert_eq!(stage.client.load(&id).await, Load::Gone(None), "touch: created a session");
    assert!(stage.client.scan_all(10).await.is_empty(), "touch: created a session");
}

/// A request that comes after the deadline does not bring the session back.
pub async fn touch_does_not_revive_an_expired_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.fleeting(Some(&alice)).await;
    stage.expire(std::slice::from_ref(&session)).await;
    for _ in 0..2 {
        let touched = stage.client.touch(&session.id, stage.now(), stage.now() + HOUR).await;
        let allowed = [Touch::Gone(Some(EndReason::Expired)), Touch::Gone(None)];
        assert!(allowed.contains(&touched), "touch: an expired session must be gone: {touched:?}");
        assert!(!stage.client.is_live(&session.id).await, "touch: revived an expired session");
        assert!(stage.client.handles(&alice).await.is_empty(), "touch: revived an expired session in the list");
        stage.client.sweep_out(10).await;
    }
}

/// No request brings back what was ended, whoever ended it.
pub async fn touch_does_not_revive_a_session_that_was_ended(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let deleted = stage.session(Some(&alice)).await;
    stage.client.delete(&deleted.id).await;
    assert_gone(&stage, &deleted, EndReason::Destroyed).await;
    let revoked = stage.session(Some(&alice)).await;
    stage.client.revoke(&alice, revoked.handle()).await;
    assert_gone(&stage, &revoked, EndReason::Revoked).await;
    let renewed = stage.session(Some(&alice)).await;
    let new = new_id(Some(&alice));
    stage.client.renew_fresh(&renewed.id, &new, &renewed.record).await;
    assert_gone(&stage, &renewed, EndReason::Renewed).await;
    let successor = stage.client.live(&new).await.record;
    assert_eq!(successor, renewed.record, "touch: of the old id changed the successor");
    assert_eq!(stage.client.handles(&alice).await, [renewed.handle()], "touch: revived a session in the list");
}

async fn assert_gone(stage: &Stage<'_>, session: &Filed, reason: EndReason) {
    let touched = stage.client.touch(&session.id, stage.now(), stage.now() + HOUR).await;
    assert_eq!(touched, Touch::Gone(Some(reason)), "touch: of an ended session must be gone, with the reason");
    assert!(!stage.client.is_live(&session.id).await, "touch: brought an ended session back");
}

/// The time that the caller says it is does not decide whether the session is over.
pub async fn touch_decides_by_the_stores_clock(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (live, over) = (stage.session(None).await, stage.fleeting(None).await);
    let (ahead, further) = (live.record.idle_deadline() + HOUR, live.record.idle_deadline() + 2 * HOUR);
    let touched = stage.client.touch(&live.id, ahead, further).await;
    assert_eq!(touched, Touch::Touched, "touch: took a caller's clock that is ahead for the time");
    stage.expire(std::slice::from_ref(&over)).await;
    let touched = stage.client.touch(&over.id, over.record.created(), over.record.idle_deadline() + HOUR).await;
    assert!(matches!(touched, Touch::Gone(_)), "touch: took a caller's clock that is late for the time");
    assert!(!stage.client.is_live(&over.id).await, "touch: revived an expired session");
}

/// In whatever order parallel touches arrive, the furthest deadline stands.
pub async fn touch_in_parallel_keeps_the_furthest_deadline(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..10 {
        let session = stage.session(None).await;
        let record = &session.record;
        together((0..32u32).map(|turn| {
            let (client, id) = (stage.client.clone(), session.id);
            let later = MILLISECOND * (turn * 11 % 32);
            let (seen, pushed) = (record.last_seen() + later, record.idle_deadline() + later);
            async move { client.touch(&id, seen, pushed).await }
        }))
        .await;
        let stored = stage.client.live(&session.id).await.record;
        let furthest =
            record.clone().seen(record.last_seen() + MILLISECOND * 31, record.idle_deadline() + MILLISECOND * 31);
        assert_eq!(stored, furthest, "touch: of parallel touches the furthest must stand");
    }
}
