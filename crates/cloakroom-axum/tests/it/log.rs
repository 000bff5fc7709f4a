//! What the operator reads.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use cloakroom_axum::{LazySession, ReadSession, Session, SessionError};
use cloakroom_core::{StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use http::StatusCode;
use tracing::Level;
use tracing::subscriber::DefaultGuard;

use crate::support::{Sessions, VISITS, body, visit};

/// The log of this thread from here on.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn start() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(Level::TRACE)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn errors(&self) -> Vec<String> {
        self.lines().into_iter().filter(|line| line.starts_with("ERROR cloakroom:")).collect()
    }

    fn lines(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().map(|line| line.trim_start().to_owned()).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Admin;

#[tokio::test]
async fn a_missing_layer_is_a_500_and_the_log_names_the_line_to_add() {
    let app = Router::new()
        .route("/session", get(async |_: Session| ()))
        .route("/option", get(async |_: Option<Session>| ()))
        .route("/read", get(async |_: ReadSession| ()))
        .route("/lazy", get(async |_: LazySession| ()));
    for path in ["/session", "/option", "/read", "/lazy"] {
        let (log, _guard) = Log::start();
        let response = visit(&app, path, None).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(body(response).await, "");
        let errors = log.errors();
        let [error] = errors.as_slice() else { panic!("{errors:?}") };
        assert!(error.contains("`.layer(sessions.axum())` or `.layer(SessionLayer::new(manager))`"), "{error}");
    }
}

#[tokio::test]
async fn a_missing_named_layer_is_called_by_its_name() {
    let (log, _guard) = Log::start();
    let app = Router::new().route("/", get(async |_: Session<Admin>| ())).layer(Sessions::new().layer());
    assert_eq!(visit(&app, "/", None).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let errors = log.errors();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert!(error.contains("`.layer(SessionLayer::named::<it::log::Admin>(manager))`"), "{error}");
}

#[tokio::test]
async fn a_failed_commit_is_logged_once_with_its_causes_and_without_the_token() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let (log, _guard) = Log::start();
    let set = async |session: Session| session.set(VISITS, 99).map_err(SessionError::from);
    let app = Router::new().route("/", get(set)).layer(sessions.layer());
    sessions.store.once(Verb::Update, Fault::FailBefore(StoreErrorKind::Unavailable));
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    let errors = log.errors();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert!(error.contains("NotCommitted"), "{error}");
    assert!(error.contains("the session was not written: session store: update: "), "{error}");
    let token = ann.split_once('=').unwrap().1;
    assert!(log.lines().iter().all(|line| !line.contains(token)));
}

#[tokio::test]
async fn a_commit_that_fails_after_a_panic_is_logged_too() {
    let sessions = Sessions::new();
    let ann = sessions.ann().await;
    let (log, _guard) = Log::start();
    let fail = async |session: Session| -> () {
        session.logout().unwrap();
        panic!("in the handler");
    };
    let app = Router::new()
        .route("/", get(fail))
        .layer(sessions.layer())
        .layer(tower_http::catch_panic::CatchPanicLayer::new());
    sessions.store.once(Verb::Delete, Fault::FailBefore(StoreErrorKind::Unavailable));
    assert_eq!(visit(&app, "/", Some(&ann)).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(log.errors().len(), 1);
}

#[tokio::test]
async fn what_is_the_clients_fault_is_no_error_in_the_log() {
    let (log, _guard) = Log::start();
    let private =
        async |session: Session| -> Result<(), SessionError> { Ok(session.step_up(cloakroom_core::Assurance::Two)?) };
    let app = Router::new().route("/", get(private)).layer(Sessions::new().layer());
    assert_eq!(visit(&app, "/", None).await.status(), StatusCode::UNAUTHORIZED);
    let lines = log.lines();
    assert_eq!(log.errors(), [""; 0]);
    assert!(lines.iter().any(|line| line.starts_with("DEBUG cloakroom:") && line.contains("NotSignedIn")), "{lines:?}");
}
