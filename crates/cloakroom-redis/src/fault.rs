//! What can go wrong with a server, in words for its operator.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{StoreError, StoreErrorKind, Verb, WriteOutcome};
use redis::ServerError;

use crate::options::Endpoint;

/// A failure of a packet or of one command in it. Cheap to clone: a packet fails for many calls.
#[derive(Clone, Debug)]
pub(crate) struct Fault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    kind: StoreErrorKind,
    outcome: WriteOutcome,
    reaction: Reaction,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// What the link can do about a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reaction {
    /// Nothing: the caller is told.
    None,
    /// The script is not there: send its text.
    LoadScript,
    /// It was surely not sent: send it over a new connection.
    Resend,
    /// It was sent: send it over a new connection if it only reads.
    Reread,
    /// It was surely not done, and the server to ask may be another one now.
    Rediscover,
    /// It was surely not done, and the same server may do it in a moment.
    Wait,
    /// It was surely not done: this slot lives there.
    Moved { slot: u16, to: Redirect },
    /// It was surely not done: this time, ask there.
    Ask { to: Redirect },
}

/// Where a cluster node sends a command. Without a host: that of the node which said it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redirect {
    pub(crate) host: Option<String>,
    pub(crate) port: u16,
}

impl Fault {
    fn new(kind: StoreErrorKind, outcome: WriteOutcome, reaction: Reaction, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, outcome, reaction, message: message.into(), source: None }))
    }

    fn not_done(kind: StoreErrorKind, reaction: Reaction, message: impl Into<String>) -> Self {
        Self::new(kind, WriteOutcome::NotDone, reaction, message)
    }

    fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        let Inner { kind, outcome, reaction, message, .. } = &*self.0;
        Self(Arc::new(Inner {
            kind: *kind,
            outcome: *outcome,
            reaction: reaction.clone(),
            message: message.clone(),
            source: Some(Arc::new(source)),
        }))
    }

    /// No connection was there, and none could be made.
    pub(crate) fn unreachable(message: impl Into<String>, reason: Option<&(dyn StdError + 'static)>) -> Self {
        let fault = Self::not_done(StoreErrorKind::Unavailable, Reaction::Rediscover, message);
        match reason {
            Some(reason) => fault.with_source(Text(chain(reason))),
            None => fault,
        }
    }

    /// A server was reached, and will not serve until somebody changes something.
    pub(crate) fn misconfigured(message: impl Into<String>) -> Self {
        Self::not_done(StoreErrorKind::Misconfigured, Reaction::None, message)
    }

    /// The connection ended before anything of the packet was written to it.
    pub(crate) fn not_sent(endpoint: &Endpoint) -> Self {
        let message = format!("the connection to {endpoint} ended before the call was sent");
        Self::not_done(StoreErrorKind::Unavailable, Reaction::Resend, message)
    }

    /// The connection ended between the packet and its answer.
    pub(crate) fn cut(endpoint: &Endpoint) -> Self {
        let message = format!("the connection to {endpoint} was cut before the answer came");
        Self::new(StoreErrorKind::Unavailable, WriteOutcome::Unknown, Reaction::Reread, message)
    }

    pub(crate) fn timeout(endpoint: &Endpoint, after: Duration) -> Self {
        let message = format!(
            "{endpoint} gave no answer within {after:?}: it is overloaded, stopped, or the network loses packets"
        );
        Self::new(StoreErrorKind::Timeout, WriteOutcome::Unknown, Reaction::None, message)
    }

    /// Answers that cannot be those to the questions. The connection is given up.
    pub(crate) fn desynchronised(endpoint: &Endpoint) -> Self {
        let message = format!(
            "what {endpoint} sent is not the answer to what it was asked; the answers were thrown away and the \
             connection closed. Is something between here and the server that changes the stream?"
        );
        Self::new(StoreErrorKind::Corrupt, WriteOutcome::Unknown, Reaction::None, message)
    }

    /// Some of the keys of a call, or of a pass over all keys, are on another node already.
    pub(crate) fn moving() -> Self {
        let message = "the keys of the call are being moved to another node";
        Self::not_done(StoreErrorKind::Unavailable, Reaction::Wait, message)
    }

    /// All keys were to be looked at, and could not be while they stayed where they were.
    pub(crate) fn unsteady() -> Self {
        let message = "sessions move between servers, so that not all of them can be looked at: ask again once no slot moves \
                       any more (CLUSTER NODES shows those that do in brackets)";
        Self::not_done(StoreErrorKind::Unavailable, Reaction::Wait, message)
    }

    /// The store was closed by its owner.
    pub(crate) fn closed() -> Self {
        Self::not_done(StoreErrorKind::Unavailable, Reaction::None, "the store is closed")
    }

    /// An answer of a shape that the command never has.
    pub(crate) fn wrong_answer(what: &str) -> Self {
        let message = format!("the server gave {what} an answer that it never gives: is it a Redis, and unmodified?");
        Self::new(StoreErrorKind::Corrupt, WriteOutcome::Unknown, Reaction::None, message)
    }

    /// Written on the primary, and on too few replicas.
    pub(crate) fn unacknowledged(acknowledged: i64, wanted: u32, timeout: Duration) -> Self {
        let message = format!(
            "{acknowledged} of {wanted} replicas acknowledged the write within {timeout:?}: it is on the primary and a \
             failover may lose it. Check the replicas' lag (INFO replication)"
        );
        Self::new(StoreErrorKind::Unavailable, WriteOutcome::Unknown, Reaction::None, message)
    }

    /// The writes are on the primary, and the server refuses to wait for replicas.
    pub(crate) fn unacknowledgeable(error: &ServerError) -> Self {
        let message = "the write is on the primary, and the server would not say which replicas have it: a failover \
                       may lose it";
        Self::new(StoreErrorKind::Unavailable, WriteOutcome::Unknown, Reaction::None, message)
            .with_source(Text(said(error)))
    }

    /// A command was redirected or put off until the time for it was over.
    pub(crate) fn put_off(self, after: Duration) -> Self {
        let message = format!("{}; that did not change within {after:?}", self.0.message);
        let fault = Self::not_done(self.0.kind, Reaction::None, message);
        match &self.0.source {
            Some(source) => fault.with_source(Text(source.to_string())),
            None => fault,
        }
    }

    pub(crate) fn kind(&self) -> StoreErrorKind {
        self.0.kind
    }

    pub(crate) fn message(&self) -> &str {
        &self.0.message
    }

    pub(crate) fn reaction(&self) -> &Reaction {
        &self.0.reaction
    }

    /// The script is not on the server (any more): the call was not done, and is to be repeated with
    /// the script's text.
    pub(crate) fn is_no_script(&self) -> bool {
        self.0.reaction == Reaction::LoadScript
    }

    /// Whether looking again may help at once: at another place, or over a new connection.
    pub(crate) fn is_of_the_moment(&self) -> bool {
        match self.0.reaction {
            Reaction::Resend | Reaction::Reread | Reaction::Moved { .. } | Reaction::Ask { .. } | Reaction::Wait => {
                true
            }
            Reaction::None | Reaction::LoadScript | Reaction::Rediscover => false,
        }
    }

    pub(crate) fn source(&self) -> Option<Arc<dyn StdError + Send + Sync>> {
        self.0.source.clone()
    }

    pub(crate) fn to_store_error(&self, verb: Verb) -> StoreError {
        let mut error = StoreError::new(self.0.kind, verb, self.0.message.clone());
        if let Some(source) = &self.0.source {
            error = error.with_source(Shared(Arc::clone(source)));
        }
        match self.0.outcome {
            WriteOutcome::NotDone => error.not_done(),
            WriteOutcome::Unknown => error,
        }
    }

    /// What a server's error answer to one command means.
    pub(crate) fn from_server(error: &ServerError) -> Self {
        use StoreErrorKind::{Corrupt, Full, Misconfigured, Unavailable};
        let details = error.details().unwrap_or_default();
        let (code, details) = unwrapped(error.code(), details);
        // An error from within a script may come after writes of the script, save for those that
        // Redis raises at the first write, or before the first command.
        let outcome = if details.contains("script") { WriteOutcome::Unknown } else { WriteOutcome::NotDone };
        let fault = match code {
            "NOSCRIPT" => {
                Self::not_done(Unavailable, Reaction::LoadScript, "the server does not have the script of this call")
            }
            "MOVED" | "ASK" => match redirect(code, details) {
                Some(reaction) => Self::not_done(
                    Unavailable,
                    reaction,
                    "the node does not hold this part of the cluster: the cluster is being changed",
                ),
                None => Self::wrong_answer("a command"),
            },
            "TRYAGAIN" => Self::moving(),
            // Said within a script of ours, which looks at what it may not find before it writes anything that counts.
            "ERR" if is_elsewhere(details) => Self::moving(),
            "CLUSTERDOWN" => Self::not_done(
                Unavailable,
                Reaction::Rediscover,
                "the cluster is down: a part of it has no primary at the moment (CLUSTER INFO says more)",
            ),
            "READONLY" => Self::not_done(
                Unavailable,
                Reaction::Rediscover,
                "the server is a replica now, and the call needs a primary: there was a failover",
            ),
            "LOADING" => {
                Self::not_done(Unavailable, Reaction::Wait, "the server has just started and is still loading its data")
            }
            "MASTERDOWN" => Self::not_done(
                Unavailable,
                Reaction::Rediscover,
                "the server is a replica that has lost its primary: there is a failover",
            ),
            "UNBLOCKED" => {
                Self::not_done(Unavailable, Reaction::Rediscover, "the server stopped being a primary during the call")
            }
            "BUSY" => Self::not_done(
                Unavailable,
                Reaction::None,
                "the server is busy with a script of somebody else that runs too long (SCRIPT KILL ends it)",
            ),
            "NOREPLICAS" => Self::not_done(
                Unavailable,
                Reaction::None,
                "the server takes no writes, as fewer replicas follow it than min-replicas-to-write asks for",
            ),
            "OOM" => Self::not_done(
                Full,
                Reaction::None,
                "the server is out of memory: raise maxmemory, or shorten the sessions' timeouts",
            ),
            "MISCONF" => Self::not_done(
                Full,
                Reaction::None,
                "the server takes no writes, as it cannot save to its disk: make room there and see its log",
            ),
            "NOPERM" => Self::new(Misconfigured, outcome, Reaction::None, not_permitted(details)),
            "ERR" if details.starts_with("The user executing the script can't") => {
                Self::new(Misconfigured, outcome, Reaction::None, not_permitted(""))
            }
            "NOAUTH" => Self::misconfigured(
                "the server asks for a password and the URL has none: write redis://user:password@host:port, or \
                 redis://:password@host:port for a server without users",
            ),
            "WRONGPASS" => Self::misconfigured(
                "the server refuses the user name or the password of the URL (a server without users takes \
                 redis://:password@host:port)",
            ),
            "DENIED" => Self::misconfigured(
                "the server is in protected mode, in which it only serves its own machine: give it a password \
                 (requirepass or an ACL user) and put it into the URL",
            ),
            "CROSSSLOT" => Self::new(
                Corrupt,
                WriteOutcome::NotDone,
                Reaction::None,
                "the keys of one call lie in several slots of the cluster: this is a defect of the store",
            ),
            "WRONGTYPE" => Self::new(
                Corrupt,
                outcome,
                Reaction::None,
                "a key under the prefix holds something of another kind than the store keeps there: does another \
                 application use the same prefix?",
            ),
            "ERR" if details.starts_with("max number of clients") => Self::not_done(
                Unavailable,
                Reaction::Wait,
                "the server has as many clients as it may: raise maxclients",
            ),
            "ERR" if details.starts_with("unknown command") || details.starts_with("unknown subcommand") => {
                Self::misconfigured(format!(
                    "the server does not know the command {}: this store needs Redis 6.2 or newer, or Valkey, with no \
                     command renamed",
                    quoted(details).unwrap_or("that was sent")
                ))
            }
            "ERR" if details.contains("cluster support disabled") => {
                Self::misconfigured("the server is no node of a cluster: write redis://host:port, without `+cluster`")
            }
            _ => Self::new(Unavailable, WriteOutcome::Unknown, Reaction::None, "the server refused the call"),
        };
        fault.with_source(Text(said(error)))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

/// Up to 6.2 the server wraps what it says within a script. Of that, this is said before a script has written.
fn unwrapped<'a>(code: &'a str, details: &'a str) -> (&'a str, &'a str) {
    let wrapped = details.strip_prefix("Error running script").filter(|_| code == "ERR");
    let inner = wrapped.and_then(|rest| rest.rsplit_once(": -")).map(|(_, inner)| inner);
    match inner.map(|inner| inner.split_once(' ').unwrap_or((inner, ""))) {
        Some((inner @ ("READONLY" | "OOM" | "MISCONF"), said)) => (inner, said),
        _ => (code, details),
    }
}

/// Whether a script met a key that is on another node already, or not here yet; in the words of older and of newer servers.
fn is_elsewhere(details: &str) -> bool {
    details.contains("access a non local key") || details.contains("during rehashing of the slot")
}

/// `3999 127.0.0.1:6381`; the host may be missing.
fn redirect(code: &str, details: &str) -> Option<Reaction> {
    let (slot, place) = details.split_once(' ')?;
    let slot = slot.parse().ok().filter(|slot| *slot < 16384)?;
    let (host, port) = place.rsplit_once(':')?;
    let to = Redirect {
        host: Some(host.to_owned()).filter(|host| !host.is_empty() && host != "?"),
        port: port.parse().ok().filter(|port| *port != 0)?,
    };
    Some(if code == "MOVED" { Reaction::Moved { slot, to } } else { Reaction::Ask { to } })
}

/// Names the command or the key rule, and the line that grants it.
fn not_permitted(details: &str) -> String {
    let words = details.to_ascii_lowercase();
    if words.contains("key") && !words.contains("command") {
        return "the server's ACL does not let this user touch keys with the store's prefix: add the pattern of the \
                prefix to the user, as in `ACL SETUSER name ~cloakroom:*`"
            .to_owned();
    }
    match quoted(details) {
        Some(command) => format!(
            "the server's ACL does not let this user run the command {command}: add it, as in `ACL SETUSER name \
             +{command}` (`ACL_RULE` of this crate lists all that are needed)"
        ),
        None => {
            "the server's ACL does not let this user do what the store needs: give it the rights that `ACL_RULE` of \
                 this crate lists"
                .to_owned()
        }
    }
}

/// The first word in quotes.
fn quoted(details: &str) -> Option<&str> {
    let (_, rest) = details.split_once(['\'', '`'])?;
    let (word, _) = rest.split_once(['\'', '`'])?;
    Some(word).filter(|word| {
        word.len() <= 40 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"|_.-".contains(&byte))
    })
}

/// The server's own words, as far as they cannot hold data: after `with args` it repeats arguments.
fn said(error: &ServerError) -> String {
    let details = error.details().unwrap_or_default();
    let details = details.split_once(", with args").map_or(details, |(before, _)| before);
    let shown: String = details.chars().filter(|c| !c.is_control()).take(200).collect();
    format!("{} {shown}", error.code().chars().filter(|c| !c.is_control()).take(40).collect::<String>())
}

/// An error and what caused it, on one line.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        next = error.source();
    }
    text
}

/// Words that are an error's source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Text(String);

/// A source that several errors share.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Shared(pub(crate) Arc<dyn StdError + Send + Sync>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_moves_is_waited_for_in_the_words_of_every_server() {
        for said in [
            "Script attempted to access a non local key in a cluster node script: c0ffee, on @user_script:9.",
            "Error running script (call to f_1): @user_script:9: Lua script attempted to access a non local key in a cluster node",
            "Unable to execute command 'exists' in script because undeclared keys were accessed during rehashing of the slot \
             script: c0ffee, on @user_script:9.",
        ] {
            assert!(is_elsewhere(said), "{said}");
        }
        assert!(!is_elsewhere("Error running script: WRONGTYPE"));
    }

    #[test]
    fn what_an_older_server_says_within_a_script_is_understood() {
        let said = "Error running script (call to f_1): @user_script:4: -READONLY You can't write against a read only replica.";
        assert_eq!(unwrapped("ERR", said), ("READONLY", "You can't write against a read only replica."));
        let said = "Error running script (call to f_1): @user_script:9: -OOM command not allowed when used memory > 'maxmemory'.";
        assert_eq!(unwrapped("ERR", said).0, "OOM");
        for other in
            ["Error running script (call to f_1): @user_script:4: -WRONGTYPE Operation", "no such key: -READONLY x", ""]
        {
            assert_eq!(unwrapped("ERR", other), ("ERR", other));
        }
        assert_eq!(unwrapped("READONLY", "You can't write").0, "READONLY");
    }
}
