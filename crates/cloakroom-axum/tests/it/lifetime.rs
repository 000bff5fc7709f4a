//! When things happen: before the head leaves, and never after it.

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::routing::get;
use cloakroom_axum::{LazySession, Session, SessionError};
use cloakroom_core::{SessionErrorKind, Verb};
use cloakroom_testkit::{Fault, Gate};
use futures_util::{FutureExt, StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tower::ServiceExt;

use crate::support::{Sessions, VISITS, ann_once, body, cookie, request, visit};

#[tokio::test]
async fn a_streaming_body_is_passed_on_and_the_commit_does_not_wait_for_it() {
    let sessions = Sessions::new();
    let (more, waits) = oneshot::channel::<()>();
    let waits = Arc::new(Mutex::new(Some(waits)));
    let handler = async move |session: Session| -> Result<Body, SessionError> {
        session.set(VISITS, 3)?;
        let waits = waits.lock().unwrap().take().unwrap();
        let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"first ")) });
        let second = stream::once(async move {
            waits.await.map_err(std::io::Error::other)?;
            Ok(Bytes::from_static(b"second"))
        });
        Ok(Body::from_stream(first.chain(second)))
    };
    let app = Router::new().route("/", get(handler)).layer(sessions.layer());
    let mut response = visit(&app, "/", None).await;
    assert_eq!(sessions.store.calls(Verb::Create), 1, "written before the head leaves");
    assert_eq!(sessions.stored(&cookie(&response)).await.visits, 3);
    let first = response.body_mut().frame().await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(first, "first ");
    assert!(response.body_mut().frame().now_or_never().is_none(), "the body is not collected");
    more.send(()).unwrap();
    assert_eq!(body(response).await, "second");
}

#[tokio::test]
async fn the_head_waits_for_the_commit() {
    let sessions = Sessions::new();
    let gate = Gate::new();
    sessions.store.once(Verb::Create, Fault::HoldBefore(gate.clone()));
    let set = async |session: Session| session.set(VISITS, 3).map_err(SessionError::from);
    let app = Router::new().route("/", get(set)).layer(sessions.layer());
    let mut response = tokio::spawn(async move { visit(&app, "/", None).await });
    gate.arrived(1).await;
    assert!((&mut response).now_or_never().is_none());
    gate.open();
    assert_eq!(sessions.stored(&cookie(&response.await.unwrap())).await.visits, 3);
}

#[tokio::test]
async fn a_task_that_outlives_the_response_can_no_longer_change_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let (left, response_left) = oneshot::channel::<()>();
    let (answer, answered) = oneshot::channel();
    let channels = Arc::new(Mutex::new(Some((response_left, answer))));
    let handler = async move |session: Session| {
        let (response_left, answer) = channels.lock().unwrap().take().unwrap();
        tokio::spawn(async move {
            response_left.await.unwrap();
            let kinds = [
                session.set(VISITS, 99).unwrap_err().kind(),
                session.logout().unwrap_err().kind(),
                session.get(VISITS).unwrap_err().kind(),
                session.commit().await.unwrap_err().kind(),
            ];
            answer.send(kinds).unwrap();
        });
    };
    let app = Router::new().route("/", get(handler)).layer(sessions.layer());
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::OK);
    left.send(()).unwrap();
    assert_eq!(answered.await.unwrap(), [SessionErrorKind::Closed; 4]);
    assert_eq!(sessions.stored(&ann).await, ann_once());
}

#[tokio::test]
async fn a_lazy_session_cannot_be_opened_once_the_response_has_left() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    for opened_before in [false, true] {
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let handler = async move |session: LazySession| {
            if opened_before {
                session.load().await.unwrap();
            }
            *keep.lock().unwrap() = Some(session);
        };
        let app = Router::new().route("/", get(handler)).layer(sessions.layer());
        assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::OK);
        let reads = sessions.store.reads();
        let session = kept.lock().unwrap().take().unwrap();
        assert_eq!(session.load().await.unwrap_err().kind(), SessionErrorKind::Closed);
        assert_eq!(sessions.store.reads(), reads);
    }
}

#[tokio::test]
async fn a_session_that_is_being_opened_while_the_response_leaves_is_not_handed_out() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let gate = Gate::new();
    sessions.store.once(Verb::Load, Fault::HoldAfter(gate.clone()));
    let task = Arc::new(Mutex::new(None));
    let (spawned, waiting) = (Arc::clone(&task), gate.clone());
    let handler = async move |session: LazySession| {
        let load = tokio::spawn(async move { session.load().await.map(|_| ()).map_err(|error| error.kind()) });
        *spawned.lock().unwrap() = Some(load);
        waiting.arrived(1).await;
    };
    let app = Router::new().route("/", get(handler)).layer(sessions.layer());
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::OK);
    gate.open();
    let load = task.lock().unwrap().take().unwrap();
    assert_eq!(load.await.unwrap(), Err(SessionErrorKind::Closed));
}

#[tokio::test]
async fn a_request_that_is_dropped_while_it_commits_hands_out_nothing_and_breaks_nothing() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let count = async |session: Session| {
        session.modify(VISITS, |visits| *visits += 1).map(|n| n.to_string()).map_err(SessionError::from)
    };
    let app = Router::new().route("/", get(count)).layer(sessions.layer());
    sessions.store.once(Verb::Update, Fault::NeverBegin);
    let mut dropped = Box::pin(app.clone().oneshot(request(Method::GET, "/", Some(&ann))));
    assert!((&mut dropped).now_or_never().is_none());
    assert_eq!(sessions.store.calls(Verb::Update), 1);
    drop(dropped);
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "2");
}
