use std::sync::{Arc, Mutex};

use cloakroom_core::{Client, Exchange, Finish, Manager, Outcome, Session, SessionError, SessionErrorKind};

/// A browser with a cookie jar. It checks every `Set-Cookie` that it is sent, as real ones do and more.
#[derive(Clone)]
pub(crate) struct Browser {
    manager: Arc<Manager>,
    jar: Option<String>,
    max_age: Option<u64>,
    issued: Arc<Mutex<Vec<String>>>,
}

/// A request that is under way.
pub(crate) struct Request {
    pub(crate) session: Session,
    exchange: Exchange,
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

    pub(crate) async fn try_request(&self) -> Result<Request, SessionError> {
        let cookie = self.cookie_header();
        Request::open(&self.manager, cookie.iter().map(String::as_bytes)).await
    }

    fn cookie_header(&self) -> Option<String> {
        self.jar.as_ref().map(|token| format!("theme=dark; {}={token}", self.manager.cookie_name()))
    }

    /// Takes a response's cookie into the jar.
    pub(crate) fn receive(&mut self, finish: &Finish) {
        let Some(header) = &finish.set_cookie else { return };
        assert!(finish.vary_cookie && finish.no_store, "a response with a cookie must not be cached");
        let (name, value) = check_attributes(header, self.manager.cookie_name());
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
    ) -> Result<Self, SessionError> {
        let exchange = Exchange::new(manager.clone());
        let client = || Client::new(Some("Browser/1.0"), None);
        let session = exchange.session(cookies, client).await?;
        Ok(Self { session, exchange })
    }

    pub(crate) async fn finish(&self) -> Finish {
        self.finish_with(OK).await
    }

    pub(crate) async fn finish_with(&self, outcome: Outcome) -> Finish {
        self.exchange.finish(outcome).await
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
        self.finish.error.as_ref().map(SessionError::kind)
    }
}
