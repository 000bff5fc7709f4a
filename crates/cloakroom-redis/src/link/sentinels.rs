//! Which server is the primary, by what its Sentinels say.

use std::cmp::Reverse;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::{Pipeline, Value};
use tokio::time::{Instant, timeout_at};

use super::connection::{Connection, Greeting, Mode, text};
use super::open_error::{RedisOpenError, RedisOpenErrorKind};
use crate::fault::Fault;
use crate::options::Endpoint;

/// For so long a failover that was heard of is not forgotten: Sentinels tell each other of it every 2 seconds.
const FRESH: Duration = Duration::from_secs(20);
/// The longest to wait for more answers after the first.
const GRACE: Duration = Duration::from_millis(500);

/// The Sentinels of a service.
pub(super) struct Sentinels {
    service: String,
    endpoints: Vec<Endpoint>,
    greeting: Greeting,
    /// The highest number of a configuration that was heard, and when.
    newest: Mutex<Option<(u64, Instant)>>,
}

/// What one Sentinel says.
#[derive(Clone, Debug)]
struct Named {
    primary: Endpoint,
    /// Goes up with every failover. 0 where the Sentinel's ACL keeps it from us.
    epoch: u64,
}

/// Where the primary is to be looked for.
pub(super) struct Candidates {
    /// First what most name. None where nobody has heard of what was heard before.
    pub(super) believed: Vec<Endpoint>,
    disbelieved: Vec<Endpoint>,
}

impl Sentinels {
    pub(super) fn new(service: String, endpoints: Vec<Endpoint>, greeting: Greeting) -> Self {
        debug_assert_eq!(greeting.mode, Mode::Sentinel);
        Self { service, endpoints, greeting, newest: Mutex::default() }
    }

    /// Asks all, and believes those of the answers that know of most failovers. `None`: nobody answers in this time.
    pub(super) async fn candidates(&self, patience: Duration) -> Result<Candidates, Option<RedisOpenError>> {
        let named = hear(self.endpoints.iter().map(|endpoint| self.ask(endpoint)), patience).await?;
        Ok(elect(&named, self.least(&named, Instant::now())))
    }

    /// The lowest number that is believed.
    fn least(&self, named: &[Named], now: Instant) -> u64 {
        let highest = named.iter().map(|named| named.epoch).max().unwrap_or_default();
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let known = newest.filter(|(known, heard)| *known > highest && now < *heard + FRESH);
        *newest = known.or(Some((highest, now)));
        known.map_or(highest, |(known, _)| known)
    }

    async fn ask(&self, sentinel: &Endpoint) -> Result<Named, RedisOpenError> {
        let connection = Connection::open(sentinel, &self.greeting).await?;
        let mut packet = Pipeline::new();
        // First the number: if a failover falls between the two, what is newer than it says is harmless.
        packet.cmd("SENTINEL").arg("MASTER").arg(&self.service);
        packet.cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.service);
        let fault = |fault: &Fault| RedisOpenError::from_fault(RedisOpenErrorKind::Refused, sentinel, fault);
        let wrong = || fault(&Fault::wrong_answer("SENTINEL GET-MASTER-ADDR-BY-NAME"));
        // Whoever asks bounds the time.
        let answers = connection.exchange(&mut packet, 0, Duration::from_secs(60)).await;
        let answers = answers.map_err(|error| fault(&error))?;
        let [state, address] = answers.as_slice() else { return Err(wrong()) };
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
}

/// The answers of more than half; of fewer if no more come in time.
async fn hear<T, E>(
    asked: impl Iterator<Item = impl Future<Output = Result<T, E>>>,
    patience: Duration,
) -> Result<Vec<T>, Option<E>> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let most = asked.len() / 2 + 1;
    let mut deadline = Instant::now() + patience;
    let (mut heard, mut error) = (Vec::new(), None);
    while heard.len() < most {
        match timeout_at(deadline, asked.next()).await {
            Ok(Some(Ok(answer))) => {
                if heard.is_empty() {
                    deadline = Instant::now() + GRACE.min(patience / 2);
                }
                heard.push(answer);
            }
            Ok(Some(Err(cause))) => error = error.or(Some(cause)),
            Ok(None) | Err(_) => break,
        }
    }
    if heard.is_empty() { Err(error) } else { Ok(heard) }
}

/// What died and came back empty says that it is a primary, and a Sentinel that has not heard of the failover names it. So
/// only what has the highest number counts.
fn elect(named: &[Named], least: u64) -> Candidates {
    let counts = |named: &&Named| named.epoch >= least;
    let votes = |primary: &Endpoint| named.iter().filter(counts).filter(|named| named.primary == *primary).count();
    let mut believed = distinct(named.iter().filter(counts));
    believed.sort_by_key(|primary| Reverse(votes(primary)));
    let mut disbelieved = distinct(named.iter().filter(|named| !counts(named)));
    disbelieved.retain(|primary| !believed.contains(primary));
    Candidates { believed, disbelieved }
}

fn distinct<'n>(named: impl Iterator<Item = &'n Named>) -> Vec<Endpoint> {
    let mut primaries = Vec::new();
    for Named { primary, .. } in named {
        if !primaries.contains(primary) {
            primaries.push(primary.clone());
        }
    }
    primaries
}

fn config_epoch(state: &Value) -> Option<u64> {
    let Value::Map(fields) = state else { return None };
    let (_, epoch) = fields.iter().find(|(name, _)| text(name) == Some("config-epoch"))?;
    text(epoch)?.parse().ok()
}

impl Candidates {
    /// The error of one of them, with what other Sentinels say.
    pub(super) fn explain(&self, error: RedisOpenError) -> RedisOpenError {
        let others = self.believed.iter().skip(1).chain(&self.disbelieved).map(Endpoint::to_string);
        let others = others.collect::<Vec<_>>().join(", ");
        match (others.is_empty(), self.believed.is_empty()) {
            (true, _) => error,
            (false, true) => error.at(format!("they name {others}")),
            (false, false) => error.at(format!("the Sentinels do not agree: others name {others}")),
        }
    }
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (found by its Sentinels)", self.service)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    type Answers = &'static [(&'static str, u64)];
    type Hosts = &'static [&'static str];
    type Heard = Result<&'static [u32], Option<&'static str>>;

    fn at(host: &str) -> Endpoint {
        Endpoint::Tcp { host: host.to_owned(), port: 6379 }
    }

    fn named(answers: &[(&str, u64)]) -> Vec<Named> {
        answers.iter().map(|(host, epoch)| Named { primary: at(host), epoch: *epoch }).collect()
    }

    fn sentinels() -> Sentinels {
        let greeting = Greeting {
            tls: None,
            username: None,
            password: None,
            client_name: String::new(),
            database: 0,
            mode: Mode::Sentinel,
            primary: false,
        };
        Sentinels::new("service".to_owned(), Vec::new(), greeting)
    }

    #[test]
    fn what_knows_of_most_failovers_is_believed_and_of_that_what_most_name() {
        let cases: [(Answers, u64, Hosts, Hosts); 8] = [
            (&[("a", 0)], 0, &["a"], &[]),
            (&[("a", 3), ("a", 3)], 3, &["a"], &[]),
            // One of two has not heard of the failover, whichever answers first; nor have most.
            (&[("old", 3), ("new", 4)], 4, &["new"], &["old"]),
            (&[("new", 4), ("old", 3)], 4, &["new"], &["old"]),
            (&[("old", 3), ("old", 3), ("new", 4)], 4, &["new"], &["old"]),
            // One that goes on with the old address under the new number does not keep us from the primary.
            (&[("old", 4), ("new", 4), ("new", 4)], 4, &["new", "old"], &[]),
            // A failover to the server that was the primary before.
            (&[("a", 3), ("a", 4)], 4, &["a"], &[]),
            // None of them has heard of what was heard before.
            (&[("old", 3), ("old", 3)], 4, &[], &["old"]),
        ];
        for (answers, least, believed, disbelieved) in cases {
            let candidates = elect(&named(answers), least);
            let hosts = |hosts: &[&str]| hosts.iter().map(|host| at(host)).collect::<Vec<_>>();
            assert_eq!(
                (candidates.believed, candidates.disbelieved),
                (hosts(believed), hosts(disbelieved)),
                "{answers:?}"
            );
        }
    }

    #[test]
    fn a_failover_once_heard_of_is_not_forgotten_while_the_old_primary_may_be_back() {
        let (sentinels, begun) = (sentinels(), Instant::now());
        let least = |epoch, after| sentinels.least(&named(&[("a", epoch)]), begun + after);
        assert_eq!(least(3, Duration::ZERO), 3);
        assert_eq!(least(4, Duration::from_secs(1)), 4);
        assert_eq!(least(3, Duration::from_secs(2)), 4);
        assert_eq!(least(4, Duration::from_secs(15)), 4);
        assert_eq!(least(3, Duration::from_secs(30)), 4);
        // Sentinels that were set up anew count from the start.
        assert_eq!(least(0, Duration::from_secs(36)), 0);
        assert_eq!(least(0, Duration::from_secs(37)), 0);
    }

    /// One that answers, one that refuses, one that is silent.
    enum Asked {
        Answers(u32),
        After(Duration, u32),
        Refuses,
        IsSilent,
    }

    impl Asked {
        async fn answer(&self) -> Result<u32, &'static str> {
            match *self {
                Self::Answers(answer) => Ok(answer),
                Self::Refuses => Err("refused"),
                Self::IsSilent => pending().await,
                Self::After(pause, answer) => {
                    // tidy: sleep — the clock is paused, and moves by it
                    tokio::time::sleep(pause).await;
                    Ok(answer)
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_half_are_heard_and_what_is_silent_is_not_waited_for() {
        use Asked::{After, Answers, IsSilent, Refuses};
        let (second, soon) = (Duration::from_secs(1), Duration::from_millis(100));
        let cases: [(&[Asked], Heard, Duration); 10] = [
            (&[Answers(1)], Ok(&[1]), Duration::ZERO),
            (&[Answers(1), IsSilent, Answers(2)], Ok(&[1, 2]), Duration::ZERO),
            (&[Answers(1), Refuses, Answers(2)], Ok(&[1, 2]), Duration::ZERO),
            (&[After(soon, 1), Answers(2), After(2 * soon, 3)], Ok(&[2, 1]), soon),
            // Fewer than that, and no more come, or not in time.
            (&[Refuses, Answers(1), Refuses], Ok(&[1]), Duration::ZERO),
            (&[Answers(1), IsSilent], Ok(&[1]), GRACE),
            (&[After(GRACE + soon, 1), IsSilent], Ok(&[1]), 2 * GRACE + soon),
            (&[After(GRACE + soon, 1), After(GRACE + 2 * soon, 2)], Ok(&[1, 2]), GRACE + 2 * soon),
            (&[Refuses, IsSilent], Err(Some("refused")), second),
            (&[IsSilent], Err(None), second),
        ];
        for (number, (asked, expected, took)) in cases.into_iter().enumerate() {
            let begun = Instant::now();
            let heard = hear(asked.iter().map(Asked::answer), second).await;
            assert_eq!((heard.as_deref().map_err(|error| *error), begun.elapsed()), (expected, took), "case {number}");
        }
    }
}
