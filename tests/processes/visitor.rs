//! A user with a browser, reduced to what matters here.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::balancer::UNKNOWN;
use crate::fleet::ORIGIN;

/// Clones are tabs that were opened later.
#[derive(Clone)]
pub(crate) struct Visitor {
    shop: SocketAddr,
    pub(crate) name: String,
    cookie: Option<String>,
    csrf: String,
}

/// What became of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    Acknowledged,
    /// The process died over it.
    Unknown,
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Visitor {
    pub(crate) fn new(shop: SocketAddr, name: String) -> Self {
        Self { shop, name, cookie: None, csrf: String::new() }
    }

    /// The same browser, asking this process and no other.
    pub(crate) fn at(&self, process: SocketAddr) -> Self {
        Self { shop: process, ..self.clone() }
    }

    /// Signs in with the code that the page shows.
    pub(crate) async fn sign_in(&mut self) {
        let email = format!("email={}%40example.org", self.name);
        let sent = self.post("/sign-in", &email).await;
        assert_eq!(sent.status, 303, "{}", sent.body);
        let page = self.get("/sign-in/code").await;
        let (code, csrf) =
            (page.after("id=\"the-code\">").replace(' ', ""), page.after("name=\"csrf_token\" value=\""));
        let entered = self.post("/sign-in/code", &format!("code={code}&csrf_token={csrf}")).await;
        assert_eq!(entered.status, 303, "{}", entered.body);
        self.csrf = self.get("/").await.after("name=\"csrf_token\" value=\"");
    }

    /// Puts one article into the cart.
    pub(crate) async fn add(&mut self) -> Sent {
        let answer = self.post("/cart", &format!("article=umbrella&change=add&csrf_token={}", self.csrf)).await;
        match answer.status {
            303 => Sent::Acknowledged,
            UNKNOWN => Sent::Unknown,
            status => panic!("{} could not add to the cart: {status} {}", self.name, answer.body),
        }
    }

    /// How many articles are in the cart. `None` if the process died over it.
    pub(crate) async fn count(&mut self) -> Option<u64> {
        let answer = self.get("/").await;
        if answer.status == UNKNOWN {
            return None;
        }
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body.contains(&format!("{}@example.org", self.name)), "{} is signed out", self.name);
        let (_, count) = answer.body.split_once("id=\"count\">").unwrap_or(("", "0"));
        Some(count.split('<').next().unwrap().parse().unwrap())
    }

    pub(crate) async fn is_signed_in(&mut self) -> bool {
        match self.get("/account").await.status {
            200 => true,
            303 => false,
            status => panic!("{status}"),
        }
    }

    pub(crate) async fn sign_out(&mut self) {
        let answer = self.post("/sign-out", &format!("csrf_token={}", self.csrf)).await;
        assert_eq!(answer.status, 303, "{}", answer.body);
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "").await
    }

    async fn post(&mut self, path: &str, body: &str) -> Answer {
        self.send("POST", path, body).await
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) -> Answer {
        let cookie = self.cookie.as_ref().map_or(String::new(), |cookie| format!("cookie: {cookie}\r\n"));
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: shop.test\r\norigin: {ORIGIN}\r\nconnection: close\r\n{cookie}\
             content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let mut stream = TcpStream::connect(self.shop).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let answer = Answer { status, head: head.to_owned(), body: body.to_owned() };
        for line in answer.head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")) {
            let pair = line.split(';').next().unwrap();
            self.cookie = (!line.contains("Max-Age=0")).then(|| pair.to_owned());
        }
        answer
    }
}

impl Answer {
    /// The text that follows this mark, up to the next tag or quote.
    fn after(&self, mark: &str) -> String {
        let (_, rest) = self.body.split_once(mark).unwrap_or_else(|| panic!("no {mark} in {}", self.body));
        rest.split(['<', '"']).next().unwrap().to_owned()
    }
}
