//! `list`.

use std::collections::BTreeSet;

use cloakroom_core::{Handle, Page, Principal, Renewal, Revision, SessionId, Stored, Summary};

use super::Fixture;
use super::stage::{Filed, HOUR, Stage, new_id, principal, remade, together, with_number};
use crate::random::mix;

/// Everything a summary tells, in the order of creation, and nobody else's sessions.
pub async fn list_shows_the_summaries_of_live_sessions_oldest_first(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    assert!(stage.client.list_all(&alice).await.is_empty(), "list: of a principal without sessions is empty");
    // Filed in another order than they were created in, and two of them at the same time.
    let mut records: Vec<_> = [3u32, 1, 4, 1, 5, 9, 2, 6]
        .map(|second| {
            let record = stage.record(Some(&alice));
            let created = record.created() + HOUR / 3600 * second;
            let record = cloakroom_core::Record::new(record.handle(), created, HOUR, 2 * HOUR).owned_by(alice.clone());
            record.with_client(cloakroom_core::Client::new(Some("Browser/1.0"), None))
        })
        .into();
    for record in &records {
        stage.file(record.clone()).await;
    }
    stage.sessions(Some(&principal("bob")), 2).await;
    stage.sessions(None, 2).await;
    records.sort_by_key(|record| Summary::from(record).cursor());
    let expected: Vec<Summary> = records.iter().map(Summary::from).collect();
    let listed = stage.client.list(&alice, Page::FIRST).await;
    assert_eq!(
        listed.sessions, expected,
        "list: must show each session as its record tells, oldest first, then by handle"
    );
    assert_eq!(listed.next, None, "list: there is no second page");
}

/// Pages of any size together are the list.
pub async fn list_pages_through_250_sessions_without_gap_or_double(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let mut expected = Vec::new();
    for turn in 0..250 {
        expected.push(stage.session(Some(&alice)).await.handle());
        // Several sessions share a millisecond, so that a page ends between them.
        if turn % 4 == 0 {
            stage.advance(super::stage::MILLISECOND);
        }
    }
    let expected: BTreeSet<_> = expected.into_iter().collect();
    for size in [1, 7, 50, 99, 100, 250] {
        let mut seen: Vec<Summary> = Vec::new();
        let mut page = Page { after: None, limit: size };
        loop {
            let listing = stage.client.list(&alice, page).await;
            let bound = page.bounded_limit();
            assert!(
                listing.sessions.len() <= bound,
                "list: a page holds {}, wanted at most {bound}",
                listing.sessions.len()
            );
            seen.extend(listing.sessions);
            assert!(seen.len() <= 250, "list: pages of {size} show a session twice");
            match listing.next {
                Some(next) => page.after = Some(next),
                None => break,
            }
        }
        assert!(seen.is_sorted_by_key(Summary::cursor), "list: pages of {size} are not in order");
        let handles: BTreeSet<_> = seen.iter().map(|summary| summary.handle).collect();
        assert_eq!(seen.len(), handles.len(), "list: pages of {size} show a session twice");
        assert!(handles == expected, "list: pages of {size} miss {} sessions", expected.len() - handles.len());
    }
}

/// A page holds between one session and [`Page::MAX`], whatever is asked for, and says whether there are more.
pub async fn list_bounds_the_page(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    stage.sessions(Some(&alice), Page::MAX as usize).await;
    let full = stage.client.list(&alice, Page { after: None, limit: u32::MAX }).await;
    assert_eq!((full.sessions.len(), full.next), (100, None), "list: exactly one full page has no next");
    stage.session(Some(&alice)).await;
    for (limit, held) in [(0, 1), (1, 1), (101, 100), (u32::MAX, 100)] {
        let listing = stage.client.list(&alice, Page { after: None, limit }).await;
        assert_eq!(listing.sessions.len(), held, "list: a page of {limit} out of 101");
        let last = listing.sessions.last().map(Summary::cursor);
        assert_eq!(listing.next, last, "list: the next page starts after the last session of this one");
    }
}

/// A cursor is a place, not a session: it stays good when that session ends.
pub async fn list_goes_on_after_a_session_that_ended(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 6).await;
    let first = stage.client.list(&alice, Page { after: None, limit: 3 }).await;
    for session in &sessions[1..3] {
        stage.client.revoke(&alice, session.handle()).await;
    }
    let second = stage.client.list(&alice, Page { after: first.next, limit: 3 }).await;
    let expected: Vec<_> = sessions[3..].iter().map(Filed::handle).collect();
    let listed: Vec<_> = second.sessions.iter().map(|summary| summary.handle).collect();
    assert_eq!(listed, expected, "list: must go on where it was though the session there has ended");
}

/// Deleted, revoked, evicted, renewed to another and expired sessions are not listed.
pub async fn list_shows_no_session_that_ended(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let sessions = stage.sessions(Some(&alice), 4).await;
    let fleeting = stage.fleeting(Some(&alice)).await;
    stage.client.delete(&sessions[0].id).await;
    stage.client.revoke(&alice, sessions[1].handle()).await;
    let anonymous = remade(&sessions[2].record, sessions[2].handle(), None);
    stage.client.renew_fresh(&sessions[2].id, &new_id(None), &anonymous).await;
    stage.expire(&[fleeting]).await;
    assert_eq!(stage.client.handles(&alice).await, [sessions[3].handle()], "list: shows a session that ended");
    stage.client.sweep_out(10).await;
    assert_eq!(stage.client.handles(&alice).await, [sessions[3].handle()], "list: changed by a sweep");
}

/// Principals are compared byte for byte.
pub async fn list_compares_principals_exactly(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let mut owned = Vec::new();
    for name in look_alikes() {
        let session = stage.session(Some(&name)).await;
        owned.push((name, session));
    }
    for (name, session) in &owned {
        let listed = stage.client.handles(name).await;
        assert_eq!(listed, [session.handle()], "list: of {:?} must show that principal's one session", name.as_str());
    }
}

/// Principals that a careless comparison takes for each other.
pub(super) fn look_alikes() -> Vec<Principal> {
    let names = [
        "alice",
        "Alice",
        "ALICE",
        "alice ",
        " alice",
        "alic",
        "alice2",
        "alice:",
        "alice:2",
        "alice/",
        "{alice}",
        "alice%",
        "alic_",
        "%",
        "_",
        "*",
        "alic?",
        "alice*",
        "[a]lice",
        "a",
        "alicé",
        "alice\u{301}",
        "alic\u{65}\u{301}",
        "ａlice",
        "аlice",
        "alice\u{200b}",
        "alıce",
        "straße",
        "strasse",
        "'alice'",
        "alice'--",
        "alice\\",
        "\"alice\"",
        "1",
        "01",
        "1.0",
    ];
    let mut names: Vec<_> = names.iter().map(|name| principal(name)).collect();
    names.push(principal(&"x".repeat(254)));
    names.push(principal(&"x".repeat(255)));
    names.sort();
    names.dedup();
    names
}

/// After a storm of all kinds of calls every live session is in its owner's list, and nothing else is.
pub async fn list_agrees_with_scan_after_parallel_traffic(fixture: &dyn Fixture) {
    const PRINCIPALS: u64 = 4;
    let stage = Stage::new(fixture);
    let principals: Vec<_> = (0..PRINCIPALS).map(|number| principal(&format!("p{number}"))).collect();
    let now = stage.now();
    together((0..8).map(|worker: u64| {
        let (client, principals) = (stage.client.clone(), principals.clone());
        let records: Vec<_> =
            (0..60).map(|turn: u64| stage.record(owner(&principals, mix(worker * 1000 + turn)))).collect();
        async move {
            // Sessions of this worker that may still be live.
            let mut ids: Vec<SessionId> = Vec::new();
            for (turn, record) in (0u64..).zip(records) {
                let choice = mix(worker * 7919 + turn);
                let Some(id) = ids.get((choice >> 8) as usize % ids.len().max(1)).copied().filter(|_| choice % 8 > 2)
                else {
                    let id = new_id(record.principal());
                    client.file(&id, &record).await;
                    ids.push(id);
                    continue;
                };
                let Some(Stored { record: current, revision }) = client.load(&id).await.live() else { continue };
                match choice % 8 {
                    3 | 4 => {
                        let to = owner(&principals, choice >> 16);
                        let (new, record) = (new_id(to), remade(&current, current.handle(), to));
                        client
                            .renew(Renewal { old: &id, new: &new, expected: revision, record: &record, limit: None })
                            .await;
                        ids.push(new);
                    }
                    5 => {
                        client.update(&id, revision, &with_number(&current, turn)).await;
                        client.touch(&id, now, current.idle_deadline() + HOUR).await;
                    }
                    6 => {
                        client.delete(&id).await;
                    }
                    _ => {
                        let whose = &principals[(choice >> 16) as usize % principals.len()];
                        if choice >> 32 & 3 == 0 {
                            client.revoke_all(whose, Some(current.handle())).await;
                        } else {
                            client.revoke(whose, current.handle()).await;
                        }
                        client.sweep(5).await;
                    }
                }
            }
        }
    }))
    .await;
    let found = stage.client.scan_all(50).await;
    for principal in &principals {
        let listed: BTreeSet<Handle> = stage.client.handles(principal).await.into_iter().collect();
        let owned = found.iter().filter(|(_, stored)| stored.record.principal() == Some(principal));
        let owned: BTreeSet<Handle> = owned.map(|(_, stored)| stored.record.handle()).collect();
        assert_eq!(listed, owned, "list: shows a session that is not live, or misses one that is");
        let ended = stage.client.revoke_all(principal, None).await;
        assert_eq!(ended, owned.len() as u64, "revoke_all: must end exactly the sessions that were listed");
    }
    for (id, stored) in &found {
        let live = stage.client.is_live(id).await;
        assert_eq!(
            live,
            stored.record.principal().is_none(),
            "revoke_all: of everybody must leave the anonymous sessions only"
        );
        assert!(stored.revision >= Revision::FIRST, "scan: a revision below the first");
    }
}

fn owner(principals: &[Principal], choice: u64) -> Option<&Principal> {
    principals.get(choice as usize % (principals.len() + 1))
}
