//! Drives the example of an API for clients that are no browsers, over sockets.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::net::SocketAddr;
use std::sync::Arc;

use cloakroom::axum::SessionLayer;
use cloakroom::{Backend, KeyRing, Manager, MemoryStore, OsRandom, SecretKey, Transport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[path = "../examples/native.rs"]
mod native;

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

async fn call(address: SocketAddr, line: &str, token: Option<&str>) -> Answer {
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let request = format!("{line} HTTP/1.1\r\nhost: api\r\nconnection: close\r\n{token}content-length: 0\r\n\r\n");
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    connection.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

#[tokio::test]
async fn a_client_signs_in_calls_and_signs_out_without_a_cookie() {
    let keys = KeyRing::new("api", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
    let manager = Manager::builder(Backend::store(Arc::new(MemoryStore::new())), keys);
    let manager = manager.transport(Transport::bearer()).build().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, native::app(SessionLayer::new(manager))).await });

    let stranger = call(address, "GET /me", None).await;
    assert_eq!((stranger.status, stranger.header("www-authenticate")), (401, Some("Bearer realm=\"session\"")));

    let signed_in = call(address, "POST /sign-in/ada", None).await;
    assert_eq!((signed_in.status, signed_in.header("set-cookie")), (200, None));
    assert_eq!(signed_in.header("cache-control"), Some("no-store"));
    let token = signed_in.header("x-session-token").unwrap();
    for turn in 1..=3 {
        let answer = call(address, "GET /me", Some(token)).await;
        assert_eq!((answer.status, answer.body), (200, format!("ada, call {turn}\n")));
    }

    assert_eq!(call(address, "POST /sign-out", Some(token)).await.status, 200);
    let dead = call(address, "GET /me", Some(token)).await;
    assert_eq!((dead.status, dead.header("set-cookie")), (401, None));
    assert!(dead.header("www-authenticate").unwrap().contains("invalid_token"));
    server.abort();
}
