//! What a handle does when writes fail, are never answered, or are overtaken.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use super::*;
use crate::clock::{Clock, from_unix_millis};
use crate::layer::forward_every_verb;
use crate::record::{Client, Record};
use crate::seal::{Seal, SealError};
use crate::store::{Excess, SessionLimit, SessionStore as _, Verb};
use crate::{
    Backend, CookieSettings, Exchange, KeyRing, MemoryStore, OsRandom, Outcome, Policy, Rejection, Revocations,
    SecretKey, StoreError, StoreErrorKind,
};

#[derive(Debug)]
struct TestClock(Mutex<SystemTime>);

impl TestClock {
    fn advance(&self, by: Duration) {
        *self.0.lock().unwrap() += by;
    }
}

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}

/// A store whose next writes never answer, fail, or first let the test do something.
#[derive(Debug)]
struct Scripted {
    inner: MemoryStore,
    hangs: AtomicBool,
    failures: AtomicUsize,
}

impl Scripted {
    async fn around<T>(&self, verb: Verb, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        if verb.writes() && self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let fails = |left: usize| left.checked_sub(1);
        if verb.writes() && self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return Err(StoreError::new(StoreErrorKind::Unavailable, verb, "scripted"));
        }
        call.await
    }
}

impl fmt::Display for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("scripted")
    }
}

forward_every_verb!(Scripted, around);

/// Seals nothing: the text is the record in hexadecimal.
#[derive(Debug)]
struct OpenSeal;

impl Seal for OpenSeal {
    fn seal(&self, _: &str, record: &Record) -> Result<String, SealError> {
        Ok(record.encode().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    fn open(&self, _: &str, text: &[u8]) -> Result<Record, Rejection> {
        let digits = std::str::from_utf8(text).map_err(|_| Rejection::Malformed)?;
        let bytes: Option<Vec<u8>> =
            (0..digits.len() / 2).map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()).collect();
        Record::decode(&bytes.ok_or(Rejection::Malformed)?.into()).map_err(|_| Rejection::Undecodable)
    }

    fn max_len(&self) -> usize {
        usize::MAX
    }

    fn is_readable_by_client(&self) -> bool {
        true
    }
}

struct Fixture {
    clock: Arc<TestClock>,
    store: Arc<Scripted>,
    manager: Arc<Manager>,
}

fn fixture(policy: Policy, self_contained: bool) -> Fixture {
    let clock = Arc::new(TestClock(Mutex::new(from_unix_millis(1_800_000_000_000))));
    let inner = MemoryStore::new().with_clock(clock.clone());
    let store = Arc::new(Scripted { inner, hangs: AtomicBool::new(false), failures: AtomicUsize::new(0) });
    let backend = if self_contained {
        Backend::self_contained(Arc::new(OpenSeal), Revocations::new(store.clone()))
    } else {
        Backend::store(store.clone())
    };
    let keys = KeyRing::new("test", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    let manager = Manager::builder(backend, keys).policy(policy).clock(clock.clone()).build().unwrap();
    Fixture { clock, store, manager }
}

impl Fixture {
    fn exchange(&self) -> Exchange {
        Exchange::new(self.manager.clone())
    }

    async fn session(&self, exchange: &Exchange, cookie: &str) -> Session {
        let header = format!("__Host-id={cookie}");
        let headers = (!cookie.is_empty()).then_some(header.as_bytes());
        exchange.session(headers.into_iter(), Client::default).await.unwrap()
    }

    /// One request whose handler does this. Returns the cookie's value, if the response sets one.
    async fn request(&self, cookie: &str, handler: impl FnOnce(&Session)) -> Option<String> {
        let exchange = self.exchange();
        handler(&self.session(&exchange, cookie).await);
        finish(&exchange).await.0
    }

    async fn principal(&self, cookie: &str) -> Option<Principal> {
        self.session(&self.exchange(), cookie).await.principal()
    }
}

async fn finish(exchange: &Exchange) -> (Option<String>, Option<SessionErrorKind>) {
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    let value = finish.set.map(|header| header["__Host-id=".len()..].split(';').next().unwrap().to_owned());
    (value, finish.error.map(|error| error.kind()))
}

/// Starts a future and drops it where it waits.
async fn start_and_drop(future: impl Future) {
    tokio::select! {
        biased;
        _ = future => panic!("it should have waited"),
        () = std::future::ready(()) => {}
    }
}

#[tokio::test]
async fn a_logout_whose_commit_was_dropped_still_stands() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.logout().unwrap();
    test.store.hangs.store(true, Ordering::SeqCst);
    start_and_drop(session.commit()).await;
    assert_eq!(session.principal(), None);
    test.store.hangs.store(false, Ordering::SeqCst);
    assert_eq!(finish(&exchange).await, (Some(String::new()), None));
    assert_eq!(test.principal(&cookie).await, None);
}

#[tokio::test]
async fn a_logout_is_carried_out_after_a_write_of_unknown_outcome() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.set("key", 1).unwrap();
    test.store.failures.store(1, Ordering::SeqCst);
    assert_eq!(session.commit().await.unwrap_err().kind(), SessionErrorKind::Unknown);
    session.logout().unwrap();
    assert_eq!(finish(&exchange).await, (Some(String::new()), None));
    assert_eq!(test.principal(&cookie).await, None);
}

#[tokio::test]
async fn a_later_failure_does_not_take_back_the_token_of_an_earlier_commit() {
    let test = fixture(Policy::default(), false);
    let old = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &old).await;
    session.renew().unwrap();
    session.commit().await.unwrap();
    session.set("key", "x".repeat(200 * 1024)).unwrap();
    session.set("more", "x".repeat(100 * 1024)).unwrap();
    let (cookie, error) = finish(&exchange).await;
    assert_eq!(error, Some(SessionErrorKind::TooLarge));
    assert!(test.principal(&cookie.unwrap()).await.is_some(), "the user is still signed in");
}

#[tokio::test]
async fn a_refused_sign_in_leaves_nobody_signed_in_and_lets_the_handler_answer() {
    let limit = SessionLimit { max: NonZeroU32::MIN, excess: Excess::Reject };
    let test = fixture(Policy::default().with_session_limit(limit), false);
    test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, "").await;
    session.login("alice").unwrap();
    session.set("role", "owner").unwrap();
    assert_eq!(session.commit().await.unwrap_err().kind(), SessionErrorKind::LimitReached);
    assert_eq!((session.principal(), session.state()), (None, State::Absent));
    assert_eq!(finish(&exchange).await, (None, None));
}

#[tokio::test]
async fn a_remembered_session_that_was_renewed_is_never_sent_its_old_token_again() {
    let policy = Policy::default().with_touch_interval(Duration::ZERO);
    let test = fixture(policy, false);
    let day = Duration::from_secs(86400);
    let old = test.request("", |session| {
        session.login("alice").unwrap();
        session.persist(day).unwrap();
    });
    let old = old.await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &old).await;
    session.renew().unwrap();
    session.commit().await.unwrap();
    session.set("key", 1).unwrap();
    let public = exchange.finish(Outcome::Answered { status: 200, public: true }).await;
    let header = public.set.expect("the client must get the new token, even with a public response");
    let cookie = header["__Host-id=".len()..].split(';').next().unwrap();
    assert_ne!(cookie, old);
    assert!(test.principal(cookie).await.is_some());
}

#[tokio::test]
async fn a_slow_request_does_not_bring_an_expired_sealed_session_back() {
    let test = fixture(Policy::default(), true);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.set("key", 1).unwrap();
    test.clock.advance(Policy::default().idle());
    assert_eq!(finish(&exchange).await, (Some(String::new()), None));
}

#[tokio::test]
async fn a_replaced_sealed_token_stays_dead_though_it_had_longer_to_live_than_the_new_one() {
    let test = fixture(Policy::default(), true);
    let day = Duration::from_secs(86400);
    let old = test.request("", |session| {
        session.login("alice").unwrap();
        session.persist(30 * day).unwrap();
    });
    let old = old.await.unwrap();
    test.request(&old, |session| session.persist(day).unwrap()).await.unwrap();
    assert_eq!(test.principal(&old).await, None);
    test.clock.advance(10 * day);
    assert_eq!(test.principal(&old).await, None, "not even when the new one has expired");
}

#[tokio::test]
async fn a_transaction_does_not_swallow_what_was_asked_for_while_it_ran() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.set("key", 0).unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.set("key", 1).unwrap();
    let meanwhile = session.clone();
    session
        .transaction(|view| {
            meanwhile.set("key", 2)?;
            meanwhile.set("other", 3)?;
            view.set("code", 4)
        })
        .await
        .unwrap();
    finish(&exchange).await;
    let after = test.session(&test.exchange(), &cookie).await;
    let values = ["key", "other", "code"].map(|key| after.get::<u32>(key).unwrap());
    assert_eq!(values, [Some(2), Some(3), Some(4)]);
}

#[tokio::test]
async fn values_that_a_parallel_request_sets_do_not_follow_into_somebody_elses_session() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.login("bob").unwrap();
    test.request(&cookie, |session| session.set("secret", "alice's").unwrap()).await;
    let (bobs, error) = finish(&exchange).await;
    assert_eq!(error, None);
    let after = test.session(&test.exchange(), &bobs.unwrap()).await;
    assert_eq!(after.principal(), Some(Principal::new("bob").unwrap()));
    assert_eq!(after.get::<String>("secret").unwrap(), None);
}

#[tokio::test]
async fn what_is_asked_of_a_session_after_its_end_is_refused_and_not_forgotten() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &cookie).await;
    session.logout().unwrap();
    session.commit().await.unwrap();
    session.set("key", 1).unwrap();
    assert_eq!(session.commit().await.unwrap_err().kind(), SessionErrorKind::Ended);
    assert_eq!(finish(&exchange).await, (Some(String::new()), None));
}

#[tokio::test]
async fn an_assurance_proved_before_a_sign_in_is_not_kept_by_it() {
    let test = fixture(Policy::default(), false);
    let cookie = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let cookie = test.request(&cookie, |session| {
        session.step_up(Assurance::Two).unwrap();
        session.login("bob").unwrap();
    });
    let cookie = cookie.await.unwrap();
    assert_eq!(test.session(&test.exchange(), &cookie).await.assurance(), Assurance::One);
}

#[tokio::test]
async fn a_logout_ends_the_session_that_began_in_the_same_request() {
    let test = fixture(Policy::default(), false);
    let old = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    test.request(&old, |session| session.renew().unwrap()).await.unwrap();
    let exchange = test.exchange();
    let session = test.session(&exchange, &old).await;
    session.login("bob").unwrap();
    session.commit().await.unwrap();
    session.logout().unwrap();
    assert_eq!(finish(&exchange).await, (Some(String::new()), None));
    let bob = Principal::new("bob").unwrap();
    let sessions = test.manager.directory().unwrap().list(&bob, Page::FIRST).await.unwrap().sessions;
    assert!(sessions.is_empty());
}

/// Whatever put it there: a swapped row, a restored backup, an answer to somebody else's question.
#[tokio::test]
async fn a_record_under_another_id_is_not_used() {
    let fixture = fixture(Policy::default(), false);
    let mut tokens = Vec::new();
    for name in ["alice", "bob"] {
        let exchange = fixture.exchange();
        let session = fixture.session(&exchange, "").await;
        session.login(name).unwrap();
        let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
        tokens.push(finish.set.unwrap().split(['=', ';']).nth(1).unwrap().to_owned());
    }
    let filed = fixture.store.inner.scan(None, 10).await.unwrap();
    let [(one, ones), (two, twos)] = filed.as_slice() else { panic!("two sessions were filed") };
    let swapped = MemoryStore::new().with_clock(fixture.clock.clone());
    swapped.create(one, &twos.record, None).await.unwrap();
    swapped.create(two, &ones.record, None).await.unwrap();

    let backend = Backend::store(Arc::new(swapped));
    let keys = fixture.manager.keys().clone();
    let manager = Manager::builder(backend, keys).clock(fixture.clock.clone()).build().unwrap();
    for token in tokens {
        let exchange = Exchange::new(manager.clone());
        let header = format!("__Host-id={token}");
        let refused = exchange.session([header.as_bytes()].into_iter(), Client::default).await.unwrap_err();
        assert_eq!(refused.kind(), SessionErrorKind::Unavailable);
        let finish = exchange.finish(Outcome::Answered { status: 503, public: false }).await;
        assert_eq!(finish.set, None, "nobody is signed out by it");
    }
}

/// A copied cookie asks to be the one that is kept, loaded while it was alive and written when it
/// was dead.
#[tokio::test]
async fn a_sealed_session_that_was_ended_does_not_come_back_by_ending_all_others() {
    let test = fixture(Policy::default(), true);
    let copied = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    let exchange = test.exchange();
    let late = test.session(&exchange, &copied).await;
    let alice = Principal::new("alice").unwrap();
    test.manager.revoke_all(&alice, None).await.unwrap();
    assert_eq!(test.principal(&copied).await, None);
    late.revoke_others().await.unwrap();
    assert_eq!(test.principal(&copied).await, None, "it was dead when it asked");

    // While one that is alive may ask as often as it likes.
    let fresh = test.request("", |session| session.login("alice").unwrap()).await.unwrap();
    for _ in 0..2 {
        let session = test.session(&test.exchange(), &fresh).await;
        session.revoke_others().await.unwrap();
        assert_eq!(test.principal(&fresh).await, Some(alice.clone()));
    }
}

#[tokio::test]
async fn keys_of_the_library_can_be_neither_read_nor_written() {
    let test = fixture(Policy::default(), false);
    let session = test.session(&test.exchange(), "").await;
    session.flash("note", "hello").unwrap();
    for key in ["", "cloakroom.flash", &"k".repeat(65)] {
        let refused = [
            session.get::<String>(key).err(),
            session.contains(key).err(),
            session.set(key, 1).err(),
            session.take::<String>(key).err(),
            session.remove(key).err(),
            session.modify(key, |_: &mut u64| ()).err(),
            session.transaction(|view| view.get::<String>(key)).await.err(),
        ];
        for (place, error) in refused.into_iter().enumerate() {
            assert_eq!(error.map(|error| error.kind()), Some(SessionErrorKind::InvalidKey), "{key:?} {place}");
        }
    }
    assert_eq!(session.take_flashes().unwrap().len(), 1);
}

/// A cookie of a key that this node does not have yet stands beside a stale one.
#[tokio::test]
async fn a_cookie_that_another_node_may_know_is_left_alone_whatever_stands_beside_it() {
    let test = fixture(Policy::default(), false);
    let cookies = CookieSettings::new().with_name("id");
    let manager = |keys: KeyRing| {
        let backend = Backend::store(test.store.clone());
        Manager::builder(backend, keys).cookie(cookies.clone()).clock(test.clock.clone()).build().unwrap()
    };
    let ahead = manager(KeyRing::new("test", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap());
    let exchange = Exchange::new(ahead);
    exchange.session(std::iter::empty(), Client::default).await.unwrap().login("alice").unwrap();
    let set = exchange.finish(Outcome::Answered { status: 200, public: false }).await.set.unwrap();
    let token = set.split(';').next().unwrap().to_owned();

    let exchange = Exchange::new(manager(test.manager.keys().clone()));
    let header = format!("id=stale; {token}");
    let session = exchange.session([header.as_bytes()].into_iter(), Client::default).await.unwrap();
    assert_eq!(session.principal(), None);
    let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
    assert_eq!(finish.set, None, "the other node's session is not ended here");
}
