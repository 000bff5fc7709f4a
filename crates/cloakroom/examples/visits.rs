//! Counts visits. `cargo run -p cloakroom --example visits --features axum,config,sqlite`
//!
//! The default cookie is `__Host-id` with `Secure`, which browsers may not keep from plain http. For
//! development on this machine set `CLOAKROOM_DANGER_INSECURE_COOKIE_FOR_LOCALHOST=true`.

use axum::{Router, routing::get};
use cloakroom::{
    Cloakroom, Key,
    axum::{Session, SessionError},
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sessions = Cloakroom::from_env().await?; // file, environment, or SQLite beside you
    let app = Router::new().route("/", get(visit)).layer(sessions.axum());
    Ok(axum::serve(TcpListener::bind("127.0.0.1:3000").await?, app).await?)
}

const VISITS: Key<u64> = Key::new("visits");

async fn visit(session: Session) -> Result<String, SessionError> {
    let n = session.modify(VISITS, |n| *n += 1)?; // survives parallel requests
    Ok(format!("visit {n}"))
}
