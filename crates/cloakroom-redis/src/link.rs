//! The way to the servers: which one to ask, and the connections to it.
//!
//! A call goes out in one packet and is sent a second time only where it was surely not done: where
//! nothing of it left, or the server said so, or where it only reads. A write that may have been
//! done and was not answered is reported as of unknown outcome.

mod cluster;
mod connection;
mod held;
mod lane;
mod node;
mod open_error;
mod sentinels;
mod subscription;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cloakroom_core::Verb;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::cluster::Cluster;
use self::connection::{Greeting, Mode};
use self::lane::{Place, Route};
use self::node::Node;
use self::sentinels::Sentinels;
use crate::fault::{Fault, Reaction};
use crate::options::{RedisDurability, RedisOptions, Target};

/// No call waits longer for a server, whatever is configured.
const LONGEST_PATIENCE: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) use self::held::{Held, Layout};
pub(crate) use self::lane::pause;
pub(crate) use self::node::Answers;
pub use self::open_error::{RedisOpenError, RedisOpenErrorKind};
pub(crate) use self::subscription::Subscription;

/// The connections to a server, to the primary of a service, or to a cluster. Clones share them.
#[derive(Clone)]
pub(crate) struct Link(Arc<Inner>);

struct Inner {
    name: String,
    topology: Topology,
    connect_timeout: Duration,
    durability: RedisDurability,
    closed: AtomicBool,
}

enum Topology {
    One(Arc<Node>),
    Cluster(Arc<Cluster>),
}

/// A server that holds keys.
#[derive(Clone)]
pub(crate) struct Primary(Arc<Node>);

impl Link {
    /// Connects to the primary, or to every primary of a cluster.
    pub(crate) async fn open(options: &RedisOptions) -> Result<Self, RedisOpenError> {
        let name = options.target.to_string();
        let tls = options.tls.as_ref().map(tls::client_config).transpose();
        let tls = tls.map_err(|fault| RedisOpenError::from_fault(RedisOpenErrorKind::File, &name, &fault))?;
        let greeting = |mode| Greeting {
            tls: tls.clone(),
            username: options.username.clone(),
            password: options.password.clone(),
            client_name: options.client_name.clone(),
            database: options.database,
            mode,
            primary: true,
        };
        let one = |place| {
            let connect_timeout = options.connect_timeout;
            let route = Arc::new(Route { place, greeting: greeting(Mode::Standalone), connect_timeout });
            Topology::One(Arc::new(Node::new(route, options.timeout, options.durability)))
        };
        let topology = match &options.target {
            Target::Standalone(endpoint) => one(Place::Fixed(endpoint.clone())),
            Target::Sentinel { sentinels, service } => {
                let to_sentinel = Greeting {
                    username: options.sentinel_username.clone(),
                    password: options.sentinel_password.clone(),
                    database: 0,
                    primary: false,
                    ..greeting(Mode::Sentinel)
                };
                let sentinels = Sentinels::new(service.clone(), sentinels.clone(), to_sentinel);
                one(Place::Primary(Box::new(sentinels)))
            }
            Target::Cluster { seeds } => Topology::Cluster(Arc::new(Cluster::new(
                seeds.clone(),
                greeting(Mode::Cluster),
                options.connect_timeout,
                options.timeout,
                options.durability,
            ))),
        };
        let (connect_timeout, durability) = (options.connect_timeout, options.durability);
        let link =
            Self(Arc::new(Inner { name, topology, connect_timeout, durability, closed: AtomicBool::new(false) }));
        link.connect().await?;
        Ok(link)
    }

    async fn connect(&self) -> Result<(), RedisOpenError> {
        let deadline = self.deadline();
        match &self.0.topology {
            Topology::One(node) => node.connection(deadline).await.map(drop),
            Topology::Cluster(cluster) => {
                cluster.refresh(cluster.version()).await?;
                let primaries = cluster.primaries();
                for connected in join_all(primaries.iter().map(|node| node.connection(deadline))).await {
                    connected?;
                }
                Ok(())
            }
        }
    }

    pub(crate) fn is_cluster(&self) -> bool {
        matches!(self.0.topology, Topology::Cluster(_))
    }

    pub(crate) fn durability(&self) -> RedisDurability {
        self.0.durability
    }

    /// One packet to the node that holds this key; what each command was answered, in their order.
    ///
    /// Every command stands for itself: in a cluster that is being changed some may be answered by
    /// another node than the rest, and later. An error is that of all commands.
    pub(crate) async fn send(&self, key: &[u8], packet: Pipeline, verb: Verb) -> Result<Answers, Fault> {
        self.check_open()?;
        match &self.0.topology {
            Topology::One(node) => self.send_to_one(node, packet, verb.writes()).await,
            Topology::Cluster(cluster) => self.send_to_cluster(cluster, key, packet, verb.writes()).await,
        }
    }

    /// Every server that holds keys.
    pub(crate) async fn primaries(&self) -> Result<Vec<Primary>, Fault> {
        self.check_open()?;
        match &self.0.topology {
            Topology::One(node) => Ok(vec![Primary(Arc::clone(node))]),
            Topology::Cluster(cluster) => {
                cluster.refresh(cluster.version()).await.map_err(|error| error.to_fault())?;
                Ok(cluster.primaries().into_iter().map(Primary).collect())
            }
        }
    }

    /// Holds on to this server, for what may not be asked of another one in the middle.
    pub(crate) async fn hold(&self, primary: &Primary) -> Result<Held, Fault> {
        self.check_open()?;
        let connection = primary.0.connection(self.deadline()).await.map_err(|error| error.to_fault())?;
        Ok(Held::new(Arc::clone(&primary.0), connection))
    }

    /// Who holds which slots, by the nodes themselves.
    pub(crate) async fn layout(&self) -> Result<Layout, Fault> {
        self.check_open()?;
        let Topology::Cluster(cluster) = &self.0.topology else { return Ok(Layout::of_one()) };
        let mut told = Vec::new();
        for primary in self.primaries().await? {
            let mut packet = Pipeline::with_capacity(1);
            packet.cmd("CLUSTER").arg("NODES");
            let mut answers = self.hold(&primary).await?.ask(&mut packet).await?;
            told.push(answers.pop().unwrap_or_else(|| Err(Fault::wrong_answer("CLUSTER NODES")))?);
        }
        let told: Option<Vec<_>> = told.iter().map(connection::text).collect();
        let layout = told.and_then(Layout::read).ok_or_else(|| Fault::wrong_answer("CLUSTER NODES"))?;
        // Else somebody else has some of them, whom the node that drew the map had not heard of.
        if layout.held_slots() == cluster.owned_slots() { Ok(layout) } else { Err(Fault::unsteady()) }
    }

    /// One packet to this server, wherever the keys are.
    pub(crate) async fn send_to(&self, primary: &Primary, packet: Pipeline, verb: Verb) -> Result<Answers, Fault> {
        self.check_open()?;
        self.send_to_one(&primary.0, packet, verb.writes()).await
    }

    /// What this server calls itself, with its version.
    pub(crate) async fn server_name(&self, primary: &Primary) -> Result<String, Fault> {
        let connection = primary.0.connection(self.deadline()).await.map_err(|error| error.to_fault())?;
        Ok(connection.hello().server_name())
    }

    /// Listens to a channel, at one of the servers: each tells what was said at any.
    pub(crate) async fn subscribe(&self, channel: &str) -> Result<Subscription, RedisOpenError> {
        if self.check_open().is_err() {
            return Err(RedisOpenError::new(RedisOpenErrorKind::Unreachable, self, "the store is closed"));
        }
        let deadline = self.deadline();
        let node = match &self.0.topology {
            Topology::One(node) => Arc::clone(node),
            Topology::Cluster(cluster) => {
                let mut primaries = cluster.primaries();
                let chosen = lane::chance().checked_rem(primaries.len() as u64).unwrap_or(0);
                match primaries.len() {
                    0 => return Err(RedisOpenError::new(RedisOpenErrorKind::Unreachable, self, "no node is known")),
                    _ => primaries.swap_remove(chosen as usize),
                }
            }
        };
        node.subscribe(channel, deadline).await
    }

    /// Gives all connections up; each closes when what is under way on it is answered. A later call fails.
    pub(crate) fn close(&self) {
        self.0.closed.store(true, Ordering::Release);
        match &self.0.topology {
            Topology::One(node) => node.close(),
            Topology::Cluster(cluster) => cluster.close(),
        }
    }

    fn check_open(&self) -> Result<(), Fault> {
        if self.0.closed.load(Ordering::Acquire) { Err(Fault::closed()) } else { Ok(()) }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.connect_timeout.min(LONGEST_PATIENCE)
    }

    /// Sends once more, and over a new connection, what was surely not done or only reads.
    async fn send_to_one(&self, node: &Node, packet: Pipeline, writes: bool) -> Result<Answers, Fault> {
        let deadline = self.deadline();
        let count = packet.len();
        let mut packet = packet;
        let mut answers = match node.exchange(&mut packet, writes, deadline).await {
            Ok(answers) => answers,
            Err(fault) if *fault.reaction() == Reaction::Resend || !writes && *fault.reaction() == Reaction::Reread => {
                return node.exchange(&mut some(&packet, 0..count), writes, deadline).await;
            }
            Err(fault) => return Err(fault),
        };
        let demoted: Vec<usize> = (0..answers.len())
            .filter(|place| answers[*place].as_ref().is_err_and(|fault| *fault.reaction() == Reaction::Rediscover))
            .collect();
        if !demoted.is_empty() {
            match node.exchange(&mut some(&packet, demoted.iter().copied()), writes, deadline).await {
                Ok(second) => demoted.into_iter().zip(second).for_each(|(place, answer)| answers[place] = answer),
                Err(fault) => demoted.into_iter().for_each(|place| answers[place] = Err(fault.clone())),
            }
        }
        Ok(answers)
    }

    /// Follows redirections, and waits out moves and failovers, as long as connecting may take.
    async fn send_to_cluster(
        &self,
        cluster: &Arc<Cluster>,
        key: &[u8],
        packet: Pipeline,
        writes: bool,
    ) -> Result<Answers, Fault> {
        let deadline = self.deadline();
        let slot = cluster::slot(key);
        let count = packet.len();
        let mut first = Some(packet.clone());
        let mut answers: Vec<Option<Result<Value, Fault>>> = vec![None; count];
        let mut errands = vec![Errand { to: None, asking: false, places: (0..count).collect() }];
        for round in 0_u32.. {
            let mut sent = Vec::with_capacity(errands.len());
            for Errand { to, asking, places } in errands {
                let to = match to {
                    Some(node) => node,
                    None => timeout_at(deadline, owner(cluster, slot)).await.unwrap_or_else(|_| {
                        Err(Fault::unreachable("no node of the cluster told in time who holds the session", None))
                    })?,
                };
                let mut packet = match first.take() {
                    Some(whole) => whole,
                    None if asking => asking_for(&packet, &places),
                    None => some(&packet, places.iter().copied()),
                };
                // A node that does not answer must not cost the time in which another takes over.
                let connected_by = Instant::now() + (deadline - Instant::now()) / 2;
                sent.push(async move {
                    let answers = to.exchange(&mut packet, writes, connected_by).await;
                    let answers = if asking { answers.map(every_second) } else { answers };
                    (to, places, answers)
                });
            }
            let seen = cluster.version();
            let (mut next, mut waits, mut rediscover) = (Vec::new(), false, false);
            let mut put_off = None;
            for (from, places, result) in join_all(sent).await {
                let results = match result {
                    Ok(results) => results,
                    Err(fault) => {
                        // It may be gone, and another in its place.
                        cluster.refresh_in_background();
                        vec![Err(fault); places.len()]
                    }
                };
                for (place, result) in places.into_iter().zip(results) {
                    let Err(fault) = result else {
                        answers[place] = Some(result);
                        continue;
                    };
                    let (to, asking) = match fault.reaction() {
                        Reaction::Reread if !writes => (None, false),
                        Reaction::None | Reaction::LoadScript | Reaction::Reread => {
                            answers[place] = Some(Err(fault));
                            continue;
                        }
                        Reaction::Moved { slot, to } => {
                            (Some(cluster.moved(*slot, cluster.endpoint_of(to, &from))), false)
                        }
                        Reaction::Ask { to } => (Some(cluster.node(cluster.endpoint_of(to, &from))), true),
                        Reaction::Wait => {
                            waits = true;
                            (None, false)
                        }
                        Reaction::Resend => (None, false),
                        Reaction::Rediscover => {
                            rediscover = true;
                            (None, false)
                        }
                    };
                    answers[place] = Some(Err(fault.clone()));
                    put_off = Some(fault);
                    add(&mut next, to, asking, place);
                }
            }
            let Some(fault) = put_off else { break };
            // Two nodes that send a call back and forth agree in a moment.
            let pause = match round {
                0..=2 if !waits && !rediscover => Duration::ZERO,
                _ => pause(round, Duration::from_millis(100)),
            };
            let again = Instant::now() + pause;
            let closed = self.check_open().err();
            if closed.is_some() || again >= deadline {
                let fault = closed.unwrap_or_else(|| fault.put_off(self.0.connect_timeout));
                for place in next.into_iter().flat_map(|errand: Errand| errand.places) {
                    answers[place] = Some(Err(fault.clone()));
                }
                break;
            }
            if !pause.is_zero() {
                sleep_until(again).await;
            }
            let refreshed = async {
                match timeout_at(deadline, cluster.refresh(seen)).await {
                    Ok(refreshed) => refreshed.map_err(|error| error.to_fault()),
                    Err(_) => Err(fault.put_off(self.0.connect_timeout)),
                }
            };
            if rediscover && let Err(fault) = refreshed.await {
                return match answers.iter().all(|answer| matches!(answer, Some(Err(_)))) && count == next.len() {
                    true => Err(fault),
                    false => finish(answers),
                };
            }
            errands = next;
        }
        finish(answers)
    }
}

/// Some of the commands of a packet, on their way.
struct Errand {
    /// `None`: to the owner of the key.
    to: Option<Arc<Node>>,
    asking: bool,
    places: Vec<usize>,
}

fn add(errands: &mut Vec<Errand>, to: Option<Arc<Node>>, asking: bool, place: usize) {
    let same = |node: &Option<Arc<Node>>| match (node, &to) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    match errands.iter_mut().find(|errand| errand.asking == asking && same(&errand.to)) {
        Some(errand) => errand.places.push(place),
        None => errands.push(Errand { to, asking, places: vec![place] }),
    }
}

async fn owner(cluster: &Cluster, slot: u16) -> Result<Arc<Node>, Fault> {
    if let Some(node) = cluster.owner(slot) {
        return Ok(node);
    }
    cluster.refresh(cluster.version()).await.map_err(|error| error.to_fault())?;
    cluster.owner(slot).ok_or_else(|| {
        let message = "a part of the cluster has no node at the moment (CLUSTER SLOTS lists them): is it being set up?";
        Fault::unreachable(message, None)
    })
}

fn finish(answers: Vec<Option<Result<Value, Fault>>>) -> Result<Answers, Fault> {
    Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(Fault::wrong_answer("a packet")))).collect())
}

/// These commands of a packet.
fn some(packet: &Pipeline, places: impl IntoIterator<Item = usize>) -> Pipeline {
    let commands: Vec<&Cmd> = packet.cmd_iter().collect();
    let mut part = Pipeline::new();
    for command in places.into_iter().filter_map(|place| commands.get(place)) {
        part.add_command((*command).clone());
    }
    part
}

/// These commands, each behind an `ASKING`, which holds for one.
fn asking_for(packet: &Pipeline, places: &[usize]) -> Pipeline {
    let mut part = Pipeline::new();
    for command in some(packet, places.iter().copied()).cmd_iter() {
        part.cmd("ASKING");
        part.add_command(command.clone());
    }
    part
}

fn every_second(answers: Answers) -> Answers {
    answers.into_iter().skip(1).step_by(2).collect()
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Link").field(&self.0.name).finish()
    }
}

/// Where the servers are, as in the URL.
impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name)
    }
}

impl fmt::Display for Primary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
