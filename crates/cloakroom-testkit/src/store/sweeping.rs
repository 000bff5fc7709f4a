//! `sweep`.

use std::time::Duration;

use cloakroom_core::{Create, EndReason, Load, Revision, Stored};

use super::Fixture;
use super::stage::{HOUR, Stage, new_id, principal, together};

/// Live records stay as they are, those whose deadline was pushed included.
pub async fn sweep_never_removes_a_live_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let live = stage.sessions(Some(&alice), 5).await;
    let pushed = stage.fleeting(Some(&alice)).await;
    let fleeting = stage.fleeting(Some(&alice)).await;
    stage.client.touch(&pushed.id, pushed.record.last_seen(), stage.now() + HOUR).await;
    stage.expire(&[fleeting]).await;
    stage.client.sweep_out(100).await;
    for session in &live {
        let first = Stored { record: session.record.clone(), revision: Revision::FIRST };
        assert_eq!(stage.client.load(&session.id).await, Load::Live(first), "sweep: removed or changed a live session");
    }
    assert!(stage.client.is_live(&pushed.id).await, "sweep: removed a session whose deadline had been pushed");
    assert_eq!(stage.client.handles(&alice).await.len(), 6, "sweep: took a live session out of the list");
}

/// A sweep takes away as much as it may, says how much, and comes to an end.
pub async fn sweep_removes_what_expired_within_its_limit(fixture: &dyn Fixture) {
    const EXPIRED: usize = 25;
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let mut fleeting = Vec::new();
    for turn in 0..EXPIRED {
        fleeting.push(stage.fleeting((turn % 2 == 0).then_some(&alice)).await);
    }
    assert_eq!(stage.client.sweep_out(100).await, 0, "sweep: there is nothing to remove while everything is live");
    stage.expire(&fleeting).await;
    stage.client.sweep(0).await;
    let gone = stage.client.sweep_out(10).await;
    if !fixture.expires_by_itself() {
        assert!(gone >= EXPIRED as u64, "sweep: removed {gone} of {EXPIRED} expired records");
    }
    for session in &fleeting {
        assert!(!stage.client.is_live(&session.id).await, "sweep: revived an expired session");
    }
    assert!(stage.client.handles(&alice).await.is_empty(), "sweep: an expired session is listed");
}

/// Once nobody needs to be told any more, the tombstones go. Needs a [`ManualClock`](crate::ManualClock).
pub async fn sweep_removes_outdated_tombstones(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    if !stage.is_manual() {
        return;
    }
    let sessions = stage.sessions(Some(&principal("alice")), 5).await;
    for session in &sessions {
        stage.client.delete(&session.id).await;
    }
    stage.advance(fixture.tombstones() + Duration::from_secs(1));
    let gone = stage.client.sweep_out(2).await;
    assert!(gone >= 5 || fixture.expires_by_itself(), "sweep: removed {gone} of 5 outdated tombstones");
    for session in &sessions {
        assert_eq!(stage.client.explain(session.handle()).await, None, "sweep: left an outdated tombstone");
        assert!(!stage.client.is_live(&session.id).await, "sweep: revived a session by removing its tombstone");
    }
}

/// As long as a late writer may come, its refusal and the reason are kept. Needs a [`ManualClock`](crate::ManualClock).
pub async fn sweep_keeps_tombstones_that_are_still_needed(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    if !stage.is_manual() {
        return;
    }
    let alice = principal("alice");
    let (deleted, revoked, renewed) =
        (stage.session(Some(&alice)).await, stage.session(Some(&alice)).await, stage.session(Some(&alice)).await);
    stage.client.delete(&deleted.id).await;
    stage.client.revoke(&alice, revoked.handle()).await;
    stage.client.renew_fresh(&renewed.id, &new_id(Some(&alice)), &renewed.record).await;
    stage.advance(fixture.tombstones().saturating_sub(Duration::from_secs(1)));
    stage.client.sweep_out(10).await;
    let reasons = [(&deleted, EndReason::Destroyed), (&revoked, EndReason::Revoked), (&renewed, EndReason::Renewed)];
    for (session, reason) in reasons {
        let loaded = stage.client.load(&session.id).await;
        assert_eq!(loaded, Load::Gone(Some(reason)), "sweep: removed a tombstone before its time");
        let created = stage.client.create(&session.id, &stage.record(None), None).await;
        assert_eq!(created, Create::Occupied, "sweep: made an id free that was taken");
    }
}

/// Sweepers in every process at once harm neither each other nor anybody's session.
pub async fn sweep_runs_in_parallel_with_itself_and_live_traffic(fixture: &dyn Fixture) {
    const EXPIRED: u64 = 60;
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let mut fleeting = Vec::new();
    for _ in 0..EXPIRED {
        fleeting.push(stage.fleeting(Some(&alice)).await);
    }
    stage.expire(&fleeting).await;
    let sweepers = (0..4).map(|number| {
        let second = if number % 2 == 1 { fixture.second_handle() } else { None };
        let client = second.map_or_else(|| stage.client.clone(), super::stage::Client);
        tokio::spawn(async move { client.sweep_out(7).await })
    });
    let sweepers: Vec<_> = sweepers.collect();
    let sessions = together((0..8).map(|_| {
        let (client, alice) = (stage.client.clone(), alice.clone());
        let records: Vec<_> = (0..20).map(|_| stage.record(Some(&alice))).collect();
        async move {
            let mut ids = Vec::new();
            for record in records {
                let id = new_id(Some(&alice));
                client.file(&id, &record).await;
                assert_eq!(client.live(&id).await.record, record, "sweep: disturbed a session that was being created");
                ids.push(id);
            }
            ids
        }
    }))
    .await;
    let mut gone = 0;
    for sweeper in sweepers {
        gone += sweeper.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    }
    assert!(gone >= EXPIRED || fixture.expires_by_itself(), "sweep: parallel sweepers removed {gone} of {EXPIRED}");
    for id in sessions.iter().flatten() {
        assert!(stage.client.is_live(id).await, "sweep: removed a session that was created meanwhile");
    }
    assert_eq!(stage.client.handles(&alice).await.len(), 160, "sweep: the list and the live sessions disagree");
}
