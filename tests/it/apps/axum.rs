use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use cloakroom_axum::{CsrfLayer, LazySession, ReadSession, RequireLayer, Session, SessionError, SessionLayer};
use cloakroom_core::{Csrf, Manager, Outcome, Page, Require};
use tokio::net::TcpListener;

use super::{Admin, HANDLED, VISIT, echo, hand_over, refuse};

pub(super) fn serve(listener: TcpListener, manager: &Arc<Manager>, admins: &Arc<Manager>) {
    let app = app(manager, admins).into_make_service_with_connect_info::<SocketAddr>();
    tokio::task::spawn_local(async move { axum::serve(listener, app).await });
}

pub(super) fn serve_guarded(listener: TcpListener, manager: &Arc<Manager>, csrf: Csrf, entries: Arc<AtomicU64>) {
    let sockets = entries.clone();
    let enter = move |body: String| {
        entries.fetch_add(1, Ordering::Relaxed);
        std::future::ready(echo(&body))
    };
    let socket = move || {
        sockets.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    let app = Router::new()
        .nest("/nested", Router::new().fallback(enter.clone()).layer(CsrfLayer::new(csrf.clone())))
        .route("/socket", any(socket))
        .fallback(enter)
        .layer(CsrfLayer::new(csrf))
        .layer(SessionLayer::new(manager.clone()));
    tokio::task::spawn_local(async move { axum::serve(listener, app).await });
}

pub(super) fn serve_requiring(listener: TcpListener, manager: &Arc<Manager>, routes: Vec<(&'static str, Require)>) {
    let mut app = Router::new();
    for (path, require) in routes {
        app = app.merge(Router::new().route(path, any(async || "entered")).layer(RequireLayer::new(require)));
    }
    let app = app.layer(SessionLayer::new(manager.clone()));
    tokio::task::spawn_local(async move { axum::serve(listener, app).await });
}

async fn visit(headers: HeaderMap, session: Result<Session, SessionError>) -> Result<Response, SessionError> {
    let number = headers[VISIT].to_str().unwrap();
    let session = session.inspect_err(|error| refuse(number, error))?;
    Ok(match hand_over(number, session.into_inner()).await {
        Outcome::Answered { status, public } => {
            let mut response = (StatusCode::from_u16(status).unwrap(), [(HANDLED, "")]).into_response();
            if public {
                response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public"));
            }
            response
        }
        Outcome::Lost => std::panic::resume_unwind(Box::new("on purpose")),
    })
}

fn app(manager: &Arc<Manager>, admins: &Arc<Manager>) -> Router {
    Router::new()
        .route("/visit", get(visit))
        .route("/cart", get(async |session: Session| cart(&session)))
        .route(
            "/cart/{article}",
            post(async |session: Session, Path(article): Path<u32>| {
                session.modify("cart", move |cart: &mut Vec<u32>| cart.push(article))?;
                cart(&session)
            }),
        )
        .route(
            "/login/{name}",
            post(async |session: Session, Path(name): Path<String>| {
                session.login(name.as_str()).map_err(SessionError::from)
            }),
        )
        .route(
            "/remember",
            post(async |session: Session| {
                session.persist(std::time::Duration::from_secs(3600)).map_err(SessionError::from)
            }),
        )
        .route(
            "/who",
            get(async |session: ReadSession| {
                session.principal().map_or("nobody".to_owned(), |who| who.as_str().to_owned())
            }),
        )
        .route("/logout", post(async |session: Session| session.logout().map_err(SessionError::from)))
        .route(
            "/logout-everywhere",
            post(async |session: Session| session.logout_everywhere().await.map_err(SessionError::from)),
        )
        .route(
            "/devices",
            get(async |session: Session| {
                let listing = session.list(Page::FIRST).await?;
                Ok::<_, SessionError>(
                    listing.sessions.iter().map(|one| format!("{}\n", one.handle)).collect::<String>(),
                )
            }),
        )
        .route(
            "/handle",
            get(async |session: ReadSession| session.handle().map_or(String::new(), |handle| handle.to_string())),
        )
        .route(
            "/revoke/{handle}",
            post(async |session: Session, Path(handle): Path<String>| {
                let handle = handle.parse().map_err(|_| StatusCode::BAD_REQUEST.into_response())?;
                session
                    .revoke(handle)
                    .await
                    .map(|ended| ended.to_string())
                    .map_err(|error| SessionError::from(error).into_response())
            }),
        )
        .route(
            "/flash",
            post(async |session: Session| session.flash("info", "Hello.").map_err(SessionError::from)).get(
                async |session: Session| {
                    let flashes = session.take_flashes()?;
                    Ok::<_, SessionError>(flashes.into_iter().map(|flash| flash.text).collect::<String>())
                },
            ),
        )
        .route(
            "/form",
            get(async |session: Session| session.csrf_token().map_err(SessionError::from)).post(
                async |session: Session, token: String| {
                    if session.verify_csrf(&token) { StatusCode::OK } else { StatusCode::FORBIDDEN }
                },
            ),
        )
        .route(
            "/fail",
            post(async |session: Session| {
                session.set("cart", vec![0])?;
                Ok::<_, SessionError>(StatusCode::INTERNAL_SERVER_ERROR)
            }),
        )
        .route("/panic", post(panicking))
        .route(
            "/public",
            get(async |session: Session| {
                drop(session.contains("cart"));
                ([(header::CACHE_CONTROL, "public, max-age=60")], "")
            }),
        )
        .route("/plain", get(async || "plain"))
        .route("/lazy", get(async |_session: LazySession| "unread"))
        .route(
            "/admin",
            post(async |admin: Session<Admin>| admin.login("root").map_err(SessionError::from)).get(
                async |admin: ReadSession<Admin>| {
                    admin.principal().map_or("nobody".to_owned(), |who| who.as_str().to_owned())
                },
            ),
        )
        .layer(SessionLayer::named::<Admin>(admins.clone()))
        .layer(SessionLayer::new(manager.clone()))
}

fn cart(session: &Session) -> Result<String, SessionError> {
    Ok(format!("{:?}", session.get::<Vec<u32>>("cart")?.unwrap_or_default()))
}

async fn panicking(session: Session) -> StatusCode {
    drop(session.set("cart", vec![0]));
    panic!("on purpose")
}
