//! Through the store trait of actix-session, in the order in which its middleware calls it.

use std::collections::HashMap;
use std::time::Duration;

use actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore as _, UpdateError};
use actix_web::cookie::time;
use cloakroom_actix::ActixSessionStore;
use cloakroom_core::{ForeignSessions, StoreErrorKind, Verb};
use cloakroom_testkit::Fault;

use crate::world::{ABSOLUTE, HOUR, World, on_every_store};

on_every_store!(
    a_session_keeps_what_was_put_in_and_ends_when_it_is_purged,
    an_update_does_not_bring_a_purged_session_back,
    an_update_does_not_bring_an_expired_session_back,
    a_session_that_another_request_purged_is_not_renewed,
    a_renewal_moves_the_values_and_kills_the_old_key,
    parallel_changes_of_different_keys_are_both_kept,
    a_longer_ttl_keeps_a_session_alive_and_revives_none,
    no_session_outlives_the_absolute_timeout,
    nothing_in_the_store_is_a_cookie,
    a_key_that_was_not_minted_here_never_becomes_a_session,
);

const TTL: time::Duration = time::Duration::HOUR;

type State = HashMap<String, String>;

impl World {
    fn actix_session(&self) -> ActixSessionStore {
        ActixSessionStore::of(&self.manager).unwrap()
    }

    async fn saved(&self, state: &[(&str, &str)]) -> String {
        self.actix_session().save(state_of(state), &TTL).await.unwrap().into()
    }

    async fn state(&self, key: &str) -> Option<State> {
        let state = self.actix_session().load(&named(key)).await.unwrap();
        state.map(|state| state.into_iter().filter(|(key, _)| key != ForeignSessions::RESERVED).collect())
    }

    /// What a request holds that has loaded the session.
    async fn loaded(&self, key: &str) -> State {
        self.actix_session().load(&named(key)).await.unwrap().unwrap()
    }

    async fn update(&self, key: &str, state: State) -> Result<(), UpdateError> {
        let same = self.actix_session().update(named(key), state, &TTL).await?;
        assert_eq!(same.as_ref(), key);
        Ok(())
    }
}

fn state_of(state: &[(&str, &str)]) -> State {
    state.iter().map(|(key, value)| ((*key).to_owned(), format!("\"{value}\""))).collect()
}

fn named(key: &str) -> SessionKey {
    key.to_owned().try_into().unwrap()
}

fn with(mut state: State, key: &str, value: &str) -> State {
    state.extend(state_of(&[(key, value)]));
    state
}

async fn a_session_keeps_what_was_put_in_and_ends_when_it_is_purged(world: World) {
    let key = world.saved(&[("user", "ada"), ("cart", "tea")]).await;
    assert_eq!(world.state(&key).await, Some(state_of(&[("user", "ada"), ("cart", "tea")])));
    for _ in 0..2 {
        world.actix_session().delete(&named(&key)).await.unwrap();
        assert_eq!(world.state(&key).await, None);
    }
}

async fn an_update_does_not_bring_a_purged_session_back(world: World) {
    let key = world.saved(&[("user", "ada")]).await;
    let slow = world.loaded(&key).await;
    world.actix_session().delete(&named(&key)).await.unwrap();
    let refused = world.update(&key, with(slow, "seen", "1")).await.unwrap_err();
    assert!(matches!(&refused, UpdateError::Other(cause) if cause.to_string().contains("ended")), "{refused:?}");
    assert!(world.state(&key).await.is_none() && world.records().await.is_empty());
}

async fn an_update_does_not_bring_an_expired_session_back(world: World) {
    let key = world.saved(&[("user", "ada")]).await;
    let slow = world.loaded(&key).await;
    world.clock.advance(HOUR);
    assert_eq!(world.state(&key).await, None);
    assert!(world.update(&key, with(slow, "seen", "1")).await.is_err());
    assert_eq!(world.state(&key).await, None);
}

async fn a_session_that_another_request_purged_is_not_renewed(world: World) {
    let key = world.saved(&[("user", "ada")]).await;
    let slow = world.loaded(&key).await;
    let store = world.actix_session();
    store.delete(&named(&key)).await.unwrap();
    // A renewal is a deletion and a new session.
    store.delete(&named(&key)).await.unwrap();
    assert!(matches!(store.save(slow, &TTL).await, Err(SaveError::Other(_))));
    assert_eq!(world.holding("user", "\"ada\"").await, 0);
}

async fn a_renewal_moves_the_values_and_kills_the_old_key(world: World) {
    let key = world.saved(&[("cart", "tea")]).await;
    let (state, slow) = (world.loaded(&key).await, world.loaded(&key).await);
    let store = world.actix_session();
    store.delete(&named(&key)).await.unwrap();
    let new = store.save(with(state, "user", "ada"), &TTL).await.unwrap();
    assert_ne!(new.as_ref(), key);
    assert_eq!(world.state(&key).await, None);
    assert_eq!(world.state(new.as_ref()).await, Some(state_of(&[("cart", "tea"), ("user", "ada")])));
    assert!(world.update(&key, with(slow, "cart", "coffee")).await.is_err());
}

async fn parallel_changes_of_different_keys_are_both_kept(world: World) {
    let key = world.saved(&[("a", "0"), ("b", "0"), ("user", "ada")]).await;
    let (mut one, two) = (world.loaded(&key).await, world.loaded(&key).await);
    one.remove("user");
    world.update(&key, with(one, "a", "1")).await.unwrap();
    world.update(&key, with(two, "b", "2")).await.unwrap();
    assert_eq!(world.state(&key).await, Some(state_of(&[("a", "1"), ("b", "2")])));
}

async fn a_longer_ttl_keeps_a_session_alive_and_revives_none(world: World) {
    let key = world.saved(&[("user", "ada")]).await;
    let store = world.actix_session();
    for _ in 0..3 {
        world.clock.advance(HOUR - Duration::from_secs(1));
        store.update_ttl(&named(&key), &TTL).await.unwrap();
    }
    assert!(world.state(&key).await.is_some());
    world.clock.advance(HOUR);
    store.update_ttl(&named(&key), &TTL).await.unwrap();
    assert_eq!(world.state(&key).await, None);
    let other = world.saved(&[("user", "ada")]).await;
    store.delete(&named(&other)).await.unwrap();
    store.update_ttl(&named(&other), &TTL).await.unwrap();
    assert_eq!(world.state(&other).await, None);
}

async fn no_session_outlives_the_absolute_timeout(world: World) {
    let store = world.actix_session();
    let key: String = store.save(state_of(&[("user", "ada")]), &time::Duration::MAX).await.unwrap().into();
    world.clock.advance(ABSOLUTE / 2);
    store.update_ttl(&named(&key), &time::Duration::MAX).await.unwrap();
    let state = world.loaded(&key).await;
    store.update(named(&key), with(state, "seen", "1"), &time::Duration::MAX).await.unwrap();
    world.clock.advance(ABSOLUTE / 2 - Duration::from_millis(1));
    assert!(world.state(&key).await.is_some());
    world.clock.advance(Duration::from_millis(1));
    assert_eq!(world.state(&key).await, None);
    // A time to live below zero is none.
    let key = store.save(state_of(&[("user", "ada")]), &-TTL).await.unwrap();
    assert_eq!(world.state(key.as_ref()).await, None);
}

async fn nothing_in_the_store_is_a_cookie(world: World) {
    use base64::Engine as _;
    let key = world.saved(&[("user", "ada")]).await;
    let secret = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(&key).unwrap();
    assert_eq!(secret.len(), 32);
    let records = world.records().await;
    let everything: Vec<u8> =
        records.iter().flat_map(|(id, record)| [id.as_bytes(), &*record.encode()].concat()).collect();
    for form in [key.as_bytes(), &secret] {
        assert!(!everything.windows(form.len()).any(|window| window == form));
        assert!(!everything.windows(8).any(|window| window == &form[..8]), "nor the beginning of one");
    }
}

async fn a_key_that_was_not_minted_here_never_becomes_a_session(world: World) {
    let store = world.actix_session();
    let planted = "A".repeat(43);
    for key in ["", "planted", &planted, &"A".repeat(64), &"A".repeat(4000)] {
        assert_eq!(world.state(key).await, None);
        assert!(world.update(key, state_of(&[("user", "ada")])).await.is_err());
        store.update_ttl(&named(key), &TTL).await.unwrap();
        store.delete(&named(key)).await.unwrap();
        assert_eq!(world.state(key).await, None);
    }
    assert!(world.records().await.is_empty());
}

mod memory_only {
    use super::*;
    use crate::world::in_memory;

    #[tokio::test]
    async fn errors_say_what_happened_without_keys_and_values() {
        in_memory(async |world: World| {
            let key = world.saved(&[("user", "ada-lovelace")]).await;
            let state = world.loaded(&key).await;
            let store = world.actix_session();
            let mut texts = Vec::new();
            world.store.once(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
            match store.load(&named(&key)).await {
                Err(LoadError::Other(error)) => texts.push(format!("{error:?}")),
                other => panic!("{other:?}"),
            }
            world.store.once(Verb::Update, Fault::FailBefore(StoreErrorKind::Unavailable));
            texts.push(format!("{:?}", world.update(&key, with(state, "seen", "1")).await.unwrap_err()));
            world.store.once(Verb::Create, Fault::FailBefore(StoreErrorKind::Unavailable));
            texts.push(format!("{:?}", store.save(state_of(&[("user", "ada-lovelace")]), &TTL).await.unwrap_err()));
            world.store.once(Verb::Touch, Fault::FailBefore(StoreErrorKind::Unavailable));
            texts.push(format!("{:?}", store.update_ttl(&named(&key), &TTL).await.unwrap_err()));
            world.store.once(Verb::Delete, Fault::FailBefore(StoreErrorKind::Unavailable));
            texts.push(format!("{:?}", store.delete(&named(&key)).await.unwrap_err()));
            for text in texts {
                assert!(text.contains("session store"), "{text}");
                assert!(!text.contains("ada") && !text.contains(&key), "{text}");
            }
            let large = store.save(state_of(&[("large", &"x".repeat(5000))]), &TTL).await.unwrap_err();
            assert!(matches!(large, SaveError::Serialization(_)), "{large:?}");
        })
        .await;
    }

    #[tokio::test]
    async fn what_one_library_made_is_unknown_to_the_other() {
        use tower_sessions_core::SessionStore as _;
        in_memory(async |world: World| {
            let tower = cloakroom_axum::TowerSessionsStore::of(&world.manager).unwrap();
            let expiry_date = (world.now() + HOUR).into();
            let mut record =
                tower_sessions_core::session::Record { id: Default::default(), data: HashMap::new(), expiry_date };
            tower.create(&mut record).await.unwrap();
            assert!(tower.load(&record.id).await.unwrap().is_some());
            assert_eq!(world.state(&record.id.to_string()).await, None);
        })
        .await;
    }
}
