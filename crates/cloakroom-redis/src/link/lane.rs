//! A connection that is replaced when it is lost.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{Pipeline, Value};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::connection::{Connection, Greeting, Mode, text};
use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use crate::fault::Fault;
use crate::options::Endpoint;

/// One connection to a server, made by the first call that needs it and by whoever finds it lost.
///
/// However many calls wait, one attempt runs at a time, in a task of its own that no dropped call
/// stops. After a failed one the next waits a little, longer each time up to a quarter of a second;
/// calls wait with it, and fail when it does.
pub(super) struct Lane {
    route: Arc<Route>,
    state: Arc<Mutex<State>>,
}

/// How to get to a server.
pub(super) struct Route {
    pub(super) place: Place,
    pub(super) greeting: Greeting,
    pub(super) connect_timeout: Duration,
}

pub(super) enum Place {
    Fixed(Endpoint),
    /// Wherever the Sentinels say that the primary is.
    Primary {
        service: String,
        sentinels: Vec<Endpoint>,
        greeting: Box<Greeting>,
    },
}

#[derive(Default)]
struct State {
    connection: Option<Arc<Connection>>,
    attempt: Option<Attempt>,
    failures: u32,
    not_before: Option<Instant>,
}

type Outcome = Result<Arc<Connection>, RedisOpenError>;
type Attempt = watch::Receiver<Option<Outcome>>;

impl Lane {
    const LONGEST_PAUSE: Duration = Duration::from_millis(250);

    pub(super) fn new(route: Arc<Route>) -> Self {
        Self { route, state: Arc::default() }
    }

    /// The connection, made anew if need be. Takes no longer than until the deadline.
    pub(super) async fn connection(&self, deadline: Instant) -> Outcome {
        if let Some(connection) = self.live() {
            return Ok(connection);
        }
        match timeout_at(deadline, self.connect()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.route.too_slow()),
        }
    }

    pub(super) fn live(&self) -> Option<Arc<Connection>> {
        self.lock().connection.as_ref().filter(|connection| !connection.has_ended()).cloned()
    }

    /// The connection is not to be used for new calls. Those under way may still be answered.
    pub(super) fn forget(&self, connection: &Arc<Connection>) {
        let mut state = self.lock();
        if state.connection.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.connection = None;
            state.attempt.take_if(|attempt| attempt.borrow().is_some());
        }
    }

    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.connection = None;
        // What it brought would be kept open by it.
        state.attempt.take_if(|attempt| attempt.borrow().is_some());
    }

    async fn connect(&self) -> Outcome {
        let mut joined = false;
        loop {
            let (mut attempt, mine) = self.attempt();
            let outcome = match attempt.wait_for(Option::is_some).await {
                Ok(outcome) => outcome.clone(),
                // Its task went with the runtime that it ran on.
                Err(_) => continue,
            };
            match outcome {
                Some(Ok(connection)) if !connection.has_ended() || mine => return Ok(connection),
                // What others began before this call says nothing about the server as it is now; what they began
                // since does.
                Some(Err(error)) if mine || joined => return Err(error),
                Some(_) | None => joined = true,
            }
        }
    }

    /// The attempt that runs, or a new one.
    fn attempt(&self) -> (Attempt, bool) {
        let mut state = self.lock();
        if let Some(attempt) = &state.attempt
            && attempt.borrow().is_none()
            && attempt.has_changed().is_ok()
        {
            return (attempt.clone(), false);
        }
        let (outcome, attempt) = watch::channel(None);
        state.attempt = Some(attempt.clone());
        let not_before = state.not_before;
        drop(state);
        let (route, state) = (Arc::clone(&self.route), Arc::clone(&self.state));
        tokio::spawn(async move {
            if let Some(not_before) = not_before {
                sleep_until(not_before).await;
            }
            let result = match timeout(route.connect_timeout, route.connect()).await {
                Ok(result) => result.map(Arc::new),
                Err(_) => Err(route.too_slow()),
            };
            let mut state = lock(&state);
            match &result {
                Ok(connection) => {
                    if state.failures > 0 {
                        tracing::info!(server = %connection.endpoint(), "the session store's Redis is reachable again");
                    }
                    state.connection = Some(Arc::clone(connection));
                    state.failures = 0;
                    state.not_before = None;
                }
                Err(error) => {
                    if state.failures == 0 {
                        tracing::warn!(%error, "the session store's Redis cannot be reached; calls that need it fail");
                    }
                    state.not_before = Some(Instant::now() + pause(state.failures, Self::LONGEST_PAUSE));
                    state.failures = state.failures.saturating_add(1);
                }
            }
            outcome.send_replace(Some(result));
        });
        (attempt, true)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Nothing that holds the lock can fail halfway.
fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Twice as long after each failure, from ten milliseconds up to the longest; between half and all
/// of that, so that many processes do not come back at once.
pub(crate) fn pause(failures: u32, longest: Duration) -> Duration {
    let full = Duration::from_millis(10 << failures.min(10)).min(longest);
    full / 2 + (full / 2).mul_f64((chance() % 1000) as f64 / 1000.0)
}

/// Any number, for what need not be kept from anybody.
pub(super) fn chance() -> u64 {
    RandomState::new().build_hasher().finish()
}

impl Route {
    async fn connect(&self) -> Result<Connection, RedisOpenError> {
        match &self.place {
            Place::Fixed(endpoint) => Connection::open(endpoint, &self.greeting).await,
            Place::Primary { service, sentinels, greeting } => {
                self.connect_to_primary(service, sentinels, greeting).await
            }
        }
    }

    /// During a failover the Sentinels go on naming the old primary for a while: they are asked
    /// again until they name one that says itself that it is, or the time is up.
    async fn connect_to_primary(
        &self,
        service: &str,
        sentinels: &[Endpoint],
        greeting: &Greeting,
    ) -> Result<Connection, RedisOpenError> {
        // A server that does not answer must not cost the time in which another takes over.
        let patience = (self.connect_timeout / 4).max(Duration::from_millis(250));
        let started = Instant::now();
        for failures in 0.. {
            let named = newest(sentinels.iter().map(|sentinel| ask(sentinel, greeting, service)), patience).await;
            let primary = named.map_err(|error| error.unwrap_or_else(|| self.too_slow()))?.primary;
            let error = match timeout(patience, Connection::open(&primary, &self.greeting)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(error)) => error,
                Err(_) => silent(&primary),
            };
            let passes = matches!(error.kind(), RedisOpenErrorKind::NotPrimary | RedisOpenErrorKind::Unreachable);
            let pause = pause(failures, Lane::LONGEST_PAUSE);
            if !passes || started.elapsed() + pause + patience >= self.connect_timeout {
                return Err(error);
            }
            sleep(pause).await;
        }
        Err(self.too_slow())
    }

    pub(super) fn too_slow(&self) -> RedisOpenError {
        let question = match self.greeting.tls {
            Some(_) => "is the host up, does a firewall let this machine through, and does the server speak TLS there?",
            None => "is the host up, and does a firewall let this machine through?",
        };
        let message = format!("no connection came about within {:?}: {question}", self.connect_timeout);
        RedisOpenError::new(RedisOpenErrorKind::Unreachable, self, message)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Fixed(endpoint) => endpoint.fmt(f),
            Place::Primary { service, .. } => write!(f, "{service} (found by its Sentinels)"),
        }
    }
}

fn silent(endpoint: &Endpoint) -> RedisOpenError {
    RedisOpenError::new(RedisOpenErrorKind::Unreachable, endpoint, "the server takes connections and does not answer")
}

/// Where a Sentinel says that the primary is.
struct Named {
    primary: Endpoint,
    /// Goes up with every failover. 0 where the Sentinel's ACL keeps it from us.
    epoch: u64,
}

/// The answer that knows of most failovers.
///
/// A primary that died and came back empty says that it is one, and so does a Sentinel that has not heard of the
/// failover. What most of them know is not missed, as most are heard, if so many answer in time.
async fn newest(
    asked: impl Iterator<Item = impl Future<Output = Result<Named, RedisOpenError>>>,
    patience: Duration,
) -> Result<Named, Option<RedisOpenError>> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let most = asked.len() / 2 + 1;
    let deadline = Instant::now() + patience;
    let (mut heard, mut newest, mut error) = (0, None::<Named>, None);
    while heard < most
        && let Ok(Some(answer)) = timeout_at(deadline, asked.next()).await
    {
        match answer {
            Ok(named) => {
                heard += 1;
                newest = newest.filter(|newest| newest.epoch >= named.epoch).or(Some(named));
            }
            Err(cause) => error = error.or(Some(cause)),
        }
    }
    newest.ok_or(error)
}

/// Asks this Sentinel.
async fn ask(sentinel: &Endpoint, greeting: &Greeting, service: &str) -> Result<Named, RedisOpenError> {
    debug_assert_eq!(greeting.mode, Mode::Sentinel);
    let connection = Connection::open(sentinel, greeting).await?;
    let mut packet = Pipeline::new();
    packet.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(service);
    packet.cmd("SENTINEL").arg("MASTER").arg(service);
    let fault = |fault: &Fault| RedisOpenError::from_fault(RedisOpenErrorKind::Refused, sentinel, fault);
    let wrong = || fault(&Fault::wrong_answer("SENTINEL GET-MASTER-ADDR-BY-NAME"));
    let answers = connection.exchange(&mut packet, 0, Duration::from_secs(60)).await.map_err(|error| fault(&error))?;
    let [address, state] = answers.as_slice() else { return Err(wrong()) };
    if let Value::ServerError(error) = address {
        return Err(RedisOpenError::refused(sentinel, error));
    }
    if *address == Value::Nil {
        let message =
            "the Sentinel does not watch the service that the URL names (`SENTINEL MASTERS` lists those it does)";
        return Err(RedisOpenError::new(RedisOpenErrorKind::UnknownService, sentinel, message));
    }
    let Value::Array(parts) = address else { return Err(wrong()) };
    let [host, port] = parts.as_slice() else { return Err(wrong()) };
    let host = text(host).filter(|host| !host.is_empty());
    let port = text(port).and_then(|port| port.parse().ok());
    let (Some(host), Some(port)) = (host, port) else { return Err(wrong()) };
    let primary = Endpoint::Tcp { host: host.to_owned(), port };
    Ok(Named { primary, epoch: config_epoch(state).unwrap_or_default() })
}

fn config_epoch(state: &Value) -> Option<u64> {
    let Value::Map(fields) = state else { return None };
    let (_, epoch) = fields.iter().find(|(name, _)| text(name) == Some("config-epoch"))?;
    text(epoch)?.parse().ok()
}
