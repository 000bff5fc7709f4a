//! A browser's way through an application, over real sockets.

use std::net::SocketAddr;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::apps::{Adapter, admin_cookie, with_admins};
use crate::setup::{World, on_every_backend, on_every_store};

/// Serves the application, and gives its address.
async fn serve(world: &World) -> SocketAddr {
    let admins = world.builder().cookie(admin_cookie()).build().unwrap();
    with_admins(&world.manager, &admins).await
}

/// An HTTP client with a cookie jar.
#[derive(Clone)]
struct Client {
    address: SocketAddr,
    jar: Vec<(String, String)>,
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        let mut values =
            self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    }
}

impl Client {
    const fn new(address: SocketAddr) -> Self {
        Self { address, jar: Vec::new() }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "", "").await
    }

    async fn post(&mut self, path: &str) -> Answer {
        self.send("POST", path, "", "").await
    }

    async fn send(&mut self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let cookies: String = self.jar.iter().map(|(name, value)| format!("cookie: {name}={value}\r\n")).collect();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{cookies}{headers}content-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        let (head, body) = response.split_once("\r\n\r\n").unwrap_or_default();
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).map_or(0, |status| status.parse().unwrap());
        let headers: Vec<_> = lines
            .map(|line| line.split_once(": ").unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for (_, cookie) in headers.iter().filter(|(name, _)| name == "set-cookie") {
            self.receive(cookie);
        }
        Answer { status, headers, body: body.to_owned() }
    }

    fn receive(&mut self, cookie: &str) {
        let (pair, attributes) = cookie.split_once("; ").unwrap();
        let (name, value) = pair.split_once('=').unwrap();
        assert!(attributes.starts_with("Path=/; Secure; HttpOnly; SameSite=Lax"), "{cookie}");
        self.jar.retain(|(known, _)| known != name);
        if !value.is_empty() {
            self.jar.push((name.to_owned(), value.to_owned()));
        }
    }

    fn cookie_header(&self) -> String {
        let pairs: Vec<_> = self.jar.iter().map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("; ")
    }

    fn token(&self) -> &str {
        &self.jar.iter().find(|(name, _)| name == "__Host-id").unwrap().1
    }
}

/// A shared cache in front of the application, as RFC 9111 allows one and no more polite: whatever
/// may be kept is kept, without a word about how long, and is served until a form is sent there.
struct SharedCache {
    kept: Vec<Kept>,
    hits: Vec<String>,
}

struct Kept {
    path: String,
    /// What the kept response varies on, and what its request said there.
    vary: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: String,
}

impl SharedCache {
    const fn new() -> Self {
        Self { kept: Vec::new(), hits: Vec::new() }
    }

    async fn get(&mut self, client: &mut Client, path: &str) -> String {
        let request = client.cookie_header();
        let said = |field: &str| if field == "cookie" { request.clone() } else { String::new() };
        let fits = |kept: &&Kept| kept.path == path && kept.vary.iter().all(|(field, value)| said(field) == *value);
        if let Some(kept) = self.kept.iter().find(fits) {
            self.hits.push(path.to_owned());
            // A cache hands on every header that it keeps, cookies too.
            kept.headers.iter().filter(|(name, _)| name == "set-cookie").for_each(|(_, cookie)| client.receive(cookie));
            return kept.body.clone();
        }
        let Answer { status, headers, body } = client.get(path).await;
        let directives = list(&headers, "cache-control");
        let vary = list(&headers, "vary");
        let forbidden =
            directives.iter().any(|directive| ["no-store", "private", "no-cache"].contains(&directive.as_str()));
        if status == 200 && !forbidden && !vary.iter().any(|field| field == "*") {
            let vary = vary.into_iter().map(|field| (field.clone(), said(&field))).collect();
            self.kept.push(Kept { path: path.to_owned(), vary, headers, body: body.clone() });
        }
        body
    }

    async fn post(&mut self, client: &mut Client, path: &str) {
        assert_eq!(client.post(path).await.status, 200, "{path}");
        // What is kept for the address that the form went to, or for one above it, is out of date.
        self.kept.retain(|kept| !path.starts_with(&kept.path));
    }
}

/// The members of a list header, in lower case.
fn list(headers: &[(String, String)], name: &str) -> Vec<String> {
    let lines = headers.iter().filter(|(known, _)| known == name);
    lines.flat_map(|(_, line)| line.split(',')).map(|member| member.trim().to_ascii_lowercase()).collect()
}

on_every_backend!(
    two_people_behind_one_shared_cache_never_see_each_others_page,
    a_visitor_fills_a_cart_signs_in_and_signs_out_everywhere,
    what_a_request_did_to_the_session_shows_in_its_headers,
    a_failed_response_and_a_panic_change_nothing,
    a_flash_is_read_once_and_a_form_is_sent_from_its_own_page,
    two_sessions_in_one_application_do_not_meet,
    a_token_anywhere_but_in_the_cookie_is_ignored,
);

async fn a_visitor_fills_a_cart_signs_in_and_signs_out_everywhere(world: World) {
    let address = serve(&world).await;
    let (mut laptop, mut phone) = (Client::new(address), Client::new(address));
    laptop.post("/cart/1").await;
    assert_eq!(laptop.post("/cart/2").await.body, "[1, 2]");
    let before = laptop.clone();
    assert_eq!(laptop.post("/login/alice").await.status, 200);
    assert_ne!(laptop.token(), before.token());
    assert_eq!(laptop.get("/cart").await.body, "[1, 2]");
    assert_eq!(before.clone().get("/cart").await.body, "[]", "the old token is dead");
    phone.post("/login/alice").await;
    assert_eq!(phone.get("/who").await.body, "alice");
    let copies = [laptop.clone(), phone.clone()];
    assert_eq!(phone.post("/logout-everywhere").await.status, 200);
    assert!(phone.jar.is_empty());
    for mut copy in copies {
        assert_eq!(copy.get("/who").await.body, "nobody");
    }
}

async fn what_a_request_did_to_the_session_shows_in_its_headers(world: World) {
    let mut client = Client::new(serve(&world).await);
    for path in ["/plain", "/lazy"] {
        let answer = client.get(path).await;
        assert_eq!(
            (answer.header("vary"), answer.header("cache-control"), answer.header("set-cookie")),
            (None, None, None),
            "{path}"
        );
    }
    client.post("/login/alice").await;
    for path in ["/cart", "/who", "/handle", "/flash", "/form", "/public"] {
        let answer = client.get(path).await;
        assert_eq!(answer.header("vary").map(str::to_ascii_lowercase).as_deref(), Some("cookie"), "{path}");
        assert_eq!(answer.header("set-cookie"), None, "{path} only reads");
    }
    let answer = client.post("/cart/1").await;
    assert_eq!(answer.header("set-cookie").is_some(), !world.keeps_records());
    let answer = client.post("/remember").await;
    assert!(answer.header("set-cookie").unwrap().contains("; Max-Age=3600"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    world.clock.advance(std::time::Duration::from_secs(120));
    let answer = client.get("/public").await;
    assert_eq!(answer.header("set-cookie"), None, "a public response carries no cookie");
    assert_eq!(answer.header("cache-control"), Some("public, max-age=60"));
}

async fn a_failed_response_and_a_panic_change_nothing(world: World) {
    let mut client = Client::new(serve(&world).await);
    client.post("/cart/7").await;
    assert_eq!(client.post("/fail").await.status, 500);
    assert_eq!(client.get("/cart").await.body, "[7]");
    assert_eq!(client.post("/panic").await.status, 0, "the connection is closed");
    assert_eq!(client.get("/cart").await.body, "[7]");
}

async fn a_flash_is_read_once_and_a_form_is_sent_from_its_own_page(world: World) {
    let address = serve(&world).await;
    let mut client = Client::new(address);
    client.post("/flash").await;
    assert_eq!(client.get("/flash").await.body, "Hello.");
    assert_eq!(client.get("/flash").await.body, "");
    let token = client.get("/form").await.body;
    assert_eq!(client.send("POST", "/form", "", &token).await.status, 200);
    assert_eq!(client.send("POST", "/form", "", "").await.status, 403);
    let mut other = Client::new(address);
    other.get("/form").await;
    assert_eq!(other.send("POST", "/form", "", &token).await.status, 403);
}

async fn two_sessions_in_one_application_do_not_meet(world: World) {
    let mut client = Client::new(serve(&world).await);
    client.post("/login/alice").await;
    client.post("/admin").await;
    assert_eq!(
        (client.get("/who").await.body, client.get("/admin").await.body),
        ("alice".to_owned(), "root".to_owned())
    );
    // Each under the other's name.
    for (name, _) in &mut client.jar {
        *name = if name == "__Host-id" { "__Host-admin".to_owned() } else { "__Host-id".to_owned() };
    }
    assert_eq!(
        (client.get("/who").await.body, client.get("/admin").await.body),
        ("nobody".to_owned(), "nobody".to_owned())
    );
}

async fn a_token_anywhere_but_in_the_cookie_is_ignored(world: World) {
    let address = serve(&world).await;
    let mut alice = Client::new(address);
    alice.post("/login/alice").await;
    let token = alice.token().to_owned();
    let mut thief = Client::new(address);
    // The first request and the ones after it.
    for _ in 0..3 {
        assert_eq!(
            thief.get(&format!("/who?__Host-id={token}&session={token};jsessionid={token}")).await.body,
            "nobody"
        );
        let headers = format!(
            "authorization: Bearer {token}\r\nx-session: {token}\r\n__Host-id: {token}\r\nset-cookie: __Host-id={token}\r\n"
        );
        assert_eq!(thief.send("GET", "/who", &headers, "").await.body, "nobody");
        assert_eq!(thief.send("GET", "/who", "", &format!("__Host-id={token}")).await.body, "nobody");
    }
    assert_eq!(alice.get("/who").await.body, "alice");
}

async fn two_people_behind_one_shared_cache_never_see_each_others_page(world: World) {
    let address = serve(&world).await;
    let mut cache = SharedCache::new();
    let mut people = [("alice", Client::new(address)), ("bob", Client::new(address))];
    let mut stranger = Client::new(address);
    for (n, (name, client)) in people.iter_mut().enumerate() {
        // Strangers first: what they were shown is kept under the very same addresses.
        assert_eq!(cache.get(client, "/who").await, "nobody");
        assert_eq!(cache.get(client, "/cart").await, "[]");
        cache.post(client, &format!("/login/{name}")).await;
        cache.post(client, &format!("/cart/{n}")).await;
    }
    for round in 0..3 {
        let mut forms = Vec::new();
        let mut handles = Vec::new();
        for (n, (name, client)) in people.iter_mut().enumerate() {
            for _ in 0..2 {
                assert_eq!(cache.get(client, "/who").await, *name);
                assert_eq!(cache.get(client, "/cart").await, format!("[{n}]"));
                cache.get(client, "/public").await;
                assert_eq!(cache.get(client, "/plain").await, "plain");
                assert_eq!(cache.get(client, "/lazy").await, "unread");
            }
            forms.push(cache.get(client, "/form").await);
            handles.push(cache.get(client, "/handle").await);
            let who = client.get("/who").await.body;
            assert_eq!(who, *name, "the cookie that a cached page brought is somebody else's");
        }
        assert_ne!(handles[0], handles[1]);
        for (n, (name, client)) in people.iter_mut().enumerate() {
            for (m, form) in forms.iter().enumerate() {
                let status = client.send("POST", "/form", "", form).await.status;
                assert_eq!(status == 200, n == m, "{name}'s form {m}: {status}");
            }
            if round == 0 {
                // The responses after this one hand out cookies again, where sessions are sealed.
                world.clock.advance(std::time::Duration::from_secs(120));
            } else {
                cache.post(client, &format!("/login/{name}")).await;
            }
        }
        assert_eq!(cache.get(&mut stranger, "/who").await, "nobody");
        assert_eq!(cache.get(&mut stranger, "/cart").await, "[]");
    }
    // A form makes a stranger's session: nobody else gets its cookie, or its token.
    let mut other = Client::new(address);
    let forms = (cache.get(&mut stranger, "/form").await, cache.get(&mut other, "/form").await);
    assert_ne!(forms.0, forms.1);
    assert_ne!(stranger.token(), other.token());
    for (_, client) in &mut people {
        cache.post(client, "/logout").await;
        assert_eq!(cache.get(client, "/who").await, "nobody");
        assert_eq!(cache.get(client, "/cart").await, "[]");
    }
    // It is a cache: a page without a session is shared by all, one with a session by one person's requests.
    let hits = |path: &str| cache.hits.iter().filter(|hit| *hit == path).count();
    assert_eq!(hits("/plain"), 2 * 3 * 2 - 1);
    assert!(hits("/who") >= 6, "{:?}", cache.hits);
}

mod stores {
    use super::*;
    on_every_store!(sixty_four_requests_over_sockets_all_land_in_the_cart, one_device_is_ended_from_another,);

    async fn sixty_four_requests_over_sockets_all_land_in_the_cart(world: World) {
        let mut client = Client::new(serve(&world).await);
        client.post("/login/alice").await;
        let mut tabs = vec![client.clone(); 64];
        let requests = tabs.iter_mut().enumerate().map(|(n, tab)| async move { tab.post(&format!("/cart/{n}")).await });
        assert!(join_all(requests).await.iter().all(|answer| answer.status == 200));
        let cart = client.get("/cart").await.body;
        assert_eq!(cart.matches(',').count(), 63, "{cart}");
    }

    async fn one_device_is_ended_from_another(world: World) {
        let address = serve(&world).await;
        let (mut laptop, mut phone) = (Client::new(address), Client::new(address));
        laptop.post("/login/alice").await;
        phone.post("/login/alice").await;
        let handle = phone.get("/handle").await.body;
        let devices = laptop.get("/devices").await.body;
        assert!(devices.lines().count() == 2 && devices.contains(&handle));
        assert_eq!(laptop.post(&format!("/revoke/{handle}")).await.body, "true");
        assert_eq!(phone.get("/who").await.body, "nobody");
        assert_eq!(laptop.get("/who").await.body, "alice");
    }
}

mod self_contained {
    use super::*;
    use crate::setup::{Kind, Stack};

    #[tokio::test]
    async fn a_list_of_devices_is_refused_as_documented() {
        for adapter in [Adapter::Axum, Adapter::Actix] {
            World::run(adapter, Kind::Sealed, Stack::Bare, async |world| {
                let mut client = Client::new(serve(&world).await);
                client.post("/login/alice").await;
                assert_eq!(client.get("/devices").await.status, 500);
            })
            .await;
        }
    }
}
