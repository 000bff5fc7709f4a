//! What stands and what goes when the handler, the commit or an inner middleware fails.

use std::panic::AssertUnwindSafe;

use actix_web::dev::ServiceRequest;
use actix_web::http::StatusCode;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, SET_COOKIE, VARY};
use actix_web::middleware::{Next, from_fn};
use actix_web::test::init_service;
use actix_web::web::{self, ServiceConfig, get};
use actix_web::{App, HttpResponse, error};
use cloakroom_actix::{Session, SessionError, SessionExt};
use cloakroom_core::{StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use futures_util::FutureExt;

use crate::support::{CLEARED, Sessions, VISITS, all, ann_once, body, nobody, request, running, visit};

#[actix_web::test]
async fn a_server_error_drops_changes_and_a_client_error_keeps_them() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let answer = async |session: Session, status: web::Path<u16>| -> Result<HttpResponse, SessionError> {
        session.set(VISITS, 99)?;
        Ok(HttpResponse::new(StatusCode::from_u16(*status).unwrap()))
    };
    let app = sessions.app(|config| _ = config.route("/{status}", get().to(answer))).await;
    assert_eq!(visit(&app, "/502", Some(&ann)).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(sessions.store.writes(), 0);
    assert_eq!(sessions.stored(&ann).await, ann_once());
    assert_eq!(all(&visit(&app, "/502", None).await, SET_COOKIE), [""; 0], "nor is a session created");
    visit(&app, "/422", Some(&ann)).await;
    assert_eq!(sessions.stored(&ann).await.visits, 99);
}

#[actix_web::test]
async fn a_logout_stands_after_a_server_error() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let fail = async |session: Session| -> Result<HttpResponse, actix_web::Error> {
        session.logout().map_err(SessionError::from)?;
        Err(error::ErrorInternalServerError("later"))
    };
    let app = sessions.app(|config| _ = config.route("/", get().to(fail))).await;
    let response = visit(&app, "/", Some(&ann)).await;
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(all(&response, SET_COOKIE), [CLEARED]);
    assert_eq!(sessions.stored(&ann).await, nobody());
}

#[actix_web::test]
async fn a_panic_goes_on_drops_changes_and_a_requested_logout_stands() {
    async fn change(session: Session) -> &'static str {
        session.set(VISITS, 99).unwrap();
        panic!("in the handler");
    }
    async fn logout(session: Session) -> &'static str {
        session.logout().unwrap();
        panic!("in the handler");
    }
    async fn untouched() -> &'static str {
        panic!("in the handler");
    }
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let routes = |config: &mut ServiceConfig| {
        config.route("/change", get().to(change)).route("/logout", get().to(logout));
        config.route("/untouched", get().to(untouched));
    };
    let app = sessions.app(routes).await;
    for (path, after) in [("/untouched", ann_once()), ("/change", ann_once()), ("/logout", nobody())] {
        let panic = AssertUnwindSafe(visit(&app, path, Some(&ann))).catch_unwind().await.unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"in the handler"), "{path}");
        assert_eq!(sessions.stored(&ann).await, after, "{path}");
    }
}

#[actix_web::test]
async fn a_failed_commit_replaces_the_response() {
    let sessions = Sessions::new();
    let change = async |session: Session| -> Result<HttpResponse, SessionError> {
        session.set(VISITS, 2)?;
        Ok(HttpResponse::Ok()
            .insert_header((CONTENT_TYPE, "text/html"))
            .insert_header((CACHE_CONTROL, "private, max-age=5"))
            .body("done"))
    };
    let app = sessions.app(|config| _ = config.route("/", get().to(change))).await;
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

#[actix_web::test]
async fn a_store_out_of_reach_costs_nobody_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let routes = |config: &mut ServiceConfig| {
        config.route("/", get().to(async |_: Session| "fine")).route("/plain", get().to(async || "fine"));
    };
    let app = sessions.app(routes).await;
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

/// actix answers a middleware's error further out than the sessions are, so its response is made here.
#[actix_web::test]
async fn an_error_of_an_inner_middleware_is_answered_with_what_the_session_needs() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let refuse = async |request: ServiceRequest, next: Next<actix_web::body::BoxBody>| {
        let session = request.session().await?;
        session.set(VISITS, 99).map_err(SessionError::from)?;
        match request.path() {
            "/logout" => {
                session.logout().map_err(SessionError::from)?;
                Err(error::ErrorForbidden("signed out"))
            }
            "/refused" => Err(error::ErrorForbidden("not you")),
            "/broken" => Err(error::ErrorInternalServerError("broken")),
            _ => next.call(request).await,
        }
    };
    let app = running(init_service(App::new().wrap(from_fn(refuse)).wrap(sessions.middleware())).await);
    let attempt = async |path| {
        let error = app(request(path, Some(&ann))).await.unwrap_err();
        let response = error.error_response();
        assert_eq!(response.headers().get(VARY).unwrap(), "Cookie", "{path}");
        let cookie = response.headers().get(SET_COOKIE).map(|value| value.to_str().unwrap().to_owned());
        (error.to_string(), response.status().as_u16(), cookie)
    };
    assert_eq!(attempt("/broken").await, ("broken".to_owned(), 500, None));
    assert_eq!(sessions.stored(&ann).await, ann_once());
    assert_eq!(attempt("/refused").await, ("not you".to_owned(), 403, None));
    assert_eq!(sessions.stored(&ann).await.visits, 99);
    assert_eq!(attempt("/logout").await, ("signed out".to_owned(), 403, Some(CLEARED.to_owned())));
    assert_eq!(sessions.stored(&ann).await, nobody());
}

#[actix_web::test]
async fn an_error_tells_the_client_its_status_only() {
    let sessions = Sessions::new();
    let signed_in = async |session: Session| {
        session.require_fresh(std::time::Duration::from_secs(60)).map(|_| "").map_err(SessionError::from)
    };
    let wrong_type = async |session: Session| -> Result<String, SessionError> {
        Ok(session.get::<String>("visits")?.unwrap_or_default())
    };
    let routes = |config: &mut ServiceConfig| {
        config.route("/private", get().to(signed_in)).route("/wrong", get().to(wrong_type));
    };
    let app = sessions.app(routes).await;
    let ann = sessions.ann().await;
    for (path, cookie, status) in [
        ("/private", None, StatusCode::UNAUTHORIZED),
        ("/wrong", Some(ann.as_str()), StatusCode::INTERNAL_SERVER_ERROR),
    ] {
        let response = visit(&app, path, cookie).await;
        assert_eq!(response.status(), status);
        assert_eq!(all(&response, RETRY_AFTER), [""; 0]);
        assert_eq!(all(&response, CACHE_CONTROL), ["no-store"]);
        assert_eq!(all(&response, SET_COOKIE), [""; 0]);
        assert_eq!(body(response).await, "");
    }
}
