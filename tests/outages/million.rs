//! A great many expired rows are swept while live traffic runs.
//!
//! Two processes sweep at once. What is live stays live, what is over goes, and the sweep finds it
//! by an index. How long live calls take meanwhile is printed, not asserted: a test machine has
//! other things to do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloakroom_core::{Clock as _, Event, EventSink, Handle, Record, SessionStore, Sweeper, SystemClock, Value};
use tokio::sync::mpsc;

use crate::load::{Latency, Load, Report};
use crate::servers::{blocking, two};

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Between two calls of a task, so that traffic is live and not all that the machine can do.
const THINK: Duration = Duration::from_millis(5);

/// The bytes of a record as an application has them, in hexadecimal digits.
fn record() -> String {
    let record = Record::new(Handle::from_bytes([1; Handle::LEN]), SystemClock.now(), HOUR, HOUR);
    let record = record.with_values([Value { key: "cart", encoded: &[b'7'; 80], expires: 0 }]);
    record.encode().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Milliseconds since 1970, so long ago.
fn ago(time: Duration) -> u128 {
    (SystemClock.now() - time).duration_since(std::time::UNIX_EPOCH).unwrap().as_millis()
}

/// Tells how many rows a sweeper removed until nothing was left.
#[derive(Debug)]
struct Swept(mpsc::UnboundedSender<u64>);

impl EventSink for Swept {
    fn emit(&self, event: &Event<'_>) {
        if let Event::Swept { removed } = event {
            self.0.send(*removed).unwrap();
        }
    }
}

/// Runs live traffic, first alone, then beside a sweeper of each process until nothing is left, and
/// alone again.
async fn sweep_beside_live_traffic(title: &str, stores: Vec<Arc<dyn SessionStore>>) -> Report {
    let load = Load::on(stores.clone()).with_think_time(THINK).start();
    load.answers(1_000).await;
    let alone = Instant::now();
    load.answers(20_000).await;
    let begun = Instant::now();
    let (sender, mut swept) = mpsc::unbounded_channel();
    let events: Arc<dyn EventSink> = Arc::new(Swept(sender));
    let start = |store: &Arc<dyn SessionStore>| Sweeper::start_reporting(Arc::clone(store), HOUR, Arc::clone(&events));
    let sweepers: Vec<_> = stores.iter().map(start).collect();
    let mut removed = 0;
    for _ in &sweepers {
        removed += swept.recv().await.unwrap();
    }
    let ended = Instant::now();
    drop(sweepers);
    load.answers(20_000).await;
    let alone_again = Instant::now();
    let report = load.stop().await;
    let [before, beside, after] =
        [(alone, begun), (begun, ended), (ended, alone_again)].map(|(from, to)| report.latency(from, to, |_| true));
    let ratio = |alone: &Latency| beside.p99.as_secs_f64() / alone.p99.as_secs_f64();
    eprintln!(
        "{}  swept {removed} rows in {:.1?}\n  live, before: {before:.2?}\n  live, beside: {beside:.2?}\n  \
         live, after:  {after:.2?}\n  p99 beside : before = {:.2}, beside : after = {:.2}\n",
        report.text(title),
        ended - begun,
        ratio(&before),
        ratio(&after),
    );
    assert!(beside.calls > 0, "there was no live traffic during the sweep");
    report
}

mod postgres {
    use cloakroom_services::Postgres;

    use super::*;
    use crate::servers::postgres;

    const ROWS: u64 = 1_000_000;

    /// Half ended an hour ago, half so long ago that not even a tombstone is kept.
    fn insert(server: &Postgres) {
        let record = record();
        for (first, since) in [(1, HOUR), (ROWS / 2 + 1, 48 * HOUR)] {
            let (last, deadline, created) = (first + ROWS / 2 - 1, ago(since), ago(since + HOUR));
            server
                .sql(&format!(
                    "INSERT INTO cloakroom_sessions (id, handle, revision, principal, created, last_seen, idle_deadline,
                        absolute_deadline, sweep_at, record)
                     SELECT decode(md5(n::text) || lpad(to_hex(n), 20, '0'), 'hex'), decode(lpad(to_hex(n), 20, '0'), 'hex'),
                        1, 'expired-' || n % 100000, {created}, {created}, {deadline} + n % 1000, {deadline} + n % 1000,
                        {deadline} + n % 1000, '\\x{record}'
                     FROM generate_series({first}, {last}) n"
                ))
                .unwrap();
        }
        // They came over days: the server is not still busy with them.
        server.sql("VACUUM ANALYZE cloakroom_sessions").unwrap();
        server.sql("CHECKPOINT").unwrap();
    }

    fn count(server: &Postgres, which: &str) -> u64 {
        server.sql(&format!("SELECT count(*) FROM cloakroom_sessions WHERE {which}")).unwrap().trim().parse().unwrap()
    }

    /// What the server says of the statements that one sweep runs.
    async fn plans_of_a_sweep(server: &Postgres) -> String {
        let settings = ["log_min_duration = 0", "log_analyze = on", "log_buffers = on", "log_nested_statements = on"];
        for setting in settings {
            blocking(|| server.sql(&format!("ALTER DATABASE cloakroom SET auto_explain.{setting}")).unwrap());
        }
        let log_before = server.process().log().len();
        let store = postgres(&server.url(), "").await;
        assert!(store.sweep(Sweeper::BATCH).await.unwrap().removed > 0);
        store.close().await;
        blocking(|| server.sql("ALTER DATABASE cloakroom RESET ALL").unwrap());
        let log = server.process().log()[log_before..].to_owned();
        log.split("LOG:  duration: ").filter(|entry| entry.contains("SKIP LOCKED")).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_million_expired_rows_go_and_no_live_one_does() {
        let server =
            Postgres::builder().config("shared_preload_libraries = 'auto_explain'").config("shared_buffers = 256MB");
        let server = blocking(|| server.start().unwrap());
        let stores = two(async || postgres(&server.url(), "").await).await;
        blocking(|| insert(&server));

        let plans = plans_of_a_sweep(&server).await;
        for index in ["cloakroom_sessions_sweep", "cloakroom_sessions_ended"] {
            assert!(
                plans.contains(&format!("Scan using {index}")) || plans.contains(&format!("Scan on {index}")),
                "{index} is not used: {plans}"
            );
        }
        assert!(!plans.contains("Seq Scan on cloakroom_sessions"), "the sweep reads the whole table: {plans}");
        eprintln!("{plans}");

        let (now, kept) = (ago(Duration::ZERO), ago(24 * HOUR));
        let report = sweep_beside_live_traffic("PostgreSQL, a million rows", stores).await;
        report.assert_flawless();
        assert_eq!(report.errors(), 0);
        let left = format!("(ended_at IS NULL AND sweep_at < {now}) OR ended_at < {kept}");
        assert_eq!(blocking(|| count(&server, &left)), 0, "expired rows are left");
        let tombstones = blocking(|| count(&server, "ended_reason = 4"));
        assert_eq!(tombstones, ROWS / 2, "those that ended within a day leave a tombstone each");
    }
}

mod mariadb {
    use cloakroom_services::MariaDb;

    use super::*;
    use crate::servers::mariadb;

    const ROWS: u64 = 20_000;

    fn insert(server: &MariaDb) {
        let record = record();
        for (first, since) in [(1, HOUR), (ROWS / 2 + 1, 48 * HOUR)] {
            let (last, deadline, created) = (first + ROWS / 2 - 1, ago(since), ago(since + HOUR));
            server
                .sql(&format!(
                    "INSERT INTO cloakroom_sessions (id, handle, revision, principal, created, last_seen, idle_deadline,
                        absolute_deadline, sweep_at, record)
                     SELECT UNHEX(CONCAT(MD5(seq), LPAD(HEX(seq), 20, '0'))), UNHEX(LPAD(HEX(seq), 20, '0')), 1,
                        CONCAT('expired-', seq % 100000), {created}, {created}, {deadline} + seq % 1000,
                        {deadline} + seq % 1000, {deadline} + seq % 1000, UNHEX('{record}')
                     FROM seq_{first}_to_{last}"
                ))
                .unwrap();
        }
    }

    fn count(server: &MariaDb, which: &str) -> u64 {
        server.sql(&format!("SELECT COUNT(*) FROM cloakroom_sessions WHERE {which}")).unwrap().trim().parse().unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn twenty_thousand_expired_rows_go_and_no_live_one_does() {
        let server = blocking(|| MariaDb::start().unwrap());
        let stores = two(async || mariadb(&server.url(), "").await).await;
        blocking(|| insert(&server));

        let handlers = || {
            let rows = blocking(|| server.sql("SHOW GLOBAL STATUS LIKE 'Handler_read_rnd_next'").unwrap());
            rows.split_whitespace().last().unwrap().parse::<u64>().unwrap()
        };
        let before = handlers();
        assert!(stores[0].sweep(Sweeper::BATCH).await.unwrap().removed > 0);
        let read_in_order = handlers() - before;
        assert!(read_in_order < ROWS / 10, "one batch of the sweep reads {read_in_order} rows without an index");

        let (now, kept) = (ago(Duration::ZERO), ago(24 * HOUR));
        let report = sweep_beside_live_traffic("MariaDB, twenty thousand rows", stores).await;
        report.assert_flawless();
        assert_eq!(report.errors(), 0);
        let left = format!("(ended_at IS NULL AND sweep_at < {now}) OR ended_at < {kept}");
        assert_eq!(blocking(|| count(&server, &left)), 0, "expired rows are left");
        let tombstones = blocking(|| count(&server, "ended_reason = 4"));
        assert_eq!(tombstones, ROWS / 2, "those that ended within a day leave a tombstone each");
    }
}
