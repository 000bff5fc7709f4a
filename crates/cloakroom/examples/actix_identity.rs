//! An application of actix-identity whose sessions are in a store of ours.
//! `cargo run -p cloakroom --example actix_identity --features actix-session,config,sqlite`
//!
//! Nothing of the application knows of cloakroom but `main`, which opens the store. Run it and open
//! <http://127.0.0.1:3000>; the password of `ada` is `countess`.

use std::collections::HashMap;

use actix_identity::{Identity, IdentityMiddleware};
use actix_session::SessionMiddleware;
use actix_session::config::PersistentSession;
use actix_web::cookie::{Key, time::Duration};
use actix_web::http::header::LOCATION;
use actix_web::web::{self, Form, ServiceConfig};
use actix_web::{App, HttpMessage as _, HttpRequest, HttpResponse, HttpServer};
use cloakroom::actix::ActixSessionStore;

#[allow(dead_code, reason = "the test that drives the application serves it by itself")]
#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = cloakroom::Cloakroom::from_env().await?; // file, environment, or SQLite beside you
    let store = cloakroom.actix_session().ok_or("actix-session needs sessions in a store, not in the cookie")?;
    let key = Key::generate(); // of actix-session's cookie; a real one outlives the process
    HttpServer::new(move || {
        App::new().wrap(IdentityMiddleware::default()).wrap(sessions(store.clone(), key.clone())).configure(pages)
    })
    .bind("127.0.0.1:3000")?
    .run()
    .await?;
    cloakroom.close().await;
    Ok(())
}

/// Sessions for an hour, on whatever store.
pub(crate) fn sessions(store: ActixSessionStore, key: Key) -> SessionMiddleware<ActixSessionStore> {
    SessionMiddleware::builder(store, key)
        .cookie_secure(false) // for plain http on this machine
        .session_lifecycle(PersistentSession::default().session_ttl(Duration::hours(1)))
        .build()
}

/// The application.
pub(crate) fn pages(config: &mut ServiceConfig) {
    config
        .route("/", web::get().to(home))
        .route("/account", web::get().to(account))
        .route("/login", web::post().to(login))
        .route("/logout", web::post().to(logout));
}

async fn home(user: Option<Identity>) -> HttpResponse {
    let name = user.and_then(|user| user.id().ok());
    HttpResponse::Ok().content_type("text/html").body(match name {
        Some(name) => format!("<p>Hello {name}.<p><a href=/account>Account</a>"),
        None => "<form method=post action=/login>\
             <input name=name value=ada><input name=password type=password><button>Sign in</button></form>"
            .to_owned(),
    })
}

/// Without an identity the extractor answers 401.
async fn account(user: Identity) -> HttpResponse {
    let Ok(name) = user.id() else { return HttpResponse::Unauthorized().finish() };
    HttpResponse::Ok()
        .content_type("text/html")
        .body(format!("<p>The account of {name}.<form method=post action=/logout><button>Sign out</button></form>"))
}

async fn login(request: HttpRequest, Form(fields): Form<HashMap<String, String>>) -> HttpResponse {
    let field = |name| fields.get(name).map(String::as_str);
    if (field("name"), field("password")) != (Some("ada"), Some("countess")) {
        return HttpResponse::Unauthorized().finish();
    }
    match Identity::login(&request.extensions(), "ada".to_owned()) {
        Ok(_) => see("/account"),
        Err(_) => HttpResponse::InternalServerError().finish(),
    }
}

async fn logout(user: Identity) -> HttpResponse {
    user.logout();
    see("/")
}

fn see(path: &'static str) -> HttpResponse {
    HttpResponse::SeeOther().insert_header((LOCATION, path)).finish()
}
