//! What does not stay true for long: where keys are, and what a cursor means.

use std::sync::Arc;

use redis::Pipeline;

use super::connection::Connection;
use super::node::{Answers, Node};
use crate::fault::Fault;

/// A server that holds keys, over one connection. A cursor means something only to the process that gave it: behind
/// another connection may be one that has started since, or another server.
pub(crate) struct Held {
    node: Arc<Node>,
    connection: Arc<Connection>,
}

impl Held {
    pub(super) const fn new(node: Arc<Node>, connection: Arc<Connection>) -> Self {
        Self { node, connection }
    }

    /// What each command was answered, none of which may write. An error where calls go over another connection by now.
    pub(crate) async fn ask(&self, packet: &mut Pipeline) -> Result<Answers, Fault> {
        let answers = self.node.ask_over(&self.connection, packet).await?;
        let current = self.node.live().is_some_and(|live| Arc::ptr_eq(&live, &self.connection));
        if current { Ok(answers) } else { Err(Fault::cut(self.connection.endpoint())) }
    }
}

/// Who holds which slots, as each node of a cluster says of itself. Nothing for one server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Layout(Vec<Holder>);

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Holder {
    id: String,
    /// By it a slot shows that went and came back.
    epoch: String,
    slots: Vec<String>,
}

impl Layout {
    pub(super) const fn of_one() -> Self {
        Self(Vec::new())
    }

    /// From what the nodes answer to `CLUSTER NODES`.
    pub(super) fn read<'a>(answers: impl IntoIterator<Item = &'a str>) -> Option<Self> {
        let mut holders = answers.into_iter().map(Holder::read).collect::<Option<Vec<_>>>()?;
        holders.sort();
        Some(Self(holders))
    }

    /// How many slots somebody has by their own word.
    pub(super) fn held_slots(&self) -> usize {
        let slots = |range: &String| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            Some(last.parse::<usize>().ok()?.checked_sub(first.parse().ok()?)? + 1)
        };
        self.0.iter().flat_map(|holder| &holder.slots).filter_map(slots).sum()
    }

    /// Whether keys of some slot may be on either of two nodes.
    pub(crate) fn is_moving(&self) -> bool {
        // `[slot->-node]` where it is given away, `[slot-<-node]` where it is taken.
        self.0.iter().flat_map(|holder| &holder.slots).any(|slots| slots.starts_with('['))
    }
}

impl Holder {
    /// `ID ADDRESS FLAGS PRIMARY PING PONG EPOCH STATE SLOTS…`, of whoever says so.
    fn read(nodes: &str) -> Option<Self> {
        let mut words = nodes.lines().map(str::split_ascii_whitespace).find_map(|mut line| {
            let whole = line.clone();
            line.nth(2)?.split(',').any(|flag| flag == "myself").then_some(whole)
        })?;
        let (id, epoch) = (words.next()?.to_owned(), words.nth(5)?.to_owned());
        Some(Self { id, epoch, slots: words.skip(1).map(str::to_owned).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "aa 10.0.0.1:1@2 myself,master - 0 0 7 connected 0-99 200\n\
                       bb 10.0.0.2:1@2 master - 0 1 8 connected 100-199\n";

    #[test]
    fn a_node_is_read_by_what_it_says_of_itself() {
        let one = Layout::read([ONE]).unwrap();
        let slots = vec!["0-99".to_owned(), "200".to_owned()];
        assert_eq!(one, Layout(vec![Holder { id: "aa".to_owned(), epoch: "7".to_owned(), slots }]));
        assert!(!one.is_moving() && !Layout::of_one().is_moving());
        assert_eq!(one.held_slots(), 101);
        for changed in [ONE.replace("0-99", "0-98"), ONE.replace(" 7 ", " 9 "), ONE.replace("aa", "cc")] {
            assert_ne!(Layout::read([changed.as_str()]).unwrap(), one, "{changed}");
        }
        for open in ["[200->-bb]", "[300-<-bb]"] {
            let moving = ONE.replace("200\n", &format!("200 {open}\n"));
            let moving = Layout::read([moving.as_str()]).unwrap();
            assert!(moving.is_moving() && moving.held_slots() == 101, "{open}");
        }
        let others = ONE.replace("100-199", "100-199 [100->-aa]");
        assert!(!Layout::read([others.as_str()]).unwrap().is_moving(), "only what a node says of itself is up to date");
        for other in ["", "aa 10.0.0.1:1@2 master - 0 0 7 connected 0-99", "aa myself"] {
            assert_eq!(Layout::read([other]), None, "{other}");
        }
    }
}
