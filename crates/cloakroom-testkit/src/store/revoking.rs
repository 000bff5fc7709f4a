//! `revoke` and `revoke_all`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use cloakroom_core::{EndReason, Load, Principal, Renew, Renewal, Update};

use super::Fixture;
use super::listing::look_alikes;
use super::stage::{Client, Filed, Stage, new_handle, new_id, principal, remade, with_number};

/// The session of the handle ends, under whatever id it now is, and no other of its owner.
pub async fn revoke_ends_the_one_session_of_the_handle(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 3).await;
    let renewed = new_id(Some(&alice));
    stage.client.renew_fresh(&sessions[1].id, &renewed, &sessions[1].record).await;
    for (at, id) in [(0, &sessions[0].id), (1, &renewed)] {
        assert!(
            stage.client.revoke(&alice, sessions[at].handle()).await,
            "revoke: there was a live session of this handle"
        );
        let loaded = stage.client.load(id).await;
        assert_eq!(loaded, Load::Gone(Some(EndReason::Revoked)), "revoke: the session must be dead, and say why");
        assert!(!stage.client.revoke(&alice, sessions[at].handle()).await, "revoke: there was nothing left to end");
    }
    assert_eq!(stage.client.handles(&alice).await, [sessions[2].handle()], "revoke: the other session stays listed");
    assert!(stage.client.is_live(&sessions[2].id).await, "revoke: ended another session");
    assert!(!stage.client.revoke(&alice, new_handle()).await, "revoke: an unknown handle is nobody's");
    let fleeting = stage.fleeting(Some(&alice)).await;
    stage.expire(std::slice::from_ref(&fleeting)).await;
    assert!(!stage.client.revoke(&alice, fleeting.handle()).await, "revoke: an expired session was not live");
}

/// Knowing a handle is not enough: the session has to be the principal's own.
pub async fn revoke_of_another_principals_handle_is_false_and_harmless(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (alice, mallory) = (principal("alice"), principal("mallory"));
    let (session, anonymous, own) =
        (stage.session(Some(&alice)).await, stage.session(None).await, stage.session(Some(&mallory)).await);
    for other in [&session, &anonymous] {
        assert!(!stage.client.revoke(&mallory, other.handle()).await, "revoke: said that another's session was ended");
        assert!(stage.client.is_live(&other.id).await, "revoke: ended another principal's session");
        assert_eq!(stage.client.explain(other.handle()).await, None, "revoke: left a trace on another's session");
    }
    // Not theirs any more, once it was renewed to somebody else.
    let record = remade(&session.record, session.handle(), Some(&mallory));
    let new = new_id(Some(&mallory));
    stage.client.renew_fresh(&session.id, &new, &record).await;
    assert!(!stage.client.revoke(&alice, session.handle()).await, "revoke: by the owner before a renewal");
    assert!(stage.client.is_live(&new).await, "revoke: by the owner before a renewal ended the session");
    assert!(stage.client.is_live(&own.id).await, "revoke: ended a session that nobody named");
}

/// Every session of the principal ends and is counted; nobody else's does.
pub async fn revoke_all_ends_every_session_and_says_how_many(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let (alice, bob) = (principal("alice"), principal("bob"));
    assert_eq!(stage.client.revoke_all(&alice, None).await, 0, "revoke_all: of a principal without sessions");
    // More than a page of the list.
    let mut sessions = stage.sessions(Some(&alice), 150).await;
    let renewed = new_id(Some(&alice));
    stage.client.renew_fresh(&sessions[0].id, &renewed, &sessions[0].record).await;
    sessions[0].id = renewed;
    let deleted = sessions.remove(1);
    stage.client.delete(&deleted.id).await;
    let others = [stage.session(Some(&bob)).await, stage.session(None).await];
    assert_eq!(stage.client.revoke_all(&alice, None).await, 149, "revoke_all: must count the sessions that were live");
    for session in &sessions {
        let loaded = stage.client.load(&session.id).await;
        assert_eq!(loaded, Load::Gone(Some(EndReason::Revoked)), "revoke_all: missed a session, or does not say why");
    }
    assert!(stage.client.handles(&alice).await.is_empty(), "revoke_all: left a session in the list");
    assert_eq!(stage.client.revoke_all(&alice, None).await, 0, "revoke_all: there was nothing left to end");
    for other in others {
        assert!(stage.client.is_live(&other.id).await, "revoke_all: ended a session of another, or of nobody");
    }
}

/// "Sign out everywhere else" leaves the session that asked for it.
pub async fn revoke_all_spares_the_excepted_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 3).await;
    let (kept, id) = (sessions[1].handle(), new_id(Some(&alice)));
    stage.client.renew_fresh(&sessions[1].id, &id, &sessions[1].record).await;
    assert_eq!(
        stage.client.revoke_all(&alice, Some(kept)).await,
        2,
        "revoke_all: must end all but the excepted session"
    );
    assert!(stage.client.is_live(&id).await, "revoke_all: ended the excepted session");
    assert_eq!(
        stage.client.handles(&alice).await,
        [kept],
        "revoke_all: the excepted session must be the one that is left"
    );
    let stranger = stage.session(Some(&principal("bob"))).await;
    let ended = stage.client.revoke_all(&alice, Some(stranger.handle())).await;
    assert_eq!(ended, 1, "revoke_all: excepting another's session must spare none");
    assert!(stage.client.is_live(&stranger.id).await, "revoke_all: ended another principal's session");
}

/// Principals are compared byte for byte.
pub async fn revoke_all_compares_principals_exactly(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let mut live: Vec<(Principal, Filed)> = Vec::new();
    for name in look_alikes() {
        let session = stage.session(Some(&name)).await;
        live.push((name, session));
    }
    // Shorter names first: what they are a prefix of is still there to be ended by mistake.
    for at in 0..live.len() {
        let (name, session) = &live[at];
        let ended = stage.client.revoke_all(name, None).await;
        assert_eq!(ended, 1, "revoke_all: of {:?} must end that principal's one session", name.as_str());
        assert!(!stage.client.is_live(&session.id).await, "revoke_all: of {:?} ended another's session", name.as_str());
        for (other, session) in &live[at + 1..] {
            let (name, other) = (name.as_str(), other.as_str());
            assert!(stage.client.is_live(&session.id).await, "revoke_all: of {name:?} ended the session of {other:?}");
        }
    }
}

/// Sessions that move from id to id all the time do not slip through.
pub async fn revoke_all_leaves_no_survivor_among_sessions_being_renewed(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for turn in 0..8 {
        let alice = principal(&format!("alice-{turn}"));
        let sessions = stage.sessions(Some(&alice), 12).await;
        let renewals = Arc::new(AtomicUsize::new(0));
        let movers: Vec<_> = sessions
            .into_iter()
            .map(|session| {
                let (client, renewals) = (stage.client.clone(), renewals.clone());
                tokio::spawn(async move {
                    let (mut id, mut revision) = (session.id, cloakroom_core::Revision::FIRST);
                    for _ in 0..1000 {
                        let new = new_id(session.record.principal());
                        let renewal =
                            Renewal { old: &id, new: &new, expected: revision, record: &session.record, limit: None };
                        match client.renew(renewal).await {
                            Renew::Renewed { .. } => (id, revision) = (new, revision.next()),
                            Renew::Gone(_) => break,
                            other => panic!("renew: nobody else writes to this session: {other:?}"),
                        }
                        renewals.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                    id
                })
            })
            .collect();
        while renewals.load(Ordering::SeqCst) < 20 {
            tokio::task::yield_now().await;
        }
        stage.client.revoke_all(&alice, None).await;
        let survivors = stage.client.handles(&alice).await.len();
        assert_eq!(survivors, 0, "revoke_all: returned while sessions that were being renewed were still live");
        for mover in movers {
            let last = mover.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            assert!(!stage.client.is_live(&last).await, "revoke_all: a session that was being renewed survived");
        }
        assert!(
            stage.client.handles(&alice).await.is_empty(),
            "revoke_all: a renewal put a session back into the list"
        );
    }
}

/// Sessions that are being written all the time do not slip through.
pub async fn revoke_all_leaves_no_survivor_among_sessions_being_updated(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for turn in 0..8 {
        let alice = principal(&format!("alice-{turn}"));
        let sessions = stage.sessions(Some(&alice), 12).await;
        let updates = Arc::new(AtomicUsize::new(0));
        let writers: Vec<_> = sessions
            .iter()
            .cloned()
            .map(|session| {
                let (client, updates) = (stage.client.clone(), updates.clone());
                tokio::spawn(async move {
                    let mut revision = cloakroom_core::Revision::FIRST;
                    for number in 0..1000 {
                        match client.update(&session.id, revision, &with_number(&session.record, number)).await {
                            Update::Saved(next) => revision = next,
                            Update::Gone(_) => break,
                            Update::Conflict(_) => panic!("update: nobody else writes to this session"),
                        }
                        updates.fetch_add(1, Ordering::SeqCst);
                        tokio::task::yield_now().await;
                    }
                })
            })
            .collect();
        while updates.load(Ordering::SeqCst) < 20 {
            tokio::task::yield_now().await;
        }
        let ended = stage.client.revoke_all(&alice, None).await;
        assert_eq!(
            ended,
            sessions.len() as u64,
            "revoke_all: must end every session once, though they are being updated"
        );
        for session in &sessions {
            assert!(!stage.client.is_live(&session.id).await, "revoke_all: a session that was being updated survived");
        }
        for writer in writers {
            if let Err(error) = writer.await {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        for session in &sessions {
            assert!(!stage.client.is_live(&session.id).await, "update: brought a revoked session back");
        }
    }
}

/// What was live before it began is dead; what signs in after it returned is live, even within the
/// same millisecond.
pub async fn revoke_all_does_not_affect_a_later_sign_in(fixture: &dyn Fixture) {
    const BEFORE: u8 = 0;
    const DURING: u8 = 1;
    const AFTER: u8 = 2;
    let stage = Stage::new(fixture);
    for turn in 0..8 {
        let alice = principal(&format!("alice-{turn}"));
        let phase = Arc::new(AtomicU8::new(BEFORE));
        let created = Arc::new(AtomicUsize::new(0));
        let arrivals: Vec<_> = (0..4)
            .map(|_| {
                let (client, phase, created, alice): (Client, _, _, _) =
                    (stage.client.clone(), phase.clone(), created.clone(), alice.clone());
                let records: Vec<_> = (0..200).map(|_| stage.record(Some(&alice))).collect();
                tokio::spawn(async move {
                    let mut sessions = Vec::new();
                    for record in records {
                        let begun = phase.load(Ordering::SeqCst);
                        let id = new_id(Some(&alice));
                        client.file(&id, &record).await;
                        sessions.push((id, begun, phase.load(Ordering::SeqCst)));
                        created.fetch_add(1, Ordering::SeqCst);
                        if begun == AFTER {
                            break;
                        }
                        tokio::task::yield_now().await;
                    }
                    sessions
                })
            })
            .collect();
        while created.load(Ordering::SeqCst) < 8 {
            tokio::task::yield_now().await;
        }
        phase.store(DURING, Ordering::SeqCst);
        stage.client.revoke_all(&alice, None).await;
        phase.store(AFTER, Ordering::SeqCst);
        let after = stage.session(Some(&alice)).await;
        assert!(
            stage.client.is_live(&after.id).await,
            "revoke_all: ended a session that was created after it returned"
        );
        for arrival in arrivals {
            let sessions = arrival.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            for (id, begun, done) in sessions {
                let live = stage.client.is_live(&id).await;
                assert!(done != BEFORE || !live, "revoke_all: a session that was live when it began survived");
                assert!(begun != AFTER || live, "revoke_all: ended a session that was created after it returned");
            }
        }
    }
}
