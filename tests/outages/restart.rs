//! A server is restarted, or crashes and comes back with its data, again and again under load.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::{Clock as _, Create, Handle, Record, SessionId, SessionStore, SystemClock, Update};

use crate::load::{Load, Report, Running};
use crate::servers::blocking;

/// A client that does nothing while the server is away, and its session.
struct Idle {
    store: Arc<dyn SessionStore>,
    id: SessionId,
    record: Record,
}

impl Idle {
    async fn start(store: impl SessionStore) -> Self {
        let (store, id): (Arc<dyn SessionStore>, _) = (Arc::new(store), SessionId::from_bytes([7; SessionId::LEN]));
        let hour = Duration::from_secs(60 * 60);
        let record = Record::new(Handle::from_bytes([7; Handle::LEN]), SystemClock.now(), hour, hour);
        assert!(matches!(store.create(&id, &record, None).await.unwrap(), Create::Created { .. }));
        Self { store, id, record }
    }

    /// The first calls after the server is there again.
    async fn call(&self) {
        let found = self.store.load(&self.id).await.expect("the first load after the server is back fails");
        let revision = found.live().expect("the session of the idle client is gone").revision;
        let updated = self.store.update(&self.id, revision, &self.record).await;
        let updated = updated.expect("the first update after the server is back fails");
        assert_eq!(updated, Update::Saved(revision.next()));
    }
}

/// Does this to the server so many times under load. How long the service was away, each time.
async fn again_and_again(
    load: &Running,
    idle: &Idle,
    times: usize,
    mut outage: impl FnMut(),
) -> Vec<(Instant, Instant)> {
    let mut outages = Vec::new();
    load.answers(1_000).await;
    for _ in 0..times {
        let away = load.outage();
        blocking(&mut outage);
        let accepting = Instant::now();
        idle.call().await;
        load.back().await;
        outages.push((away, accepting));
        load.answers(500).await;
    }
    outages
}

fn tell(title: &str, report: &Report, outages: &[(Instant, Instant)]) {
    let mut text = report.text(title);
    for (place, (away, accepting)) in outages.iter().enumerate() {
        let until = outages.get(place + 1).map_or_else(Instant::now, |(next, _)| *next);
        let away_for = *accepting - *away;
        let errors = report.last_error_between(*accepting, until);
        text += &format!("  away for {away_for:.1?}; last error {errors:.1?} after it accepted connections again\n");
    }
    eprintln!("{text}");
}

mod postgres {
    use cloakroom_services::Postgres;

    use super::*;
    use crate::servers::{postgres, two};

    async fn under_load(server: &Postgres, times: usize, outage: impl FnMut()) {
        let idle = Idle::start(postgres(&server.url(), "").await).await;
        let load = Load::on(two(async || postgres(&server.url(), "").await).await).with_visitors(4).start();
        let outages = again_and_again(&load, &idle, times, outage).await;
        let report = load.stop().await;
        tell("PostgreSQL, restarts", &report, &outages);
        report.assert_flawless();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rolling_restarts_lose_nothing_and_the_next_call_is_answered() {
        let server = blocking(|| Postgres::builder().durable().start().unwrap());
        under_load(&server, 4, || server.restart().unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn crashes_lose_nothing_and_the_next_call_is_answered() {
        let server = blocking(|| Postgres::builder().durable().start().unwrap());
        under_load(&server, 2, || {
            server.kill().unwrap();
            server.restart().unwrap();
        })
        .await;
    }
}

mod mariadb {
    use cloakroom_services::MariaDb;

    use super::*;
    use crate::servers::{mariadb, two};

    async fn under_load(server: &MariaDb, times: usize, outage: impl FnMut()) {
        let idle = Idle::start(mariadb(&server.url(), "").await).await;
        let load = Load::on(two(async || mariadb(&server.url(), "").await).await).with_visitors(4).start();
        let outages = again_and_again(&load, &idle, times, outage).await;
        let report = load.stop().await;
        tell("MariaDB, restarts", &report, &outages);
        report.assert_flawless();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rolling_restarts_lose_nothing_and_the_next_call_is_answered() {
        let server = blocking(|| MariaDb::builder().durable().start().unwrap());
        under_load(&server, 2, || server.restart().unwrap()).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn crashes_lose_nothing_and_the_next_call_is_answered() {
        let server = blocking(|| MariaDb::builder().durable().start().unwrap());
        under_load(&server, 2, || {
            server.kill().unwrap();
            server.restart().unwrap();
        })
        .await;
    }
}

mod redis {
    use cloakroom_services::Redis;

    use super::*;
    use crate::servers::{redis, two};

    async fn under_load(server: &Redis, times: usize, outage: impl FnMut()) -> Report {
        let idle = Idle::start(redis(&server.url(), "").await).await;
        let load = Load::on(two(async || redis(&server.url(), "").await).await).with_visitors(4).start();
        let outages = again_and_again(&load, &idle, times, outage).await;
        let report = load.stop().await;
        tell("Redis, restarts", &report, &outages);
        report
    }

    fn appending(when: &str) -> Redis {
        let appendfsync = format!("appendfsync {when}");
        blocking(|| Redis::builder().config("appendonly yes").config(appendfsync).start().unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn rolling_restarts_with_an_append_only_file_lose_nothing() {
        let server = appending("everysec");
        under_load(&server, 4, || server.restart().unwrap()).await.assert_flawless();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn crashes_lose_nothing_where_every_write_is_synced() {
        let server = appending("always");
        let report = under_load(&server, 3, || {
            server.kill().unwrap();
            server.restart().unwrap();
        });
        report.await.assert_flawless();
    }

    /// A write waits in the server for up to two seconds while the file is being synced.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn crashes_lose_at_most_the_last_writes_where_they_are_synced_every_second() {
        let server = appending("everysec");
        let report = under_load(&server, 3, || {
            server.kill().unwrap();
            server.restart().unwrap();
        });
        report.await.assert_only_losses();
    }
}
