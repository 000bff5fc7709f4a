//! A running shop, and visitors who keep cookies and fill in forms as browsers do.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use cloakroom::{Cloakroom, Config, Sources};
pub(crate) use cloakroom_demo::Framework;
use cloakroom_demo::Options;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONTENT_TYPE, COOKIE, LOCATION, ORIGIN, SET_COOKIE, USER_AGENT};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Where sessions are kept: everything that the demo can be told in one variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Memory,
    Sqlite,
    Cookie,
}

impl Keeping {
    pub(crate) const ALL: [Self; 3] = [Self::Memory, Self::Sqlite, Self::Cookie];

    fn sources(self, directory: &Path) -> Sources {
        let store = match self {
            Self::Memory => "memory",
            Self::Sqlite => "sqlite:sessions.db",
            Self::Cookie => "cookie",
        };
        Sources::new()
            .in_directory(directory)
            .with_default("danger_insecure_cookie_for_localhost", "true")
            .with_variable("CLOAKROOM_STORE", store)
    }
}

/// Runs each of these tests, `async fn(Framework)`, as `axum::name` and `actix::name`.
macro_rules! on_both_frameworks {
    ($($test:ident),* $(,)?) => {
        $crate::support::on_both_frameworks!(@ axum Axum [$($test)*]);
        $crate::support::on_both_frameworks!(@ actix Actix [$($test)*]);
    };
    (@ $module:ident $framework:ident [$($test:ident)*]) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test($crate::support::Framework::$framework).await;
                }
            )*
        }
    };
}
pub(crate) use on_both_frameworks;

/// A shop on a port of its own.
pub(crate) struct Shop {
    pub(crate) url: String,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Cloakroom>,
}

impl Shop {
    /// Opens a shop that keeps its files in this directory.
    pub(crate) async fn open(framework: Framework, keeping: Keeping, directory: &Path) -> Self {
        let config = Config::load(&keeping.sources(directory)).unwrap();
        Self::with(framework, Cloakroom::from_config(config).await.unwrap(), Options::default()).await
    }

    pub(crate) async fn with(framework: Framework, sessions: Cloakroom, options: Options) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let options = Options { origins: vec![url.clone()], ..options };
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(async move {
            framework.serve(listener, &sessions, options, async { drop(stopped.await) }).await.unwrap();
            sessions
        });
        Self { url, stop, served }
    }

    /// Ends as the program does: lets requests finish, then writes what waits.
    pub(crate) async fn close(self) {
        self.stop.send(()).unwrap();
        self.served.await.unwrap().close().await;
    }

    pub(crate) fn visitor(&self) -> Visitor {
        Visitor::of(&self.url)
    }
}

/// Somebody with a browser, reduced to what matters here. Clones share the cookies, as tabs do.
#[derive(Clone)]
pub(crate) struct Visitor {
    client: Client<HttpConnector, Full<Bytes>>,
    pub(crate) url: String,
    cookie: Arc<Mutex<Option<String>>>,
    pub(crate) user_agent: &'static str,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Visitor {
    pub(crate) fn of(url: &str) -> Self {
        Self {
            // A connection for each request: a shop that closes waits for those that are open.
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http(),
            url: url.to_owned(),
            cookie: Arc::default(),
            user_agent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
        }
    }

    pub(crate) fn cookie(&self) -> Option<String> {
        self.cookie.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_cookie(&self, cookie: Option<String>) {
        *self.cookie.lock().unwrap_or_else(PoisonError::into_inner) = cookie;
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, HeaderMap::new(), String::new()).await
    }

    /// Sends a form from one of the shop's own pages.
    pub(crate) async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(ORIGIN, self.url.parse().unwrap());
        self.post_with(path, headers, fields).await
    }

    pub(crate) async fn post_with(&self, path: &str, mut headers: HeaderMap, fields: &[(&str, &str)]) -> Answer {
        headers.insert(CONTENT_TYPE, "application/x-www-form-urlencoded".parse().unwrap());
        let fields: Vec<_> = fields.iter().map(|(name, value)| format!("{name}={}", percent_encoded(value))).collect();
        self.send(Method::POST, path, headers, fields.join("&")).await
    }

    /// Opens a page, and sends the form there with its token.
    pub(crate) async fn submit(&self, page: &str, path: &str, fields: &[(&str, &str)]) -> Answer {
        let token = self.get(page).await.token();
        let mut fields = fields.to_vec();
        fields.extend(token.as_deref().map(|token| ("csrf_token", token)));
        self.post(path, &fields).await
    }

    async fn send(&self, method: Method, path: &str, headers: HeaderMap, body: String) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        request.headers_mut().unwrap().extend(headers);
        request = request.header(USER_AGENT, self.user_agent);
        if let Some(cookie) = self.cookie() {
            request = request.header(COOKIE, cookie);
        }
        let response = self.client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let (parts, body) = response.into_parts();
        for line in parts.headers.get_all(SET_COOKIE) {
            let line = line.to_str().unwrap();
            let pair = line.split(';').next().unwrap_or_default();
            self.set_cookie((!line.contains("Max-Age=0")).then(|| pair.to_owned()));
        }
        let body = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    /// Signs in with the code that the page shows in place of an e-mail.
    pub(crate) async fn sign_in(&self, email: &str) -> Answer {
        self.sign_in_with(&[("email", email)]).await
    }

    pub(crate) async fn sign_in_with(&self, fields: &[(&str, &str)]) -> Answer {
        let sent = self.submit("/sign-in", "/sign-in", fields).await;
        assert_eq!(sent.location(), Some("/sign-in/code"), "{}", sent.body);
        let code = self.get("/sign-in/code").await.code();
        self.submit("/sign-in/code", "/sign-in/code", &[("code", &code)]).await
    }

    pub(crate) async fn add(&self, article: &str) -> Answer {
        self.submit("/", "/cart", &[("article", article), ("change", "add")]).await
    }

    /// How many articles the cart shows.
    pub(crate) async fn cart_count(&self) -> u64 {
        self.get("/").await.text_after("id=\"count\">").map_or(0, |count| count.parse().unwrap())
    }

    pub(crate) async fn is_signed_in(&self) -> bool {
        self.get("/account").await.status == StatusCode::OK
    }
}

impl Answer {
    pub(crate) fn location(&self) -> Option<&str> {
        self.headers.get(LOCATION).map(|location| location.to_str().unwrap())
    }

    /// The text that follows this mark, up to the next tag or quote.
    pub(crate) fn text_after(&self, mark: &str) -> Option<&str> {
        let (_, rest) = self.body.split_once(mark)?;
        rest.split(['<', '"']).next()
    }

    /// The token that the page's forms carry, if they do.
    pub(crate) fn token(&self) -> Option<String> {
        self.text_after("name=\"csrf_token\" value=\"").map(str::to_owned)
    }

    pub(crate) fn code(&self) -> String {
        self.text_after("id=\"the-code\">").unwrap().to_owned()
    }

    /// The names of the sessions that the account page lists, and whether each is the one that asks.
    pub(crate) fn devices(&self) -> Vec<(String, bool)> {
        let items = self.body.split("<li class=\"card").skip(1);
        items
            .map(|item| {
                let (_, rest) = item.split_once("data-handle=\"").unwrap();
                (rest.split('"').next().unwrap().to_owned(), item.contains("This device"))
            })
            .collect()
    }
}

fn percent_encoded(value: &str) -> String {
    let encode = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.bytes().map(encode).collect()
}

/// Sends a signal to a process, or with a minus to a process group. The standard library cannot.
pub(crate) fn signal(name: &str, process: &str) {
    let kill = ["-c", "kill -s \"$0\" -- \"$1\"", name, process];
    // Where this fails it is gone already, and a test that panics has enough to say.
    drop(std::process::Command::new("sh").args(kill).stderr(std::process::Stdio::null()).status());
}
