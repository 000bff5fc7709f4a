//! How often a store asks its server, counted on the wire and by the server.
//!
//! A sign-in of an anonymous visitor moves the session to the slot of its owner, which on a cluster
//! takes three round trips; everywhere else it is one, as every other verb is on a cluster too.

use cloakroom_core::{Backend, Exchange, KeyRing, Manager, Outcome, Session};
use cloakroom_testkit::SeededRandom;

use crate::place::{Place, Server};
use crate::proxy::Proxy;
use crate::verbs::{Act, Case, Said};
use crate::wire::Protocol;

mod redis {
    use super::*;

    #[tokio::test]
    async fn each_verb_is_one_round_trip() {
        each_verb_is_one_round_trip_and_one_statement(Server::Redis, Protocol::Resp).await;
    }

    #[tokio::test]
    async fn a_request_that_reads_makes_one_round_trip_and_one_that_writes_makes_two() {
        requests_keep_to_the_budget(Server::Redis, Protocol::Resp).await;
    }

    /// The server's own account, of a server that nobody else uses.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_server_counts_one_command_for_each_verb() {
        let server = tokio::task::spawn_blocking(cloakroom_services::Redis::start).await.unwrap().unwrap();
        let place = Place::at(Server::Redis, &server.url());
        let store = place.open(None).await;
        for act in Act::ALL {
            // The first call brings the script to the server.
            for number in 0..2 {
                let case = Case::new(act, number, &*store).await;
                server.command(&["CONFIG", "RESETSTAT"]).unwrap();
                assert_eq!(case.run(&*store).await.unwrap(), Said::Right, "{act:?}");
                let counted = server.command(&["INFO", "commandstats"]).unwrap();
                let calls = |command: &str| -> u64 {
                    let line = counted.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
                    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
                };
                let scripts = calls("evalsha") + calls("eval");
                // What a script does is counted as well; without one, the command is all there is.
                let trips = if scripts > 0 { scripts } else { calls("mget") + calls("get") };
                assert!(number == 0 || trips == 1, "{act:?}: {counted}");
            }
        }
    }
}

mod postgres {
    use super::*;

    #[tokio::test]
    async fn each_verb_is_one_round_trip_and_one_statement() {
        super::each_verb_is_one_round_trip_and_one_statement(Server::Postgres, Protocol::Postgres).await;
    }

    #[tokio::test]
    async fn a_request_that_reads_makes_one_round_trip_and_one_that_writes_makes_two() {
        requests_keep_to_the_budget(Server::Postgres, Protocol::Postgres).await;
    }

    /// The server's own log, of a server that nobody else uses.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_server_logs_one_statement_for_each_verb() {
        let start = || cloakroom_services::Postgres::builder().log_statements().start();
        let server = tokio::task::spawn_blocking(start).await.unwrap().unwrap();
        counted_by_the_server(&Place::at(Server::Postgres, &server.url()), || {
            server.process().log().lines().filter(|line| line.contains(" execute ")).count()
        })
        .await;
    }
}

mod mariadb {
    use super::*;

    #[tokio::test]
    async fn each_verb_is_one_round_trip_and_one_statement() {
        super::each_verb_is_one_round_trip_and_one_statement(Server::MariaDb, Protocol::MySql).await;
    }

    #[tokio::test]
    async fn a_request_that_reads_makes_one_round_trip_and_one_that_writes_makes_two() {
        requests_keep_to_the_budget(Server::MariaDb, Protocol::MySql).await;
    }

    /// The server's own account, of a server that nobody else uses.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_server_counts_one_statement_for_each_verb() {
        let server = tokio::task::spawn_blocking(cloakroom_services::MariaDb::start).await.unwrap().unwrap();
        counted_by_the_server(&Place::at(Server::MariaDb, &server.url()), || {
            let counted = server.sql("SHOW GLOBAL STATUS LIKE 'Com_stmt_execute'").unwrap();
            counted.split_whitespace().last().unwrap().parse().unwrap()
        })
        .await;
    }
}

/// `executed` says how many statements the server has run so far.
async fn counted_by_the_server(place: &Place, executed: impl Fn() -> usize) {
    let store = place.open(None).await;
    for act in Act::ALL {
        let case = Case::new(act, 0, &*store).await;
        let before = executed();
        assert_eq!(case.run(&*store).await.unwrap(), Said::Right, "{act:?}");
        assert_eq!(executed() - before, 1, "{act:?}");
    }
}

async fn each_verb_is_one_round_trip_and_one_statement(server: Server, protocol: Protocol) {
    let place = Place::on(server);
    let proxy = Proxy::before(protocol, place.address()).await;
    let truth = place.open(None).await;
    let store = place.through(proxy.address).open(None).await;
    for act in Act::ALL {
        // Each connection prepares a statement, or brings a script, once.
        for number in 0..8 {
            let case = Case::new(act, number, &*truth).await;
            proxy.set(None);
            assert_eq!(case.run(&*store).await.unwrap(), Said::Right, "{act:?}");
            let seen = proxy.seen();
            let statements = seen.requests.iter().filter(|request| protocol.works(request)).count();
            // To Redis go `PING` and, where the time matters, `TIME` in the same packet: see below.
            let counted = (seen.trips, if protocol == Protocol::Resp { 1 } else { statements });
            assert!(number < 7 || counted == (1, 1), "{act:?}: {counted:?}");
        }
    }
    place.remove().await;
}

async fn requests_keep_to_the_budget(server: Server, protocol: Protocol) {
    let place = Place::on(server);
    let proxy = Proxy::before(protocol, place.address()).await;
    let store = place.through(proxy.address).open(None).await;
    let key = cloakroom_core::SecretKey::generate(&SeededRandom::new(1)).unwrap();
    let manager = Manager::builder(Backend::store(store), KeyRing::new("tests", &[key]).unwrap()).build().unwrap();
    let mut cookie = String::new();
    let mut request = async |work: &dyn Fn(&Session)| {
        proxy.set(None);
        let exchange = Exchange::new(manager.clone());
        let session = exchange.session([cookie.as_bytes()].into_iter(), Default::default).await.unwrap();
        work(&session);
        drop(session);
        let finish = exchange.finish(Outcome::Answered { status: 200, public: false }).await;
        assert!(finish.error.is_none(), "{finish:?}");
        if let Some(header) = finish.set {
            cookie = header.split(';').next().unwrap().to_owned();
        }
        proxy.seen().trips
    };
    let sign_in = |session: &Session| session.login("alice").unwrap();
    let count = |session: &Session| session.modify("n", |n: &mut u32| *n += 1).map(drop).unwrap();
    let read = |session: &Session| assert!(session.get::<u32>("n").unwrap().is_some());
    let nothing = |_: &Session| {};
    assert_eq!(request(&nothing).await, 0, "anonymous traffic is free");
    request(&sign_in).await;
    let mut last = [0; 4];
    // Each connection prepares a statement, or brings a script, once.
    for _ in 0..8 {
        last = [request(&count).await, request(&read).await, request(&sign_in).await, request(&nothing).await];
    }
    assert_eq!(last, [2, 1, 2, 1], "one that writes, one that reads, a sign-in, and one that loads only");
    place.remove().await;
}
