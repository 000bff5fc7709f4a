//! Tokens in headers: for clients that are no browsers, through both adapters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use cloakroom_core::{
    Assurance, CookieSettings, Csrf, HeaderSettings, LocalPath, Manager, OutagePolicy, Require, StoreErrorKind,
    Transport, Verb,
};
use cloakroom_testkit::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{address, guarded, requiring};
use crate::setup::{World, on_a_few_backends, ring};

on_a_few_backends!(
    a_token_comes_in_one_header_and_leaves_in_another_and_no_cookie_is_read_or_set,
    a_named_header_carries_the_token_both_ways,
    a_token_opens_in_its_own_transport_audience_and_header_only,
    a_request_with_no_one_clear_token_is_anonymous,
    who_is_not_let_in_learns_what_to_send_and_is_sent_nowhere,
    no_check_against_other_sites_is_made_where_browsers_add_nothing,
    an_outage_a_look_and_a_public_response_are_as_with_cookies,
    no_token_is_in_a_debug_print_or_an_event,
);

const BEARER: &str = "authorization: Bearer ";

/// A response.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }

    /// The token that it hands out, which no cache may keep.
    fn token(&self, header: &str) -> Option<String> {
        assert_eq!(self.header("set-cookie"), None);
        let token = self.header(header)?;
        assert_eq!(self.header("cache-control"), Some("no-store"));
        assert!(token.len() >= 68, "{token}");
        Some(token.to_owned())
    }
}

/// A request with these header lines, each of which ends its line.
async fn send(address: SocketAddr, way: &str, lines: &[String]) -> Answer {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let request = format!("{way} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}content-length: 0\r\n\r\n");
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(name, value)| (name.into(), value.into()));
    Answer { status, headers: headers.collect(), body: body.to_owned() }
}

async fn with(address: SocketAddr, way: &str, token: &str) -> Answer {
    send(address, way, &[format!("{BEARER}{token}")]).await
}

/// Signs somebody in and gives the token.
async fn sign_in(address: SocketAddr, name: &str) -> String {
    let answer = send(address, &format!("POST /login/{name}"), &[]).await;
    answer.token("x-session-token").unwrap()
}

fn bearer(world: World) -> World {
    world.configured(|builder| builder.transport(Transport::bearer()))
}

async fn serve(manager: &Arc<Manager>) -> SocketAddr {
    address(manager).await.unwrap()
}

async fn a_token_comes_in_one_header_and_leaves_in_another_and_no_cookie_is_read_or_set(world: World) {
    let world = bearer(world);
    let address = serve(&world.manager).await;
    let anonymous = send(address, "GET /who", &[]).await;
    assert_eq!((anonymous.body.as_str(), anonymous.header("vary")), ("nobody", Some("Authorization")));
    assert_eq!(send(address, "GET /plain", &[]).await.header("vary"), None, "nothing was looked at");
    let cart = send(address, "POST /cart/7", &[]).await.token("x-session-token").unwrap();
    let answer = with(address, "POST /login/alice", &cart).await;
    let token = answer.token("x-session-token").unwrap();
    assert_ne!(token, cart);
    assert_eq!(with(address, "GET /cart", &token).await.body, "[7]");
    assert_eq!(with(address, "GET /who", &token).await.body, "alice");
    assert_eq!(with(address, "GET /who", &cart).await.body, "nobody", "the old token is dead");
    let looked = with(address, "GET /who", &token).await;
    assert_eq!((looked.token("x-session-token"), looked.header("vary")), (None, Some("Authorization")));
    let elsewhere = [
        format!("cookie: __Host-id={token}; id={token}"),
        format!("x-session-token: {token}"),
        format!("proxy-authorization: Bearer {token}"),
    ];
    for line in elsewhere {
        assert_eq!(send(address, "GET /who", &[line]).await.body, "nobody");
    }
    for path in [format!("/who?access_token={token}"), format!("/who?token={token}#{token}"), "/who".to_owned()] {
        assert_eq!(send(address, &format!("GET {path}"), &[]).await.body, "nobody", "a URL is in every log");
    }
    let copy = token.clone();
    let left = with(address, "POST /logout", &token).await;
    assert_eq!((left.status, left.token("x-session-token"), left.header("set-cookie")), (200, None, None));
    assert_eq!(with(address, "GET /who", &copy).await.body, "nobody");
}

async fn a_named_header_carries_the_token_both_ways(world: World) {
    let settings = HeaderSettings::named("X-Shop-Token");
    let world = world.configured(|builder| builder.transport(Transport::Header(settings)));
    let address = serve(&world.manager).await;
    let answer = send(address, "POST /login/alice", &[]).await;
    let token = answer.token("x-shop-token").unwrap();
    assert_eq!(answer.header("x-session-token"), None);
    let named = |token: &str| format!("X-SHOP-Token: {token}");
    let answer = send(address, "GET /who", &[named(&token)]).await;
    assert_eq!((answer.body.as_str(), answer.header("vary")), ("alice", Some("x-shop-token")));
    for lines in [
        vec![format!("{BEARER}{token}")],
        vec![named(&format!("Bearer {token}"))],
        vec![named(&token), named(&token)],
        vec![named(&format!("{token}, {token}"))],
    ] {
        assert_eq!(send(address, "GET /who", &lines).await.body, "nobody", "{lines:?}");
    }
}

async fn a_token_opens_in_its_own_transport_audience_and_header_only(world: World) {
    let named = |name: &str| Transport::Header(HeaderSettings::named(name));
    let transports = [
        Transport::default(),
        Transport::Cookie(CookieSettings::new().with_name("authorization")),
        Transport::bearer(),
        named("authorization-of-shop"),
        named("x-session-token"),
    ];
    let mut issued = Vec::new();
    for transport in &transports {
        let manager = world.builder().transport(transport.clone()).build().unwrap();
        let answer = send(serve(&manager).await, "POST /login/alice", &[]).await;
        let (_, value) = answer.headers.iter().find(|(_, value)| value.len() >= 68).unwrap();
        let pair = value.split(';').next().unwrap();
        issued.push((manager, pair.split_once('=').map_or(pair, |(_, token)| token).to_owned()));
    }
    for (made_for, (_, token)) in issued.iter().enumerate() {
        for (sent_to, (manager, _)) in issued.iter().enumerate() {
            let line = match manager.cookie_name() {
                Some(name) => format!("cookie: {name}={token}"),
                None => match &transports[sent_to] {
                    transport if *transport == Transport::bearer() => format!("{BEARER}{token}"),
                    Transport::Header(header) => format!("{}: {token}", header.response()),
                    other => unreachable!("{other:?} has neither a cookie nor a header"),
                },
            };
            let who = send(serve(manager).await, "GET /who", &[line]).await.body;
            assert_eq!(who == "alice", made_for == sent_to, "made for {made_for}, sent to {sent_to}: {who}");
        }
    }
    if world.keeps_records() {
        let other = world.builder_with(&ring("another application", &[1])).transport(Transport::bearer());
        let other = serve(&other.build().unwrap()).await;
        assert_eq!(with(other, "GET /who", &issued[2].1).await.body, "nobody", "the same key, another audience");
    }
}

async fn a_request_with_no_one_clear_token_is_anonymous(world: World) {
    let world = bearer(world);
    let address = serve(&world.manager).await;
    let (alice, bob) = (sign_in(address, "alice").await, sign_in(address, "bob").await);
    let line = |value: String| format!("authorization: {value}");
    for same in [format!("bearer {alice}"), format!("BEARER  {alice}")] {
        assert_eq!(send(address, "GET /who", &[line(same)]).await.body, "alice");
    }
    world.spy.forget_calls();
    let rejections = || world.events.count("token_rejected");
    let ambiguous = [
        vec![line(format!("Bearer {alice}")), line(format!("Bearer {bob}"))],
        vec![line(format!("Bearer {alice}")), line(format!("Bearer {alice}"))],
        vec![line("Basic YTpi".to_owned()), line(format!("Bearer {alice}"))],
        vec![line(format!("Bearer {alice}, Bearer {bob}"))],
        vec![line(format!("Bearer {alice},"))],
    ];
    let malformed = [
        "Bearer".to_owned(),
        format!("Bearer {alice}="),
        format!("Bearer {alice} {bob}"),
        format!("Bearer \"{alice}\""),
        format!("Bearer token={alice}"),
        format!("Bearer {}", &alice[1..]),
        format!("Bearer {}", "A".repeat(5000)),
    ];
    for lines in ambiguous.into_iter().chain(malformed.map(|value| vec![line(value)])) {
        let before = rejections();
        let answer = send(address, "GET /who", &lines).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "nobody"));
        assert_eq!(rejections(), before + 1, "an event for each");
    }
    let before = rejections();
    for other in ["Basic YTpi", "DPoP x", "Digest username=\"a\", realm=\"b\""] {
        let answer = send(address, "GET /who", &[line(other.to_owned())]).await;
        assert_eq!((answer.status, answer.body.as_str(), answer.header("www-authenticate")), (200, "nobody", None));
    }
    let joined = send(address, "GET /who", &[line(format!("Bearer{alice}"))]).await;
    assert_eq!((joined.body.as_str(), rejections()), ("nobody", before), "somebody else's scheme is no event");
    assert_eq!(world.spy.reads() + world.spy.writes(), 0, "none of them reached the store");
}

async fn who_is_not_let_in_learns_what_to_send_and_is_sent_nowhere(world: World) {
    let world = bearer(world);
    let five_minutes = Duration::from_secs(300);
    let page = LocalPath::new("/login").unwrap();
    let routes = vec![
        ("/member", Require::sign_in().or_send_to(page.clone())),
        ("/pay", Require::fresh(five_minutes).or_send_to(page)),
        ("/vault", Require::assurance(Assurance::Two)),
    ];
    let guards = requiring(&world.manager, routes).await;
    let address = serve(&world.manager).await;
    let token = sign_in(address, "alice").await;
    let challenge = async |path: &str, lines: &[String]| {
        let answer = send(guards, &format!("GET {path}"), lines).await;
        assert_eq!((answer.status, answer.header("location"), answer.body.as_str()), (401, None, ""), "{path}");
        assert_eq!((answer.header("cache-control"), answer.header("vary")), (Some("no-store"), Some("Authorization")));
        answer.header("www-authenticate").unwrap().to_owned()
    };
    let (no_token, invalid) = ("Bearer realm=\"session\"", "Bearer realm=\"session\", error=\"invalid_token\"");
    let not_enough = "Bearer realm=\"session\", error=\"insufficient_user_authentication\"";
    let sent = |token: &str| [format!("{BEARER}{token}")];
    assert_eq!(challenge("/member", &[]).await, no_token);
    assert_eq!(challenge("/member", &["authorization: Basic YTpi".to_owned()]).await, no_token, "none was presented");
    assert_eq!(challenge("/member", &[sent(&token), sent(&token)].concat()).await, no_token, "which one is unknown");
    assert_eq!(challenge("/member", &sent(&token[1..])).await, invalid);
    let answer = send(guards, "GET /member", &sent(&token)).await;
    assert_eq!((answer.status, answer.header("www-authenticate")), (200, None));
    assert_eq!(challenge("/vault", &sent(&token)).await, not_enough);
    world.clock.advance(five_minutes + Duration::from_secs(1));
    assert_eq!(challenge("/pay", &sent(&token)).await, not_enough);
    assert_eq!(with(address, "POST /logout", &token).await.status, 200);
    assert_eq!(challenge("/member", &sent(&token)).await, invalid);
    // A token that another node may know is not called invalid: the client would forget it.
    let other = world.builder_with(&ring("tests", &[2])).transport(Transport::bearer()).build().unwrap();
    let foreign = sign_in(serve(&other).await, "bob").await;
    assert_eq!(challenge("/member", &sent(&foreign)).await, no_token);
}

async fn no_check_against_other_sites_is_made_where_browsers_add_nothing(world: World) {
    let csrf = || Csrf::new(["https://shop.example"]).unwrap();
    let forged = ["sec-fetch-site: cross-site".to_owned(), "origin: https://evil.example".to_owned()];
    let (cookies, entered) = guarded(&world.manager, csrf()).await;
    assert_eq!(send(cookies, "POST /", &forged).await.status, 403);
    assert_eq!(entered.load(Ordering::Relaxed), 0);
    let world = bearer(world);
    let (headers, entered) = guarded(&world.manager, csrf()).await;
    for lines in [&forged[..], &[]] {
        assert_eq!(send(headers, "POST /", lines).await.status, 200);
    }
    assert_eq!(entered.load(Ordering::Relaxed), 2);
}

async fn an_outage_a_look_and_a_public_response_are_as_with_cookies(world: World) {
    let world = bearer(world);
    let address = serve(&world.manager).await;
    let mut token = sign_in(address, "alice").await;
    if let Some(new) = with(address, "POST /remember", &token).await.token("x-session-token") {
        token = new;
    }
    world.clock.advance(Duration::from_secs(120));
    world.spy.forget_calls();
    assert_eq!(with(address, "GET /who", &token).await.token("x-session-token"), None);
    assert_eq!(world.spy.writes(), 0, "a look is no activity");
    let public = with(address, "GET /public", &token).await;
    assert_eq!(public.header("x-session-token"), None, "what caches may keep carries no token");
    assert_eq!(
        (public.header("cache-control"), public.header("vary")),
        (Some("public, max-age=60"), Some("Authorization"))
    );
    world.clock.advance(Duration::from_secs(120));
    let touched = with(address, "GET /cart", &token).await;
    assert_eq!(touched.token("x-session-token").is_some(), !world.keeps_records(), "the same token is not sent again");
    world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
    let out = with(address, "GET /cart", &token).await;
    assert_eq!((out.status, out.header("www-authenticate"), out.header("retry-after")), (503, None, Some("5")));
    let policy = world.manager.policy().clone().with_outage(OutagePolicy::AnonymousReadOnly);
    let lenient = world.builder().transport(Transport::bearer()).policy(policy).build().unwrap();
    let out = with(serve(&lenient).await, "GET /who", &token).await;
    assert_eq!((out.status, out.body.as_str()), (200, "nobody"));
    assert!(out.header("x-session-warning").is_some());
}

async fn no_token_is_in_a_debug_print_or_an_event(world: World) {
    let world = bearer(world);
    let exchange = cloakroom_core::Exchange::new(world.manager.clone());
    let session = exchange.session(std::iter::empty(), Default::default).await.unwrap();
    session.login("alice").unwrap();
    let finish = exchange.finish(crate::setup::OK).await;
    let token = finish.set.clone().unwrap();
    let address = serve(&world.manager).await;
    assert_eq!(with(address, "GET /who", &token).await.body, "alice");
    with(address, "GET /who", &format!("{token}{token}")).await;
    let printed = format!("{finish:?} {exchange:?} {session:?} {:?} {:?}", world.manager, world.events.dump());
    assert!(printed.contains("Finish") && !printed.contains(&token[..20]) && !printed.contains(&token[30..]));
}
