//! `create`.

use cloakroom_core::{Create, Load, Renew, Revision};

use super::Fixture;
use super::stage::{Client, Stage, new_id, principal, together, with_number};

/// A new record is live at the first revision, under its own id and in the list.
pub async fn create_files_at_the_first_revision(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let stored = stage.client.live(&session.id).await;
    assert_eq!(stored.revision, Revision::FIRST, "create: a new record is at the first revision");
    assert_eq!(stored.record, session.record, "create: filed another record than was given");
    assert_eq!(
        stage.client.handles(&alice).await,
        [session.handle()],
        "create: a new session must be in its owner's list"
    );
}

/// A second session under a live id is refused, and the first is not changed.
pub async fn create_never_overwrites_a_live_session(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    for owner in [Some(&alice), None] {
        let created = stage.client.create(&session.id, &stage.record(owner), None).await;
        assert_eq!(created, Create::Occupied, "create: the id of a live session must be occupied");
    }
    let stored = stage.client.live(&session.id).await;
    assert_eq!(
        (&stored.record, stored.revision),
        (&session.record, Revision::FIRST),
        "create: overwrote a live session"
    );
    let handles = stage.client.handles(&alice).await;
    assert_eq!(handles, [stored.record.handle()], "create: listed a session that it refused");
}

/// An id that was deleted never comes back.
pub async fn create_refuses_an_id_that_was_deleted(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    stage.client.delete(&session.id).await;
    assert_refused(&stage, &session.id, "deleted").await;
}

/// An id that was renewed away never comes back.
pub async fn create_refuses_an_id_that_was_renewed_away(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let new = new_id(None);
    let renewed = stage.client.renew_fresh(&session.id, &new, &session.record).await;
    assert!(matches!(renewed, Renew::Renewed { .. }), "renew: a live session can be renewed: {renewed:?}");
    assert_refused(&stage, &session.id, "renewed away").await;
    assert!(stage.client.is_live(&new).await, "create: a refused call ended the successor");
}

/// An id that was revoked never comes back.
pub async fn create_refuses_an_id_that_was_revoked(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let (one, other) = (stage.session(Some(&alice)).await, stage.session(Some(&alice)).await);
    stage.client.revoke(&alice, one.handle()).await;
    assert_refused(&stage, &one.id, "revoked").await;
    stage.client.revoke_all(&alice, None).await;
    assert_refused(&stage, &other.id, "revoked with all others").await;
}

/// An id that expired never comes back, before the sweeper came and after.
pub async fn create_refuses_an_id_that_expired(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.fleeting(None).await;
    stage.expire(std::slice::from_ref(&session)).await;
    assert_refused(&stage, &session.id, "expired").await;
    stage.client.sweep_out(10).await;
    assert_refused(&stage, &session.id, "expired and swept").await;
}

async fn assert_refused(stage: &Stage<'_>, id: &cloakroom_core::SessionId, how: &str) {
    let created = stage.client.create(id, &stage.record(None), None).await;
    assert_eq!(created, Create::Occupied, "create: an id that was {how} must stay occupied");
    assert!(!stage.client.is_live(id).await, "create: brought an id back to life that was {how}");
}

/// Any number of calls for one id: one is filed, the others are told.
pub async fn create_has_one_winner_among_parallel_calls_for_one_id(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for _ in 0..10 {
        let id = new_id(None);
        let record = stage.record(None);
        let results = together((0..16).map(|number| {
            let (client, record) = (stage.client.clone(), with_number(&record, number));
            async move { (client.create(&id, &record, None).await, record) }
        }))
        .await;
        let winners: Vec<_> = results.iter().filter(|(created, _)| matches!(created, Create::Created { .. })).collect();
        assert_eq!(winners.len(), 1, "create: of parallel calls for one id exactly one must be filed");
        let stored = stage.client.live(&id).await;
        assert_eq!(stored.record, winners[0].1, "create: what is filed is not what the winner gave");
    }
}

/// A sign-in and a deletion of one id at once leave a session that is live and listed, or neither.
pub async fn create_in_parallel_with_delete_leaves_no_orphan(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for turn in 0..200 {
        let alice = principal(&format!("alice-{turn}"));
        let id = new_id(Some(&alice));
        let record = stage.record(Some(&alice));
        let creating = {
            let (client, record): (Client, _) = (stage.client.clone(), record.clone());
            async move { client.create(&id, &record, None).await == Create::Created { evicted: vec![] } }
        };
        let deleting = (0..3).map(|_| {
            let client = stage.client.clone();
            async move { client.delete(&id).await }
        });
        let creating = tokio::spawn(creating);
        let deleted = together(deleting).await.contains(&true);
        let created = creating.await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        let loaded = stage.client.load(&id).await;
        let live = matches!(loaded, Load::Live(_));
        assert_eq!(live, created && !deleted, "create, delete: the answers do not fit what is there: {loaded:?}");
        let listed = !stage.client.handles(&alice).await.is_empty();
        assert_eq!(listed, live, "create, delete: the list and the session disagree");
    }
}
