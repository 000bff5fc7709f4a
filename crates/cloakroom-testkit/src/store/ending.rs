//! `delete`, and `explain`, which tells of it.

use std::time::Duration;

use cloakroom_core::{EndReason, Ended, Load, Renew, Renewal, Revision, Stored, Update};

use super::Fixture;
use super::renewing::chain;
use super::stage::{HOUR, Stage, limit, new_handle, new_id, principal, together, with_number};

/// The first call ends it, later ones change nothing, and each says so.
pub async fn delete_ends_the_session_and_says_whether_there_was_one(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    assert!(!stage.client.delete(&new_id(None)).await, "delete: of an unknown id ended nothing");
    let (session, other) = (stage.session(Some(&alice)).await, stage.session(Some(&alice)).await);
    assert!(stage.client.delete(&session.id).await, "delete: ended a live session");
    assert!(!stage.client.delete(&session.id).await, "delete: there was nothing left to end");
    assert!(!stage.client.is_live(&session.id).await, "delete: the session is still live");
    assert_eq!(
        stage.client.handles(&alice).await,
        [other.handle()],
        "delete: takes this session out of the list, and no other"
    );
    assert_eq!(stage.client.scan_all(10).await.len(), 1, "delete: takes this session out of the scan, and no other");
    assert!(stage.client.is_live(&other.id).await, "delete: ended another session");
}

/// Why a session ended is what the first call said, whatever came later.
pub async fn delete_leaves_its_reason(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for reason in [EndReason::Destroyed, EndReason::Revoked, EndReason::Evicted] {
        let session = stage.session(None).await;
        for reason in [reason, EndReason::Destroyed, EndReason::Revoked] {
            let deleted = stage.client.0.delete(&session.id, reason).await;
            assert!(deleted.is_ok(), "delete: {deleted:?}");
        }
        let loaded = stage.client.load(&session.id).await;
        assert_eq!(loaded, Load::Gone(Some(reason)), "delete: the reason of the first call must stand");
    }
}

/// A session that is over by itself is not ended a second time.
pub async fn delete_of_an_expired_session_is_false(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.fleeting(None).await;
    stage.expire(std::slice::from_ref(&session)).await;
    assert!(!stage.client.delete(&session.id).await, "delete: an expired session was not live");
    let loaded = stage.client.load(&session.id).await;
    let allowed = [Load::Gone(Some(EndReason::Expired)), Load::Gone(None)];
    assert!(allowed.contains(&loaded), "delete: gave an expired session another reason: {loaded:?}");
}

/// A sign-out with a token that was renewed meanwhile ends the session under its newest one.
pub async fn delete_follows_renewals(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    for renewals in [1, 2, 5] {
        for from in 0..renewals {
            let session = stage.session(Some(&alice)).await;
            let ids = chain(&stage, &session.id, renewals).await;
            assert!(stage.client.delete(&ids[from as usize]).await, "delete: did not end what the id was renewed to");
            for id in &ids {
                assert!(!stage.client.is_live(id).await, "delete: left an id of the chain live");
            }
            let last = stage.client.load(&ids[ids.len() - 1]).await;
            assert_eq!(
                last,
                Load::Gone(Some(EndReason::Destroyed)),
                "delete: the reason must stand where the session ended"
            );
            assert!(stage.client.handles(&alice).await.is_empty(), "delete: left the session in the list");
        }
    }
}

/// A sign-out and a renewal at once: in either order the session is dead.
pub async fn delete_wins_over_a_renewal_in_parallel(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for turn in 0..100 {
        let alice = principal(&format!("alice-{turn}"));
        let owner = (turn % 2 == 0).then_some(&alice);
        let session = stage.session(owner).await;
        let new = new_id(owner);
        let renewing = {
            let (client, session) = (stage.client.clone(), session.clone());
            tokio::spawn(async move { client.renew_fresh(&session.id, &new, &session.record).await })
        };
        assert!(stage.client.delete(&session.id).await, "delete: the session was live under one id or the other");
        let renewed = renewing.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        assert!(!stage.client.is_live(&session.id).await, "delete: left the old id live");
        assert!(
            !stage.client.is_live(&new).await,
            "delete: a renewal ({renewed:?}) carried the session past a sign-out"
        );
        assert!(stage.client.handles(&alice).await.is_empty(), "delete: left the session in the list");
    }
}

/// Once a sign-out is acknowledged, no request still under way brings the session back.
pub async fn delete_wins_over_updates_and_touches_in_parallel(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..50 {
        let session = stage.session(None).await;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let (client, session) = (stage.client.clone(), session.clone());
                tokio::spawn(async move {
                    for _ in 0..5 {
                        let Load::Live(Stored { record, revision }) = client.load(&session.id).await else { return };
                        if writer % 2 == 0 {
                            client.update(&session.id, revision, &with_number(&record, writer)).await;
                        } else {
                            client.touch(&session.id, record.last_seen(), record.idle_deadline() + HOUR).await;
                        }
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        assert!(stage.client.delete(&session.id).await, "delete: the session was live");
        assert!(!stage.client.is_live(&session.id).await, "delete: the session is still live after the answer");
        for writer in writers {
            if let Err(error) = writer.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        let loaded = stage.client.load(&session.id).await;
        assert_eq!(loaded, Load::Gone(Some(EndReason::Destroyed)), "update, touch: brought a deleted session back");
    }
}

/// A session is ended once, however many ask for it.
pub async fn delete_in_parallel_ends_a_session_once(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..10 {
        let session = stage.session(None).await;
        let ended = together((0..16).map(|_| {
            let (client, id) = (stage.client.clone(), session.id);
            async move { client.delete(&id).await }
        }))
        .await;
        let ended = ended.into_iter().filter(|ended| *ended).count();
        assert_eq!(ended, 1, "delete: of parallel calls exactly one ended the session");
    }
}

/// There is nothing to explain of a handle that is live, renewed or unknown.
pub async fn explain_is_silent_on_what_is_live_or_unknown(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    assert_eq!(stage.client.explain(new_handle()).await, None, "explain: of an unknown handle");
    let session = stage.session(None).await;
    assert_eq!(stage.client.explain(session.handle()).await, None, "explain: of a live session");
    chain(&stage, &session.id, 2).await;
    assert_eq!(stage.client.explain(session.handle()).await, None, "explain: a renewal ends a token, not the session");
}

/// Whatever ended a session can be told afterwards, with the store's time of it.
pub async fn explain_tells_the_reason_and_the_time(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (alice, bob) = (principal("alice"), principal("bob"));
    let before = stage.now();
    stage.advance(Duration::from_secs(1));

    let deleted = stage.session(None).await;
    stage.client.delete(&deleted.id).await;
    let renewed = stage.session(None).await;
    let ids = chain(&stage, &renewed.id, 2).await;
    stage.client.delete(&ids[0]).await;
    let revoked = stage.session(Some(&alice)).await;
    stage.client.revoke(&alice, revoked.handle()).await;
    let all = stage.session(Some(&alice)).await;
    stage.client.revoke_all(&alice, None).await;
    let evicted = stage.session(Some(&bob)).await;
    let only = limit(1, cloakroom_core::Excess::EvictOldest);
    stage.client.create(&new_id(Some(&bob)), &stage.record(Some(&bob)), only).await;
    let after = stage.now();
    stage.advance(HOUR);

    let endings = [
        (&deleted, EndReason::Destroyed),
        (&renewed, EndReason::Destroyed),
        (&revoked, EndReason::Revoked),
        (&all, EndReason::Revoked),
        (&evicted, EndReason::Evicted),
    ];
    for (session, reason) in endings {
        let Some(ended) = stage.client.explain(session.handle()).await else {
            panic!("explain: knows nothing of a session that was ended ({reason})");
        };
        assert_eq!(ended.reason, reason, "explain: tells another reason");
        assert_time(&stage, ended, before, after);
    }
}

/// A server's clock may differ from this machine's a little; a clock of the test does not.
fn assert_time(stage: &Stage<'_>, ended: Ended, before: std::time::SystemTime, after: std::time::SystemTime) {
    if stage.is_manual() {
        assert_eq!(ended.at, after, "explain: the time must be the store's when the session ended");
    } else {
        let tolerance = Duration::from_secs(1);
        let fits = before - tolerance <= ended.at && ended.at <= after + tolerance;
        assert!(fits, "explain: the time must be when the session ended: {:?}", ended.at);
    }
}

/// Of a session that nobody ended it can be told that it ran out, before it is swept and after.
pub async fn explain_tells_that_a_session_expired(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.fleeting(None).await;
    stage.expire(std::slice::from_ref(&session)).await;
    for _ in 0..2 {
        let Some(ended) = stage.client.explain(session.handle()).await else {
            panic!("explain: knows nothing of a session that expired");
        };
        assert_eq!(ended.reason, EndReason::Expired, "explain: tells another reason for a session that expired");
        assert_time(&stage, ended, session.record.created(), session.record.deadline());
        stage.client.sweep_out(10).await;
    }
    let renewal = Renewal {
        old: &session.id,
        new: &new_id(None),
        expected: Revision::FIRST,
        record: &session.record,
        limit: None,
    };
    assert!(matches!(stage.client.renew(renewal).await, Renew::Gone(_)), "renew: revived a session that was swept");
    let updated = stage.client.update(&session.id, Revision::FIRST, &session.record).await;
    assert!(matches!(updated, Update::Gone(_)), "update: revived a session that was swept");
}
