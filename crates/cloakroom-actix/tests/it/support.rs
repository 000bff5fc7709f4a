//! An application's sessions, and requests to it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{Service, ServiceResponse};
use actix_web::http::header::{COOKIE, HeaderName, SET_COOKIE};
use actix_web::test::{TestRequest, init_service};
use actix_web::web::{self, ServiceConfig};
use actix_web::{App, Error};
use cloakroom_actix::{ReadSession, Session, SessionError, SessionMiddleware};
use cloakroom_core::{
    Backend, CookieSettings, Key, KeyRing, Manager, MemoryStore, OutagePolicy, Policy, Profile, SecretKey,
};
use cloakroom_testkit::{FaultyStore, ManualClock, SeededRandom};

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

pub(crate) type Response = ServiceResponse<BoxBody>;

/// An application behind its middlewares.
pub(crate) type Running =
    Rc<dyn Fn(TestRequest) -> futures_util::future::LocalBoxFuture<'static, Result<Response, Error>>>;

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

    pub(crate) fn middleware(&self) -> SessionMiddleware {
        SessionMiddleware::new(self.manager.clone())
    }

    /// An application with these routes behind the middleware.
    pub(crate) async fn app(&self, routes: impl FnOnce(&mut ServiceConfig)) -> Running {
        running(init_service(App::new().configure(routes).wrap(self.middleware())).await)
    }

    /// A session with a visit in it, and ann signed in: the `Cookie` header of her next request.
    pub(crate) async fn ann(&self) -> String {
        self.begin(None).await
    }

    /// As [`ann`](Self::ann), remembered for a while.
    pub(crate) async fn remembered_ann(&self) -> String {
        self.begin(Some(Duration::from_secs(7 * 24 * 60 * 60))).await
    }

    async fn begin(&self, remember: Option<Duration>) -> String {
        let login = move |session: Session| async move {
            if let Some(time) = remember {
                session.persist(time)?;
            }
            session.set(VISITS, 1)?;
            session.login("ann")?;
            Ok::<_, SessionError>("")
        };
        let app = self.app(|config| _ = config.route("/", web::get().to(login))).await;
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
        let app = self.app(|config| _ = config.route("/", web::get().to(read))).await;
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

pub(crate) async fn count(session: Session) -> Result<String, SessionError> {
    Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
}

pub(crate) fn running<S, B>(service: S) -> Running
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    let service = Rc::new(service);
    Rc::new(move |request| {
        let response = service.call(request.to_request());
        Box::pin(async move { Ok(response.await?.map_into_boxed_body()) })
    })
}

pub(crate) async fn visit(app: &Running, path: &str, cookie: Option<&str>) -> Response {
    app(request(path, cookie)).await.unwrap()
}

pub(crate) fn request(path: &str, cookie: Option<&str>) -> TestRequest {
    let request = TestRequest::with_uri(path);
    match cookie {
        Some(cookie) => request.insert_header((COOKIE, cookie)),
        None => request,
    }
}

/// All values of a header, in order.
pub(crate) fn all(response: &Response, name: HeaderName) -> Vec<&str> {
    response.headers().get_all(name).map(|value| value.to_str().unwrap()).collect()
}

/// The `Cookie` header that answers the response's only `Set-Cookie`.
pub(crate) fn cookie(response: &Response) -> String {
    let cookies = all(response, SET_COOKIE);
    let [cookie] = cookies.as_slice() else { panic!("{} cookies, status {}", cookies.len(), response.status()) };
    cookie.split(';').next().unwrap().to_owned()
}

pub(crate) async fn body(response: Response) -> String {
    String::from_utf8(actix_web::test::read_body(response).await.to_vec()).unwrap()
}
