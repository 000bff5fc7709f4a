//! What handlers get.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use axum::routing::get;
use cloakroom_axum::{LazySession, ReadSession, Session, SessionError};
use cloakroom_core::{Assurance, Page, Principal, SessionErrorKind, State};
use http::header::{CACHE_CONTROL, RETRY_AFTER, SET_COOKIE, USER_AGENT};
use http::{Method, StatusCode};
use tower::ServiceExt;

use crate::support::{Sessions, VISITS, all, body, cookie, request, visit};

#[tokio::test]
async fn an_optional_session_is_none_where_there_is_none() {
    let sessions = Sessions::new();
    let state = async |session: Option<Session>| format!("{:?}", session.map(|session| session.state()));
    let ended = async |session: Session, parts: http::request::Parts| {
        session.logout().unwrap();
        let mut parts = parts;
        let session = <Option<Session> as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &());
        format!("{:?}", session.await.unwrap().map(|session| session.state()))
    };
    let begun = async |session: Session, parts: http::request::Parts| {
        session.set(VISITS, 1).unwrap();
        let mut parts = parts;
        let session = <Option<Session> as axum::extract::FromRequestParts<()>>::from_request_parts(&mut parts, &());
        format!("{:?}", session.await.unwrap().map(|session| session.state()))
    };
    let app = Router::new()
        .route("/", get(state))
        .route("/ended", get(ended))
        .route("/begun", get(begun))
        .layer(sessions.layer());
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", None).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some("__Host-id=forged")).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, format!("{:?}", Some(State::Unchanged)));
    assert_eq!(body(visit(&app, "/begun", None).await).await, format!("{:?}", Some(State::Created)));
    assert_eq!(body(visit(&app, "/ended", Some(&ann)).await).await, "None");
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "None");
}

#[tokio::test]
async fn all_extractors_of_a_request_share_one_session_that_is_loaded_once() {
    let sessions = Sessions::new();
    let share = async |one: Session, read: ReadSession, lazy: LazySession, two: Session| -> Result<_, SessionError> {
        one.set(VISITS, 5)?;
        two.modify(VISITS, |visits| *visits += 1)?;
        lazy.load().await?.modify(VISITS, |visits| *visits += 1)?;
        Ok(read.get(VISITS)?.unwrap_or_default().to_string())
    };
    let app = Router::new().route("/", get(share)).layer(sessions.layer());
    let ann = sessions.ann().await;
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "7");
    assert_eq!((sessions.store.reads(), sessions.store.writes()), (1, 1));
    assert_eq!(sessions.stored(&ann).await.visits, 7);
}

#[tokio::test]
async fn a_lazy_session_asks_the_store_only_when_loaded() {
    let sessions = Sessions::new();
    let load = async |session: LazySession| -> Result<String, SessionError> {
        let session = session.load().await?;
        Ok(session.modify(VISITS, |visits| *visits += 1)?.to_string())
    };
    let app = Router::new()
        .route("/load", get(load))
        .route("/ignore", get(async |_: LazySession| ()))
        .layer(sessions.layer());
    let ann = sessions.ann().await;
    visit(&app, "/ignore", Some(&ann)).await;
    assert_eq!(sessions.store.reads(), 0);
    assert_eq!(body(visit(&app, "/load", Some(&ann)).await).await, "2");
    assert_eq!(sessions.store.reads(), 1);
    assert_eq!(body(visit(&app, "/load", None).await).await, "1");
}

#[tokio::test]
async fn no_extractor_prints_the_token() {
    let sessions = Sessions::new();
    let print = async |session: Session, read: ReadSession, lazy: LazySession| format!("{session:?} {read:?} {lazy:?}");
    let app = Router::new().route("/", get(print)).layer(sessions.layer());
    let ann = sessions.ann().await;
    let token = ann.split_once('=').unwrap().1;
    let printed = body(visit(&app, "/", Some(&ann)).await).await;
    assert!(printed.contains("LazySession") && printed.contains("Unchanged"), "{printed}");
    assert!(!printed.contains(token));
    assert!(!format!("{:?}", sessions.layer().clone()).contains(token));
}

#[tokio::test]
async fn the_session_remembers_the_client_that_began_it() {
    let begin = async |session: Session| session.login("ann").map_err(SessionError::from);
    let lazily = async |session: LazySession| -> Result<(), SessionError> { Ok(session.load().await?.login("ann")?) };
    for path in ["/session", "/lazy"] {
        let sessions = Sessions::new();
        let app = Router::new().route("/session", get(begin)).route("/lazy", get(lazily)).layer(sessions.layer());
        let mut request = request(Method::GET, path, None);
        request.headers_mut().insert(USER_AGENT, "Lynx/2.9".parse().unwrap());
        let peer: SocketAddr = "[::ffff:192.0.2.7]:50000".parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        app.oneshot(request).await.unwrap();
        let ann = Principal::try_from("ann").unwrap();
        let directory = sessions.manager.directory().unwrap();
        let listing = directory.list(&ann, Page { after: None, limit: 10 }).await.unwrap();
        let [summary] = listing.sessions.as_slice() else { panic!("{listing:?}") };
        assert_eq!(summary.client.user_agent(), Some("Lynx/2.9"), "{path}");
        assert_eq!(summary.client.address(), Some("192.0.2.7".parse().unwrap()), "{path}");
    }
}

#[tokio::test]
async fn an_error_tells_the_client_its_status_only() {
    let sessions = Sessions::new();
    let signed_in = async |session: Session| {
        session.require_fresh(std::time::Duration::from_secs(60)).map(|_| ()).map_err(SessionError::from)
    };
    let wrong_type = async |session: Session| -> Result<String, SessionError> {
        Ok(session.get::<String>("visits")?.unwrap_or_default())
    };
    let app = Router::new().route("/private", get(signed_in)).route("/wrong", get(wrong_type)).layer(sessions.layer());
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

#[tokio::test]
async fn an_error_can_be_looked_at_before_it_answers() {
    let sessions = Sessions::new();
    let look = async |session: Session| {
        let error = SessionError::from(session.step_up(Assurance::Two).unwrap_err());
        assert_eq!(error.kind(), SessionErrorKind::NotSignedIn);
        let boxed: Box<dyn std::error::Error + Send + Sync> = Box::new(error);
        boxed.to_string().into_response()
    };
    let app = Router::new().route("/", get(look)).layer(sessions.layer());
    assert_eq!(body(visit(&app, "/", None).await).await, "nobody is signed in");
}

#[tokio::test]
async fn the_cores_handle_serves_code_that_knows_nothing_of_axum() {
    fn count(session: &cloakroom_core::Session) -> u64 {
        session.modify(VISITS, |visits| *visits += 1).unwrap()
    }
    let sessions = Sessions::new();
    let handler = async |session: Session| {
        count(&session);
        count(&session.clone().into_inner()).to_string()
    };
    let app = Router::new().route("/", get(handler)).layer(sessions.layer());
    let response = visit(&app, "/", None).await;
    let cookie = cookie(&response);
    assert_eq!(body(response).await, "2");
    assert_eq!(sessions.stored(&cookie).await.visits, 2);
}
