use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_http::{HttpService, KeepAlive, Request};
use actix_service::{IntoServiceFactory, Service as _, ServiceFactory, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use actix_web::http::header;
use actix_web::web::{Path, PayloadConfig, ServiceConfig, get, post, resource, scope, to};
use actix_web::{App, Error, HttpRequest, HttpResponse};
use cloakroom_actix::{
    CsrfMiddleware, LazySession, ReadSession, RequireMiddleware, Session, SessionError, SessionMiddleware,
};
use cloakroom_core::{Csrf, Manager, Outcome, Page, Require};
use tokio::net::TcpListener;

use super::{Admin, HANDLED, VISIT, echo, hand_over, refuse};

pub(super) async fn serve(listener: TcpListener, manager: &Arc<Manager>, admins: &Arc<Manager>) {
    let app = App::new()
        .route("/visit", get().to(visit))
        .route("/cart", get().to(async |session: Session| cart(&session)))
        .route("/cart/{article}", post().to(add_to_cart))
        .route("/login/{name}", post().to(log_in))
        .route("/remember", post().to(remember))
        .route("/who", get().to(async |session: ReadSession| name(session.principal())))
        .route("/logout", post().to(async |session: Session| session.logout().map(done).map_err(SessionError::from)))
        .route("/logout-everywhere", post().to(log_out_everywhere))
        .route("/devices", get().to(devices))
        .route("/handle", get().to(handle))
        .route("/revoke/{handle}", post().to(revoke))
        .service(resource("/flash").route(post().to(flash)).route(get().to(flashes)))
        .service(resource("/form").route(get().to(form)).route(post().to(check_form)))
        .route("/fail", post().to(fail))
        .route("/panic", post().to(panicking))
        .route("/public", get().to(public))
        .route("/plain", get().to(async || "plain"))
        .route("/lazy", get().to(async |_: LazySession| "unread"))
        .service(
            resource("/admin")
                .route(post().to(log_in_as_admin))
                .route(get().to(async |admin: ReadSession<Admin>| name(admin.principal()))),
        )
        .wrap(SessionMiddleware::named::<Admin>(admins.clone()))
        .wrap(SessionMiddleware::new(manager.clone()));
    listen(listener, app).await;
}

pub(super) async fn serve_guarded(listener: TcpListener, manager: &Arc<Manager>, csrf: Csrf, entries: Arc<AtomicU64>) {
    let sockets = entries.clone();
    let enter = move |body: String| {
        entries.fetch_add(1, Ordering::Relaxed);
        std::future::ready(echo(&body))
    };
    let socket = move || {
        sockets.fetch_add(1, Ordering::Relaxed);
        std::future::ready("")
    };
    let nested = scope("/nested").wrap(CsrfMiddleware::new(csrf.clone())).default_service(to(enter.clone()));
    let app = App::new()
        .app_data(PayloadConfig::new(1 << 20))
        .service(nested)
        .route("/socket", to(socket))
        .default_service(to(enter))
        .wrap(CsrfMiddleware::new(csrf))
        .wrap(SessionMiddleware::new(manager.clone()));
    listen(listener, app).await;
}

pub(super) async fn serve_requiring(
    listener: TcpListener,
    manager: &Arc<Manager>,
    routes: Vec<(&'static str, Require)>,
) {
    let configure = |config: &mut ServiceConfig| {
        for (path, require) in routes {
            config.service(resource(path).wrap(RequireMiddleware::new(require)).to(async || "entered"));
        }
    };
    listen(listener, App::new().configure(configure).wrap(SessionMiddleware::new(manager.clone()))).await;
}

/// What a worker of `HttpServer` does, on the test's own thread.
async fn listen<F, S, B>(listener: TcpListener, app: F)
where
    F: IntoServiceFactory<S, Request> + 'static,
    S: ServiceFactory<Request, Config = AppConfig, Response = ServiceResponse<B>, Error = Error, InitError = ()>
        + 'static,
    S::Service: 'static,
    B: MessageBody + 'static,
{
    let service = HttpService::build()
        // No timers: tests that stop the clock would set them off.
        .keep_alive(KeepAlive::Disabled)
        .client_request_timeout(std::time::Duration::ZERO)
        .h1(map_config(app, |()| AppConfig::default()))
        .tcp();
    let service = service.new_service(()).await.unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(service.call(stream));
        }
    });
}

async fn visit(request: HttpRequest, session: Result<Session, SessionError>) -> Result<HttpResponse, SessionError> {
    let number = request.headers().get(VISIT).unwrap().to_str().unwrap();
    let session = session.inspect_err(|error| refuse(number, error))?;
    Ok(match hand_over(number, session.into_inner()).await {
        Outcome::Answered { status, public } => {
            let mut response = HttpResponse::build(status.try_into().unwrap());
            response.insert_header((HANDLED, ""));
            if public {
                response.insert_header((header::CACHE_CONTROL, "public"));
            }
            response.finish()
        }
        Outcome::Lost => std::panic::resume_unwind(Box::new("on purpose")),
    })
}

fn done((): ()) -> HttpResponse {
    HttpResponse::Ok().finish()
}

fn name(principal: Option<cloakroom_core::Principal>) -> String {
    principal.map_or("nobody".to_owned(), |who| who.as_str().to_owned())
}

fn cart(session: &Session) -> Result<String, SessionError> {
    Ok(format!("{:?}", session.get::<Vec<u32>>("cart")?.unwrap_or_default()))
}

async fn add_to_cart(session: Session, article: Path<u32>) -> Result<String, SessionError> {
    session.modify("cart", move |cart: &mut Vec<u32>| cart.push(*article))?;
    cart(&session)
}

async fn log_in(session: Session, name: Path<String>) -> Result<HttpResponse, SessionError> {
    Ok(done(session.login(name.as_str())?))
}

async fn log_in_as_admin(admin: Session<Admin>) -> Result<HttpResponse, SessionError> {
    Ok(done(admin.login("root")?))
}

async fn remember(session: Session) -> Result<HttpResponse, SessionError> {
    Ok(done(session.persist(std::time::Duration::from_secs(3600))?))
}

async fn log_out_everywhere(session: Session) -> Result<HttpResponse, SessionError> {
    session.logout_everywhere().await?;
    Ok(done(()))
}

async fn devices(session: Session) -> Result<String, SessionError> {
    let listing = session.list(Page::FIRST).await?;
    Ok(listing.sessions.iter().map(|one| format!("{}\n", one.handle)).collect())
}

async fn handle(session: ReadSession) -> String {
    session.handle().map_or(String::new(), |handle| handle.to_string())
}

async fn revoke(session: Session, handle: Path<String>) -> Result<String, Error> {
    let handle = handle.parse().map_err(|_| actix_web::error::ErrorBadRequest(""))?;
    Ok(session.revoke(handle).await.map_err(SessionError::from)?.to_string())
}

async fn flash(session: Session) -> Result<HttpResponse, SessionError> {
    Ok(done(session.flash("info", "Hello.")?))
}

async fn flashes(session: Session) -> Result<String, SessionError> {
    Ok(session.take_flashes()?.into_iter().map(|flash| flash.text).collect())
}

async fn form(session: Session) -> Result<String, SessionError> {
    Ok(session.csrf_token()?)
}

async fn check_form(session: Session, token: String) -> HttpResponse {
    if session.verify_csrf(&token) { HttpResponse::Ok().finish() } else { HttpResponse::Forbidden().finish() }
}

async fn fail(session: Session) -> Result<HttpResponse, SessionError> {
    session.set("cart", vec![0])?;
    Ok(HttpResponse::InternalServerError().finish())
}

async fn panicking(session: Session) -> HttpResponse {
    drop(session.set("cart", vec![0]));
    panic!("on purpose")
}

async fn public(session: Session) -> HttpResponse {
    drop(session.contains("cart"));
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "public, max-age=60")).finish()
}
