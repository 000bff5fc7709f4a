//! Connections that break anywhere, and servers that answer anything: never wrong data, no panic, no
//! memory without bound, and the next call works.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{SessionStore, StoreError, WriteOutcome};
use futures_util::future::join_all;
use tokio::time::timeout;

use crate::place::{Place, Server};
use crate::proxy::{Fault, Garble, Proxy, Seen};
use crate::verbs::{Act, Case, Left, Said};
use crate::wire::{Protocol, Way, lies};

/// Longer than any call may take, however it is disturbed.
const PATIENCE: Duration = Duration::from_secs(30);

macro_rules! on_hostile_servers {
    ($($module:ident $server:ident $protocol:ident),* $(,)?) => {
        $(
            mod $module {
                use super::*;

                const SERVER: Server = Server::$server;
                const PROTOCOL: Protocol = Protocol::$protocol;

                mod cut {
                    use super::*;

                    on_hostile_servers!(@ cut_at_every_byte load Load, create Create, update Update, touch Touch);
                    on_hostile_servers!(@ cut_at_every_byte renew Renew, delete Delete, list List, revoke Revoke);
                    on_hostile_servers!(@ cut_at_every_byte revoke_all RevokeAll);
                }

                mod garbled {
                    use super::*;

                    on_hostile_servers!(@ garbled load Load, create Create, update Update, touch Touch);
                    on_hostile_servers!(@ garbled renew Renew, delete Delete, list List, revoke Revoke);
                    on_hostile_servers!(@ garbled revoke_all RevokeAll);
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn swapped_replies_give_nobody_the_session_of_another() {
                    swapped_replies(SERVER, PROTOCOL).await;
                }
            }
        )*
    };
    (@ $test:ident $($name:ident $act:ident),*) => {
        $(
            #[tokio::test]
            async fn $name() {
                $test(Act::$act, SERVER, PROTOCOL).await;
            }
        )*
    };
}

on_hostile_servers!(redis Redis Resp, postgres Postgres Postgres, mariadb MariaDb MySql);

/// A client behind a proxy, and one that nothing happens to.
struct Scene {
    place: Place,
    proxy: Proxy,
    store: Arc<dyn SessionStore>,
    truth: Arc<dyn SessionStore>,
    /// How many cases there were.
    number: usize,
}

impl Scene {
    async fn new(server: Server, protocol: Protocol, patience: &str) -> Self {
        let place = Place::on(server);
        let proxy = Proxy::before(protocol, place.address()).await;
        let truth = place.open(None).await;
        // As few connections as there can be: once a read and a write work, none is still being made.
        let place_behind = place.through(proxy.address).with_option("connections", fewest(server));
        let store = place_behind.with_option("timeout", patience).open(None).await;
        Self { place, proxy, store, truth, number: 0 }
    }

    async fn case(&mut self, act: Act) -> Case {
        self.number += 1;
        Case::new(act, self.number, &*self.truth).await
    }

    /// What an undisturbed call sends and gets, once every connection knows its statements.
    async fn rehearse(&mut self, act: Act) -> Seen {
        for _ in 0..8 {
            let case = self.case(act).await;
            self.proxy.set(None);
            assert_eq!(case.run(&*self.store).await.unwrap(), Said::Right);
        }
        self.proxy.seen()
    }

    /// Makes the call while this happens to it.
    async fn disturbed(&mut self, act: Act, fault: Fault) -> (Case, Result<Said, StoreError>) {
        let case = self.case(act).await;
        self.proxy.set(Some(fault));
        let answer = timeout(PATIENCE, case.run(&*self.store)).await.expect("a call that never ends");
        self.proxy.set(None);
        (case, answer)
    }

    /// The session is as it was or as it was to be, and the client that was disturbed agrees.
    async fn settle(&mut self, case: &Case, answer: &Result<Said, StoreError>, writes: bool, what: &str) {
        let left = case.left(&*self.truth).await;
        if let Err(error) = answer
            && writes
            && error.outcome() == WriteOutcome::NotDone
        {
            assert_eq!(left, Left::Old, "{what}: {error:?}, and it was done");
        }
        for act in [Act::Load, Act::Update] {
            let next = self.case(act).await;
            let answer = timeout(PATIENCE, next.run(&*self.store)).await.expect("a call that never ends");
            assert_eq!(
                answer.unwrap_or_else(|error| panic!("{what}: the next {act:?}: {error:?}")),
                Said::Right,
                "{what}"
            );
        }
    }
}

async fn cut_at_every_byte(act: Act, server: Server, protocol: Protocol) {
    let mut scene = Scene::new(server, protocol, "2s").await;
    let seen = scene.rehearse(act).await;
    let requests = (0..=seen.request_bytes).map(|at| Fault::Cut(Way::Request, at));
    let replies = places_in(&seen.replies, protocol).into_iter().map(|at| Fault::Cut(Way::Reply, at));
    let mut cut = 0;
    for fault in requests.chain(replies) {
        let what = format!("{act:?} with {fault:?}");
        let (case, answer) = scene.disturbed(act, fault).await;
        assert_ne!(answer.as_ref().ok(), Some(&Said::Nothing), "{what}: a cut is no answer");
        cut += usize::from(answer.is_err());
        if act.writes() && answer.is_ok() {
            assert_eq!(case.left(&*scene.truth).await, Left::New, "{what}: acknowledged and not done");
        }
        scene.settle(&case, &answer, act.writes(), &what).await;
    }
    assert!(cut > 0 || !act.writes(), "no cut was felt");
    scene.place.remove().await;
}

/// Every byte of the replies. What MariaDB says of each column, a dozen times over, is cut at every byte
/// of its head, in its middle and at its end.
fn places_in(replies: &[Vec<u8>], protocol: Protocol) -> Vec<usize> {
    let (mut places, mut start) = (Vec::new(), 0);
    for reply in replies {
        let length = reply.len();
        let describes = protocol == Protocol::MySql && reply[4..].starts_with(b"\x03def");
        let within = |at: &usize| !describes || *at < 10 || *at == length / 2 || *at == length - 1;
        places.extend((0..length).filter(within).map(|at| start + at));
        start += length;
    }
    places
}

/// Every reply of the call, dropped, held back, repeated, swapped, cut short and replaced by lies.
async fn garbled(act: Act, server: Server, protocol: Protocol) {
    // What a driver panics at is caught; a backtrace of each would take more memory than all else here.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let mut scene = Scene::new(server, protocol, "300ms").await;
    let replies = scene.rehearse(act).await.replies;
    let before = resident();
    for (number, reply) in replies.iter().enumerate() {
        let ways = [Garble::Drop, Garble::Stall, Garble::Repeat, Garble::SwapWithNext];
        let halves = [1, reply.len() / 2, reply.len() - 1].map(Garble::Truncate);
        let lies = lies(protocol).into_iter().map(Garble::Replace);
        for garble in ways.into_iter().chain(halves).chain(lies) {
            let lied = matches!(garble, Garble::Replace(_));
            let fault = Fault::Garble(number, garble);
            let what = format!("{act:?} with {fault:?}");
            let (case, answer) = scene.disturbed(act, fault).await;
            // What a call did to the session is known; whether its answer says so depends on the lie.
            let left = case.left(&*scene.truth).await;
            if !lied && let Ok(said) = &answer {
                assert_eq!(*said, Said::Right, "{what}");
                assert!(!act.writes() || left == Left::New, "{what}: acknowledged and not done");
            }
            if answer.as_ref().is_err_and(|error| error.outcome() == WriteOutcome::NotDone) && act.writes() {
                assert_eq!(left, Left::Old, "{what}: {answer:?}");
            }
            recovers(&mut scene, &what).await;
        }
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more");
    scene.place.remove().await;
}

/// A reply too many or too few is noticed by the call that meets it, which fails, and the one after that
/// works.
async fn recovers(scene: &mut Scene, what: &str) {
    for act in [Act::Load, Act::Update] {
        for attempt in 0.. {
            let next = scene.case(act).await;
            match timeout(PATIENCE, next.run(&*scene.store)).await.expect("a call that never ends") {
                Ok(said) => {
                    assert_eq!(said, Said::Right, "{what}: then {act:?}");
                    break;
                }
                Err(error) => assert!(attempt < 2, "{what}: still disturbed: {act:?} {error:?}"),
            }
        }
    }
}

async fn swapped_replies(server: Server, protocol: Protocol) {
    let mut scene = Scene::new(server, protocol, "300ms").await;
    for number in 0..100 {
        let mut cases = Vec::new();
        for act in [Act::Load, Act::List, Act::Update, Act::Load, Act::Touch, Act::List, Act::Load, Act::Renew] {
            cases.push(scene.case(act).await);
        }
        scene.proxy.set(Some(Fault::Garble(number % 10, Garble::SwapWithNext)));
        // `run` panics where an answer holds anything of somebody else.
        let calls = cases.iter().map(|case| case.run(&*scene.store));
        drop(timeout(PATIENCE, join_all(calls)).await.expect("a call that never ends"));
        scene.proxy.set(None);
        for case in &cases {
            case.left(&*scene.truth).await;
        }
        recovers(&mut scene, "swapped").await;
    }
    scene.place.remove().await;
}

const fn fewest(server: Server) -> &'static str {
    match server {
        Server::MariaDb => "1",
        // One to read and one to write; Redis has no such option.
        Server::Redis
        | Server::Sentinel
        | Server::Cluster
        | Server::RedisTls
        | Server::Postgres
        | Server::PgBouncer => "2",
    }
}

/// How much memory this process has.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}
