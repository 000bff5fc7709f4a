//! One application, written for each framework, and served over real sockets. Its handlers translate
//! and do nothing else, so what tests find is the adapter's doing or the core's.
//!
//! Everything runs on the test's own thread: what a test holds back or pauses stays so.

mod actix;
mod axum;

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use cloakroom_core::{
    Backend, CookieSettings, Csrf, KeyRing, Manager, MemoryStore, OsRandom, Outcome, Require, SecretKey, Session,
    SessionError, SessionErrorKind,
};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

use crate::setup::Recorder;

/// Between a framework and the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    Axum,
    Actix,
}

/// Two sessions in one application.
struct Admin;

/// The test that runs on this thread: its framework, and the applications that it serves.
struct Scene {
    adapter: Adapter,
    events: Arc<Recorder>,
    served: Vec<(Arc<Manager>, SocketAddr)>,
}

thread_local! {
    static SCENE: RefCell<Option<Scene>> = const { RefCell::new(None) };
}

/// Runs a test whose requests go through this adapter.
pub(crate) async fn through(adapter: Adapter, events: Arc<Recorder>, test: impl Future<Output = ()>) {
    SCENE.set(Some(Scene { adapter, events, served: Vec::new() }));
    LocalSet::new().run_until(test).await;
    SCENE.set(None);
}

/// How the last commit failed.
pub(crate) fn last_failure() -> SessionErrorKind {
    const KINDS: [SessionErrorKind; 9] = [
        SessionErrorKind::NotCommitted,
        SessionErrorKind::Unknown,
        SessionErrorKind::Ended,
        SessionErrorKind::Contended,
        SessionErrorKind::TooLarge,
        SessionErrorKind::LimitReached,
        SessionErrorKind::Unavailable,
        SessionErrorKind::Unsupported,
        SessionErrorKind::System,
    ];
    let events = SCENE.with_borrow(|scene| scene.as_ref().unwrap().events.of("session_commit_failed"));
    let event = events.last().expect("an empty response without an event");
    let named = |kind: &SessionErrorKind| event.contains(&format!("kind: {kind:?} "));
    KINDS.into_iter().find(named).unwrap_or_else(|| panic!("{event}"))
}

/// The address of this manager's application; `None` in a test that goes through no adapter.
pub(crate) async fn address(manager: &Arc<Manager>) -> Option<SocketAddr> {
    let known = |scene: &Scene| scene.served.iter().find(|(known, _)| Arc::ptr_eq(known, manager)).map(|(_, at)| *at);
    let (adapter, known) = SCENE.with_borrow(|scene| scene.as_ref().map(|scene| (scene.adapter, known(scene))))?;
    if let Some(address) = known {
        return Some(address);
    }
    let address = serve(adapter, manager, &others()).await;
    SCENE.with_borrow_mut(|scene| scene.as_mut().unwrap().served.push((manager.clone(), address)));
    Some(address)
}

/// Sessions of another name that no test comes near.
fn others() -> Arc<Manager> {
    let keys = KeyRing::new("others", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    let others = Manager::builder(Backend::store(Arc::new(MemoryStore::new())), keys);
    others.cookie(CookieSettings::new().with_name("__Host-others")).build().unwrap()
}

/// Serves the application with a second kind of sessions, and gives its address.
pub(crate) async fn with_admins(manager: &Arc<Manager>, admins: &Arc<Manager>) -> SocketAddr {
    let adapter = SCENE.with_borrow(|scene| scene.as_ref().unwrap().adapter);
    serve(adapter, manager, admins).await
}

/// What a handler behind the CSRF check says of the body it was given: its length, and a sum that depends on every place.
pub(crate) fn echo(body: &str) -> String {
    let sum = body.bytes().fold(0_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    format!("{} {sum:x}", body.len())
}

/// Serves an application behind CSRF checks: its address, and how many requests got through to where they change
/// something.
pub(crate) async fn guarded(manager: &Arc<Manager>, csrf: Csrf) -> (SocketAddr, Arc<AtomicU64>) {
    let adapter = SCENE.with_borrow(|scene| scene.as_ref().unwrap().adapter);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, entries) = (listener.local_addr().unwrap(), Arc::<AtomicU64>::default());
    match adapter {
        Adapter::Axum => axum::serve_guarded(listener, manager, csrf, entries.clone()),
        Adapter::Actix => actix::serve_guarded(listener, manager, csrf, entries.clone()).await,
    }
    (address, entries)
}

/// Serves an application some of whose routes have requirements.
pub(crate) async fn requiring(manager: &Arc<Manager>, routes: Vec<(&'static str, Require)>) -> SocketAddr {
    let adapter = SCENE.with_borrow(|scene| scene.as_ref().unwrap().adapter);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    match adapter {
        Adapter::Axum => axum::serve_requiring(listener, manager, routes),
        Adapter::Actix => actix::serve_requiring(listener, manager, routes).await,
    }
    address
}

async fn serve(adapter: Adapter, manager: &Arc<Manager>, admins: &Arc<Manager>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    match adapter {
        Adapter::Axum => axum::serve(listener, manager, admins),
        Adapter::Actix => actix::serve(listener, manager, admins).await,
    }
    address
}

/// The second kind of sessions of a world's application.
pub(crate) fn admin_cookie() -> CookieSettings {
    CookieSettings::new().with_name("__Host-admin")
}

/// The number of a visit, which the test sends along and the handler hands back.
pub(crate) const VISIT: &str = "x-visit";
/// On every response that a handler made, and on none that the adapter made in its place.
pub(crate) const HANDLED: &str = "x-handled";

/// A handler that the test plays itself: it gets the session, and says how the handler ends.
pub(crate) type Visit = Result<(Session, oneshot::Sender<Outcome>), Refused>;

/// An error that a handler gets in place of a session.
#[derive(Debug)]
pub(crate) struct Refused {
    kind: SessionErrorKind,
    status: u16,
    text: String,
}

static VISITS: LazyLock<Mutex<HashMap<u64, oneshot::Sender<Visit>>>> = LazyLock::new(Mutex::default);

/// Announces a visit. Its number, and where the handler will report.
pub(crate) fn announce() -> (u64, oneshot::Receiver<Visit>) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let (sender, receiver) = oneshot::channel();
    VISITS.lock().unwrap().insert(number, sender);
    (number, receiver)
}

/// For handlers: hands the session to the test, and waits for how to end.
async fn hand_over(number: &str, session: Session) -> Outcome {
    let (end, ended) = oneshot::channel();
    report(number, Ok((session, end)));
    match ended.await {
        Ok(outcome) => outcome,
        // The test has dropped the request: so will the server.
        Err(_) => std::future::pending().await,
    }
}

/// For handlers: tells the test that there is no session.
fn refuse(number: &str, error: &SessionError) {
    report(number, Err(error.into()));
}

fn report(number: &str, visit: Visit) {
    let sender = VISITS.lock().unwrap().remove(&number.parse().unwrap()).unwrap();
    assert!(sender.send(visit).is_ok(), "nobody waits for the visit");
}

impl From<&SessionError> for Refused {
    fn from(error: &SessionError) -> Self {
        Self { kind: error.kind(), status: error.status(), text: error.to_string() }
    }
}

impl Refused {
    pub(crate) const fn kind(&self) -> SessionErrorKind {
        self.kind
    }

    pub(crate) const fn status(&self) -> u16 {
        self.status
    }
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}
