//! Drives the examples of axum-login and actix-identity, over sockets, on the stores in memory and in a file.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;

use cloakroom::sql::{SqliteOptions, Synchronous};
use cloakroom::{Backend, KeyRing, Manager, MemoryStore, OsRandom, SecretKey, SessionStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[path = "../examples/actix_identity.rs"]
mod actix_identity;
#[path = "../examples/axum_login.rs"]
mod axum_login;

fn manager(store: Arc<dyn SessionStore>) -> Arc<Manager> {
    let keys = KeyRing::new("shop", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    Manager::builder(Backend::store(store), keys).build().unwrap()
}

async fn in_memory(test: impl AsyncFn(Arc<dyn SessionStore>)) {
    test(Arc::new(MemoryStore::new())).await;
}

async fn in_a_file(test: impl AsyncFn(Arc<dyn SessionStore>)) {
    let directory = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new(directory.path().join("sessions.db")).with_synchronous(Synchronous::Normal);
    test(Arc::new(options.open().await.unwrap())).await;
}

/// Serves the example while `visit` runs.
async fn with_axum_login(store: Arc<dyn SessionStore>, visit: impl AsyncFnOnce(SocketAddr)) {
    let sessions = cloakroom::axum::TowerSessionsStore::of(&manager(store)).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, axum_login::app(sessions)).await });
    visit(address).await;
    server.abort();
}

async fn with_actix_identity(store: Arc<dyn SessionStore>, visit: impl AsyncFnOnce(SocketAddr)) {
    use actix_web::{App, HttpServer, cookie::Key};

    let sessions = cloakroom::actix::ActixSessionStore::of(&manager(store)).unwrap();
    let key = Key::generate();
    let server = HttpServer::new(move || {
        App::new()
            .wrap(::actix_identity::IdentityMiddleware::default())
            .wrap(actix_identity::sessions(sessions.clone(), key.clone()))
            .configure(actix_identity::pages)
    });
    let server = server.workers(2).disable_signals().bind("127.0.0.1:0").unwrap();
    let address = server.addrs()[0];
    let server = server.run();
    let handle = server.handle();
    let server = tokio::spawn(server);
    visit(address).await;
    handle.stop(false).await;
    server.await.unwrap().unwrap();
}

/// A browser with one cookie jar.
struct Browser {
    address: SocketAddr,
    cookie: Option<String>,
}

struct Answer {
    status: u16,
    body: String,
    cookies: Vec<String>,
}

impl Browser {
    const fn at(address: SocketAddr) -> Self {
        Self { address, cookie: None }
    }

    /// Another one that got hold of the cookie.
    fn copied(&self) -> Self {
        Self { address: self.address, cookie: self.cookie.clone() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send(&format!("GET {path}"), "").await
    }

    async fn post(&mut self, path: &str, form: &str) -> Answer {
        self.send(&format!("POST {path}"), form).await
    }

    async fn send(&mut self, line: &str, form: &str) -> Answer {
        let cookie = self.cookie.iter().map(|cookie| format!("cookie: {cookie}\r\n")).collect::<String>();
        let request = format!(
            "{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{cookie}\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {}\r\n\r\n{form}",
            form.len()
        );
        let mut connection = TcpStream::connect(self.address).await.unwrap();
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        connection.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let set = head.lines().filter_map(|line| line.split_once(": "));
        let set = set.filter(|(name, _)| name.eq_ignore_ascii_case("set-cookie"));
        let cookies: Vec<_> = set.map(|(_, value)| value.to_owned()).collect();
        for cookie in &cookies {
            let (pair, attributes) = cookie.split_once(';').unwrap();
            let removed = attributes.to_ascii_lowercase().contains("max-age=0");
            self.cookie = (!removed).then(|| pair.to_owned());
        }
        Answer { status, body: body.to_owned(), cookies }
    }
}

const SIGN_IN: &str = "name=ada&password=countess";

/// The same story for both: `turned_away` is what the application answers those who are not signed in.
async fn sign_in_look_around_and_out(address: SocketAddr, turned_away: u16) {
    let mut browser = Browser::at(address);
    let answer = browser.get("/").await;
    assert!(answer.status == 200 && answer.body.contains("Sign in") && answer.cookies.is_empty());
    assert_eq!(browser.get("/account").await.status, turned_away);
    assert_eq!(browser.post("/login", "name=ada&password=guess").await.status, 401);
    assert_eq!(browser.get("/account").await.status, turned_away);

    assert_eq!(browser.post("/login", SIGN_IN).await.status, 303);
    assert!(browser.cookie.is_some());
    for _ in 0..3 {
        let answer = browser.get("/account").await;
        assert!(answer.status == 200 && answer.body.contains("The account of ada"), "{}", answer.status);
    }
    assert!(browser.get("/").await.body.contains("Hello ada"));

    let mut thief = browser.copied();
    assert_eq!(thief.get("/account").await.status, 200, "a copied cookie is as good as the original");
    assert_eq!(browser.post("/logout", "").await.status, 303);
    assert_eq!(browser.cookie, None, "the logout removes the cookie");
    assert_eq!(browser.get("/account").await.status, turned_away);
    assert_eq!(thief.get("/account").await.status, turned_away, "logout means logout");
    assert!(thief.get("/").await.body.contains("Sign in"));
}

async fn a_sign_in_takes_another_cookie(address: SocketAddr) {
    let mut browser = Browser::at(address);
    browser.post("/login", SIGN_IN).await;
    let first = browser.cookie.clone().unwrap();
    browser.post("/logout", "").await;
    let mut stale = Browser { address, cookie: Some(first.clone()) };
    assert_eq!(stale.post("/login", SIGN_IN).await.status, 303);
    assert_ne!(stale.cookie.unwrap(), first, "a dead cookie is not taken up again");
}

macro_rules! stories {
    ($($module:ident $place:ident),*) => {
        $(
            mod $module {
                use super::*;

                #[tokio::test]
                async fn axum_login_signs_in_and_out_and_a_copied_cookie_is_dead_after_it() {
                    $place(async |store| {
                        // Redirected to the page with the form.
                        with_axum_login(store, async |address| sign_in_look_around_and_out(address, 307).await).await;
                    })
                    .await;
                }

                #[tokio::test]
                async fn axum_login_takes_no_cookie_up_again() {
                    $place(async |store| with_axum_login(store, a_sign_in_takes_another_cookie).await).await;
                }

                #[actix_web::test]
                async fn actix_identity_signs_in_and_out_and_a_copied_cookie_is_dead_after_it() {
                    $place(async |store| {
                        with_actix_identity(store, async |address| sign_in_look_around_and_out(address, 401).await).await;
                    })
                    .await;
                }

                #[actix_web::test]
                async fn actix_identity_takes_no_cookie_up_again() {
                    $place(async |store| with_actix_identity(store, a_sign_in_takes_another_cookie).await).await;
                }
            }
        )*
    };
}

stories!(memory in_memory, sqlite in_a_file);
