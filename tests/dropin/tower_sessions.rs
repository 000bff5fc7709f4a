//! Through the `Session` of tower-sessions, as its middleware uses it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use cloakroom_axum::TowerSessionsStore;
use cloakroom_core::{ForeignSessions, KeyRing, MemoryStore, StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use serde_json::{Value, json};
use tower_sessions_core::session::{Error, Id, Record};
use tower_sessions_core::session_store::Error as StoreError;
use tower_sessions_core::{Expiry, Session, SessionStore as _};

use crate::world::{ABSOLUTE, HOUR, World, key, on_every_store};

on_every_store!(
    a_session_keeps_what_was_put_in_and_ends_when_it_is_flushed,
    a_save_does_not_bring_a_flushed_session_back,
    a_save_does_not_bring_an_expired_session_back,
    a_session_that_another_request_ended_is_not_carried_into_a_new_one,
    a_logout_between_the_two_halves_of_a_cycle_wins,
    a_session_that_expired_is_not_carried_into_a_new_one,
    a_cycle_moves_the_values_and_kills_the_old_id,
    two_requests_that_cycle_one_session_both_pass_until_one_signs_out,
    an_id_that_was_not_minted_here_never_becomes_a_session,
    parallel_changes_of_different_keys_are_both_kept,
    of_parallel_changes_of_one_key_the_later_stands,
    what_one_request_removed_another_does_not_bring_back,
    a_clear_removes_what_others_wrote_too,
    nothing_in_the_store_is_a_cookie_or_leads_to_one,
    an_expiry_is_kept_to_the_nanosecond_and_can_be_shortened,
    no_session_outlives_the_absolute_timeout,
);

impl World {
    fn tower_sessions(&self) -> TowerSessionsStore {
        TowerSessionsStore::of(&self.manager).unwrap()
    }

    /// The session of a request that came with this cookie.
    fn request(&self, id: Option<Id>) -> Session {
        let expiry = Expiry::AtDateTime((self.now() + HOUR).into());
        Session::new(id, Arc::new(self.tower_sessions()), Some(expiry))
    }

    /// A session with this in it.
    async fn started(&self, data: &[(&str, &str)]) -> Id {
        let session = self.request(None);
        for (key, value) in data {
            session.insert(key, value).await.unwrap();
        }
        session.save().await.unwrap();
        session.id().unwrap()
    }

    /// The session of a request that has looked at it.
    async fn looked_at(&self, id: Id) -> Session {
        let session = self.request(Some(id));
        session.load().await.unwrap();
        session
    }

    async fn data(&self, id: Id) -> Option<HashMap<String, Value>> {
        let record = self.tower_sessions().load(&id).await.unwrap();
        record.map(|record| record.data.into_iter().filter(|(key, _)| key != ForeignSessions::RESERVED).collect())
    }
}

fn says_that_it_ended(result: Result<(), Error>) -> bool {
    matches!(result, Err(Error::Store(StoreError::Backend(message))) if message.contains("ended while this request ran"))
}

async fn a_session_keeps_what_was_put_in_and_ends_when_it_is_flushed(world: World) {
    let id = world.started(&[("user", "ada"), ("cart", "tea")]).await;
    let expected = HashMap::from([("user".to_owned(), json!("ada")), ("cart".to_owned(), json!("tea"))]);
    assert_eq!(world.data(id).await, Some(expected));
    world.request(Some(id)).flush().await.unwrap();
    assert_eq!(world.data(id).await, None);
    // As a second click on "sign out" does.
    world.request(Some(id)).flush().await.unwrap();
}

async fn a_save_does_not_bring_a_flushed_session_back(world: World) {
    let id = world.started(&[("user", "ada")]).await;
    let slow = world.looked_at(id).await;
    world.request(Some(id)).flush().await.unwrap();
    slow.insert("seen", 1).await.unwrap();
    assert!(says_that_it_ended(slow.save().await));
    assert!(world.data(id).await.is_none() && world.holding("user", "\"ada\"").await == 0);
}

async fn a_save_does_not_bring_an_expired_session_back(world: World) {
    let id = world.started(&[("user", "ada")]).await;
    let slow = world.looked_at(id).await;
    world.clock.advance(HOUR - Duration::from_millis(1));
    assert!(world.data(id).await.is_some());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.data(id).await, None);
    slow.insert("seen", 1).await.unwrap();
    slow.set_expiry(Some(Expiry::AtDateTime((world.now() + HOUR).into())));
    assert!(says_that_it_ended(slow.save().await));
    assert_eq!(world.data(id).await, None);
}

async fn a_session_that_another_request_ended_is_not_carried_into_a_new_one(world: World) {
    let id = world.started(&[("user", "ada")]).await;
    let slow = world.looked_at(id).await;
    world.request(Some(id)).flush().await.unwrap();
    slow.cycle_id().await.unwrap();
    assert!(says_that_it_ended(slow.save().await));
    assert_eq!(slow.id(), None, "no cookie is handed out");
    assert_eq!(world.holding("user", "\"ada\"").await, 0);
}

async fn a_logout_between_the_two_halves_of_a_cycle_wins(world: World) {
    let id = world.started(&[("user", "ada")]).await;
    let (slow, logout) = (world.looked_at(id).await, world.looked_at(id).await);
    slow.cycle_id().await.unwrap();
    logout.flush().await.unwrap();
    assert!(says_that_it_ended(slow.save().await));
    assert_eq!(world.holding("user", "\"ada\"").await, 0);
}

async fn a_session_that_expired_is_not_carried_into_a_new_one(world: World) {
    let id = world.started(&[("user", "ada")]).await;
    let slow = world.looked_at(id).await;
    world.clock.advance(HOUR);
    slow.cycle_id().await.unwrap();
    slow.set_expiry(Some(Expiry::AtDateTime((world.now() + HOUR).into())));
    assert!(says_that_it_ended(slow.save().await));
    assert_eq!(world.holding("user", "\"ada\"").await, 0);
}

async fn a_cycle_moves_the_values_and_kills_the_old_id(world: World) {
    let id = world.started(&[("cart", "tea")]).await;
    let sign_in = world.looked_at(id).await;
    let slow = world.looked_at(id).await;
    sign_in.cycle_id().await.unwrap();
    sign_in.insert("user", "ada").await.unwrap();
    sign_in.save().await.unwrap();
    let new = sign_in.id().unwrap();
    assert_ne!(new, id);
    assert_eq!(world.data(id).await, None);
    assert_eq!(world.data(new).await.unwrap().len(), 2);
    slow.insert("cart", "coffee").await.unwrap();
    assert!(says_that_it_ended(slow.save().await), "what was renewed away takes nothing any more");
    // The session of the request goes on under the new id.
    sign_in.insert("seen", 1).await.unwrap();
    sign_in.save().await.unwrap();
    assert_eq!(world.data(new).await.unwrap().len(), 3);
}

async fn two_requests_that_cycle_one_session_both_pass_until_one_signs_out(world: World) {
    let id = world.started(&[("cart", "tea")]).await;
    let [first, second, third] = [world.looked_at(id).await, world.looked_at(id).await, world.looked_at(id).await];
    first.cycle_id().await.unwrap();
    first.save().await.unwrap();
    second.cycle_id().await.unwrap();
    second.save().await.unwrap();
    let [one, two] = [&first, &second].map(|session| session.id().unwrap());
    assert!(one != two && world.data(id).await.is_none());
    assert!(world.data(one).await.is_some() && world.data(two).await.is_some());
    first.flush().await.unwrap();
    third.cycle_id().await.unwrap();
    assert!(says_that_it_ended(third.save().await));
}

async fn an_id_that_was_not_minted_here_never_becomes_a_session(world: World) {
    let store = world.tower_sessions();
    let planted = Id(42);
    assert_eq!(store.load(&planted).await.unwrap(), None);
    let data = HashMap::from([("user".to_owned(), json!("ada"))]);
    let mut record = Record { id: planted, data, expiry_date: (world.now() + HOUR).into() };
    assert!(matches!(store.save(&record).await, Err(StoreError::Backend(_))));
    // A handler that clears a session that is not there wants nothing kept.
    let session = world.request(Some(planted));
    session.clear().await;
    session.save().await.unwrap();
    store.delete(&planted).await.unwrap();
    assert!(world.records().await.is_empty());
    // The store decides, even where a caller would.
    store.create(&mut record).await.unwrap();
    assert_ne!(record.id, planted);
    assert_eq!(store.load(&planted).await.unwrap(), None);
    assert_eq!(store.load(&record.id).await.unwrap(), Some(record));
}

async fn parallel_changes_of_different_keys_are_both_kept(world: World) {
    let id = world.started(&[("a", "0"), ("b", "0")]).await;
    let (one, two) = (world.looked_at(id).await, world.looked_at(id).await);
    one.insert("a", "1").await.unwrap();
    two.insert("b", "2").await.unwrap();
    two.insert("c", "2").await.unwrap();
    one.save().await.unwrap();
    two.save().await.unwrap();
    let data = world.data(id).await.unwrap();
    assert_eq!([&data["a"], &data["b"], &data["c"]], ["1", "2", "2"]);
}

async fn of_parallel_changes_of_one_key_the_later_stands(world: World) {
    let id = world.started(&[("a", "0"), ("b", "0")]).await;
    let (one, two) = (world.looked_at(id).await, world.looked_at(id).await);
    one.insert("a", "1").await.unwrap();
    one.insert("b", "1").await.unwrap();
    two.insert("a", "2").await.unwrap();
    one.save().await.unwrap();
    two.save().await.unwrap();
    let data = world.data(id).await.unwrap();
    assert_eq!([&data["a"], &data["b"]], ["2", "1"]);
    // Of one request, the last: it saves again on top of what it saved before.
    two.insert("a", "3").await.unwrap();
    two.save().await.unwrap();
    assert_eq!(world.data(id).await.unwrap()["a"], "3");
}

async fn what_one_request_removed_another_does_not_bring_back(world: World) {
    let id = world.started(&[("user", "ada"), ("seen", "0")]).await;
    let (slow, logout) = (world.looked_at(id).await, world.looked_at(id).await);
    logout.remove_value("user").await.unwrap();
    logout.save().await.unwrap();
    slow.insert("seen", "1").await.unwrap();
    slow.save().await.unwrap();
    let data = world.data(id).await.unwrap();
    assert!(!data.contains_key("user") && data["seen"] == "1");
}

async fn a_clear_removes_what_others_wrote_too(world: World) {
    let id = world.started(&[("a", "0")]).await;
    let (other, clearing) = (world.looked_at(id).await, world.looked_at(id).await);
    other.insert("b", "1").await.unwrap();
    other.save().await.unwrap();
    clearing.clear().await;
    clearing.insert("c", "2").await.unwrap();
    clearing.save().await.unwrap();
    assert_eq!(world.data(id).await.unwrap().into_keys().collect::<Vec<_>>(), ["c"]);
}

async fn nothing_in_the_store_is_a_cookie_or_leads_to_one(world: World) {
    let old = world.started(&[("user", "ada")]).await;
    let session = world.looked_at(old).await;
    session.cycle_id().await.unwrap();
    session.save().await.unwrap();
    let new = session.id().unwrap();
    world.tower_sessions().delete(&old).await.unwrap();
    let records = world.records().await;
    assert_eq!(records.len(), 2, "the session, and the note on the one before it");
    let mut everything = Vec::new();
    for (id, record) in &records {
        everything.extend(id.as_bytes());
        everything.extend(record.encode());
    }
    for id in [old, new] {
        let bytes = id.0.to_le_bytes();
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mut reversed = bytes;
        reversed.reverse();
        for form in [
            bytes.to_vec(),
            reversed.to_vec(),
            hex(&bytes).into_bytes(),
            hex(&reversed).into_bytes(),
            id.to_string().into_bytes(),
            id.0.to_string().into_bytes(),
            URL_SAFE_NO_PAD.encode(reversed).into_bytes(),
            STANDARD_NO_PAD.encode(bytes).into_bytes(),
        ] {
            assert!(!everything.windows(form.len()).any(|window| window == form));
        }
        // Nor is what a reader of the store finds there taken for a cookie.
        for (id, _) in &records {
            for at in 0..=id.as_bytes().len() - 16 {
                let guess = i128::from_le_bytes(id.as_bytes()[at..at + 16].try_into().unwrap());
                assert_eq!(world.data(Id(guess)).await, None);
            }
        }
    }
}

async fn an_expiry_is_kept_to_the_nanosecond_and_can_be_shortened(world: World) {
    let store = world.tower_sessions();
    let expiry_date = (world.now() + HOUR + Duration::from_nanos(987_654_321)).into();
    let mut record = Record { id: Id(0), data: HashMap::new(), expiry_date };
    record.data.insert("user".to_owned(), json!("ada"));
    store.create(&mut record).await.unwrap();
    assert_eq!(store.load(&record.id).await.unwrap().unwrap().expiry_date, expiry_date);
    record.expiry_date = (world.now() + Duration::from_secs(60)).into();
    store.save(&record).await.unwrap();
    world.clock.advance(Duration::from_millis(59_999));
    assert_eq!(store.load(&record.id).await.unwrap().unwrap().expiry_date, record.expiry_date);
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(store.load(&record.id).await.unwrap(), None);
    record.expiry_date = (world.now() + HOUR).into();
    assert!(store.save(&record).await.is_err(), "it is over, though the store would keep it longer");
}

async fn no_session_outlives_the_absolute_timeout(world: World) {
    let store = world.tower_sessions();
    let end = world.now() + ABSOLUTE;
    let endless = world.now() + 1000 * ABSOLUTE;
    let data = HashMap::from([("user".to_owned(), json!("ada"))]);
    let mut record = Record { id: Id(0), data, expiry_date: endless.into() };
    store.create(&mut record).await.unwrap();
    assert_eq!(record.expiry_date, end, "the caller sees what holds");
    for _ in 0..11 {
        world.clock.advance(HOUR);
        let mut record = store.load(&record.id).await.unwrap().unwrap();
        record.expiry_date = endless.into();
        store.save(&record).await.unwrap();
    }
    world.clock.advance(HOUR - Duration::from_millis(1));
    assert!(store.load(&record.id).await.unwrap().is_some());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(store.load(&record.id).await.unwrap(), None);
}

mod memory_only {
    use super::*;
    use crate::world::in_memory;

    #[tokio::test]
    async fn a_rotation_of_keys_loses_no_session_and_a_removed_key_ends_its_own() {
        let (old_key, new_key) = (key(), key());
        let spelled = [old_key.expose_base64(), new_key.expose_base64()];
        let again = |n: usize| cloakroom_core::SecretKey::parse(&spelled[n]).unwrap();
        let keys = KeyRing::new("shop", &[old_key]).unwrap();
        let store = TowerSessionsStore::new(Arc::new(MemoryStore::new()), keys.clone());
        let far = std::time::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let data = HashMap::from([("user".to_owned(), json!("ada"))]);
        let mut record = Record { id: Id(0), data, expiry_date: far.into() };
        store.create(&mut record).await.unwrap();
        let (kept, mut ended) = (record.id, record.clone());
        store.create(&mut ended).await.unwrap();

        keys.reload(&[new_key, again(0)]).unwrap();
        let mut loaded = store.load(&kept).await.unwrap().unwrap();
        loaded.data.insert("seen".to_owned(), json!(1));
        store.save(&loaded).await.unwrap();
        loaded.data.remove(ForeignSessions::RESERVED);
        store.save(&loaded).await.unwrap();
        assert_eq!(store.load(&kept).await.unwrap().unwrap().data["seen"], 1);
        store.delete(&ended.id).await.unwrap();
        assert_eq!(store.load(&ended.id).await.unwrap(), None);

        keys.reload(&[again(1)]).unwrap();
        assert_eq!(store.load(&kept).await.unwrap(), None);
        let mut fresh = Record { data: HashMap::from([("user".to_owned(), json!("bob"))]), ..record };
        store.create(&mut fresh).await.unwrap();
        assert!(store.load(&fresh.id).await.unwrap().is_some());
    }

    #[tokio::test]
    async fn a_request_costs_as_many_round_trips_as_it_has_to() {
        in_memory(async |world: World| {
            let id = world.started(&[("user", "ada")]).await;
            let session = world.request(Some(id));
            let costs = || {
                let calls = (world.store.reads(), world.store.writes());
                world.store.forget_calls();
                calls
            };
            costs();
            session.insert("seen", 1).await.unwrap();
            assert_eq!(costs(), (1, 0));
            session.save().await.unwrap();
            assert_eq!(costs(), (0, 1));
            session.cycle_id().await.unwrap();
            session.save().await.unwrap();
            assert_eq!(costs(), (0, 3));
            session.flush().await.unwrap();
            assert_eq!(costs(), (0, 1));
        })
        .await;
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_changes_nothing() {
        in_memory(async |world: World| {
            let id = world.started(&[("user", "ada")]).await;
            let session = world.looked_at(id).await;
            session.insert("large", "x".repeat(5000)).await.unwrap();
            let error = session.save().await.unwrap_err();
            assert!(matches!(&error, Error::Store(StoreError::Encode(_))), "{error}");
            assert!(!error.to_string().contains("xxx"));
            let session = world.looked_at(id).await;
            session.insert(&"k".repeat(256), 1).await.unwrap();
            assert!(matches!(session.save().await.unwrap_err(), Error::Store(StoreError::Encode(_))));
            assert_eq!(world.data(id).await.unwrap().len(), 1);
        })
        .await;
    }

    #[tokio::test]
    async fn a_store_that_fails_is_an_error_without_ids_values_or_keys() {
        in_memory(async |world: World| {
            let id = world.started(&[("user", "ada-lovelace")]).await;
            let (session, fresh) = (world.looked_at(id).await, world.request(None));
            for changed in [&session, &fresh] {
                changed.insert("seen", "by-ada").await.unwrap();
            }
            let fails = |verb| world.store.once(verb, Fault::FailBefore(StoreErrorKind::Unavailable));
            let mut failures = Vec::new();
            fails(Verb::Load);
            failures.push(("load", world.request(Some(id)).load().await));
            fails(Verb::Update);
            failures.push(("update", session.save().await));
            fails(Verb::Create);
            failures.push(("create", fresh.save().await));
            fails(Verb::Delete);
            failures.push(("delete", session.delete().await));
            for (verb, result) in failures {
                let text = result.unwrap_err().to_string();
                assert!(text.contains(&format!("session store: {verb}")), "{text}");
                assert!(!text.contains("ada") && !text.contains(&id.to_string()), "{text}");
            }
            let printed = format!("{:?}", world.tower_sessions());
            assert!(printed.contains("tower-sessions") && !printed.contains("ada"), "{printed}");
        })
        .await;
    }

    #[tokio::test]
    async fn the_trait_of_0_14_is_the_same() {
        use tower_sessions_core_0_14::{Expiry, Session};
        in_memory(async |world: World| {
            let store = Arc::new(world.tower_sessions());
            let expiry = Some(Expiry::AtDateTime((world.now() + HOUR).into()));
            let session = Session::new(None, store.clone(), expiry);
            session.insert("user", "ada").await.unwrap();
            session.save().await.unwrap();
            let id = session.id();
            let other = Session::new(id, store.clone(), expiry);
            assert_eq!(other.get::<String>("user").await.unwrap().as_deref(), Some("ada"));
            other.flush().await.unwrap();
            session.insert("seen", 1).await.unwrap();
            assert!(session.save().await.is_err());
            assert_eq!(Session::new(id, store, expiry).get::<String>("user").await.unwrap(), None);
        })
        .await;
    }
}
