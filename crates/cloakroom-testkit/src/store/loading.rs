//! `load`, and what every store must keep unchanged.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use bytes::Bytes;
use cloakroom_core::clock::{from_unix_millis, unix_millis};
use cloakroom_core::{
    Client as Browser, EndReason, Load, Record, Revision, SessionId, StoreErrorKind, Stored, Update, Value,
};

use super::Fixture;
use super::stage::{Client, Filed, HOUR, MILLISECOND, Stage, new_id, principal, together, with_number, with_value};
use crate::random::expand;

/// Values, client and owner come back as they went in: binary, empty, and in any alphabet.
pub async fn load_brings_what_was_stored_byte_for_byte(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let every_byte: Vec<u8> = (0..=255).collect();
    let long_key = "k".repeat(255);
    let values = [
        Value { key: "empty", encoded: b"", expires: 0 },
        Value { key: "binary", encoded: &every_byte, expires: 0 },
        Value { key: "ключ 🗝 'quoted\" \\ % _ *", encoded: b"{\"a\": [1, null]}", expires: 0 },
        Value { key: "passing", encoded: b"1", expires: 1_900_000_000_123 },
        Value { key: &long_key, encoded: b"\0\0", expires: u64::MAX },
    ];
    let browsers = [
        Browser::default(),
        Browser::new(Some("Mozilla/5.0 (ünïcode 'quoted' \"\\)"), Some(IpAddr::from([192, 0, 2, 7]))),
        Browser::new(Some(&"a".repeat(300)), Some(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]))),
    ];
    for owner in [None, Some(principal("Zoë O'Brien; DROP TABLE sessions --")), Some(principal(&"p".repeat(255)))] {
        for browser in &browsers {
            let record = stage.record(owner.as_ref()).with_client(browser.clone()).with_values(values);
            let session = stage.file(record).await;
            let stored = stage.client.live(&session.id).await;
            assert_eq!(stored.record.encode(), session.record.encode(), "load: the record came back changed");
        }
    }
    let none = stage.file(stage.record(None)).await;
    assert_eq!(
        stage.client.live(&none.id).await.record,
        none.record,
        "load: a record without values came back changed"
    );
}

/// The largest record that the engine writes goes in and comes back, by create, update and renew.
pub async fn load_brings_a_record_of_256_kib(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let mut body = vec![0; 256 * 1024 - 512];
    expand(1, &mut body);
    let session = stage.file(with_value(&stage.record(None), &body)).await;
    assert_eq!(
        stage.client.live(&session.id).await.record,
        session.record,
        "create: a record of 256 KiB came back changed"
    );
    expand(2, &mut body);
    let second = with_value(&session.record, &body);
    assert_eq!(stage.client.update(&session.id, Revision::FIRST, &second).await, Update::Saved(Revision::FIRST.next()));
    assert_eq!(stage.client.live(&session.id).await.record, second, "update: a record of 256 KiB came back changed");
}

/// What a newer release appended to a record's head is carried along.
pub async fn load_brings_what_a_newer_release_added_to_the_record(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let mut bytes = with_value(&stage.record(None), b"1").encode();
    let head_len = u16::from_be_bytes([bytes[1], bytes[2]]);
    let end_of_head = 3 + usize::from(head_len);
    bytes.splice(end_of_head..end_of_head, *b"newer");
    bytes[1..3].copy_from_slice(&(head_len + 5).to_be_bytes());
    let record = Record::decode(&Bytes::from(bytes.clone()));
    let record = record.unwrap_or_else(|error| panic!("the check's record does not decode: {error}"));
    let session = stage.file(record).await;
    let stored = stage.client.live(&session.id).await.record;
    assert_eq!(stored.encode(), bytes, "load: what a newer release added to the record is lost");
}

/// An id that was never filed is gone, and there is nothing to say of it.
pub async fn load_of_an_unknown_id_is_gone_without_a_reason(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let loaded = stage.client.load(&new_id(None)).await;
    assert_eq!(loaded, Load::Gone(None), "load: an id that never was must be gone, without a reason");
}

/// Ids are compared as bytes: no prefix, no case, no trimming.
pub async fn load_finds_only_the_exact_id(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for id in [
        *new_id(None).as_bytes(),
        [0; SessionId::LEN],
        [b'a'; SessionId::LEN],
        [b' '; SessionId::LEN],
        [0xff; SessionId::LEN],
    ] {
        let record = stage.record(None);
        let id = SessionId::from_bytes(id);
        stage.client.file(&id, &record).await;
        for place in 0..SessionId::LEN {
            for bit in [0x01, 0x20, 0x80] {
                let mut other = *id.as_bytes();
                other[place] ^= bit;
                let other = SessionId::from_bytes(other);
                let loaded = stage.client.load(&other).await;
                assert_eq!(loaded, Load::Gone(None), "load: byte {place} of the id was not compared (bits {bit:#04x})");
                let deadline = stage.now() + 2 * HOUR;
                let touched = stage.client.touch(&other, stage.now(), deadline).await;
                assert_eq!(
                    touched,
                    cloakroom_core::Touch::Gone(None),
                    "touch: byte {place} of the id was not compared"
                );
                assert!(!stage.client.delete(&other).await, "delete: byte {place} of the id was not compared");
            }
        }
        assert_eq!(stage.client.live(&id).await.record, record, "a call for another id changed this session");
    }
}

/// One millisecond before the deadline the session is live, at the deadline it is over. Needs a [`ManualClock`](crate::ManualClock).
pub async fn load_is_live_until_the_millisecond_of_the_deadline(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    if !stage.is_manual() {
        return;
    }
    let alice = principal("alice");
    for (idle, absolute) in [(HOUR, 2 * HOUR), (2 * HOUR, HOUR)] {
        let session = stage.file(stage.record_until(Some(&alice), idle, absolute)).await;
        stage.advance(HOUR - MILLISECOND);
        assert!(stage.client.is_live(&session.id).await, "load: expired a millisecond before its deadline");
        assert_eq!(
            stage.client.handles(&alice).await,
            [session.handle()],
            "list: expired a millisecond before its deadline"
        );
        stage.advance(MILLISECOND);
        assert!(!stage.client.is_live(&session.id).await, "load: still live at its deadline");
        assert!(stage.client.handles(&alice).await.is_empty(), "list: still live at its deadline");
        assert!(stage.client.scan_all(10).await.is_empty(), "scan: still live at its deadline");
    }
}

/// An expired session is gone, also before anybody has swept, and stays so.
pub async fn load_of_an_expired_session_is_gone(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.fleeting(None).await;
    stage.expire(std::slice::from_ref(&session)).await;
    for _ in 0..2 {
        let loaded = stage.client.load(&session.id).await;
        let allowed = [Load::Gone(Some(EndReason::Expired)), Load::Gone(None)];
        assert!(allowed.contains(&loaded), "load: an expired session must be gone, for no other reason: {loaded:?}");
        stage.client.sweep_out(10).await;
    }
}

/// Deadlines in the year 9999 and beyond any date are neither an error nor in the past.
pub async fn load_keeps_sessions_with_deadlines_in_the_far_future(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let latest = from_unix_millis(u64::MAX);
    let until_latest = Duration::from_millis(unix_millis(latest) - unix_millis(stage.now()));
    for far in [until_latest, Duration::from_millis(i64::MAX as u64), Duration::MAX] {
        let session = stage.file(stage.record_until(Some(&principal("alice")), far, far)).await;
        let stored = stage.client.live(&session.id).await;
        let deadlines = (stored.record.idle_deadline(), stored.record.absolute_deadline());
        assert_eq!(deadlines, (latest, latest), "load: a deadline in the year 9999 or later was moved");
        let touched = stage.client.touch(&session.id, stage.now(), latest).await;
        assert_eq!(touched, cloakroom_core::Touch::Touched, "touch: a deadline in the year 9999 is refused");
        let updated = stage.client.update(&session.id, stored.revision, &with_number(&stored.record, 1)).await;
        assert_eq!(updated, Update::Saved(stored.revision.next()), "update: a deadline in the year 9999 is refused");
        assert!(stage.client.is_live(&session.id).await, "load: a session with a far deadline was lost");
    }
    stage.client.sweep_out(10).await;
    assert_eq!(
        stage.client.list_all(&principal("alice")).await.len(),
        3,
        "list: a session with a far deadline was lost"
    );
}

/// Bytes that are no record are nobody's session, and no error. Needs [`Fixture::overwrite_record`].
pub async fn load_of_an_undecodable_record_is_gone(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    for bytes in [b"".as_slice(), b"\x00", b"\x01\xff\xff", b"\x01not a record"] {
        let session = stage.session(None).await;
        if !fixture.overwrite_record(&session.id, bytes).await {
            return;
        }
        let loaded = stage.client.load(&session.id).await;
        assert!(matches!(loaded, Load::Gone(_)), "load: bytes that are no record must be gone: {loaded:?}");
    }
}

/// A record of a newer format is neither used nor removed. Needs [`Fixture::overwrite_record`].
pub async fn load_of_a_record_of_a_newer_format_is_an_error_and_keeps_it(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let session = stage.session(None).await;
    let mut newer = session.record.encode();
    newer[0] = Record::FORMAT + 1;
    if !fixture.overwrite_record(&session.id, &newer).await {
        return;
    }
    let Err(error) = stage.client.0.load(&session.id).await else {
        panic!("load: a record of a newer format must be an error, or an older release would end the session");
    };
    assert_eq!(
        error.kind(),
        StoreErrorKind::NewerFormat,
        "load: a record of a newer format has an error kind of its own"
    );
    stage.client.sweep_out(10).await;
    assert!(fixture.overwrite_record(&session.id, &session.record.encode()).await);
    assert!(stage.client.is_live(&session.id).await, "load, sweep: a record of a newer format was removed");
}

/// A load is no write: not of the revision, not of the deadlines, not of the list.
pub async fn load_changes_nothing(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let alice = principal("alice");
    let session = stage.session(Some(&alice)).await;
    let listed = stage.client.list_all(&alice).await;
    for _ in 0..3 {
        stage.advance(Duration::from_secs(60));
        let stored = stage.client.live(&session.id).await;
        let first = Stored { record: session.record.clone(), revision: Revision::FIRST };
        assert_eq!(stored, first, "load: changed the record or its revision");
    }
    assert_eq!(stage.client.list_all(&alice).await, listed, "load: changed the list");
}

/// Many readers at once never get each other's answers.
pub async fn load_brings_every_parallel_reader_its_own_record(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let sessions = numbered(&stage, 100).await;
    together((0..32).map(|reader| {
        let (client, sessions) = (stage.client.clone(), sessions.clone());
        async move {
            for turn in 0..sessions.len() {
                let session = &sessions[(turn * 7 + reader * 13) % sessions.len()];
                assert_own(&client, session).await;
            }
        }
    }))
    .await;
}

/// What one process wrote, another reads at once. Needs [`Fixture::second_handle`].
pub async fn load_through_another_client_sees_every_write_at_once(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let Some(second) = fixture.second_handle().map(Client) else { return };
    let alice = principal("alice");
    for _ in 0..20 {
        let session = stage.session(Some(&alice)).await;
        assert_eq!(second.live(&session.id).await.record, session.record, "create: not seen by another client");
        let changed = with_number(&session.record, 1);
        assert_eq!(
            stage.client.update(&session.id, Revision::FIRST, &changed).await,
            Update::Saved(Revision::FIRST.next())
        );
        assert_eq!(second.live(&session.id).await.record, changed, "update: not seen by another client");
        let renewed = new_id(Some(&alice));
        let expected = Revision::FIRST.next();
        let renewal =
            cloakroom_core::Renewal { old: &session.id, new: &renewed, expected, record: &changed, limit: None };
        stage.client.renew(renewal).await;
        let ids = (second.is_live(&session.id).await, second.is_live(&renewed).await);
        assert_eq!(ids, (false, true), "renew: not seen by another client");
        assert_eq!(stage.client.revoke_all(&alice, None).await, 1, "revoke_all: must end the one session");
        assert!(!second.is_live(&renewed).await, "revoke_all: not seen by another client");
        assert!(second.list_all(&alice).await.is_empty(), "revoke_all: not seen in another client's list");
    }
}

/// The store says what it is, in a probe and in one line of text.
pub async fn probe_says_what_answers(fixture: &dyn Fixture) {
    let stage = Stage::new(fixture);
    let probe = stage.client.probe().await;
    assert!(!probe.server.is_empty(), "probe: must name what kind of store answers");
    assert!(probe.latency < Duration::from_secs(60), "probe: a latency of {:?} cannot be", probe.latency);
    assert!(probe.warnings.iter().all(|warning| !warning.is_empty()), "probe: an empty warning says nothing");
    let name = stage.client.0.to_string();
    assert!(!name.is_empty() && !name.contains('\n'), "Display: must print the stack of stores in one line");
}

/// So many sessions, each with a number of its own.
pub(super) async fn numbered(stage: &Stage<'_>, count: u64) -> Vec<Filed> {
    let mut sessions = Vec::new();
    let mut handles = BTreeSet::new();
    for number in 1..=count {
        let session = stage.file(with_number(&stage.record(None), number)).await;
        handles.insert(session.handle());
        sessions.push(session);
    }
    assert_eq!(handles.len() as u64, count, "the check's own sessions must differ");
    sessions
}

pub(super) async fn assert_own(client: &Client, session: &Filed) {
    let loaded = client.live(&session.id).await.record;
    assert!(loaded == session.record, "load: brought the record of another session, or a changed one");
}
