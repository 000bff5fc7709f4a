//! The application on actix-web, called as a worker of `HttpServer` does.

use std::future::{Ready, ready};
use std::hint::black_box;
use std::task::{Context, Poll};

use actix_http::Request;
use actix_service::boxed::{BoxService, service};
use actix_service::{IntoServiceFactory, ServiceFactory, map_config};
use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{AppConfig, Service, ServiceRequest, ServiceResponse, Transform};
use actix_web::http::header::{COOKIE, HeaderValue, SET_COOKIE};
use actix_web::test::TestRequest;
use actix_web::web::{Path, get};
use actix_web::{App as WebApp, Error};
use cloakroom_actix::{Session, SessionError, SessionMiddleware};

use crate::{Around, Task};

pub(crate) struct App(BoxService<Request, ServiceResponse<BoxBody>, Error>);

impl App {
    pub(crate) async fn new(around: Around, task: Task) -> Self {
        let plain = || {
            let app = WebApp::new();
            match task {
                Task::Untouched | Task::SignIn => app.route(task.path(), get().to(async || "hello")),
                Task::Read | Task::ReadLarge | Task::Change => app.route(task.path(), get().to(async || 1.to_string())),
            }
        };
        Self(match around {
            Around::Nothing => built(plain()).await,
            Around::NoOp => built(plain().wrap(NoOp)).await,
            Around::Sessions(manager) => {
                let app = WebApp::new()
                    .route("/untouched", get().to(async || "hello"))
                    .route("/read", get().to(read))
                    .route("/change", get().to(change))
                    .route("/sign-in", get().to(sign_in))
                    .route("/fill/{filling}", get().to(fill));
                built(app.wrap(SessionMiddleware::new(manager))).await
            }
        })
    }

    pub(crate) async fn set_cookie(&self, path: &str) -> String {
        let response = self.0.call(TestRequest::get().uri(path).to_request()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        response.headers().get(SET_COOKIE).unwrap().to_str().unwrap().to_owned()
    }

    pub(crate) async fn run(&self, path: &'static str, cookie: Option<&str>, requests: u64) {
        let cookie = cookie.map(|cookie| HeaderValue::from_str(cookie).unwrap());
        let path = actix_web::http::Uri::from_static(path);
        for _ in 0..requests {
            let mut request = Request::new();
            *request.uri_mut() = path.clone();
            if let Some(cookie) = &cookie {
                request.headers_mut().insert(COOKIE, cookie.clone());
            }
            let response = self.0.call(request).await.unwrap();
            assert_eq!(response.status(), 200);
            black_box(response);
        }
    }
}

async fn built<F, S, B>(app: F) -> BoxService<Request, ServiceResponse<BoxBody>, Error>
where
    F: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error, InitError = ()>,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let app = map_config(app, |()| AppConfig::default()).new_service(()).await.unwrap();
    // The same box around every one of them.
    service(actix_service::ServiceExt::map(app, |response: ServiceResponse<B>| response.map_into_boxed_body()))
}

/// A middleware that does nothing.
struct NoOp;

struct NoOpService<S>(S);

impl<S, B> Transform<S, ServiceRequest> for NoOp
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Transform = NoOpService<S>;
    type InitError = ();
    type Future = Ready<Result<NoOpService<S>, ()>>;

    fn new_transform(&self, inner: S) -> Self::Future {
        ready(Ok(NoOpService(inner)))
    }
}

impl<S, B> Service<ServiceRequest> for NoOpService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error>,
{
    type Response = ServiceResponse<B>;
    type Error = Error;
    type Future = S::Future;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&self, request: ServiceRequest) -> Self::Future {
        self.0.call(request)
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

async fn fill(session: Session, filling: Path<usize>) -> Result<&'static str, SessionError> {
    Ok(crate::fill(&session, *filling)?)
}
