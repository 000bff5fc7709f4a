//! An application of axum-login whose sessions are in a store of ours.
//! `cargo run -p cloakroom --example axum_login --features config,sqlite,tower-sessions`
//!
//! Nothing of the application knows of cloakroom but `main`, which opens the store. Run it and open
//! <http://127.0.0.1:3000>; the password of `ada` is `countess`.

use std::collections::HashMap;
use std::convert::Infallible;

use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use axum::{Form, Router};
use axum_login::tower_sessions::cookie::SameSite;
use axum_login::tower_sessions::cookie::time::Duration;
use axum_login::tower_sessions::{Expiry, SessionManagerLayer};
use axum_login::{AuthManagerLayerBuilder, AuthUser, AuthnBackend, login_required};
use cloakroom::axum::TowerSessionsStore;

#[allow(dead_code, reason = "the test that drives the application serves it by itself")]
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let cloakroom = cloakroom::Cloakroom::from_env().await?; // file, environment, or SQLite beside you
    let store = cloakroom.tower_sessions().ok_or("axum-login needs sessions in a store, not in the cookie")?;
    axum::serve(tokio::net::TcpListener::bind("127.0.0.1:3000").await?, app(store)).await?;
    cloakroom.close().await;
    Ok(())
}

/// The application, on whatever store.
pub(crate) fn app(store: TowerSessionsStore) -> Router {
    let sessions = SessionManagerLayer::new(store)
        .with_secure(false) // for plain http on this machine
        .with_same_site(SameSite::Lax)
        .with_expiry(Expiry::OnInactivity(Duration::hours(1)));
    Router::new()
        .route("/account", get(account))
        .route_layer(login_required!(Accounts, login_url = "/"))
        .route("/", get(home))
        .route("/login", post(login))
        .route("/logout", post(logout))
        .layer(AuthManagerLayerBuilder::new(Accounts::new(), sessions).build())
}

type AuthSession = axum_login::AuthSession<Accounts>;

async fn home(session: AuthSession) -> Html<String> {
    Html(match session.user {
        Some(user) => format!("<p>Hello {}.<p><a href=/account>Account</a>", user.name),
        None => "<form method=post action=/login>\
             <input name=name value=ada><input name=password type=password><button>Sign in</button></form>"
            .to_owned(),
    })
}

async fn account(session: AuthSession) -> Response {
    match session.user {
        Some(user) => Html(format!(
            "<p>The account of {}.<form method=post action=/logout><button>Sign out</button></form>",
            user.name
        ))
        .into_response(),
        None => StatusCode::UNAUTHORIZED.into_response(),
    }
}

async fn login(mut session: AuthSession, Form(credentials): Form<Credentials>) -> Response {
    let user = match session.authenticate(credentials).await {
        Ok(Some(user)) => user,
        Ok(None) => return StatusCode::UNAUTHORIZED.into_response(),
        Err(_) => return StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    match session.login(&user).await {
        Ok(()) => Redirect::to("/account").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

async fn logout(mut session: AuthSession) -> Response {
    match session.logout().await {
        Ok(_) => Redirect::to("/").into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[derive(Clone, Debug)]
struct User {
    id: u64,
    name: &'static str,
    /// Of a real application this is the hash of the password: with another password, sessions end.
    password_hash: &'static [u8],
}

impl AuthUser for User {
    type Id = u64;

    fn id(&self) -> u64 {
        self.id
    }

    fn session_auth_hash(&self) -> &[u8] {
        self.password_hash
    }
}

#[derive(Clone, serde::Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

#[derive(Clone)]
struct Accounts(HashMap<u64, User>);

impl Accounts {
    fn new() -> Self {
        let ada = User { id: 1815, name: "ada", password_hash: b"countess" };
        Self(HashMap::from([(ada.id, ada)]))
    }
}

impl AuthnBackend for Accounts {
    type User = User;
    type Credentials = Credentials;
    type Error = Infallible;

    async fn authenticate(&self, credentials: Credentials) -> Result<Option<User>, Infallible> {
        let known = self.0.values().find(|user| user.name == credentials.name);
        Ok(known.filter(|user| user.password_hash == credentials.password.as_bytes()).cloned())
    }

    async fn get_user(&self, id: &u64) -> Result<Option<User>, Infallible> {
        Ok(self.0.get(id).cloned())
    }
}
