//! The adapters are equal: every test runs through each, and each answers the same bytes.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_testkit::SeededRandom;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{Adapter, admin_cookie, with_admins};
use crate::setup::{Kind, Stack, World};

#[test]
fn every_test_runs_through_every_adapter() {
    let list = Command::new(std::env::current_exe().unwrap()).args(["--list", "--format", "terse"]).output().unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    let through = |adapter: &str| -> BTreeSet<String> {
        list.lines().filter(|test| test.contains(adapter)).map(|test| test.replacen(adapter, "::", 1)).collect()
    };
    let (axum, actix) = (through("::axum::"), through("::actix::"));
    assert!(axum.len() > 1000, "{}", axum.len());
    assert_eq!(axum, actix);
}

#[tokio::test]
async fn the_same_requests_are_answered_by_the_same_bytes() {
    for kind in [Kind::Memory, Kind::Sealed] {
        let (axum, actix) = (answers(Adapter::Axum, kind).await, answers(Adapter::Actix, kind).await);
        assert!(axum.iter().any(|answer| answer.contains("set-cookie: __Host-id=")), "{axum:#?}");
        assert!(axum.iter().any(|answer| answer.contains("max-age=60")), "{axum:#?}");
        assert_eq!(axum, actix);
    }
}

/// Status, `Set-Cookie`, `Vary`, `Cache-Control` and body of each response on a way through the application.
async fn answers(adapter: Adapter, kind: Kind) -> Vec<String> {
    let mut answers = Vec::new();
    World::run(adapter, kind, Stack::Bare, async |world| {
        // The seal draws its own randomness, so what is sealed differs in its letters and not in its length.
        let manager = world.builder().random(Arc::new(SeededRandom::new(3))).build().unwrap();
        let admins = world.builder().cookie(admin_cookie()).random(Arc::new(SeededRandom::new(4))).build().unwrap();
        let address = with_admins(&manager, &admins).await;
        let mut jar = Vec::<(String, String)>::new();
        for step in WAY {
            let (method, path) = step.split_once(' ').unwrap();
            if method == "WAIT" {
                world.clock.advance(Duration::from_secs(path.parse().unwrap()));
                continue;
            }
            if method == "PLANT" {
                jar = vec![("__Host-id".to_owned(), path.to_owned())];
                continue;
            }
            let cookies: String = jar.iter().map(|(name, value)| format!("cookie: {name}={value}\r\n")).collect();
            let request = format!(
                "{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{cookies}content-length: 0\r\n\r\n"
            );
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            stream.read_to_string(&mut response).await.unwrap();
            let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
            let shown = |line: &&str| {
                ["HTTP/1.1", "set-cookie: ", "vary: ", "cache-control: ", "retry-after: "]
                    .iter()
                    .any(|start| line.starts_with(start))
            };
            // In which order fields of different names come says nothing.
            let mut lines: Vec<_> = head.lines().filter(shown).collect();
            lines.sort_by_key(|line| line.split(' ').next());
            for cookie in lines.iter().filter_map(|line| line.strip_prefix("set-cookie: ")) {
                let (name, value) = cookie.split(';').next().unwrap().split_once('=').unwrap();
                jar.retain(|(known, _)| known != name);
                if !value.is_empty() {
                    jar.push((name.to_owned(), value.to_owned()));
                }
            }
            let mut answer = format!("{step}\n{}\n\n{body}", lines.join("\n"));
            if kind == Kind::Sealed {
                for (_, token) in &jar {
                    answer = answer.replace(token, &format!("<{}>", token.len()));
                }
            }
            answers.push(answer);
        }
    })
    .await;
    answers
}

const WAY: &[&str] = &[
    "GET /plain",
    "GET /cart",
    "GET /who",
    "GET /lazy",
    "GET /missing",
    "POST /cart/1",
    "POST /cart/2",
    "GET /cart",
    "GET /public",
    "POST /login/alice",
    "GET /who",
    "POST /remember",
    "WAIT 600",
    "GET /cart",
    "WAIT 600",
    "GET /public",
    "POST /fail",
    "POST /panic",
    "GET /cart",
    "POST /admin",
    "GET /admin",
    "POST /flash",
    "GET /flash",
    "GET /flash",
    "POST /form",
    "POST /logout",
    "GET /who",
    "PLANT forged",
    "GET /who",
    "GET /cart",
    "POST /login/bob",
    "WAIT 86400",
    "GET /who",
    "GET /plain",
];
