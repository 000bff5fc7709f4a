//! What each call costs the server, counted by the server.

use std::num::NonZeroU32;
use std::time::{Duration, UNIX_EPOCH};

use cloakroom_core::{EndReason, Excess, Handle, Principal, Record, Revision, SessionId, SessionLimit, Verb};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::call::{Desk, Op};
use super::connector::{Connector, Link};
use super::open::MySqlOptions;
use super::worker::{Call, CallError, fetch};
use crate::dialect::mysql::Statements;
use crate::prefix::TablePrefix;
use crate::row::Row;
use crate::touches::Deadlines;

const ROWS: u64 = 3000;
/// What a call may read that is about a few rows: far less than all of them, its temporary tables included.
const FEW: u64 = 300;

/// A connection, its tables with many sessions in them, and the counters of its session.
struct Bench {
    link: Link,
    statements: Statements,
}

impl Bench {
    async fn new(name: &str) -> Self {
        let url = cloakroom_services::shared::mariadb();
        let prefix = format!("c{}_{name}_", std::process::id());
        let options = MySqlOptions::new(&url).unwrap().with_table_prefix(&prefix).with_connections(1);
        options.clone().open().await.unwrap().close().await;
        let connector = Connector {
            options: options.server.clone(),
            server: options.name.clone(),
            connect_timeout: Duration::from_secs(5),
            lock_wait: 5,
        };
        let mut link = connector.connect().await.unwrap();
        let fill = "INSERT INTO cloakroom_sessions (id, handle, revision, principal, created, last_seen, \
            idle_deadline, absolute_deadline, sweep_at, ended_at, ended_reason, record) \
            WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 3000) \
            SELECT LEFT(MD5(n), 26), LEFT(MD5(n + 1000000), 10), 1, CONCAT('user', n MOD 1000), n, n, \
            4000000000000, 4000000000000, 4000000000000, NULL, NULL, 'x' FROM n";
        let prefix = TablePrefix::new(&prefix).unwrap();
        for text in ["SET SESSION max_recursive_iterations = 10000", fill, "ANALYZE TABLE cloakroom_sessions"] {
            link.line.connection.execute(AssertSqlSafe(prefix.apply(text))).await.unwrap();
        }
        Self { link, statements: Statements::new(&prefix) }
    }

    async fn run(&mut self, op: &Op) {
        let mut desk = Desk { line: &mut self.link.line, statements: &self.statements, now: None };
        desk.run(op).await.unwrap().unwrap();
    }

    /// How many statements were sent and how many rows were read since the counters were reset.
    async fn counted(&mut self) -> (u64, u64) {
        let counters = self.link.line.connection.fetch_all(COUNTERS).await.unwrap();
        let (mut statements, mut rows) = (0, 0);
        for counter in counters {
            let (name, count) = (counter.get::<String, _>(0), counter.get::<String, _>(1).parse::<u64>().unwrap());
            if name == "Questions" { statements += count } else { rows += count }
        }
        (statements, rows)
    }
}

const COUNTERS: &str = "SHOW SESSION STATUS WHERE Variable_name IN ('Questions', 'Handler_read_next', \
    'Handler_read_prev', 'Handler_read_rnd_next', 'Handler_read_rnd_deleted', 'Handler_read_first')";

async fn reset(connection: &mut MySqlConnection) {
    connection.execute("FLUSH STATUS").await.unwrap();
}

fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; SessionId::LEN])
}

fn row(n: u8) -> Row {
    // The same whenever it is asked for: an update must not change when its session began.
    let now = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let (idle, absolute) = (Duration::from_secs(60), Duration::from_secs(600));
    let record = Record::new(Handle::from_bytes([n; Handle::LEN]), now, idle, absolute);
    Row::new(&id(n), &record.owned_by(alice()))
}

fn alice() -> Principal {
    Principal::new("user7").unwrap()
}

/// Each of the calls, one way that it succeeds; in an order in which they do.
fn calls(n: u8) -> Vec<Op> {
    let limit = SessionLimit { max: NonZeroU32::new(5).unwrap(), excess: Excess::EvictOldest };
    let later = i64::MAX / 4;
    let principal = alice();
    vec![
        Op::Create { row: row(n), limit: None },
        Op::Create { row: row(n + 1), limit: Some(limit) },
        Op::Create { row: row(n + 2), limit: Some(limit) },
        Op::Update { expected: Revision::FIRST, row: row(n) },
        Op::Touch { id: id(n), last_seen: 1, idle_deadline: later },
        Op::TouchMany(vec![(id(n), Deadlines { last_seen: 2, idle_deadline: later })]),
        Op::Renew { old: id(n), expected: Revision::FIRST.next(), row: row(n + 3), limit: None },
        Op::Renew { old: id(n + 1), expected: Revision::FIRST, row: row(n + 4), limit: Some(limit) },
        // To where it was renewed.
        Op::Delete { id: id(n), reason: EndReason::Destroyed },
        Op::Revoke { principal: principal.clone(), handle: Handle::from_bytes([n + 4; Handle::LEN]) },
        Op::List { principal: principal.clone(), after: None, limit: 100 },
        Op::RevokeAll { principal, except: None },
        Op::Scan { after: None, limit: 20 },
        Op::Explain { handle: Handle::from_bytes([n; Handle::LEN]) },
        Op::Sweep { tombstones: 86_400_000, limit: 10 },
    ]
}

#[tokio::test]
async fn each_call_is_one_statement_that_reads_a_few_rows_only() {
    let mut bench = Bench::new("verbs").await;
    // The first time each is prepared as well.
    for op in calls(10) {
        bench.run(&op).await;
    }
    reset(&mut bench.link.line.connection).await;
    let (own, _) = bench.counted().await;
    for op in calls(60) {
        reset(&mut bench.link.line.connection).await;
        bench.run(&op).await;
        let (statements, rows) = bench.counted().await;
        assert_eq!(statements - own, 1, "{}: {op:?}", op.verb());
        assert!(rows < FEW, "{} reads {rows} rows of {ROWS}: {op:?}", op.verb());
    }
}

#[tokio::test]
async fn loads_that_wait_together_are_one_statement() {
    let mut bench = Bench::new("loads").await;
    let reads: Vec<_> =
        (0..32).map(|n| super::worker::Read { id: id(n), answer: tokio::sync::oneshot::channel().0 }).collect();
    for count in [1, 8, 32] {
        fetch(&mut bench.link.line, &bench.statements, &reads[..count]).await.unwrap();
        reset(&mut bench.link.line.connection).await;
        let (own, _) = bench.counted().await;
        reset(&mut bench.link.line.connection).await;
        fetch(&mut bench.link.line, &bench.statements, &reads[..count]).await.unwrap();
        let (statements, rows) = bench.counted().await;
        assert_eq!(statements - own, 1);
        assert!(rows < FEW, "{rows} rows for {count} ids");
    }
}

#[tokio::test]
async fn updates_and_touches_that_wait_together_are_one_statement() {
    let mut bench = Bench::new("together").await;
    for n in 1..=8 {
        bench.run(&Op::Create { row: row(n), limit: None }).await;
    }
    let calls = |op: fn(u8) -> Op| -> Vec<Call> {
        (1..=8).map(|n| Call { op: op(n), answer: tokio::sync::oneshot::channel::<Result<_, CallError>>().0 }).collect()
    };
    for (turn, expected) in [Revision::FIRST, Revision::FIRST.next()].into_iter().enumerate() {
        let mut waiting = calls(|n| Op::Update { expected: Revision::FIRST, row: row(n) });
        for call in &mut waiting {
            if let Op::Update { expected: revision, .. } = &mut call.op {
                *revision = expected;
            }
        }
        reset(&mut bench.link.line.connection).await;
        let (own, _) = bench.counted().await;
        reset(&mut bench.link.line.connection).await;
        let mut desk = Desk { line: &mut bench.link.line, statements: &bench.statements, now: None };
        let done = desk.run_together(&waiting).await.unwrap();
        assert!(done.iter().all(Option::is_some), "{done:?}");
        // The same once more finds none.
        let done = desk.run_together(&waiting).await.unwrap();
        assert!(done.iter().all(Option::is_none), "{done:?}");
        let (statements, rows) = bench.counted().await;
        assert_eq!((statements - own, waiting[0].op.verb()), (2, Verb::Update));
        assert!(rows < FEW, "{rows} rows in turn {turn}");
    }
    let waiting = calls(|n| Op::Touch { id: id(n), last_seen: 1, idle_deadline: 1 });
    let mut desk = Desk { line: &mut bench.link.line, statements: &bench.statements, now: None };
    desk.run_together(&waiting).await.unwrap();
    reset(&mut desk.line.connection).await;
    let done = desk.run_together(&waiting).await.unwrap();
    // Found is what counts, although nothing changes.
    assert!(done.iter().all(Option::is_some), "{done:?}");
    let (statements, rows) = bench.counted().await;
    assert!(statements <= 3 && rows < FEW, "{statements} statements, {rows} rows");
}
