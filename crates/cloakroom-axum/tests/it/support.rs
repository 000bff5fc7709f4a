//! An application's sessions, and requests to it.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::response::Response;
use axum::routing::get;
use cloakroom_axum::{ReadSession, Session, SessionError, SessionLayer};
use cloakroom_core::{
    Backend, CookieSettings, Key, KeyRing, Manager, MemoryStore, OutagePolicy, Policy, Profile, SecretKey,
};
use cloakroom_testkit::{FaultyStore, ManualClock, SeededRandom};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderName, Method, Request};
use tower::ServiceExt;

pub(crate) const VISITS: Key<u64> = Key::new("visits");

/// Removes the default cookie.
pub(crate) const CLEARED: &str =
    "__Host-id=; Path=/; Secure; HttpOnly; SameSite=Lax; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT";

/// A manager, and what a test turns in it.
pub(crate) struct Sessions {
    pub(crate) manager: Arc<Manager>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) clock: Arc<ManualClock>,
}

impl Sessions {
    pub(crate) fn new() -> Self {
        Self::with(CookieSettings::new(), OutagePolicy::FailClosed)
    }

    pub(crate) fn with(cookie: CookieSettings, outage: OutagePolicy) -> Self {
        let random = Arc::new(SeededRandom::new(7));
        let clock = Arc::new(ManualClock::new());
        let memory = Arc::new(MemoryStore::new().with_clock(clock.clone()));
        let store = Arc::new(FaultyStore::new(memory));
        let keys = KeyRing::new("test", &[SecretKey::generate(random.as_ref()).unwrap()]).unwrap();
        let manager = Manager::builder(Backend::store(store.clone()), keys)
            .cookie(cookie)
            .policy(Policy::new(Profile::Standard).with_outage(outage))
            .clock(clock.clone())
            .random(random)
            .build()
            .unwrap();
        Self { manager, store, clock }
    }

    pub(crate) fn layer(&self) -> SessionLayer {
        SessionLayer::new(self.manager.clone())
    }

    /// A session with a visit in it, and ann signed in: the `Cookie` header of her next request.
    pub(crate) async fn ann(&self) -> String {
        let app = Router::new().route("/", get(async |session: Session| login(&session))).layer(self.layer());
        let cookie = cookie(&visit(&app, "/", None).await);
        self.store.forget_calls();
        cookie
    }

    /// As [`ann`](Self::ann), remembered for a while.
    pub(crate) async fn remembered_ann(&self) -> String {
        let remember = async |session: Session| {
            session.persist(Duration::from_secs(7 * 24 * 60 * 60))?;
            login(&session)
        };
        let app = Router::new().route("/", get(remember)).layer(self.layer());
        let cookie = cookie(&visit(&app, "/", None).await);
        self.store.forget_calls();
        cookie
    }

    /// Who the store says is signed in under this cookie, and how many visits are counted.
    pub(crate) async fn stored(&self, cookie: &str) -> Stored {
        let read = async |session: ReadSession| -> Result<String, SessionError> {
            let principal = session.principal();
            let principal = principal.as_ref().map_or("", |principal| principal.as_str());
            Ok(format!("{principal} {}", session.get(VISITS)?.unwrap_or_default()))
        };
        let app = Router::new().route("/", get(read)).layer(self.layer());
        let text = body(visit(&app, "/", Some(cookie)).await).await;
        let (principal, visits) = text.split_once(' ').unwrap();
        Stored { principal: principal.to_owned(), visits: visits.parse().unwrap() }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) principal: String,
    pub(crate) visits: u64,
}

/// Ann, who visited once.
pub(crate) fn ann_once() -> Stored {
    Stored { principal: "ann".to_owned(), visits: 1 }
}

/// Nobody.
pub(crate) fn nobody() -> Stored {
    Stored { principal: String::new(), visits: 0 }
}

fn login(session: &Session) -> Result<(), SessionError> {
    session.set(VISITS, 1)?;
    Ok(session.login("ann")?)
}

pub(crate) async fn visit(app: &Router, path: &str, cookie: Option<&str>) -> Response {
    app.clone().oneshot(request(Method::GET, path, cookie)).await.unwrap()
}

pub(crate) fn request(method: Method, path: &str, cookie: Option<&str>) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(cookie) = cookie {
        request = request.header(COOKIE, cookie);
    }
    request.body(Body::empty()).unwrap()
}

/// All values of a header, in order.
pub(crate) fn all(response: &Response, name: HeaderName) -> Vec<&str> {
    response.headers().get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

/// The `Cookie` header that answers the response's only `Set-Cookie`.
pub(crate) fn cookie(response: &Response) -> String {
    let cookies = all(response, SET_COOKIE);
    let [cookie] = cookies.as_slice() else { panic!("{} cookies, status {}", cookies.len(), response.status()) };
    cookie.split(';').next().unwrap().to_owned()
}

pub(crate) async fn body(response: Response) -> String {
    String::from_utf8(to_bytes(response.into_body(), 1 << 20).await.unwrap().to_vec()).unwrap()
}
