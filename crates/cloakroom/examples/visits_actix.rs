//! Counts your visits on actix-web. Run it and open <http://127.0.0.1:3000>.
//!
//! Without any configuration the sessions are in a SQLite file beside you; see the guide to configuration.

use actix_web::{App, HttpServer, web};
use cloakroom::actix::{Session, SessionError};
use cloakroom::{Cloakroom, Key};

const VISITS: Key<u64> = Key::new("visits");

async fn visit(session: Session) -> Result<String, SessionError> {
    let n = session.modify(VISITS, |n| *n += 1)?; // survives parallel requests
    Ok(format!("visit {n}"))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = Cloakroom::from_env().await?;
    let sessions = cloakroom.actix(); // one for all workers
    HttpServer::new(move || App::new().wrap(sessions.clone()).route("/", web::get().to(visit)))
        .bind("127.0.0.1:3000")?
        .run()
        .await?;
    cloakroom.close().await;
    Ok(())
}
