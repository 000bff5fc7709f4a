//! When things happen: before the head leaves, and never after it.

use std::cell::RefCell;
use std::future::ready;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::rt::spawn;
use actix_web::web::{Bytes, get};
use cloakroom_actix::{LazySession, Session};
use cloakroom_core::{SessionErrorKind, Verb};
use cloakroom_testkit::{Fault, Gate};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::oneshot;

use crate::support::{Sessions, VISITS, ann_once, body, cookie, count, request, visit};

#[actix_web::test]
async fn a_streaming_body_is_passed_on_and_the_commit_does_not_wait_for_it() {
    let sessions = Sessions::new();
    let (more, waits) = oneshot::channel::<()>();
    let waits = Rc::new(RefCell::new(Some(waits)));
    let handler = move |session: Session| {
        session.set(VISITS, 3).unwrap();
        let waits = waits.take().unwrap();
        let first = stream::once(async { Ok::<_, std::io::Error>(Bytes::from_static(b"first ")) });
        let second = stream::once(async move {
            waits.await.map_err(std::io::Error::other)?;
            Ok(Bytes::from_static(b"second"))
        });
        ready(HttpResponse::Ok().streaming(first.chain(second)))
    };
    let app = sessions.app(|config| _ = config.route("/", get().to(handler))).await;
    let response = visit(&app, "/", None).await;
    assert_eq!(sessions.store.calls(Verb::Create), 1, "written before the head leaves");
    assert_eq!(sessions.stored(&cookie(&response)).await.visits, 3);
    let mut whole = Box::pin(body(response));
    assert!((&mut whole).now_or_never().is_none(), "the body still streams");
    more.send(()).unwrap();
    assert_eq!(whole.await, "first second");
}

#[actix_web::test]
async fn the_head_waits_for_the_commit() {
    let sessions = Sessions::new();
    let gate = Gate::new();
    sessions.store.once(Verb::Create, Fault::HoldBefore(gate.clone()));
    let app = sessions.app(|config| _ = config.route("/", get().to(count))).await;
    let mut response = spawn(async move { visit(&app, "/", None).await });
    gate.arrived(1).await;
    assert!((&mut response).now_or_never().is_none());
    gate.open();
    assert_eq!(sessions.stored(&cookie(&response.await.unwrap())).await.visits, 1);
}

#[actix_web::test]
async fn a_task_that_outlives_the_response_can_no_longer_change_the_session() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let (left, response_left) = oneshot::channel::<()>();
    let (answer, answered) = oneshot::channel();
    let channels = Rc::new(RefCell::new(Some((response_left, answer))));
    let handler = move |session: Session| {
        let (response_left, answer) = channels.take().unwrap();
        spawn(async move {
            response_left.await.unwrap();
            let kinds = [
                session.set(VISITS, 99).unwrap_err().kind(),
                session.logout().unwrap_err().kind(),
                session.get(VISITS).unwrap_err().kind(),
                session.commit().await.unwrap_err().kind(),
            ];
            answer.send(kinds).unwrap();
        });
        ready("")
    };
    let app = sessions.app(|config| _ = config.route("/", get().to(handler))).await;
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::OK);
    left.send(()).unwrap();
    assert_eq!(answered.await.unwrap(), [SessionErrorKind::Closed; 4]);
    assert_eq!(sessions.stored(&ann).await, ann_once());
}

#[actix_web::test]
async fn a_lazy_session_cannot_be_opened_once_the_response_has_left() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    for opened_before in [false, true] {
        let kept = Arc::new(Mutex::new(None));
        let keep = Arc::clone(&kept);
        let handler = move |session: LazySession| {
            let keep = Arc::clone(&keep);
            async move {
                if opened_before {
                    session.load().await.unwrap();
                }
                *keep.lock().unwrap() = Some(session);
                ""
            }
        };
        let app = sessions.app(|config| _ = config.route("/", get().to(handler))).await;
        assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::OK);
        let reads = sessions.store.reads();
        let session = kept.lock().unwrap().take().unwrap();
        assert_eq!(session.load().await.unwrap_err().kind(), SessionErrorKind::Closed);
        assert_eq!(sessions.store.reads(), reads);
    }
}

#[actix_web::test]
async fn a_request_that_is_dropped_while_it_commits_hands_out_nothing_and_breaks_nothing() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let app = sessions.app(|config| _ = config.route("/", get().to(count))).await;
    sessions.store.once(Verb::Update, Fault::NeverBegin);
    let mut dropped = app(request("/", Some(&ann)));
    assert!((&mut dropped).now_or_never().is_none());
    assert_eq!(sessions.store.calls(Verb::Update), 1);
    drop(dropped);
    assert_eq!(body(visit(&app, "/", Some(&ann)).await).await, "2");
}
