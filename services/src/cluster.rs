//! Three primaries and three replicas that share the slots.

use std::process::Command;

use crate::error::{Error, Result};
use crate::place::{free_port, password};
use crate::process::{Process, poll};
use crate::programs::{program, run};
use crate::redis::Redis;

/// A Redis Cluster of three primaries with a replica each. A primary that is gone for one and a half
/// seconds is replaced by its replica.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Redis>,
}

/// A node as the cluster sees it.
struct Member<'a> {
    id: String,
    node: &'a Redis,
    is_primary: bool,
    is_failed: bool,
    /// The first and last slot of each range.
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts and joins all six, and returns when every node says that the cluster is up and each
    /// replica is in sync.
    ///
    /// # Errors
    ///
    /// When one is not installed, does not answer or does not join: with the end of its log.
    pub fn start() -> Result<Self> {
        let password = password()?;
        let mut nodes = Vec::new();
        for _ in 0..6 {
            nodes.push(
                Redis::builder()
                    .password(&password)
                    .config("cluster-enabled yes")
                    .config(format!("cluster-port {}", free_port()?))
                    .config("cluster-node-timeout 1500")
                    // The replica takes over however far behind it is; what is lost then is a test's matter.
                    .config("cluster-replica-validity-factor 0")
                    // A primary that gave its last slot away stays one, and gets others later.
                    .config("cluster-allow-replica-migration no")
                    .start()?,
            );
        }
        let cluster = Self { nodes };
        let addresses: Vec<_> = cluster.nodes.iter().map(address).collect();
        let mut words = vec!["create"];
        words.extend(addresses.iter().map(String::as_str));
        cluster.manage(&[&words[..], &["--cluster-replicas", "1"]].concat())?;
        cluster.await_stable()?;
        Ok(cluster)
    }

    /// `redis+cluster://USER:PASSWORD@HOST:PORT,…`, with three of the nodes as seeds.
    #[must_use]
    pub fn url(&self) -> String {
        let seeds: Vec<_> = self.nodes[..3].iter().map(address).collect();
        format!("redis+cluster://default:{}@{}", self.password(), seeds.join(","))
    }

    /// The password of every node.
    #[must_use]
    pub fn password(&self) -> &str {
        self.nodes[0].password()
    }

    /// All six, primaries and replicas in no order that lasts.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The primaries that have slots, by their lowest slot.
    ///
    /// # Errors
    ///
    /// When no node answers.
    pub fn primaries(&self) -> Result<Vec<&Redis>> {
        Ok(self.holders()?.into_iter().map(|member| member.node).collect())
    }

    /// The primary that has this slot.
    ///
    /// # Errors
    ///
    /// When no node answers, or nobody has it.
    pub fn primary_of(&self, slot: u16) -> Result<&Redis> {
        let holds = |member: &Member<'_>| member.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
        let holder = self.holders()?.into_iter().find(holds);
        holder.map(|member| member.node).ok_or_else(|| Error::new(format!("nobody has slot {slot}")))
    }

    /// Moves so many slots, the lowest first, with the keys in them.
    ///
    /// # Errors
    ///
    /// What redis-cli says when it cannot.
    pub fn move_slots(&self, count: u16, from: &Redis, to: &Redis) -> Result<()> {
        let (from, to) = (from.command(&["CLUSTER", "MYID"])?, to.command(&["CLUSTER", "MYID"])?);
        let (seed, count) = (address(self.answering()?), count.to_string());
        let words = ["reshard", &seed, "--cluster-from", &from, "--cluster-to", &to, "--cluster-slots", &count];
        self.manage(&[&words[..], &["--cluster-pipeline", "100"]].concat())
    }

    /// Moves every slot to another primary than the one that has it, with the keys in it. Expects
    /// each primary to have one range of slots, as after a start or an earlier call.
    ///
    /// # Errors
    ///
    /// What redis-cli says when it cannot.
    pub fn reshard(&self) -> Result<()> {
        let holders = self.holders()?;
        let [first, second, third] = &holders[..] else {
            return Err(Error::new(format!("{} primaries have slots, not three", holders.len())));
        };
        // The lowest slots of a node move first, so a node that has two ranges for a while gives away
        // its old one.
        self.move_slots(third.count(), third.node, first.node)?;
        self.await_agreement()?;
        self.move_slots(second.count(), second.node, third.node)?;
        self.await_agreement()?;
        self.move_slots(first.count(), first.node, second.node)?;
        self.await_agreement()
    }

    /// Waits until all nodes run, agree, say that the cluster is up, and each primary has a replica
    /// in sync: the state after a start.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_stable(&self) -> Result<()> {
        poll(|| {
            let members = self.members(&self.nodes[0])?;
            let primaries = members.iter().filter(|member| member.is_primary && !member.is_failed).count();
            if (members.len(), primaries) != (6, 3) {
                return Err(Error::new(format!("{} nodes, {primaries} primaries among them", members.len())));
            }
            for member in members.iter().filter(|member| member.is_primary) {
                if member.node.replicas_in_sync()? == 0 {
                    return Err(Error::new(format!("{} has no replica in sync", address(member.node))));
                }
            }
            self.agree(&self.nodes.iter().collect::<Vec<_>>())
        })
        .map_err(|error| self.nodes[0].process().with_log(&error))
    }

    /// Waits until a primary that does not run any more has been replaced, and the others agree on
    /// that.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_failover(&self, from: &Redis) -> Result<()> {
        let holds = |member: &Member<'_>| member.node.port() == from.port() && !member.slots.is_empty();
        poll(|| match self.members(self.answering()?)?.iter().any(holds) {
            true => Err(Error::new(format!("there was no failover from {}", address(from)))),
            false => Ok(()),
        })?;
        self.await_agreement()
    }

    /// Waits until the nodes that run agree on who has which slot, and say that the cluster is up.
    ///
    /// # Errors
    ///
    /// When that takes longer than a minute.
    pub fn await_agreement(&self) -> Result<()> {
        poll(|| {
            let answering: Vec<_> = self.nodes.iter().filter(|node| node.command(&["PING"]).is_ok()).collect();
            self.agree(&answering)
        })
    }

    fn agree(&self, nodes: &[&Redis]) -> Result<()> {
        let mut views = Vec::new();
        for node in nodes {
            if !node.command(&["CLUSTER", "INFO"])?.contains("cluster_state:ok") {
                return Err(Error::new(format!("{} does not say cluster_state:ok", address(node))));
            }
            let mut view: Vec<_> = self.members(node)?.into_iter().map(|member| (member.slots, member.id)).collect();
            view.retain(|(slots, _)| !slots.is_empty());
            view.sort();
            views.push(view);
        }
        match views.windows(2).all(|pair| pair[0] == pair[1]) {
            true => Ok(()),
            false => Err(Error::new("the nodes do not agree on who has which slots")),
        }
    }

    fn holders(&self) -> Result<Vec<Member<'_>>> {
        let mut members = self.members(self.answering()?)?;
        members.retain(|member| member.is_primary && !member.is_failed && !member.slots.is_empty());
        members.sort_by(|a, b| a.slots.cmp(&b.slots));
        Ok(members)
    }

    fn members(&self, asked: &Redis) -> Result<Vec<Member<'_>>> {
        let lines = asked.command(&["CLUSTER", "NODES"])?;
        let members: Option<Vec<_>> = lines.lines().map(|line| self.member(line)).collect();
        members.ok_or_else(|| Error::new(format!("CLUSTER NODES answers in an unknown form: {lines}")))
    }

    /// `ID HOST:PORT@BUS FLAG,FLAG PRIMARY PING PONG EPOCH LINK SLOT-SLOT …`
    fn member(&self, line: &str) -> Option<Member<'_>> {
        let mut fields = line.split(' ');
        let id = fields.next()?.to_owned();
        let port: u16 = fields.next()?.split('@').next()?.rsplit(':').next()?.parse().ok()?;
        let flags: Vec<_> = fields.next()?.split(',').collect();
        // A slot on its way is written in brackets, and belongs to its old node.
        let slots = fields.skip(5).filter(|range| !range.starts_with('['));
        let slots = slots.map(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some((first.parse().ok()?, last.parse().ok()?))
        });
        Some(Member {
            id,
            node: self.nodes.iter().find(|node| node.port() == port)?,
            is_primary: flags.contains(&"master"),
            is_failed: flags.iter().any(|flag| matches!(*flag, "fail" | "fail?" | "handshake" | "noaddr")),
            slots: slots.collect::<Option<_>>()?,
        })
    }

    fn answering(&self) -> Result<&Redis> {
        let answering = self.nodes.iter().find(|node| node.command(&["PING"]).is_ok());
        answering.ok_or_else(|| Error::new("no node of the cluster answers"))
    }

    fn manage(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new(program("redis-cli")?);
        command.env("REDISCLI_AUTH", self.password()).arg("--cluster").args(words).arg("--cluster-yes");
        run(&mut command).map(drop)
    }

    pub(crate) fn processes(&self) -> Vec<&Process> {
        self.nodes.iter().map(Redis::process).collect()
    }
}

impl Member<'_> {
    fn count(&self) -> u16 {
        self.slots.iter().map(|(first, last)| last - first + 1).sum()
    }
}

fn address(node: &Redis) -> String {
    format!("127.0.0.1:{}", node.port())
}
