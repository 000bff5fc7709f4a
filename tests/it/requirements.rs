//! Who gets into routes that ask for something, through both adapters.

use std::time::Duration;

use cloakroom_core::{Assurance, LocalPath, Require};
use cloakroom_testkit::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::requiring;
use crate::setup::{Browser, World, on_every_backend};

on_every_backend!(
    only_those_enter_whose_session_is_what_the_route_requires,
    looking_at_the_session_is_no_activity_and_an_outage_lets_nobody_in,
);

async fn only_those_enter_whose_session_is_what_the_route_requires(world: World) {
    let page = |path: &'static str| LocalPath::new(path).unwrap();
    let five_minutes = Duration::from_secs(300);
    let routes = vec![
        ("/member", Require::sign_in().or_send_to(page("/login?next=member"))),
        ("/strict", Require::sign_in()),
        ("/pay", Require::fresh(five_minutes).or_send_to(page("/prove-it"))),
        ("/vault", Require::assurance(Assurance::Two)),
        ("/safe", Require::assurance(Assurance::Two).and_fresh(five_minutes)),
    ];
    let address = requiring(&world.manager, routes).await;
    let mut browser = world.browser();
    let ways = ["GET /member", "POST /member", "GET /strict", "GET /pay", "PUT /pay", "GET /vault", "GET /safe"];
    let get = async |browser: &Browser| {
        let mut answers = Vec::new();
        for way in ways {
            answers.push(send(address, browser, way).await);
        }
        answers
    };
    let (login, prove) = ("303 /login?next=member", "303 /prove-it");
    assert_eq!(get(&browser).await, [login, "401", "401", prove, "401", "401", "401"], "nobody");
    browser.visit(async |session| session.set("cart", 1).unwrap()).await;
    assert_eq!(get(&browser).await, [login, "401", "401", prove, "401", "401", "401"], "a session of nobody");
    browser.visit(async |session| session.login("alice").unwrap()).await;
    assert_eq!(get(&browser).await, ["200", "200", "200", "200", "200", "401", "401"], "one factor");
    browser.visit(async |session| session.step_up(Assurance::Two).unwrap()).await;
    assert_eq!(get(&browser).await, ["200"; 7], "two factors");
    world.clock.advance(five_minutes + Duration::from_secs(1));
    browser.visit(async |session| session.set("cart", 2).unwrap()).await;
    assert_eq!(
        get(&browser).await,
        ["200", "200", "200", prove, "401", "200", "401"],
        "stale, and activity is no proof"
    );
    let copy = browser.clone();
    browser.visit(async |session| session.logout().unwrap()).await;
    assert_eq!(get(&copy).await, [login, "401", "401", prove, "401", "401", "401"], "signed out");
}

async fn looking_at_the_session_is_no_activity_and_an_outage_lets_nobody_in(world: World) {
    let address = requiring(&world.manager, vec![("/member", Require::sign_in())]).await;
    let browser = world.signed_in("alice").await;
    world.clock.advance(Duration::from_secs(3600));
    world.spy.forget_calls();
    assert_eq!(send(address, &browser, "GET /member").await, "200");
    assert_eq!(world.spy.writes(), 0);
    let out = Fault::FailBefore(cloakroom_core::StoreErrorKind::Unavailable);
    world.spy.always(cloakroom_core::Verb::Load, out);
    assert_eq!(send(address, &browser, "GET /member").await, "503");
}

/// Status and `Location` of the response, which no cache may serve to others.
async fn send(address: std::net::SocketAddr, browser: &Browser, way: &str) -> String {
    let cookie =
        if browser.has_cookie() { format!("cookie: __Host-id={}\r\n", browser.token()) } else { String::new() };
    let request = format!("{way} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{cookie}content-length: 0\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap();
    assert!(head.lines().any(|line| line == "vary: Cookie"), "{head}");
    assert_eq!(body, if status == "200" { "entered" } else { "" });
    assert_eq!(head.contains("cache-control: no-store"), status != "200", "{head}");
    let location = head.lines().find_map(|line| line.strip_prefix("location: "));
    location.map_or(status.to_owned(), |location| format!("{status} {location}"))
}
