use std::sync::{Arc, Mutex};

use cloakroom_core::{Client, Exchange, Manager, Outcome, Session, SessionErrorKind};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::apps::{HANDLED, Refused, VISIT, address, announce, last_failure};

/// A browser with a cookie jar. It checks every `Set-Cookie` that it is sent, as real ones do and more.
#[derive(Clone)]
pub(crate) struct Browser {
    manager: Arc<Manager>,
    jar: Option<String>,
    max_age: Option<u64>,
    issued: Arc<Mutex<Vec<String>>>,
}

/// A request whose handler is the test: through the adapter that the test runs with, over a socket.
pub(crate) struct Request {
    pub(crate) session: Session,
    way: Mutex<Option<Way>>,
}

enum Way {
    /// For tests that go through no adapter.
    Core(Exchange),
    Wire {
        end: oneshot::Sender<Outcome>,
        connection: TcpStream,
    },
}

/// What the response says.
#[derive(Debug, Default)]
pub(crate) struct Finish {
    pub(crate) set_cookie: Option<String>,
    pub(crate) vary_cookie: bool,
    pub(crate) no_store: bool,
    pub(crate) warning: Option<String>,
    /// Why the handler's response did not leave.
    pub(crate) error: Option<Failure>,
}

/// A commit that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: SessionErrorKind,
    status: u16,
}

/// How a request went.
pub(crate) struct Reply<R> {
    /// What the handler returned.
    pub(crate) value: R,
    pub(crate) finish: Finish,
}

pub(crate) const OK: Outcome = Outcome::Answered { status: 200, public: false };

impl Browser {
    pub(crate) fn new(manager: Arc<Manager>, issued: Arc<Mutex<Vec<String>>>) -> Self {
        Self { manager, jar: None, max_age: None, issued }
    }

    /// The token in the jar.
    pub(crate) fn token(&self) -> &str {
        self.jar.as_deref().expect("the browser has no cookie")
    }

    pub(crate) fn has_cookie(&self) -> bool {
        self.jar.is_some()
    }

    /// The `Max-Age` of the cookie in the jar.
    pub(crate) fn max_age(&self) -> Option<u64> {
        self.max_age
    }

    /// Puts a cookie into the jar, as somebody would who got hold of one.
    pub(crate) fn plant(&mut self, token: impl Into<String>) {
        self.jar = Some(token.into());
    }

    /// The same jar, talking to another process of the service.
    pub(crate) fn at(&self, manager: &Arc<Manager>) -> Self {
        Self { manager: manager.clone(), ..self.clone() }
    }

    /// Sends a request, runs the handler and takes in the response.
    pub(crate) async fn visit<R>(&mut self, handler: impl AsyncFnOnce(&Session) -> R) -> Reply<R> {
        let request = self.request().await;
        let value = handler(&request.session).await;
        let finish = request.finish().await;
        self.receive(&finish);
        Reply { value, finish }
    }

    /// The same, with a response of this outcome.
    pub(crate) async fn visit_ending<R>(
        &mut self,
        outcome: Outcome,
        handler: impl AsyncFnOnce(&Session) -> R,
    ) -> Reply<R> {
        let request = self.request().await;
        let value = handler(&request.session).await;
        let finish = request.finish_with(outcome).await;
        self.receive(&finish);
        Reply { value, finish }
    }

    /// A request whose session was loaded and whose handler goes on.
    pub(crate) async fn request(&self) -> Request {
        self.try_request().await.unwrap()
    }

    pub(crate) async fn try_request(&self) -> Result<Request, Refused> {
        let cookie = self.cookie_header();
        Request::open(&self.manager, cookie.iter().map(String::as_bytes)).await
    }

    fn cookie_header(&self) -> Option<String> {
        self.jar.as_ref().map(|token| format!("theme=dark; {}={token}", self.manager.cookie_name().unwrap()))
    }

    /// Takes a response's cookie into the jar.
    pub(crate) fn receive(&mut self, finish: &Finish) {
        let Some(header) = &finish.set_cookie else { return };
        assert!(finish.vary_cookie && finish.no_store, "a response with a cookie must not be cached");
        let (name, value) = check_attributes(header, self.manager.cookie_name().unwrap());
        assert!(name.len() + value.len() <= 4096, "browsers drop a cookie of {} bytes", name.len() + value.len());
        if value.is_empty() {
            assert!(header.ends_with("; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"), "{header}");
            (self.jar, self.max_age) = (None, None);
            return;
        }
        self.max_age = header.split_once("; Max-Age=").map(|(_, age)| age.parse().unwrap());
        assert!(self.max_age.is_none_or(|age| age > 0 && age <= 400 * 24 * 60 * 60), "{header}");
        self.jar = Some(value.to_owned());
        self.issued.lock().unwrap().push(value.to_owned());
    }
}

/// Name and value of a `Set-Cookie`, whose attributes are those of the default settings.
fn check_attributes<'a>(header: &'a str, expected_name: &str) -> (&'a str, &'a str) {
    let (pair, attributes) = header.split_once("; ").unwrap();
    let (name, value) = pair.split_once('=').unwrap();
    assert_eq!(name, expected_name);
    assert!(value.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'), "{value}");
    if name.starts_with("__Host-") {
        assert!(attributes.starts_with("Path=/; Secure; HttpOnly; SameSite=Lax"), "{attributes}");
        assert!(!attributes.contains("Domain"), "{attributes}");
    }
    (name, value)
}

/// The token that a response hands out.
pub(crate) fn token_of(finish: &Finish) -> Option<&str> {
    let (pair, _) = finish.set_cookie.as_deref()?.split_once(';')?;
    let (_, value) = pair.split_once('=')?;
    (!value.is_empty()).then_some(value)
}

impl Request {
    pub(crate) async fn open<'a>(
        manager: &Arc<Manager>,
        cookies: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Self, Refused> {
        let cookies: Vec<&[u8]> = cookies.collect();
        // Servers take the space off the ends, and the core must not need them to.
        let trimmed = cookies.iter().any(|cookie| cookie.trim_ascii() != *cookie);
        let address = address(manager).await.filter(|_| !trimmed);
        let Some(address) = address else { return Self::in_core(manager, &cookies).await };
        let (number, visit) = announce();
        let mut request =
            format!("GET /visit HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{VISIT}: {number}\r\n")
                .into_bytes();
        request.extend(b"user-agent: Browser/1.0\r\n");
        for cookie in &cookies {
            request.extend([b"cookie: ", *cookie, b"\r\n"].concat());
        }
        request.extend(b"\r\n");
        let mut connection = TcpStream::connect(address).await.unwrap();
        let sent = connection.write_all(&request).await;
        tokio::select! {
            biased;
            visit = visit => match visit.unwrap() {
                Ok((session, end)) => {
                    let way = Mutex::new(Some(Way::Wire { end, connection }));
                    Ok(Self { session, way })
                }
                Err(refused) => {
                    let finish = receive(connection, Expected::Refusal(&refused)).await;
                    assert!(finish.vary_cookie && finish.no_store && finish.set_cookie.is_none());
                    Err(refused)
                }
            },
            _ = connection.readable() => {
                // Not HTTP: the server answers by itself, or hangs up. The core must stand it all the same.
                assert!(sent.is_err() || !cookies.iter().all(|cookie| is_transportable(cookie)), "{cookies:?}");
                Self::in_core(manager, &cookies).await
            }
        }
    }

    /// Past the adapter.
    pub(crate) async fn in_core(manager: &Arc<Manager>, cookies: &[&[u8]]) -> Result<Self, Refused> {
        let exchange = Exchange::new(manager.clone());
        let client = || Client::new(Some("Browser/1.0"), None);
        let session = exchange.session(cookies.iter().copied(), client).await.map_err(|error| Refused::from(&error))?;
        Ok(Self { session, way: Mutex::new(Some(Way::Core(exchange))) })
    }

    pub(crate) async fn finish(&self) -> Finish {
        self.finish_with(OK).await
    }

    /// Ends the handler so, and takes in the response.
    pub(crate) async fn finish_with(&self, outcome: Outcome) -> Finish {
        let way = self.way.lock().unwrap().take().expect("a request ends once");
        match way {
            Way::Core(exchange) => exchange.finish(outcome).await.into(),
            Way::Wire { end, connection } => {
                assert!(end.send(outcome).is_ok(), "the handler was dropped");
                let expected = if outcome == Outcome::Lost { Expected::Nothing } else { Expected::Response };
                receive(connection, expected).await
            }
        }
    }
}

/// Whether HTTP can carry it and servers take it.
fn is_transportable(header: &[u8]) -> bool {
    header.len() <= 64 * 1024 && header.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
}

enum Expected<'a> {
    Response,
    /// The handler got no session.
    Refusal(&'a Refused),
    /// The handler panicked.
    Nothing,
}

/// Reads the response to its end.
async fn receive(mut connection: TcpStream, expected: Expected<'_>) -> Finish {
    let mut response = Vec::new();
    connection.read_to_end(&mut response).await.unwrap();
    let response = String::from_utf8(response).unwrap();
    if matches!(expected, Expected::Nothing) {
        assert_eq!(response, "");
        return Finish::default();
    }
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let (status, fields) = head.split_once("\r\n").unwrap();
    let fields: Vec<(&str, &str)> = fields.lines().map(|line| line.split_once(": ").unwrap_or((line, ""))).collect();
    let only = |name: &str| {
        let mut values = fields.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value);
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice");
        value
    };
    let status = status.split(' ').nth(1).unwrap().parse().unwrap();
    // Headers without a value may come with or without the space behind the colon.
    let handled = fields.iter().any(|(name, _)| name.trim_end_matches(':') == HANDLED);
    assert_eq!(body, "", "the handler has no body and an error tells nothing");
    assert!(only("vary").is_none_or(|vary| vary == "Cookie"));
    Finish {
        set_cookie: only("set-cookie").map(str::to_owned),
        vary_cookie: only("vary").is_some(),
        no_store: only("cache-control") == Some("no-store"),
        warning: only("x-session-warning").map(str::to_owned),
        error: (!handled).then(|| match expected {
            Expected::Refusal(refused) => {
                assert_eq!(refused.status(), status);
                Failure { kind: refused.kind(), status }
            }
            Expected::Response | Expected::Nothing => Failure { kind: last_failure(), status },
        }),
    }
}

impl From<cloakroom_core::Finish> for Finish {
    fn from(finish: cloakroom_core::Finish) -> Self {
        let cloakroom_core::Finish { set: set_cookie, vary: vary_cookie, no_store, warning, challenge: _, error } =
            finish;
        let error = error.map(|error| Failure { kind: error.kind(), status: error.status() });
        Self { set_cookie, vary_cookie, no_store, warning: warning.map(str::to_owned), error }
    }
}

impl Failure {
    pub(crate) const fn kind(&self) -> SessionErrorKind {
        self.kind
    }

    pub(crate) const fn status(&self) -> u16 {
        self.status
    }
}

impl<R> Reply<R> {
    /// Whether the response removes the cookie.
    pub(crate) fn clears_cookie(&self) -> bool {
        self.finish.set_cookie.is_some() && self.token().is_none()
    }

    /// The token that the response hands out.
    pub(crate) fn token(&self) -> Option<&str> {
        token_of(&self.finish)
    }

    pub(crate) fn error(&self) -> Option<SessionErrorKind> {
        self.finish.error.as_ref().map(Failure::kind)
    }
}
