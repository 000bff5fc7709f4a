//! Which node of a cluster holds what.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{Pipeline, Value};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::connection::{Connection, Greeting, text};
use super::lane::{Place, Route};
use super::node::Node;
use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use crate::fault::{Fault, Redirect};
use crate::options::{Endpoint, RedisDurability};

/// How many slots every cluster has.
const SLOTS: u16 = 16384;

/// The nodes, and who holds which slot as far as is known.
///
/// What is known may be old at any time: a node that is asked for what it does not hold says so,
/// and nothing happens. So a map that is wrong costs a detour and nothing else.
pub(super) struct Cluster {
    seeds: Vec<Endpoint>,
    greeting: Greeting,
    connect_timeout: Duration,
    timeout: Duration,
    durability: RedisDurability,
    map: RwLock<Map>,
    /// Held by whoever asks for the map, so that many who miss something ask once.
    asking: Mutex<()>,
    in_background: AtomicBool,
}

struct Map {
    /// Primaries, and nodes that were one.
    nodes: Vec<(Endpoint, Arc<Node>)>,
    /// For each slot the place of its node, or `NOBODY`.
    owners: Box<[u16]>,
    version: u64,
}

const NOBODY: u16 = u16::MAX;

impl Cluster {
    pub(super) fn new(
        seeds: Vec<Endpoint>,
        greeting: Greeting,
        connect_timeout: Duration,
        timeout: Duration,
        durability: RedisDurability,
    ) -> Self {
        let owners = vec![NOBODY; usize::from(SLOTS)].into_boxed_slice();
        Self {
            seeds,
            greeting,
            connect_timeout,
            timeout,
            durability,
            map: RwLock::new(Map { nodes: Vec::new(), owners, version: 0 }),
            asking: Mutex::new(()),
            in_background: AtomicBool::new(false),
        }
    }

    pub(super) fn owner(&self, slot: u16) -> Option<Arc<Node>> {
        self.read(|map| {
            let place = *map.owners.get(usize::from(slot))?;
            map.nodes.get(usize::from(place)).map(|(_, node)| Arc::clone(node))
        })
    }

    /// Those that hold slots.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        self.read(|map| {
            let holds = |place: usize| map.owners.iter().any(|owner| usize::from(*owner) == place);
            map.nodes
                .iter()
                .enumerate()
                .filter(|(place, _)| holds(*place))
                .map(|(_, (_, node))| Arc::clone(node))
                .collect()
        })
    }

    /// How many slots somebody holds.
    pub(super) fn owned_slots(&self) -> usize {
        self.read(|map| map.owners.iter().filter(|owner| **owner != NOBODY).count())
    }

    pub(super) fn version(&self) -> u64 {
        self.read(|map| map.version)
    }

    pub(super) fn close(&self) {
        self.read(|map| map.nodes.iter().for_each(|(_, node)| node.close()));
    }

    /// A node told that another holds this slot.
    pub(super) fn moved(self: &Arc<Self>, slot: u16, endpoint: Endpoint) -> Arc<Node> {
        let node = self.write(|map| {
            let place = self.place(map, endpoint);
            if let Some(owner) = map.owners.get_mut(usize::from(slot)) {
                *owner = u16::try_from(place).unwrap_or(NOBODY);
            }
            Arc::clone(&map.nodes[place].1)
        });
        // Mostly not the only slot that moved.
        self.refresh_in_background();
        node
    }

    pub(super) fn refresh_in_background(self: &Arc<Self>) {
        if self.in_background.swap(true, Ordering::AcqRel) {
            return;
        }
        let done = Done(Arc::clone(self));
        tokio::spawn(async move {
            let cluster = &done.0;
            if let Err(error) = cluster.refresh(cluster.version()).await {
                tracing::debug!(%error, "the map of the Redis Cluster could not be renewed");
            }
        });
    }

    /// The node of a redirection.
    pub(super) fn node(&self, endpoint: Endpoint) -> Arc<Node> {
        self.write(|map| {
            let place = self.place(map, endpoint);
            Arc::clone(&map.nodes[place].1)
        })
    }

    /// Where a redirection leads, which may name no host: it is that of the node which said it.
    pub(super) fn endpoint_of(&self, redirect: &Redirect, said_by: &Node) -> Endpoint {
        let host = redirect.host.clone().or_else(|| {
            self.read(|map| {
                let (endpoint, _) = map.nodes.iter().find(|(_, node)| std::ptr::eq(&**node, said_by))?;
                host_of(endpoint)
            })
        });
        let host = host.or_else(|| self.seeds.first().and_then(host_of)).unwrap_or_default();
        Endpoint::Tcp { host, port: redirect.port }
    }

    /// Asks for the map, unless that happened since this version of it.
    pub(super) async fn refresh(&self, seen: u64) -> Result<(), RedisOpenError> {
        let _turn = self.asking.lock().await;
        if self.version() != seen {
            return Ok(());
        }
        let ranges = match timeout(self.connect_timeout, self.ask_any()).await {
            Ok(ranges) => ranges?,
            Err(_) => {
                let message = format!("no node of the cluster answered within {:?}", self.connect_timeout);
                return Err(RedisOpenError::new(RedisOpenErrorKind::Unreachable, self.seed_list(), message));
            }
        };
        self.write(|map| {
            map.owners.fill(NOBODY);
            for Range { first, last, owner } in ranges {
                let place = u16::try_from(self.place(map, owner)).unwrap_or(NOBODY);
                if let Some(owners) = map.owners.get_mut(usize::from(first)..=usize::from(last)) {
                    owners.fill(place);
                }
            }
            // Nodes that left would be asked for the map in vain for ever.
            let mut kept: Vec<u16> = Vec::with_capacity(map.nodes.len());
            let mut next = 0;
            for place in 0..map.nodes.len() {
                let used = map.owners.iter().any(|owner| usize::from(*owner) == place);
                kept.push(if used { next } else { NOBODY });
                next += u16::from(used);
            }
            for owner in &mut map.owners {
                *owner = kept.get(usize::from(*owner)).copied().unwrap_or(NOBODY);
            }
            let mut place = 0;
            map.nodes.retain(|_| {
                place += 1;
                kept[place - 1] != NOBODY
            });
            map.version += 1;
        });
        Ok(())
    }

    fn place(&self, map: &mut Map, endpoint: Endpoint) -> usize {
        if let Some(place) = map.nodes.iter().position(|(other, _)| *other == endpoint) {
            return place;
        }
        let route = Arc::new(Route {
            place: Place::Fixed(endpoint.clone()),
            greeting: self.greeting.clone(),
            connect_timeout: self.connect_timeout,
        });
        map.nodes.push((endpoint, Arc::new(Node::new(route, self.timeout, self.durability))));
        map.nodes.len() - 1
    }

    /// The first good answer of any node that is known.
    async fn ask_any(&self) -> Result<Vec<Range>, RedisOpenError> {
        let mut known: Vec<(Endpoint, Option<Arc<Connection>>)> =
            self.read(|map| map.nodes.iter().map(|(endpoint, node)| (endpoint.clone(), node.live())).collect());
        for seed in &self.seeds {
            if !known.iter().any(|(endpoint, _)| endpoint == seed) {
                known.push((seed.clone(), None));
            }
        }
        let greeting = Greeting { primary: false, ..self.greeting.clone() };
        let mut asked: FuturesUnordered<_> =
            known.iter().map(|(endpoint, live)| ask(endpoint, live.clone(), &greeting)).collect();
        let mut error = None;
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(ranges) => return Ok(ranges),
                Err(cause) => error = Some(cause),
            }
        }
        Err(error.unwrap_or_else(|| {
            RedisOpenError::new(RedisOpenErrorKind::Unreachable, self.seed_list(), "no node of the cluster is known")
        }))
    }

    fn seed_list(&self) -> String {
        self.seeds.iter().map(Endpoint::to_string).collect::<Vec<_>>().join(",")
    }

    fn read<T>(&self, look: impl FnOnce(&Map) -> T) -> T {
        look(&self.map.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut Map) -> T) -> T {
        change(&mut self.map.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Says that the task in the background has ended, also when its runtime did.
struct Done(Arc<Cluster>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.in_background.store(false, Ordering::Release);
    }
}

fn host_of(endpoint: &Endpoint) -> Option<String> {
    match endpoint {
        Endpoint::Tcp { host, .. } => Some(host.clone()),
        Endpoint::Unix(_) => None,
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Range {
    first: u16,
    last: u16,
    owner: Endpoint,
}

async fn ask(
    endpoint: &Endpoint,
    live: Option<Arc<Connection>>,
    greeting: &Greeting,
) -> Result<Vec<Range>, RedisOpenError> {
    let connection = match live {
        Some(connection) => connection,
        None => Arc::new(Connection::open(endpoint, greeting).await?),
    };
    let mut packet = Pipeline::new();
    packet.cmd("CLUSTER").arg("SLOTS");
    let fault = |fault: &Fault| RedisOpenError::from_fault(RedisOpenErrorKind::Refused, endpoint, fault);
    // The caller bounds the time.
    let answers = connection.exchange(&mut packet, 0, Duration::from_secs(60)).await.map_err(|error| fault(&error))?;
    match answers.first() {
        Some(Value::ServerError(error)) => Err(RedisOpenError::refused(endpoint, error)),
        Some(value) => match ranges(value, endpoint) {
            Some(ranges) if ranges.is_empty() => Err(RedisOpenError::new(
                RedisOpenErrorKind::Refused,
                endpoint,
                "the cluster has no slots: it was not set up (redis-cli --cluster create), or this node is no part of it",
            )),
            Some(ranges) => Ok(ranges),
            None => Err(fault(&Fault::wrong_answer("CLUSTER SLOTS"))),
        },
        None => Err(fault(&Fault::wrong_answer("CLUSTER SLOTS"))),
    }
}

/// `[first, last, [host, port, …], …]`, the first node being the primary.
fn ranges(value: &Value, asked: &Endpoint) -> Option<Vec<Range>> {
    let Value::Array(entries) = value else { return None };
    let range = |entry: &Value| {
        let Value::Array(parts) = entry else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = parts.as_slice() else { return None };
        let [host, Value::Int(port), ..] = primary.as_slice() else { return None };
        let host = if *host == Value::Nil { "" } else { text(host)? };
        // A node that does not know its own name leaves it to the client.
        let host = if host.is_empty() || host == "?" { host_of(asked)? } else { host.to_owned() };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        let port = u16::try_from(*port).ok()?;
        (first <= last && last < SLOTS).then_some(Range { first, last, owner: Endpoint::Tcp { host, port } })
    };
    entries.iter().map(range).collect()
}

/// The slot of a key: what stands in its first braces counts, if anything does.
pub(super) fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let inside = &key[open + 1..];
        let close = inside.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &inside[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| crc << 8 ^ CRC16[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16: [u16; 256] = {
    let mut table = [0_u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // From `CLUSTER KEYSLOT`.
        for (key, expected) in
            [("foo", 12182), ("{user1000}.following", 3443), ("foo{}{bar}", 8363), ("foo{{bar}}zap", 4015)]
        {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
        assert_eq!(slot(b"foo{bar}{zap}"), slot(b"bar"));
        assert_eq!(slot(b"foo{bar"), crc16(b"foo{bar") % SLOTS);
    }

    #[test]
    fn a_map_of_another_shape_is_none() {
        let asked = Endpoint::Tcp { host: "seed".to_owned(), port: 1 };
        let node = |host| Value::Array(vec![host, Value::Int(7)]);
        let entry = |first, last, node| Value::Array(vec![Value::Int(first), Value::Int(last), node]);
        let good = Value::Array(vec![entry(0, 9, node(Value::Nil))]);
        let owner = Endpoint::Tcp { host: "seed".to_owned(), port: 7 };
        assert_eq!(ranges(&good, &asked), Some(vec![Range { first: 0, last: 9, owner }]));
        for bad in [
            entry(9, 0, node(Value::Nil)),
            entry(0, 16384, node(Value::Nil)),
            entry(-1, 0, node(Value::Nil)),
            entry(0, 1, node(Value::Int(1))),
            entry(0, 1, Value::Nil),
            Value::Nil,
        ] {
            assert_eq!(ranges(&Value::Array(vec![bad]), &asked), None);
        }
    }
}
