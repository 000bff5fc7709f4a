//! One server: the connections to it, and what its answers say about them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use redis::{Pipeline, Value};
use tokio::time::{Instant, timeout_at};

use super::connection::Connection;
use super::lane::{Lane, Route};
use super::open_error::RedisOpenError;
use super::subscription::Subscription;
use crate::fault::{Fault, Reaction};
use crate::options::RedisDurability;

/// The most that the server takes for a time to wait for replicas.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// A server, with a connection for what is answered at once, and one for writes that wait for
/// replicas: `WAIT` stops whatever comes behind it on its connection.
pub(super) struct Node {
    route: Arc<Route>,
    prompt: Lane,
    acked: Lane,
    timeout: Duration,
    durability: RedisDurability,
}

/// What each command of a packet was answered.
pub(crate) type Answers = Vec<Result<Value, Fault>>;

impl Node {
    pub(super) fn new(route: Arc<Route>, timeout: Duration, durability: RedisDurability) -> Self {
        let (prompt, acked) = (Lane::new(Arc::clone(&route)), Lane::new(Arc::clone(&route)));
        Self { route, prompt, acked, timeout, durability }
    }

    /// A connection of the kind for reads.
    pub(super) async fn connection(&self, deadline: Instant) -> Result<Arc<Connection>, RedisOpenError> {
        self.prompt.connection(deadline).await
    }

    /// Where the server is by now that holds the keys, listened to over a connection of its own.
    pub(super) async fn subscribe(&self, channel: &str, deadline: Instant) -> Result<Subscription, RedisOpenError> {
        let endpoint = self.connection(deadline).await?.endpoint().clone();
        match timeout_at(deadline, Subscription::open(&endpoint, &self.route.greeting, channel)).await {
            Ok(subscription) => subscription,
            Err(_) => Err(self.route.too_slow()),
        }
    }

    pub(super) fn live(&self) -> Option<Arc<Connection>> {
        self.prompt.live()
    }

    pub(super) fn close(&self) {
        self.prompt.close();
        self.acked.close();
    }

    /// Trades one packet that only reads, over this connection and no other.
    pub(super) async fn ask_over(&self, connection: &Arc<Connection>, packet: &mut Pipeline) -> Result<Answers, Fault> {
        let answers = connection.exchange(packet, 0, self.timeout).await;
        let answers = answers.inspect_err(|_| self.prompt.forget(connection))?;
        Ok(answers.into_iter().map(said).collect())
    }

    /// Trades one packet. An error is that of all its commands.
    pub(super) async fn exchange(
        &self,
        packet: &mut Pipeline,
        writes: bool,
        deadline: Instant,
    ) -> Result<Answers, Fault> {
        let acked = match self.durability {
            RedisDurability::Acked { replicas, timeout } if writes => Some((replicas, timeout)),
            RedisDurability::Acked { .. } | RedisDurability::Async => None,
        };
        let lane = if acked.is_some() { &self.acked } else { &self.prompt };
        let connection = lane.connection(deadline).await.map_err(|error| error.to_fault())?;
        let (mut patience, commands) = (self.timeout, if writes { packet.len() } else { 0 });
        if let Some((replicas, timeout)) = acked {
            let millis = u64::try_from(timeout.min(LONGEST_WAIT).as_millis()).unwrap_or(u64::MAX);
            packet.cmd("WAIT").arg(replicas).arg(millis);
            patience = patience.saturating_add(timeout);
        }
        let mut answers = match connection.exchange(packet, commands, patience).await {
            Ok(answers) => answers,
            Err(fault) => {
                lane.forget(&connection);
                return Err(fault);
            }
        };
        let acknowledged = acked.map(|(replicas, timeout)| too_few(answers.pop(), replicas, timeout));
        let answers: Answers = answers
            .into_iter()
            .map(|answer| match (said(answer), &acknowledged) {
                // The call may have written nothing; but if it did, a failover may undo it.
                (Ok(_), Some(Some(fault))) => Err(fault.clone()),
                (answer, _) => answer,
            })
            .collect();
        let demoted = |answer: &Result<Value, Fault>| {
            answer.as_ref().is_err_and(|fault| *fault.reaction() == Reaction::Rediscover)
        };
        if answers.iter().any(demoted) {
            // Found anew, as another server may be the primary by now.
            self.close();
        }
        Ok(answers)
    }
}

fn said(answer: Value) -> Result<Value, Fault> {
    if let Value::ServerError(error) = answer { Err(Fault::from_server(&error)) } else { Ok(answer) }
}

/// What the answer to `WAIT` says against the writes before it.
fn too_few(answer: Option<Value>, wanted: u32, timeout: Duration) -> Option<Fault> {
    match answer {
        Some(Value::Int(acknowledged)) if acknowledged >= i64::from(wanted) => None,
        Some(Value::Int(acknowledged)) => Some(Fault::unacknowledged(acknowledged, wanted, timeout)),
        Some(Value::ServerError(error)) => Some(Fault::unacknowledgeable(&error)),
        Some(_) | None => Some(Fault::wrong_answer("WAIT")),
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.route.fmt(f)
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({self})")
    }
}
