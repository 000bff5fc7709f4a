//! A connection that is replaced when it is lost.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::connection::{Connection, Greeting};
use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use super::sentinels::Sentinels;
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
    Primary(Box<Sentinels>),
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
            Place::Primary(sentinels) => self.connect_to_primary(sentinels).await,
        }
    }

    /// During a failover the Sentinels go on naming the old primary for a while: they are asked
    /// again until they name one that says itself that it is, or the time is up.
    async fn connect_to_primary(&self, sentinels: &Sentinels) -> Result<Connection, RedisOpenError> {
        // A server that does not answer must not cost the time in which another takes over.
        let patience = (self.connect_timeout / 4).max(Duration::from_millis(250));
        let started = Instant::now();
        for failures in 0.. {
            let candidates = sentinels.candidates(patience).await;
            let candidates = candidates.map_err(|error| error.unwrap_or_else(|| self.too_slow()))?;
            let error = match self.try_each(&candidates.believed, patience).await {
                Ok(connection) => return Ok(connection),
                Err(error) => candidates.explain(error),
            };
            let pause = pause(failures, Lane::LONGEST_PAUSE);
            if !passes(&error) || started.elapsed() + pause + patience >= self.connect_timeout {
                return Err(error);
            }
            sleep(pause).await;
        }
        Err(self.too_slow())
    }

    async fn try_each(&self, candidates: &[Endpoint], patience: Duration) -> Result<Connection, RedisOpenError> {
        let mut error = None;
        for candidate in candidates {
            let cause = match timeout(patience, Connection::open(candidate, &self.greeting)).await {
                Ok(Ok(connection)) => return Ok(connection),
                Ok(Err(cause)) => cause,
                Err(_) => silent(candidate),
            };
            error = error.filter(|error| passes(error) || !passes(&cause)).or(Some(cause));
        }
        Err(error.unwrap_or_else(|| {
            let message = "no Sentinel that answers has heard of the last failover yet";
            RedisOpenError::new(RedisOpenErrorKind::Unreachable, self, message)
        }))
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
            Place::Primary(sentinels) => sentinels.fmt(f),
        }
    }
}

/// Whether it is what a failover that is under way looks like.
fn passes(error: &RedisOpenError) -> bool {
    matches!(error.kind(), RedisOpenErrorKind::NotPrimary | RedisOpenErrorKind::Unreachable)
}

fn silent(endpoint: &Endpoint) -> RedisOpenError {
    RedisOpenError::new(RedisOpenErrorKind::Unreachable, endpoint, "the server takes connections and does not answer")
}
