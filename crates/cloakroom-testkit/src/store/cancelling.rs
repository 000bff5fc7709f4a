//! Calls that are dropped at any await: all or nothing, and nobody gets the answer to another's call.

use std::pin::Pin;
use std::task::{Context, Poll};

use cloakroom_core::{Load, Page, Revision};

use super::Fixture;
use super::loading::{assert_own, numbered};
use super::stage::{Filed, HOUR, Stage, new_id, principal, together, with_number};

/// Calls that need more polls than this are not dropped later than that.
const POLLS: usize = 40;

/// Polls the call so many times and then drops it. Whether it had come to its end.
async fn dropped_after<T>(polls: usize, call: impl Future<Output = T> + Send) -> bool {
    Dropped { call: Some(Box::pin(call)), left: polls }.await
}

struct Dropped<F> {
    call: Option<Pin<Box<F>>>,
    left: usize,
}

impl<F: Future> Future for Dropped<F> {
    type Output = bool;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<bool> {
        let this = &mut *self;
        let ended = this.left > 0 && this.call.as_mut().is_some_and(|call| call.as_mut().poll(context).is_ready());
        this.left = this.left.saturating_sub(1);
        if ended || this.left == 0 {
            this.call = None;
            Poll::Ready(ended)
        } else {
            Poll::Pending
        }
    }
}

/// Everybody else still gets their own record, through the same store.
async fn assert_undisturbed(stage: &Stage<'_>, others: &[Filed]) {
    together(others.chunks(25).map(|sessions| {
        let (client, sessions) = (stage.client.clone(), sessions.to_vec());
        async move {
            for session in &sessions {
                assert_own(&client, session).await;
            }
        }
    }))
    .await;
}

/// A dropped read leaves nothing behind that the next caller could take for its own answer.
pub async fn dropped_reads_shift_no_answer(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let others = numbered(&stage, 200).await;
    let session = stage.session(Some(&alice)).await;
    for polls in 0..POLLS {
        let loaded = dropped_after(polls, stage.client.load(&session.id)).await;
        assert_undisturbed(&stage, &others).await;
        let listed = dropped_after(polls, stage.client.list(&alice, Page::FIRST)).await;
        let bob = stage.client.list_all(&principal("bob")).await;
        assert!(bob.is_empty(), "list: after a dropped call it brought the list of another principal");
        let scanned = dropped_after(polls, stage.client.scan(None, 10)).await;
        let explained = dropped_after(polls, stage.client.explain(session.handle())).await;
        let probed = dropped_after(polls, stage.client.probe()).await;
        assert_undisturbed(&stage, &others).await;
        if loaded && listed && scanned && explained && probed {
            return;
        }
    }
}

/// A dropped `create` filed the session, with its place in the list, or did not.
pub async fn dropped_create_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let (id, record) = (new_id(Some(&alice)), stage.record(Some(&alice)));
        let done = dropped_after(polls, stage.client.create(&id, &record, None)).await;
        assert_undisturbed(&stage, &others).await;
        // Ending it settles whether it was there: afterwards a late write would be a resurrection.
        let live = match stage.client.load(&id).await {
            Load::Live(stored) => {
                assert_eq!(stored.record, record, "create: dropped in between, it left something else");
                let listed = stage.client.handles(&alice).await;
                assert!(
                    listed.contains(&record.handle()),
                    "create: dropped in between, it left a session that is not listed"
                );
                stage.client.delete(&id).await
            }
            Load::Gone(reason) => {
                assert_eq!(reason, None, "create: dropped in between, it left an ended session");
                false
            }
        };
        assert!(live || !done, "create: answered, but filed nothing");
        if done {
            return;
        }
    }
}

/// A dropped `update` wrote the new record or left the old one.
pub async fn dropped_update_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let session = stage.session(None).await;
        let new = with_number(&session.record, 1);
        let done = dropped_after(polls, stage.client.update(&session.id, Revision::FIRST, &new)).await;
        assert_undisturbed(&stage, &others).await;
        let stored = stage.client.live(&session.id).await;
        let is_new = stored.record == new && stored.revision == Revision::FIRST.next();
        let is_old = stored.record == session.record && stored.revision == Revision::FIRST;
        assert!(is_new || (is_old && !done), "update: dropped in between, it left neither the old nor the new record");
        if done {
            return;
        }
    }
}

/// A dropped `touch` moved both times or none, in the record and in the list.
pub async fn dropped_touch_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let session = stage.session(None).await;
        let (seen, pushed) = (session.record.last_seen() + HOUR / 2, session.record.idle_deadline() + HOUR);
        let done = dropped_after(polls, stage.client.touch(&session.id, seen, pushed)).await;
        assert_undisturbed(&stage, &others).await;
        let stored = stage.client.live(&session.id).await.record;
        let (is_new, is_old) = (stored == session.record.clone().seen(seen, pushed), stored == session.record);
        assert!(is_new || (is_old && !done), "touch: dropped in between, it left neither the old nor the new times");
        if done {
            return;
        }
    }
}

/// A dropped `renew` leaves exactly one of the two ids live.
pub async fn dropped_renew_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let session = stage.session(Some(&alice)).await;
        let new = new_id(Some(&alice));
        let done = dropped_after(polls, stage.client.renew_fresh(&session.id, &new, &session.record)).await;
        assert_undisturbed(&stage, &others).await;
        // The old id first: if it is dead, the new one must have been live since.
        let old_live = stage.client.is_live(&session.id).await;
        let new_live = stage.client.is_live(&new).await;
        assert!(old_live || new_live, "renew: dropped in between, it lost the session");
        assert!(
            !new_live || !stage.client.is_live(&session.id).await,
            "renew: dropped in between, it left both ids live"
        );
        assert!(new_live || !done, "renew: answered, but the new id is not live");
        assert_eq!(
            stage.client.handles(&alice).await,
            [session.handle()],
            "renew: dropped in between, it broke the list"
        );
        stage.client.delete(&session.id).await;
        assert!(!stage.client.is_live(&new).await, "delete: did not end what a dropped renewal left");
        if done {
            return;
        }
    }
}

/// A dropped `delete` ended the session, out of the list as well, or did not.
pub async fn dropped_delete_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let alice = principal(&format!("alice-{polls}"));
        let session = stage.session(Some(&alice)).await;
        let done = dropped_after(polls, stage.client.delete(&session.id)).await;
        assert_undisturbed(&stage, &others).await;
        assert_ended_or_not(&stage, &session, done).await;
        if done {
            return;
        }
    }
}

/// A dropped `revoke` ended the session, out of the list as well, or did not.
pub async fn dropped_revoke_is_all_or_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let alice = principal(&format!("alice-{polls}"));
        let session = stage.session(Some(&alice)).await;
        let done = dropped_after(polls, stage.client.revoke(&alice, session.handle())).await;
        assert_undisturbed(&stage, &others).await;
        assert_ended_or_not(&stage, &session, done).await;
        if done {
            return;
        }
    }
}

async fn assert_ended_or_not(stage: &Stage<'_>, session: &Filed, done: bool) {
    let live = stage.client.is_live(&session.id).await;
    assert!(!live || !done, "delete, revoke: answered, but the session is live");
    // What was live may have been ended since by the dropped call, but never the other way round.
    let listed = match session.record.principal() {
        Some(owner) => stage.client.handles(owner).await.contains(&session.handle()),
        None => live,
    };
    assert!(live || !listed, "delete, revoke: dropped in between, it left a dead session in the list");
    assert!(
        listed || !stage.client.is_live(&session.id).await,
        "delete, revoke: dropped in between, it left a live session unlisted"
    );
}

/// A dropped `revoke_all` harms nobody else, and the next one ends what is left.
pub async fn dropped_revoke_all_shifts_no_answer(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let others = numbered(&stage, 200).await;
    for polls in 0..POLLS {
        let sessions = stage.sessions(Some(&alice), 5).await;
        let done = dropped_after(polls, stage.client.revoke_all(&alice, None)).await;
        assert_undisturbed(&stage, &others).await;
        if !done {
            stage.client.revoke_all(&alice, None).await;
        }
        for session in &sessions {
            assert!(
                !stage.client.is_live(&session.id).await,
                "revoke_all: left a session after an earlier call was dropped"
            );
        }
        if done {
            return;
        }
    }
}

/// A dropped `sweep` harms nobody, and the next one ends the work.
pub async fn dropped_sweep_shifts_no_answer(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let others = numbered(&stage, 200).await;
    let fleeting = [stage.fleeting(None).await, stage.fleeting(None).await];
    stage.expire(&fleeting).await;
    for polls in 0..POLLS {
        let done = dropped_after(polls, stage.client.sweep(1)).await;
        assert_undisturbed(&stage, &others).await;
        if done {
            break;
        }
    }
    stage.client.sweep_out(10).await;
    assert_eq!(
        stage.client.scan_all(50).await.len(),
        others.len(),
        "sweep: dropped in between, it left or took something"
    );
}
