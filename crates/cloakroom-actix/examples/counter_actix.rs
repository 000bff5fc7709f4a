//! Counts your visits. Run it and open <http://127.0.0.1:3000>.
//!
//! The sessions and the key to them are in memory and go with the process. The cookie is the one for
//! plain http on one's own machine; in production leave the `cookie` line out and serve over TLS.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer, web};
use cloakroom_actix::{Session, SessionError, SessionMiddleware};
use cloakroom_core::{Backend, CookieSettings, Key, KeyRing, Manager, MemoryStore, OsRandom, SecretKey, Sweeper};

const VISITS: Key<u64> = Key::new("visits");

async fn visit(session: Session) -> Result<String, SessionError> {
    let visits = session.modify(VISITS, |visits| *visits += 1)?;
    Ok(format!("visit {visits}\n"))
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let keys = KeyRing::new("counter", &[SecretKey::generate(&OsRandom::default())?])?;
    let store = Arc::new(MemoryStore::new());
    // Expired sessions are removed for as long as this is held.
    let _sweeper = Sweeper::start(store.clone(), Duration::from_secs(60));
    let manager = Manager::builder(Backend::store(store), keys)
        .cookie(CookieSettings::danger_insecure_for_localhost())
        .build()?;
    let sessions = SessionMiddleware::new(manager); // one for all workers
    HttpServer::new(move || App::new().wrap(sessions.clone()).route("/", web::get().to(visit)))
        .bind("127.0.0.1:3000")?
        .run()
        .await?;
    Ok(())
}
