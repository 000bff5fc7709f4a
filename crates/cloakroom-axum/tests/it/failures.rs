//! What stands and what goes when the handler, the commit or an inner service fails.

use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use cloakroom_axum::{Session, SessionError};
use cloakroom_core::{StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use futures_util::FutureExt;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE, VARY};
use http::{Method, Request, StatusCode};
use tower::{Layer, ServiceExt, service_fn};
use tower_http::catch_panic::CatchPanicLayer;

use crate::support::{CLEARED, Sessions, VISITS, all, ann_once, body, nobody, request, visit};

#[tokio::test]
async fn a_server_error_drops_changes() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let fail = async |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 99)?;
        Ok(StatusCode::BAD_GATEWAY)
    };
    let app = Router::new().route("/", get(fail)).layer(sessions.layer());
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(sessions.store.writes(), 0);
    assert_eq!(sessions.stored(&ann).await, ann_once());

    let response = visit(&app, "/", None).await;
    assert_eq!(all(&response, SET_COOKIE), [""; 0], "nor is a session created");
}

#[tokio::test]
async fn a_client_error_keeps_changes() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let refuse = async |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 99)?;
        Ok(StatusCode::UNPROCESSABLE_ENTITY)
    };
    let app = Router::new().route("/", get(refuse)).layer(sessions.layer());
    visit(&app, "/", Some(&ann)).await;
    assert_eq!(sessions.stored(&ann).await.visits, 99);
}

#[tokio::test]
async fn a_logout_stands_after_a_server_error() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let fail = async |session: Session| -> Result<_, SessionError> {
        session.logout()?;
        Ok(StatusCode::INTERNAL_SERVER_ERROR)
    };
    let app = Router::new().route("/", get(fail)).layer(sessions.layer());
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(sessions.stored(&ann).await, nobody());
}

async fn change_and_panic(session: Session) {
    session.set(VISITS, 99).unwrap();
    panic!("in the handler");
}

async fn logout_and_panic(session: Session) {
    session.logout().unwrap();
    panic!("in the handler");
}

fn panicking(sessions: &Sessions) -> Router {
    let untouched = async || -> () { panic!("in the handler") };
    Router::new()
        .route("/change", get(change_and_panic))
        .route("/logout", get(logout_and_panic))
        .route("/untouched", get(untouched))
        .layer(sessions.layer())
}

#[tokio::test]
async fn a_panic_goes_on_with_its_own_payload() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = panicking(&sessions);
    for path in ["/untouched", "/change", "/logout"] {
        let panic = AssertUnwindSafe(visit(&app, path, Some(&ann))).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the handler"), "{path}");
    }
}

#[tokio::test]
async fn a_panic_drops_changes_and_a_requested_logout_stands() {
    for caught_by_a_layer in [true, false] {
        let sessions = Sessions::new();
        let ann = sessions.ann().await;
        let mut app = panicking(&sessions);
        if caught_by_a_layer {
            app = app.layer(CatchPanicLayer::new());
        }
        let attempt = async |path| {
            let response = AssertUnwindSafe(visit(&app, path, Some(&ann))).catch_unwind().await;
            assert_eq!(response.ok().map(|response| response.status().as_u16()), caught_by_a_layer.then_some(500));
        };
        attempt("/change").await;
        assert_eq!(sessions.store.writes(), 0);
        assert_eq!(sessions.stored(&ann).await, ann_once());
        attempt("/logout").await;
        assert_eq!(sessions.stored(&ann).await, nobody());
    }
}

#[tokio::test]
async fn a_panic_that_an_inner_layer_turned_into_a_response_drops_changes_too() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = Router::new()
        .route("/", get(change_and_panic))
        .route("/logout", get(logout_and_panic))
        .layer(CatchPanicLayer::new())
        .layer(sessions.layer());
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(sessions.stored(&ann).await, ann_once());
    assert_eq!(all(&visit(&app, "/logout", Some(&ann)).await, SET_COOKIE), [CLEARED]);
    assert_eq!(sessions.stored(&ann).await, nobody());
}

#[tokio::test]
async fn a_failed_commit_replaces_the_response() {
    let sessions = Sessions::new();
    let change = async |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 2)?;
        Ok(([(CONTENT_TYPE, "text/html"), (CACHE_CONTROL, "private, max-age=5")], "done"))
    };
    let app = Router::new().route("/", get(change)).layer(sessions.layer());
    let ann = sessions.ann().await;
    let cases = [
        (Verb::Update, Some(ann.as_str()), Fault::FailBefore(StoreErrorKind::Unavailable), &["5"][..]),
        (Verb::Update, Some(ann.as_str()), Fault::FailAfter(StoreErrorKind::Timeout), &[]),
        (Verb::Create, None, Fault::FailBefore(StoreErrorKind::Full), &["5"]),
        (Verb::Create, None, Fault::FailAfter(StoreErrorKind::Unavailable), &[]),
    ];
    for (verb, cookie, fault, retry_after) in cases {
        sessions.store.once(verb, fault.clone());
        let response = visit(&app, "/", cookie).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{verb} {fault:?}");
        assert_eq!(all(&response, RETRY_AFTER), retry_after, "{verb} {fault:?}");
        assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
        assert_eq!(all(&response, VARY), ["Cookie"]);
        assert_eq!(all(&response, SET_COOKIE), [""; 0], "no token leaves with a failed commit");
        assert_eq!(all(&response, CONTENT_TYPE), [""; 0]);
        assert_eq!(body(response).await, "");
    }
}

#[tokio::test]
async fn a_logout_that_the_store_did_not_take_is_not_reported_as_done() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let logout = async |session: Session| -> Result<_, SessionError> {
        session.logout()?;
        Ok("signed out")
    };
    let app = Router::new().route("/", get(logout)).layer(sessions.layer());
    sessions.store.once(Verb::Delete, Fault::FailBefore(StoreErrorKind::Unavailable));
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(body(response).await, "");
}

#[tokio::test]
async fn a_store_out_of_reach_costs_nobody_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = Router::new()
        .route("/", get(async |_: Session| "fine"))
        .route("/plain", get(async || "fine"))
        .layer(sessions.layer());
    sessions.store.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(all(&response, RETRY_AFTER), ["5"]);
    assert_eq!(all(&response, SET_COOKIE), [""; 0]);
    assert_eq!(all(&response, VARY), ["Cookie"]);
    assert_eq!(body(response).await, "");
    assert_eq!(visit(&app, "/plain", Some(&ann)).await.status(), StatusCode::OK);
    assert_eq!(visit(&app, "/", None).await.status(), StatusCode::OK);
    sessions.store.heal();
    assert_eq!(sessions.stored(&ann).await, ann_once());
}

#[tokio::test]
async fn an_error_of_an_inner_service_goes_on_and_drops_changes() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let failing = |logout: bool| {
        service_fn(move |request: Request<Body>| async move {
            let (mut parts, _body) = request.into_parts();
            let session = <Session as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &()).await;
            let session = session.map_err(io::Error::other)?;
            session.set(VISITS, 99).map_err(io::Error::other)?;
            if logout {
                session.logout().map_err(io::Error::other)?;
            }
            Err::<http::Response<Body>, _>(io::Error::other("inner"))
        })
    };
    for (logout, after) in [(false, ann_once()), (true, nobody())] {
        let service = sessions.layer().layer(failing(logout));
        let error = service.oneshot(request(Method::GET, "/", Some(&ann))).await.unwrap_err();
        assert_eq!(error.to_string(), "inner");
        assert_eq!(sessions.stored(&ann).await, after);
    }
}

#[tokio::test]
async fn committed_changes_survive_a_later_failure() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let fail = async |session: Session| -> Result<_, SessionError> {
        session.set(VISITS, 7)?;
        session.commit().await?;
        session.set(VISITS, 99)?;
        Ok(StatusCode::INTERNAL_SERVER_ERROR)
    };
    let app = Router::new().route("/", get(fail)).layer(sessions.layer());
    visit(&app, "/", Some(&ann)).await;
    assert_eq!(sessions.stored(&ann).await.visits, 7);
}

#[tokio::test]
async fn transactions_run_with_the_adapters_error() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let redeem = async |session: Session| -> Result<String, SessionError> {
        session
            .transaction(|view| {
                let visits = view.get(VISITS)?.unwrap_or_default();
                view.set(VISITS, visits + 1)?;
                Ok(visits.to_string())
            })
            .await
    };
    let app = Router::new().route("/", get(redeem)).layer(sessions.layer());
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "1");
    assert_eq!(sessions.stored(&ann).await.visits, 2);
}

#[test]
fn the_layers_future_may_move_between_threads() {
    fn send<T: Send>(_: T) {}
    let inner = service_fn(async |_: Request<Body>| Ok::<_, Infallible>(http::Response::new(Body::empty())));
    send(Sessions::new().layer().layer(inner).oneshot(request(Method::GET, "/", None)));
}
