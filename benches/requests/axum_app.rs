//! The application on axum, called as `axum::serve` does.

use std::hint::black_box;

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use cloakroom_axum::{Session, SessionError, SessionLayer};
use http::header::{COOKIE, SET_COOKIE};
use http::{HeaderValue, Request};
use tower::ServiceExt as _;

use crate::{Around, Task};

pub(crate) struct App(Router);

impl App {
    pub(crate) fn new(around: Around, task: Task) -> Self {
        let plain = || match task {
            Task::Untouched | Task::SignIn => Router::new().route(task.path(), get(|| async { "hello" })),
            Task::Read | Task::ReadLarge | Task::Change => {
                Router::new().route(task.path(), get(|| async { 1.to_string() }))
            }
        };
        let app = match around {
            Around::Nothing => plain(),
            Around::NoOp => plain().layer(tower::layer::util::Identity::new()),
            Around::Sessions(manager) => Router::new()
                .route("/untouched", get(|| async { "hello" }))
                .route("/read", get(read))
                .route("/change", get(change))
                .route("/sign-in", get(sign_in))
                .route("/fill/{filling}", get(fill))
                .layer(SessionLayer::new(manager)),
        };
        Self(app.with_state(()))
    }

    pub(crate) async fn set_cookie(&self, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.headers()[SET_COOKIE].to_str().unwrap().to_owned()
    }

    pub(crate) async fn run(&self, path: &'static str, cookie: Option<&str>, requests: u64) {
        let cookie = cookie.map(|cookie| HeaderValue::from_str(cookie).unwrap());
        for _ in 0..requests {
            let mut request = Request::get(path);
            if let Some(cookie) = &cookie {
                request = request.header(COOKIE, cookie.clone());
            }
            let response = self.0.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
            assert_eq!(response.status(), 200);
            black_box(response);
        }
    }
}

async fn read(session: Session) -> Result<String, SessionError> {
    Ok(crate::read(&session)?)
}

async fn change(session: Session) -> Result<String, SessionError> {
    Ok(crate::change(&session)?)
}

async fn sign_in(session: Session) -> Result<&'static str, SessionError> {
    session.login("account-42")?;
    Ok("hello")
}

async fn fill(session: Session, Path(filling): Path<usize>) -> Result<&'static str, SessionError> {
    Ok(crate::fill(&session, filling)?)
}
