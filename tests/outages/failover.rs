//! A primary dies under load.
//!
//! Nothing acknowledged is lost where replicas acknowledge, whatever is lost is told where they do
//! not, and with a ledger what ended stays ended all the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::SessionStore;
use cloakroom_core::layer::{EpochLayer, StoreExt as _};
use cloakroom_services::Redis;
use cloakroom_sql::SqliteStore;

use crate::load::{Load, Promise, Report, Running};
use crate::servers::{blocking, redis, two, until};

const ASYNC: &str = "durability=async";
/// One replica has it before the store says so.
const ACKED: &str = "durability=acked(1,250ms)";

/// Between two calls of a task. A load without a pause keeps the servers of this machine from their turn, for seconds: then
/// Sentinels and nodes take them for dead as well.
const THINK: Duration = Duration::from_millis(1);

/// Whether the replicas had got what was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replicas {
    InSync,
    /// They stand still, cut off from the primary, while the load gets so many answers.
    Behind {
        answers: u64,
    },
}

/// Of these many answers replicas know nothing.
const UNCOPIED: Replicas = Replicas::Behind { answers: 1_000 };
/// The same where every write waits in vain for replicas.
const UNACKED: Replicas = Replicas::Behind { answers: 100 };

/// Two clients on this server, each under a ledger of ended sessions in the same file.
async fn under_ledgers(url: &str, directory: &tempfile::TempDir) -> Vec<Arc<dyn SessionStore>> {
    let mut stores = Vec::new();
    for store in two(async || redis(url, ASYNC).await).await {
        let ledger = SqliteStore::open(directory.path().join("ledger.db")).await.unwrap();
        stores.push(store.layer(EpochLayer::new(Arc::new(ledger))));
    }
    stores
}

fn under_load(stores: Vec<Arc<dyn SessionStore>>) -> Running {
    Load::on(stores).with_visitors(4).with_think_time(THINK).start()
}

/// Starts what died: it comes back empty, and must not be chosen for a primary before it has what the others have.
fn bring_back(dead: &Redis, not_chosen: [&str; 2]) {
    dead.restart().unwrap();
    dead.command(&["CONFIG", "SET", not_chosen[0], not_chosen[1]]).unwrap();
}

/// Kills the primary. What the load wrote since the replicas stood still, nobody else has.
async fn kill(load: &Running, primary: &Redis, replicas: &[&Redis], state: Replicas) -> Instant {
    if let Replicas::Behind { answers } = state {
        blocking(|| {
            for replica in replicas {
                replica.process().pause().unwrap();
            }
            // What the kernel holds for a replica would reach it when it goes on.
            primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).unwrap();
        });
        load.answers(answers).await;
    }
    let killed = load.outage();
    blocking(|| {
        primary.kill().unwrap();
        if state != Replicas::InSync {
            for replica in replicas {
                replica.process().resume().unwrap();
            }
        }
    });
    killed
}

/// When the primary was killed, and when everything answered again.
#[derive(Clone, Copy)]
struct Outage {
    killed: Instant,
    back: Instant,
}

/// Waits until everything answers again.
async fn end_of_outage(load: &Running, killed: Instant) -> Outage {
    load.back().await;
    Outage { killed, back: Instant::now() }
}

fn tell(title: &str, report: &Report, Outage { killed, back }: Outage) -> Duration {
    let (first, last) = (report.first_answer(killed).unwrap(), report.last_error(killed).unwrap_or_default());
    let away = report.away(killed, back);
    eprintln!(
        "{}  first answer after {first:.1?}, last error after {last:.1?}, nobody waits after {away:.1?}",
        report.text(title)
    );
    away
}

mod sentinel {
    use cloakroom_services::Sentinel;

    use super::*;

    /// `down-after-milliseconds` (1 s), one election that fails (twice the `failover-timeout` of 3 s),
    /// one that succeeds, and as much again as the store waits for one answer (2 s).
    const BOUND: Duration = Duration::from_secs(1 + 6 + 3 + 2);

    /// Every replica that may be promoted has it. Sentinel prefers the one that has most, and passes
    /// over those that it has not heard of lately.
    const ACKED_BY_ALL: &str = "durability=acked(2,250ms)";
    const NOT_CHOSEN: [&str; 2] = ["replica-priority", "0"];

    /// Kills the primary under load, and goes on until there is another.
    async fn take_over(load: &Running, group: &Sentinel, state: Replicas) -> Instant {
        let primary = blocking(|| group.primary().unwrap());
        let replicas: Vec<_> = group.servers().iter().filter(|server| server.port() != primary.port()).collect();
        let killed = kill(load, primary, &replicas, state).await;
        blocking(|| group.await_failover(primary).unwrap());
        killed
    }

    /// The same, until everything answers again.
    async fn fail_over(load: &Running, group: &Sentinel, state: Replicas) -> Outage {
        let killed = take_over(load, group, state).await;
        end_of_outage(load, killed).await
    }

    async fn start(group: &Sentinel, durability: &str) -> Running {
        let stores = two(async || redis(&group.url(), durability).await).await;
        let load = under_load(stores);
        load.answers(2_000).await;
        load
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_acked_durability_nothing_is_lost_and_the_service_is_back_in_time() {
        let group = blocking(|| Sentinel::start().unwrap());
        let dead = blocking(|| group.primary().unwrap());
        let load = start(&group, ACKED).await;
        let outage = fail_over(&load, &group, Replicas::InSync).await;
        // What died comes back empty, and has nothing to say.
        blocking(|| {
            bring_back(dead, NOT_CHOSEN);
            group.await_stable().unwrap();
        });
        load.answers(500).await;
        let report = load.stop().await;
        let back = tell("Sentinel, acked", &report, outage);
        report.assert_acknowledged();
        assert!(back <= BOUND, "the service was away for {back:?}, longer than {BOUND:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_acked_durability_nothing_is_lost_when_the_replicas_are_behind() {
        let group = blocking(|| Sentinel::start().unwrap());
        let dead = blocking(|| group.primary().unwrap());
        let load = start(&group, ACKED_BY_ALL).await;
        let killed = take_over(&load, &group, UNACKED).await;
        // The new primary has one replica, and no write is acknowledged before there are two.
        blocking(|| {
            bring_back(dead, NOT_CHOSEN);
            group.await_stable().unwrap();
        });
        let outage = end_of_outage(&load, killed).await;
        let report = load.stop().await;
        tell("Sentinel, acked, replicas behind", &report, outage);
        report.assert_acknowledged();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_async_durability_what_is_lost_is_what_the_replicas_had_not_got() {
        let group = blocking(|| Sentinel::start().unwrap());
        let load = under_load(two(async || redis(&group.url(), ASYNC).await).await);
        load.answers(2_000).await;
        let outage = fail_over(&load, &group, UNCOPIED).await;
        let report = load.stop().await;
        let back = tell("Sentinel, async, replicas behind", &report, outage);
        report.assert_only_losses();
        assert!(report.broke(Promise::EndedStaysEnded) > 0, "the outage was none: nothing was lost");
        assert!(back <= BOUND, "the service was away for {back:?}, longer than {BOUND:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_a_ledger_what_ended_stays_ended_though_redis_lost_it() {
        let directory = tempfile::tempdir().unwrap();
        let group = blocking(|| Sentinel::start().unwrap());
        let load = under_load(under_ledgers(&group.url(), &directory).await);
        load.answers(2_000).await;
        let outage = fail_over(&load, &group, UNCOPIED).await;
        let report = load.stop().await;
        tell("Sentinel, epoch, replicas behind", &report, outage);
        // Lists may still hold a session whose last renewal was lost, though no token opens it.
        report.assert_kept(|promise| matches!(promise, Promise::EndedStaysEnded | Promise::OneIdIsLive));
        report.assert_only_losses();
        assert!(!report.breaches.is_empty(), "the outage was none: nothing was lost");
    }
}

mod cluster {
    use cloakroom_services::Cluster;

    use super::*;

    /// `cluster-node-timeout` (1.5 s) twice, for the failure to be seen and agreed on, an election that
    /// fails (four times as long), one that succeeds (1 s), and as much as the store waits for one answer.
    const BOUND: Duration = Duration::from_secs(3 + 6 + 1 + 2);

    const NOT_CHOSEN: [&str; 2] = ["cluster-replica-no-failover", "yes"];

    async fn start() -> Cluster {
        blocking(|| Cluster::start().unwrap())
    }

    /// Kills a primary under load, and returns when its replica has taken over.
    async fn fail_over<'c>(load: &Running, cluster: &'c Cluster, state: Replicas) -> (&'c Redis, Instant) {
        let primaries = blocking(|| cluster.primaries().unwrap());
        let is_primary = |node: &Redis| primaries.iter().any(|primary| primary.port() == node.port());
        let replicas: Vec<_> = cluster.nodes().iter().filter(|node| !is_primary(node)).collect();
        let primary = primaries[0];
        let killed = kill(load, primary, &replicas, state).await;
        until("the failover", || {
            let primaries = cluster.primaries().unwrap_or_default();
            primaries.len() == 3 && primaries.iter().all(|other| other.port() != primary.port())
        })
        .await;
        blocking(|| cluster.await_agreement().unwrap());
        (primary, killed)
    }

    async fn acked(state: Replicas) -> (Report, Outage) {
        let cluster = start().await;
        let stores = two(async || redis(&cluster.url(), ACKED).await).await;
        let load = under_load(stores);
        load.answers(2_000).await;
        let (dead, killed) = fail_over(&load, &cluster, state).await;
        // The new primary has no replica that could acknowledge until the dead one is back.
        blocking(|| {
            bring_back(dead, NOT_CHOSEN);
            cluster.await_stable().unwrap();
        });
        let outage = end_of_outage(&load, killed).await;
        (load.stop().await, outage)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_acked_durability_nothing_is_lost() {
        let (report, outage) = acked(Replicas::InSync).await;
        tell("Cluster, acked", &report, outage);
        report.assert_acknowledged();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_acked_durability_nothing_is_lost_when_the_replicas_are_behind() {
        let (report, outage) = acked(UNACKED).await;
        tell("Cluster, acked, replicas behind", &report, outage);
        report.assert_acknowledged();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_async_durability_the_service_is_back_in_time_and_losses_are_what_the_replica_had_not_got() {
        let cluster = start().await;
        let load = under_load(two(async || redis(&cluster.url(), ASYNC).await).await);
        load.answers(2_000).await;
        let (_, killed) = fail_over(&load, &cluster, UNCOPIED).await;
        let outage = end_of_outage(&load, killed).await;
        let report = load.stop().await;
        let back = tell("Cluster, async, replicas behind", &report, outage);
        report.assert_only_losses();
        assert!(report.broke(Promise::EndedStaysEnded) > 0, "the outage was none: nothing was lost");
        assert!(back <= BOUND, "the service was away for {back:?}, longer than {BOUND:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn with_a_ledger_what_ended_stays_ended_though_redis_lost_it() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = start().await;
        let load = under_load(under_ledgers(&cluster.url(), &directory).await);
        load.answers(2_000).await;
        let (_, killed) = fail_over(&load, &cluster, UNCOPIED).await;
        let outage = end_of_outage(&load, killed).await;
        let report = load.stop().await;
        tell("Cluster, epoch, replicas behind", &report, outage);
        // Lists may still hold a session whose last renewal was lost, though no token opens it.
        report.assert_kept(|promise| matches!(promise, Promise::EndedStaysEnded | Promise::OneIdIsLive));
        report.assert_only_losses();
        assert!(!report.breaches.is_empty(), "the outage was none: nothing was lost");
    }
}
