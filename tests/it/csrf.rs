//! Every kind of request that another site could make somebody's browser send, through both adapters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom_core::{Csrf, StoreErrorKind, Verb};
use cloakroom_testkit::Fault;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{Adapter, echo, guarded};
use crate::setup::{Browser, Kind, Stack, World};

const OURS: &str = "https://shop.example";

mod axum {
    use super::Adapter;

    #[tokio::test]
    async fn no_request_of_another_site_enters_a_handler() {
        super::no_request_of_another_site_enters_a_handler(Adapter::Axum).await;
    }

    #[tokio::test]
    async fn an_exemption_is_one_spelling_of_one_path() {
        super::an_exemption_is_one_spelling_of_one_path(Adapter::Axum).await;
    }

    #[tokio::test]
    async fn report_only_lets_everything_through_and_says_what_it_would_refuse() {
        super::report_only_lets_everything_through_and_says_what_it_would_refuse(Adapter::Axum).await;
    }

    #[tokio::test]
    async fn without_a_session_the_origin_decides_where_that_is_asked_for() {
        super::without_a_session_the_origin_decides_where_that_is_asked_for(Adapter::Axum).await;
    }

    #[tokio::test]
    async fn whoever_has_a_session_needs_its_token_though_others_pass_by_origin() {
        super::whoever_has_a_session_needs_its_token_though_others_pass_by_origin(Adapter::Axum).await;
    }

    #[tokio::test]
    async fn a_form_is_handed_on_whole_and_one_too_long_is_not() {
        super::a_form_is_handed_on_whole_and_one_too_long_is_not(Adapter::Axum).await;
    }
}

mod actix {
    use super::Adapter;

    #[tokio::test]
    async fn no_request_of_another_site_enters_a_handler() {
        super::no_request_of_another_site_enters_a_handler(Adapter::Actix).await;
    }

    #[tokio::test]
    async fn an_exemption_is_one_spelling_of_one_path() {
        super::an_exemption_is_one_spelling_of_one_path(Adapter::Actix).await;
    }

    #[tokio::test]
    async fn report_only_lets_everything_through_and_says_what_it_would_refuse() {
        super::report_only_lets_everything_through_and_says_what_it_would_refuse(Adapter::Actix).await;
    }

    #[tokio::test]
    async fn without_a_session_the_origin_decides_where_that_is_asked_for() {
        super::without_a_session_the_origin_decides_where_that_is_asked_for(Adapter::Actix).await;
    }

    #[tokio::test]
    async fn whoever_has_a_session_needs_its_token_though_others_pass_by_origin() {
        super::whoever_has_a_session_needs_its_token_though_others_pass_by_origin(Adapter::Actix).await;
    }

    #[tokio::test]
    async fn a_form_is_handed_on_whole_and_one_too_long_is_not() {
        super::a_form_is_handed_on_whole_and_one_too_long_is_not(Adapter::Actix).await;
    }
}

const METHODS: [(&str, bool); 8] = [
    ("POST", false),
    ("PUT", false),
    ("PATCH", false),
    ("DELETE", false),
    ("PURGE", false),
    ("post", false),
    ("GET", true),
    ("HEAD", true),
];

/// Whether it passes by itself; where it says nothing, the origin decides.
const FETCH_SITES: [(Option<&str>, Option<bool>); 6] = [
    (None, None),
    (Some("same-origin"), Some(true)),
    (Some("none"), Some(true)),
    (Some("same-site"), Some(false)),
    (Some("cross-site"), Some(false)),
    (Some("garbage"), None),
];

const ORIGINS: [&[&str]; 12] = [
    &[],
    &[OURS],
    &["null"],
    &["http://shop.example"],
    &["https://shop.example:8443"],
    &["https://shop.example.evil"],
    &["https://evilshop.example"],
    &["https://Shop.example"],
    &["https://shop.example/path"],
    &[OURS, OURS],
    &[OURS, "https://evil.example"],
    &["https://evil.example", OURS],
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Carrier {
    Header,
    Form,
    Multipart,
    Json,
    Query,
    Cookie,
}

const CARRIERS: [Carrier; 6] =
    [Carrier::Header, Carrier::Form, Carrier::Multipart, Carrier::Json, Carrier::Query, Carrier::Cookie];

async fn no_request_of_another_site_enters_a_handler(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let site = Site::new(&world, Csrf::new([OURS]).unwrap()).await;
        let mut entered = 0;
        for (method, safe) in METHODS {
            for (fetch_site, origins, ours) in sources() {
                let headers = headers_of(fetch_site, origins);
                for (what, values, genuine) in &site.tokens {
                    for carrier in CARRIERS {
                        // Where the token is not looked at, the best one and none stand for all of them.
                        let telling = ["right", "absent"].contains(what) && carrier == Carrier::Header;
                        if (safe || !ours) && !telling {
                            continue;
                        }
                        let passes = safe || (ours && *genuine && [Carrier::Header, Carrier::Form].contains(&carrier));
                        let about = format!("{method} {fetch_site:?} {origins:?} {what} by {carrier:?}");
                        let status = site.send(method, "/do", &headers, carrier, values).await.0;
                        assert_eq!(status, if passes { 200 } else { 403 }, "{about}");
                        entered += u64::from(passes);
                        assert_eq!(site.entered(), entered, "{about}");
                    }
                }
            }
        }
        assert!(entered > 400, "{entered}");
        let refused = world.events.of("request_forged");
        for reason in ["Foreign", "NoToken", "RepeatedToken", "WrongToken"] {
            assert!(refused.iter().any(|event| event.contains(reason)), "{reason}");
        }
        assert!(refused.iter().all(|event| event.contains("let_through: false")));
        let right = [site.right().to_owned()];
        let stranger = site.with_cookie("");
        let headers = ["sec-fetch-site: same-origin".to_owned()];
        assert_eq!(stranger.send("POST", "/do", &headers, Carrier::Header, &right).await.0, 403, "without a session");
        let twice = [headers.clone(), headers].concat();
        assert_eq!(site.send("POST", "/do", &twice, Carrier::Header, &right).await.0, 403, "a repeated Sec-Fetch-Site");
        assert_eq!(site.entered(), entered);
        for (fetch_site, origins, ours) in sources() {
            let handshake = [headers_of(fetch_site, origins), vec!["upgrade: websocket".to_owned()]].concat();
            let about = format!("a WebSocket, {fetch_site:?} {origins:?}");
            let status = site.send("GET", "/socket", &handshake, Carrier::Header, &[]).await.0;
            assert_eq!(status, if ours { 200 } else { 403 }, "{about}");
            entered += u64::from(ours);
            assert_eq!(site.entered(), entered, "{about}");
        }
    })
    .await;
}

async fn an_exemption_is_one_spelling_of_one_path(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let site = Site::new(&world, Csrf::new([OURS]).unwrap().with_exemption("/hooks/pay")).await;
        for path in ["/hooks/pay", "/hooks/pay?x=1"] {
            assert_eq!(site.send("POST", path, &[], Carrier::Header, &[]).await.0, 200, "{path}");
        }
        let others = [
            "/hooks/pay/",
            "/hooks/Pay",
            "/hooks/p%61y",
            "/hooks//pay",
            "//hooks/pay",
            "/hooks/./pay",
            "/pay",
            "/nested/hooks/pay",
            "/hooks/pay;x",
            "/hooks/payment",
            "/hooks",
            "/?/hooks/pay",
        ];
        for path in others {
            assert_eq!(site.send("POST", path, &[], Carrier::Header, &[]).await.0, 403, "{path}");
        }
        assert_eq!(site.entered(), 2);
    })
    .await;
}

async fn report_only_lets_everything_through_and_says_what_it_would_refuse(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let site = Site::new(&world, Csrf::new([OURS]).unwrap().report_only()).await;
        let ours = ["sec-fetch-site: same-origin".to_owned()];
        for (what, values, genuine) in &site.tokens {
            world.events.forget();
            assert_eq!(site.send("POST", "/do", &ours, Carrier::Form, values).await.0, 200, "{what}");
            let reported = world.events.of("request_forged");
            assert_eq!(reported.len(), usize::from(!genuine), "{what}");
            assert!(reported.iter().all(|event| event.contains("let_through: true")), "{reported:?}");
        }
        world.events.forget();
        assert_eq!(site.send("POST", "/do", &[], Carrier::Header, &[]).await.0, 200);
        assert!(world.events.of("request_forged")[0].contains("Foreign"));
        let body: String = (0..Csrf::MAX_FORM / 4).map(|place| format!("{place:08}")).collect();
        let form = [ours[0].clone(), "content-type: application/x-www-form-urlencoded".to_owned()];
        for chunked in [false, true] {
            world.events.forget();
            let answered = site.raw_as(chunked, "POST", "/do", &form, &body).await;
            assert_eq!(answered, (200, echo(&body)), "all of a long form, chunked: {chunked}");
            assert!(world.events.of("request_forged")[0].contains("NoToken"));
        }
        world.events.forget();
        world.spy.always(Verb::Load, Fault::FailBefore(StoreErrorKind::Unavailable));
        assert_eq!(site.send("POST", "/do", &ours, Carrier::Form, &[]).await.0, 200, "without the store");
        assert!(world.events.of("request_forged").is_empty());
    })
    .await;
}

async fn without_a_session_the_origin_decides_where_that_is_asked_for(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let mut ended = world.signed_in("bob").await;
        let was = ended.token().to_owned();
        ended.visit(async |session| session.logout().unwrap()).await;
        let flipped = was.chars().rev().collect::<String>();
        let cookies = [
            ("no cookie", String::new()),
            ("another cookie", "theme=dark".to_owned()),
            ("garbage", "__Host-id=garbage".to_owned()),
            ("a forged one", format!("__Host-id={flipped}")),
            ("an ended one", format!("__Host-id={was}")),
        ];
        let site = Site::new(&world, Csrf::new([OURS]).unwrap().anonymous_by_origin()).await;
        let strict = Site::new(&world, Csrf::new([OURS]).unwrap()).await;
        let lenient = Site::new(&world, Csrf::new([OURS]).unwrap().anonymous_by_origin().report_only()).await;
        let (mut entered, mut seen) = (0, 0);
        for (what, cookie) in cookies {
            let [site, strict, lenient] = [&site, &strict, &lenient].map(|site| site.with_cookie(&cookie));
            for (method, safe) in METHODS {
                for (fetch_site, origins, ours) in sources() {
                    let headers = headers_of(fetch_site, origins);
                    let about = format!("{what}: {method} {fetch_site:?} {origins:?}");
                    world.events.forget();
                    let (status, _) = site.send(method, "/do", &headers, Carrier::Form, &[]).await;
                    let reasons = world.events.of("request_forged");
                    assert_eq!(status, if safe || ours { 200 } else { 403 }, "{about}");
                    assert_eq!(reasons.len(), usize::from(status == 403), "{about}: {reasons:?}");
                    assert!(reasons.iter().all(|event| event.contains("Foreign")), "{about}: {reasons:?}");
                    entered += u64::from(safe || ours);
                    assert_eq!(site.entered(), entered, "{about}");
                }
            }
            let ours = headers_of(Some("same-origin"), &[OURS]);
            assert_eq!(strict.send("POST", "/do", &ours, Carrier::Form, &[]).await.0, 403, "{what}: by default");
            assert_eq!(strict.entered(), 0, "{what}: by default");
            for (fetch_site, reported) in [("same-origin", 0), ("cross-site", 1)] {
                world.events.forget();
                let headers = headers_of(Some(fetch_site), &[]);
                assert_eq!(lenient.send("POST", "/do", &headers, Carrier::Form, &[]).await.0, 200, "{what}");
                assert_eq!(world.events.of("request_forged").len(), reported, "{what} {fetch_site}: report only");
                seen += 1;
                assert_eq!(lenient.entered(), seen, "{what} {fetch_site}: report only");
            }
        }
    })
    .await;
}

async fn whoever_has_a_session_needs_its_token_though_others_pass_by_origin(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let csrf = Csrf::new([OURS]).unwrap().anonymous_by_origin();
        let signed_in = Site::new(&world, csrf.clone()).await;
        let reporting = Site::new(&world, csrf.report_only()).await;
        let mut visitor = world.browser();
        let token = visitor.visit(async |session| session.csrf_token().unwrap()).await.value;
        let mut anonymous = signed_in.with_cookie(&format!("__Host-id={}", visitor.token()));
        for (what, values, genuine) in &mut anonymous.tokens {
            match *what {
                "right" => *values = vec![token.clone()],
                // Those are of alice.
                _ => *genuine = false,
            }
        }
        let mut entered = 0;
        for (who, site) in [("signed in", &signed_in), ("anonymous", &anonymous)] {
            for (what, values, genuine) in &site.tokens {
                for carrier in CARRIERS {
                    for (fetch_site, origins, ours) in sources() {
                        // Where the token is not looked at, the best one stands for all of them.
                        if !(ours || *what == "right" && carrier == Carrier::Header) {
                            continue;
                        }
                        let passes = ours && *genuine && [Carrier::Header, Carrier::Form].contains(&carrier);
                        let about = format!("{who}: {fetch_site:?} {origins:?} {what} by {carrier:?}");
                        let headers = headers_of(fetch_site, origins);
                        let (status, _) = site.send("POST", "/do", &headers, carrier, values).await;
                        assert_eq!(status, if passes { 200 } else { 403 }, "{about}");
                        entered += u64::from(passes);
                        assert_eq!(site.entered(), entered, "{about}");
                    }
                }
            }
        }
        assert!(entered > 100, "{entered}");
        for (what, values, genuine) in &reporting.tokens {
            world.events.forget();
            let ours = headers_of(Some("same-origin"), &[]);
            assert_eq!(reporting.send("POST", "/do", &ours, Carrier::Form, values).await.0, 200, "{what}");
            assert_eq!(world.events.of("request_forged").len(), usize::from(!genuine), "{what}: report only");
        }
    })
    .await;
}

async fn a_form_is_handed_on_whole_and_one_too_long_is_not(adapter: Adapter) {
    World::run(adapter, Kind::Memory, Stack::Bare, async |world| {
        let site = Site::new(&world, Csrf::new([OURS]).unwrap()).await;
        let right = site.right();
        let headers = ["origin: https://shop.example", "content-type: application/x-www-form-urlencoded"];
        let headers = headers.map(str::to_owned);
        let form = |length: usize| format!("csrf_token={right}&rest={}", "x".repeat(length));
        let (status, said) = site.raw("POST", "/do", &headers, &form(1000)).await;
        assert_eq!((status, said), (200, echo(&form(1000))));
        for chunked in [false, true] {
            let (status, said) = site.raw_as(chunked, "POST", "/do", &headers, &form(Csrf::MAX_FORM)).await;
            assert_eq!((status, said.as_str()), (413, ""));
        }
        assert_eq!(site.entered(), 1);
        // Where no token is asked for, nothing is read.
        let lenient = Site::new(&world, Csrf::new([OURS]).unwrap().anonymous_by_origin()).await.with_cookie("");
        let long = form(Csrf::MAX_FORM);
        assert_eq!(lenient.raw("POST", "/do", &headers, &long).await, (200, echo(&long)));
    })
    .await;
}

/// Where a request may say it comes from, and whether that is us.
fn sources() -> impl Iterator<Item = (Option<&'static str>, &'static [&'static str], bool)> {
    FETCH_SITES.into_iter().flat_map(|(fetch_site, verdict)| {
        ORIGINS.into_iter().map(move |origins| {
            let ours = origins.len() < 2 && verdict.unwrap_or(origins == &[OURS][..]);
            (fetch_site, origins, ours)
        })
    })
}

fn headers_of(fetch_site: Option<&str>, origins: &[&str]) -> Vec<String> {
    let origins = origins.iter().map(|origin| format!("origin: {origin}"));
    origins.chain(fetch_site.map(|value| format!("sec-fetch-site: {value}"))).collect()
}

/// An application behind the CSRF checks, and alice's browser.
#[derive(Clone)]
struct Site {
    address: SocketAddr,
    entries: Arc<AtomicU64>,
    cookie: String,
    /// What it is, the values that are sent, and whether they are good.
    tokens: Vec<(&'static str, Vec<String>, bool)>,
}

impl Site {
    async fn new(world: &World, csrf: Csrf) -> Self {
        let (address, entries) = guarded(&world.manager, csrf).await;
        let token =
            async |browser: &mut Browser| browser.visit(async |session| session.csrf_token().unwrap()).await.value;
        let mut alice = world.browser();
        let before_sign_in = token(&mut alice).await;
        alice.visit(async |session| session.login("alice").unwrap()).await;
        let before_renewal = token(&mut alice).await;
        alice.visit(async |session| session.renew().unwrap()).await;
        let (right, again) = (token(&mut alice).await, token(&mut alice).await);
        let foreign = token(&mut world.signed_in("alice").await).await;
        let mut doubled = URL_SAFE_NO_PAD.decode(&right).unwrap();
        let secret = doubled.len() - 32;
        doubled[secret..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        doubled[secret - 32..secret].fill(0x5a);
        let tokens = vec![
            ("absent", vec![], false),
            ("empty", vec![String::new()], false),
            ("short", vec![right[..right.len() - 2].to_owned()], false),
            ("long", vec![format!("{right}AA")], false),
            ("another session's", vec![foreign], false),
            ("from before the sign-in", vec![before_sign_in], false),
            ("from before a renewal", vec![before_renewal], false),
            ("masked twice", vec![URL_SAFE_NO_PAD.encode(doubled)], false),
            ("repeated", vec![right.clone(), "x".to_owned()], false),
            ("right", vec![right], true),
            ("another rendering", vec![again], true),
        ];
        Self { address, entries, cookie: format!("__Host-id={}", alice.token()), tokens }
    }

    /// The same application, for another browser.
    fn with_cookie(&self, cookie: &str) -> Self {
        Self { cookie: cookie.to_owned(), ..self.clone() }
    }

    fn entered(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    fn right(&self) -> &str {
        &self.tokens.iter().find(|(what, ..)| *what == "right").unwrap().1[0]
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[String],
        carrier: Carrier,
        tokens: &[String],
    ) -> (u16, String) {
        let (mut headers, mut path, mut body) = (headers.to_vec(), path.to_owned(), String::new());
        let fields = || tokens.iter().map(|token| format!("csrf_token={token}")).collect::<Vec<_>>();
        match carrier {
            Carrier::Header => headers.extend(tokens.iter().map(|token| format!("x-csrf-token: {token}"))),
            Carrier::Form => {
                headers.push("content-type: application/x-www-form-urlencoded".to_owned());
                body = [vec!["article=7".to_owned()], fields()].concat().join("&");
            }
            Carrier::Multipart => {
                headers.push("content-type: multipart/form-data; boundary=b".to_owned());
                let part = |token: &String| {
                    format!("--b\r\ncontent-disposition: form-data; name=\"csrf_token\"\r\n\r\n{token}\r\n")
                };
                body = tokens.iter().map(part).collect::<String>() + "--b--\r\n";
            }
            Carrier::Json => {
                headers.push("content-type: application/json".to_owned());
                body = tokens.first().map_or("{}".to_owned(), |token| format!("{{\"csrf_token\":\"{token}\"}}"));
            }
            Carrier::Query => path = format!("{path}?{}&x-csrf-token={}", fields().join("&"), tokens.join("")),
            Carrier::Cookie => headers.extend(fields().iter().map(|field| format!("cookie: {field}"))),
        }
        self.raw(method, &path, &headers, &body).await
    }

    /// Status and body of the response.
    async fn raw(&self, method: &str, path: &str, headers: &[String], body: &str) -> (u16, String) {
        self.raw_as(false, method, path, headers, body).await
    }

    /// The same, with a body whose length nobody knows before its end.
    async fn raw_as(&self, chunked: bool, method: &str, path: &str, headers: &[String], body: &str) -> (u16, String) {
        let headers: String = headers.iter().map(|line| format!("{line}\r\n")).collect();
        let cookie = if self.cookie.is_empty() { String::new() } else { format!("cookie: {}\r\n", self.cookie) };
        let body = match chunked {
            false => format!("content-length: {}\r\n\r\n{body}", body.len()),
            true => {
                let chunks = body.as_bytes().chunks(10_000).map(|chunk| String::from_utf8_lossy(chunk));
                let chunks: String = chunks.map(|chunk| format!("{:x}\r\n{chunk}\r\n", chunk.len())).collect();
                format!("transfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
            }
        };
        let request =
            format!("{method} {path} HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n{cookie}{headers}{body}");
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        // A server that refuses may hang up before it has read everything.
        let sent = stream.write_all(request.as_bytes()).await;
        let mut response = String::new();
        let read = stream.read_to_string(&mut response).await;
        assert!(response.starts_with("HTTP/1.1 "), "{method} {path}: {sent:?} {read:?} {response}");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 403 {
            assert!(
                head.contains("cache-control: no-store") && head.contains("vary: Sec-Fetch-Site, Origin"),
                "{head}"
            );
            assert_eq!(body, "");
        }
        (status, body.to_owned())
    }
}
