//! An API for clients that are no browsers: the token travels in headers, and no cookie is read or set.
//!
//! ```text
//! CLOAKROOM_TRANSPORT=bearer cargo run -p cloakroom --example native --features axum,config,sqlite
//!
//! curl -si -X POST http://127.0.0.1:3000/sign-in/ada         the token is in X-Session-Token
//! curl -s  -H "Authorization: Bearer $TOKEN" http://127.0.0.1:3000/me
//! curl -s  -H "Authorization: Bearer $TOKEN" -X POST http://127.0.0.1:3000/sign-out
//! ```
//!
//! A response that carries a token replaces the one that the client has. Without a session `/me` is a
//! 401 with `WWW-Authenticate: Bearer`.

#![expect(clippy::print_stdout, reason = "an example says where it listens")]

use axum::extract::Path;
use axum::routing::{get, post};
use axum::{Router, serve};
use cloakroom::axum::{RequireLayer, Session, SessionError, SessionLayer};
use cloakroom::{Cloakroom, Key, Require};
use tokio::net::TcpListener;

#[allow(dead_code, reason = "the test that drives the application serves it by itself")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = Cloakroom::from_env().await?; // file, environment, or SQLite beside you
    if cloakroom.manager().cookie_name().is_some() {
        return Err("this API is for clients that are no browsers: set CLOAKROOM_TRANSPORT=bearer".into());
    }
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(serve(listener, app(cloakroom.axum())).await?)
}

const CALLS: Key<u64> = Key::new("calls");

/// The application, on whatever sessions.
pub(crate) fn app(sessions: SessionLayer) -> Router {
    let members = Router::new().route("/me", get(me)).route("/sign-out", post(sign_out));
    Router::new()
        .merge(members.layer(RequireLayer::new(Require::sign_in())))
        .route("/sign-in/{name}", post(sign_in))
        .layer(sessions)
}

/// Here it would see a password or a passkey.
async fn sign_in(session: Session, Path(name): Path<String>) -> Result<(), SessionError> {
    Ok(session.login(name.as_str())?)
}

async fn me(session: Session) -> Result<String, SessionError> {
    let calls = session.modify(CALLS, |calls| *calls += 1)?;
    let name = session.principal().map_or_else(String::new, |name| name.as_str().to_owned());
    Ok(format!("{name}, call {calls}\n"))
}

async fn sign_out(session: Session) -> Result<(), SessionError> {
    Ok(session.logout()?)
}
