//! The limit of sessions per principal, in `create` and `renew`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cloakroom_core::{Create, EndReason, Excess, Load, Page, Principal, Renew, Renewal, Revision, Update};

use super::Fixture;
use super::stage::{Client, Filed, Stage, limit, new_id, principal, remade, together, with_number};

/// Up to the limit everything is filed; the one too many is refused and ends nobody.
pub async fn limit_rejects_one_sign_in_too_many(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    for _ in 0..3 {
        let created =
            stage.client.create(&new_id(Some(&alice)), &stage.record(Some(&alice)), limit(3, Excess::Reject)).await;
        assert_eq!(created, Create::Created { evicted: vec![] }, "create: refused or evicted below the limit");
    }
    let before = stage.client.handles(&alice).await;
    for max in [3, 2, 1] {
        let id = new_id(Some(&alice));
        let created = stage.client.create(&id, &stage.record(Some(&alice)), limit(max, Excess::Reject)).await;
        assert_eq!(created, Create::LimitReached, "create: a fourth session with a limit of {max}");
        assert_eq!(stage.client.load(&id).await, Load::Gone(None), "create: refused a session and filed it");
    }
    assert_eq!(stage.client.handles(&alice).await, before, "create: a refused session changed the list");
    let anonymous = stage.client.create(&new_id(None), &stage.record(None), limit(1, Excess::Reject)).await;
    let another = stage.client.create(&new_id(None), &stage.record(None), limit(1, Excess::Reject)).await;
    let filed = Create::Created { evicted: vec![] };
    assert_eq!((anonymous, another), (filed.clone(), filed), "create: sessions of nobody have no limit");
}

/// The session that was created first makes room, is named, and can be told why.
pub async fn limit_evicts_the_oldest_and_says_whom(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let mut sessions = stage.sessions(Some(&alice), 3).await;
    // Being active or renewed makes a session no younger.
    let oldest = &mut sessions[0];
    stage.client.touch(&oldest.id, stage.now(), oldest.record.idle_deadline() + super::stage::HOUR).await;
    let renewed = new_id(Some(&alice));
    stage.client.renew_fresh(&oldest.id, &renewed, &oldest.record).await;
    oldest.id = renewed;
    for oldest in &sessions {
        let created = stage
            .client
            .create(&new_id(Some(&alice)), &stage.record(Some(&alice)), limit(3, Excess::EvictOldest))
            .await;
        assert_eq!(
            created,
            Create::Created { evicted: vec![oldest.handle()] },
            "create: must evict the oldest, and say so"
        );
        let loaded = stage.client.load(&oldest.id).await;
        assert_eq!(
            loaded,
            Load::Gone(Some(EndReason::Evicted)),
            "create: the evicted session must be dead, and say why"
        );
        assert_eq!(stage.client.handles(&alice).await.len(), 3, "create: the limit of three was not kept");
        stage.advance(super::stage::MILLISECOND);
    }
}

/// Where there are far too many, as many end as it takes.
pub async fn limit_that_was_lowered_evicts_as_many_as_needed(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 5).await;
    let newest = stage.record(Some(&alice));
    let created = stage.client.create(&new_id(Some(&alice)), &newest, limit(2, Excess::EvictOldest)).await;
    let Create::Created { mut evicted } = created else { panic!("create: must make room by evicting: {created:?}") };
    evicted.sort_unstable();
    let oldest: Vec<_> = sessions[..4].iter().map(Filed::handle).collect();
    assert_eq!(evicted, oldest, "create: must evict the four oldest of five for a limit of two");
    let left = stage.client.handles(&alice).await;
    assert_eq!(left, [sessions[4].handle(), newest.handle()], "create: must leave the two youngest");
}

/// Only live sessions count.
pub async fn limit_does_not_count_what_ended(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let fleeting = stage.fleeting(Some(&alice)).await;
    let ended = stage.sessions(Some(&alice), 3).await;
    stage.client.delete(&ended[0].id).await;
    stage.client.revoke(&alice, ended[1].handle()).await;
    let anonymous = remade(&ended[2].record, ended[2].handle(), None);
    stage.client.renew_fresh(&ended[2].id, &new_id(None), &anonymous).await;
    stage.expire(&[fleeting]).await;
    for excess in [Excess::Reject, Excess::EvictOldest] {
        let id = new_id(Some(&alice));
        let created = stage.client.create(&id, &stage.record(Some(&alice)), limit(1, excess)).await;
        assert_eq!(created, Create::Created { evicted: vec![] }, "create: counted a session that had ended");
        stage.client.delete(&id).await;
    }
}

/// Only the principal's own sessions count, and only they make room.
pub async fn limit_does_not_count_other_principals(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let mut others = Vec::new();
    let names = super::listing::look_alikes();
    // Once from the shortest name to the longest and once back, so that each comes before and after its likes.
    let there = names.iter().map(|name| (name, Excess::Reject));
    let back = names.iter().rev().map(|name| (name, Excess::EvictOldest));
    for (name, excess) in there.chain(back) {
        let (id, record) = (new_id(Some(name)), stage.record(Some(name)));
        let created = stage.client.create(&id, &record, limit(2, excess)).await;
        let alone = Create::Created { evicted: vec![] };
        assert_eq!(created, alone, "create: counted sessions of others than {:?}", name.as_str());
        others.push(id);
    }
    for id in others {
        assert!(stage.client.is_live(&id).await, "create: made room by ending another principal's session");
    }
}

/// Renewing at the limit ends nobody: the session takes its own place.
pub async fn limit_counts_a_renewed_session_once(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 3).await;
    for (session, excess) in sessions.iter().zip([Excess::Reject, Excess::EvictOldest, Excess::Reject]) {
        let new = new_id(Some(&alice));
        let renewal = Renewal {
            old: &session.id,
            new: &new,
            expected: Revision::FIRST,
            record: &session.record,
            limit: limit(3, excess),
        };
        let renewed = stage.client.renew(renewal).await;
        let expected = Renew::Renewed { revision: Revision::FIRST.next(), evicted: vec![] };
        assert_eq!(renewed, expected, "renew: counted the renewed session twice");
    }
    assert_eq!(stage.client.handles(&alice).await.len(), 3, "renew: at the limit must leave as many sessions");
}

/// A sign-in is mostly a renewal of an anonymous session: the new owner's limit applies.
pub async fn limit_holds_for_a_renewal_to_a_new_owner(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 2).await;
    let anonymous = stage.session(None).await;
    let record = remade(&anonymous.record, anonymous.handle(), Some(&alice));
    let new = new_id(Some(&alice));
    let renewal = Renewal {
        old: &anonymous.id,
        new: &new,
        expected: Revision::FIRST,
        record: &record,
        limit: limit(2, Excess::Reject),
    };
    assert_eq!(stage.client.renew(renewal).await, Renew::LimitReached, "renew: a third session with a limit of two");
    let kept = stage.client.live(&anonymous.id).await;
    assert_eq!(
        (kept.record, kept.revision),
        (anonymous.record.clone(), Revision::FIRST),
        "renew: refused, but changed the old session"
    );
    assert_eq!(stage.client.load(&new).await, Load::Gone(None), "renew: refused a session and filed it");
    let renewed = stage.client.renew(Renewal { limit: limit(2, Excess::EvictOldest), ..renewal }).await;
    let expected = Renew::Renewed { revision: Revision::FIRST.next(), evicted: vec![sessions[0].handle()] };
    assert_eq!(renewed, expected, "renew: must evict the new owner's oldest session, and say so");
    let loaded = stage.client.load(&sessions[0].id).await;
    assert_eq!(loaded, Load::Gone(Some(EndReason::Evicted)), "renew: the evicted session must be dead, and say why");
    let mut left = stage.client.handles(&alice).await;
    left.sort_unstable();
    assert_eq!(
        left,
        [sessions[1].handle(), anonymous.handle()],
        "renew: must leave the younger session and the new one"
    );
}

/// A call that is refused for another reason has ended nobody to make room.
pub async fn limit_evicts_nobody_when_nothing_is_written(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let other = stage.session(Some(&alice)).await;
    let own = stage.session(None).await;
    let taken = Filed { id: new_id(Some(&alice)), record: stage.record(None) };
    stage.client.file(&taken.id, &taken.record).await;
    let only = limit(1, Excess::EvictOldest);
    let record = remade(&own.record, own.handle(), Some(&alice));
    let created = stage.client.create(&taken.id, &stage.record(Some(&alice)), only).await;
    assert_eq!(created, Create::Occupied, "create: a live id is occupied");
    let renewal = Renewal { old: &own.id, new: &taken.id, expected: Revision::FIRST, record: &record, limit: only };
    assert_eq!(stage.client.renew(renewal).await, Renew::Occupied, "renew: a live id is occupied");
    let new = new_id(Some(&alice));
    let late = Renewal { new: &new, expected: Revision::FIRST.next(), ..renewal };
    assert!(matches!(stage.client.renew(late).await, Renew::Conflict(_)), "renew: at another revision is a conflict");
    let unknown = Renewal { old: &new_id(None), new: &new, ..renewal };
    assert_eq!(stage.client.renew(unknown).await, Renew::Gone(None), "renew: there is nothing under an unknown id");
    assert!(stage.client.is_live(&other.id).await, "create, renew: evicted a session though nothing was written");

    // The same where the renewal is overtaken by an update.
    for _ in 0..200 {
        let own = stage.session(None).await;
        let record = remade(&own.record, own.handle(), Some(&alice));
        let new = new_id(Some(&alice));
        let updating = {
            let (client, id, record) = (stage.client.clone(), own.id, with_number(&own.record, 1));
            tokio::spawn(async move { client.update(&id, Revision::FIRST, &record).await })
        };
        let before = stage.client.handles(&alice).await;
        let renewal = Renewal { old: &own.id, new: &new, expected: Revision::FIRST, record: &record, limit: only };
        let renewed = stage.client.renew(renewal).await;
        let updated = updating.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let after = stage.client.handles(&alice).await;
        match renewed {
            Renew::Renewed { evicted, .. } => {
                let expected = (vec![own.handle()], before);
                assert_eq!((after, evicted), expected, "renew: must evict the one other");
            }
            Renew::Conflict(_) => {
                assert!(matches!(updated, Update::Saved(_)), "renew: a conflict with nothing: {updated:?}");
                assert_eq!(after, before, "renew: evicted a session though nothing was written");
            }
            other => panic!("renew: must renew or conflict: {other:?}"),
        }
    }
}

/// Fifty sign-ins at once with a limit that rejects: exactly as many as allowed come in.
pub async fn limit_is_not_exceeded_by_parallel_sign_ins(fixture: &dyn Fixture) {
    const MAX: usize = 5;
    let stage = Stage::new(fixture);
    for turn in 0..5 {
        let alice = principal(&format!("alice-{turn}"));
        let watch = Watch::start(&stage, &alice, MAX);
        let results = together((0..50).map(|_| {
            let (client, id, record) = (stage.client.clone(), new_id(Some(&alice)), stage.record(Some(&alice)));
            async move { client.create(&id, &record, limit(MAX as u32, Excess::Reject)).await }
        }))
        .await;
        watch.stop().await;
        let filed = results.iter().filter(|created| matches!(created, Create::Created { .. })).count();
        assert_eq!(filed, MAX, "create: of parallel sign-ins exactly as many as allowed must come in");
        assert_eq!(stage.client.handles(&alice).await.len(), MAX, "create: the limit was passed by parallel sign-ins");
    }
}

/// The same where anonymous sessions become the principal's.
pub async fn limit_is_not_exceeded_by_parallel_renewals(fixture: &dyn Fixture) {
    const MAX: usize = 5;
    let stage = Stage::new(fixture);
    for turn in 0..5 {
        let alice = principal(&format!("alice-{turn}"));
        let sessions = stage.sessions(None, 50).await;
        let watch = Watch::start(&stage, &alice, MAX);
        let results = together(sessions.into_iter().map(|session| {
            let (client, new) = (stage.client.clone(), new_id(Some(&alice)));
            let record = remade(&session.record, session.handle(), Some(&alice));
            async move {
                let limit = limit(MAX as u32, Excess::Reject);
                client
                    .renew(Renewal { old: &session.id, new: &new, expected: Revision::FIRST, record: &record, limit })
                    .await
            }
        }))
        .await;
        watch.stop().await;
        let filed = results.iter().filter(|renewed| matches!(renewed, Renew::Renewed { .. })).count();
        assert_eq!(filed, MAX, "renew: of parallel sign-ins exactly as many as allowed must come in");
        assert_eq!(stage.client.handles(&alice).await.len(), MAX, "renew: the limit was passed by parallel renewals");
    }
}

/// Fifty sign-ins at once with a limit that evicts: all come in, and as many end as it takes, each once.
pub async fn limit_is_not_exceeded_by_parallel_evictions(fixture: &dyn Fixture) {
    const MAX: usize = 5;
    let stage = Stage::new(fixture);
    for turn in 0..5 {
        let alice = principal(&format!("alice-{turn}"));
        let watch = Watch::start(&stage, &alice, MAX);
        let results = together((0..50).map(|_| {
            let (client, id, record) = (stage.client.clone(), new_id(Some(&alice)), stage.record(Some(&alice)));
            async move { client.create(&id, &record, limit(MAX as u32, Excess::EvictOldest)).await }
        }))
        .await;
        watch.stop().await;
        let mut evicted = Vec::new();
        for created in results {
            match created {
                Create::Created { evicted: some } => evicted.extend(some),
                other => panic!("create: must make room by evicting: {other:?}"),
            }
        }
        evicted.sort_unstable();
        evicted.dedup();
        assert_eq!(evicted.len(), 50 - MAX, "create: each session that made room must be named once");
        let left = stage.client.handles(&alice).await;
        assert_eq!(left.len(), MAX, "create: the limit was passed by parallel sign-ins that evict");
        assert!(
            left.iter().all(|handle| evicted.binary_search(handle).is_err()),
            "create: named a session that is still live"
        );
    }
}

/// Looks at the list all the time and finds it never longer than the limit.
struct Watch {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    fn start(stage: &Stage<'_>, principal: &Principal, max: usize) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (client, principal, ended): (Client, _, _) = (stage.client.clone(), principal.clone(), over.clone());
        let task = tokio::spawn(async move {
            while !ended.load(Ordering::SeqCst) {
                let live = client.list(&principal, Page::FIRST).await.sessions.len();
                assert!(live <= max, "list: showed {live} sessions with a limit of {max}");
                tokio::task::yield_now().await;
            }
        });
        Self { over, task }
    }

    async fn stop(self) {
        self.over.store(true, Ordering::SeqCst);
        if let Err(error) = self.task.await {
            std::panic::resume_unwind(error.into_panic());
        }
    }
}
