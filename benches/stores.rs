//! What the stores do a second, beside the raw client on the same server, payload and concurrency, in one run.
//!
//! ```text
//! cargo bench -p cloakroom-benches --bench stores             all servers, started for the run
//! cargo bench -p cloakroom-benches --bench stores -- redis    one of: redis, postgres, mariadb
//! cargo bench -p cloakroom-benches --bench stores -- redis load update 200 64
//! ```
//!
//! The last measures only these calls, records of this size and this number of tasks.
//!
//! A ratio over 1 means that the store is faster than the raw client used as most people use it:
//! commands on one multiplexed connection (Redis), statements through a pool (sqlx), prepared
//! statements pipelined on one connection (PostgreSQL). The raw calls are the nearest there is and
//! check nothing: `SET` for a conditional update, `RENAME` for a renewal.

#![allow(
    clippy::print_stdout,
    clippy::wildcard_enum_match_arm,
    reason = "a program that prints a table, in which every answer but one is a failure"
)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use cloakroom_core::{
    Clock as _, Create, Handle, Record, Renew, Renewal, Revision, SessionId, SessionStore, SystemClock, Touch, Update,
    Value,
};
use cloakroom_redis::RedisOptions;
use cloakroom_services::{MariaDb, Postgres, Redis};
use cloakroom_sql::{MySqlOptions, PostgresOptions};
use redis::AsyncCommands as _;
use redis::aio::MultiplexedConnection;
use sqlx::mysql::{MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgPool, PgPoolOptions};

type Error = Box<dyn std::error::Error + Send + Sync>;
type Done = Result<(), Error>;

/// How many sessions there are.
const SESSIONS: u64 = 10_000;
/// How long one cell of the table is measured, after a tenth of it to warm up.
const SPAN: Duration = Duration::from_millis(1000);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A value that does not compress, as the records of real sessions do not.
static DIGITS: LazyLock<Vec<u8>> = LazyLock::new(|| (1..=4096).map(|n| b'0' + (mix(n) % 10) as u8).collect());
static BEGAN: LazyLock<SystemTime> = LazyLock::new(|| SystemClock.now());

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Call {
    Create,
    Load,
    Update,
    Touch,
    Renew,
}

impl Call {
    const ALL: [Self; 5] = [Self::Create, Self::Load, Self::Update, Self::Touch, Self::Renew];

    fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Load => "load",
            Self::Update => "update",
            Self::Touch => "touch",
            Self::Renew => "renew",
        }
    }
}

/// Something that keeps sessions: a store, or a client used by hand.
#[async_trait]
trait Subject: Send + Sync {
    /// Does the call on the session that this task has in this place.
    async fn call(&self, call: Call, seat: &Seat) -> Done;
}

/// One session, used by one task at a time. A renewal or a creation moves it to a new id.
struct Seat {
    number: u64,
    /// How often it moved to another id.
    moves: AtomicU64,
    revision: AtomicU64,
    size: usize,
}

impl Seat {
    fn id(&self, moves: u64) -> SessionId {
        id(self.number, moves)
    }

    fn current(&self) -> SessionId {
        self.id(self.moves.load(Ordering::Relaxed))
    }

    fn next(&self) -> (SessionId, u64) {
        let moves = self.moves.load(Ordering::Relaxed) + 1;
        (self.id(moves), moves)
    }

    fn record(&self) -> Record {
        let mut handle = [0; Handle::LEN];
        handle[2..].copy_from_slice(&mix(self.number).to_be_bytes());
        let json = &DIGITS[..self.size - 110];
        // An update must not change when a session began.
        Record::new(Handle::from_bytes(handle), *BEGAN, DAY, 7 * DAY).with_values([Value {
            key: "key",
            encoded: json,
            expires: 0,
        }])
    }
}

/// One of the stores.
struct Store(Arc<dyn SessionStore>);

#[async_trait]
impl Subject for Store {
    async fn call(&self, call: Call, seat: &Seat) -> Done {
        let store = &self.0;
        match call {
            Call::Create => {
                let (id, moves) = seat.next();
                match store.create(&id, &seat.record(), None).await? {
                    Create::Created { .. } => {}
                    other => return Err(format!("{other:?}").into()),
                }
                seat.moves.store(moves, Ordering::Relaxed);
                seat.revision.store(Revision::FIRST.as_u64(), Ordering::Relaxed);
            }
            Call::Load => {
                store.load(&seat.current()).await?.live().ok_or("not found")?;
            }
            Call::Update => {
                let revision = Revision::from_u64(seat.revision.load(Ordering::Relaxed));
                match store.update(&seat.current(), revision, &seat.record()).await? {
                    Update::Saved(saved) => seat.revision.store(saved.as_u64(), Ordering::Relaxed),
                    // Another task has the same seat.
                    Update::Conflict(stored) => seat.revision.store(stored.revision.as_u64(), Ordering::Relaxed),
                    Update::Gone(reason) => return Err(format!("gone: {reason:?}").into()),
                }
            }
            Call::Touch => {
                let now = SystemClock.now();
                match store.touch(&seat.current(), now, now + DAY).await? {
                    Touch::Touched => {}
                    Touch::Gone(reason) => return Err(format!("gone: {reason:?}").into()),
                }
            }
            Call::Renew => {
                let (new, moves) = seat.next();
                let expected = Revision::from_u64(seat.revision.load(Ordering::Relaxed));
                let renewal =
                    Renewal { old: &seat.current(), new: &new, expected, record: &seat.record(), limit: None };
                match store.renew(renewal).await? {
                    Renew::Renewed { revision, .. } => seat.revision.store(revision.as_u64(), Ordering::Relaxed),
                    other => return Err(format!("{other:?}").into()),
                }
                seat.moves.store(moves, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// Commands on one multiplexed connection.
struct RawRedis(MultiplexedConnection);

#[async_trait]
impl Subject for RawRedis {
    async fn call(&self, call: Call, seat: &Seat) -> Done {
        let mut redis = self.0.clone();
        let key = |id: SessionId| [b"raw:".as_slice(), id.as_bytes()].concat();
        let current = key(seat.current());
        match call {
            Call::Create => {
                let (id, moves) = seat.next();
                let () = redis.set_ex(key(id), seat.record().encode(), DAY.as_secs()).await?;
                seat.moves.store(moves, Ordering::Relaxed);
            }
            Call::Load => {
                let bytes: Vec<u8> = redis.get(current).await?;
                Record::decode(&bytes.into())?;
            }
            Call::Update => {
                let () = redis.set_ex(current, seat.record().encode(), DAY.as_secs()).await?;
            }
            Call::Touch => {
                let done: bool = redis.expire(current, 24 * 60 * 60).await?;
                assert!(done);
            }
            Call::Renew => {
                let (id, moves) = seat.next();
                let () = redis.rename(current, key(id)).await?;
                seat.moves.store(moves, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}

/// The statements of the raw clients, on a table with nothing but what they need.
mod plain {
    pub(super) const POSTGRES: [&str; 2] = [
        "DROP TABLE IF EXISTS plain",
        "CREATE TABLE plain (id bytea PRIMARY KEY, deadline bigint NOT NULL, record bytea NOT NULL)",
    ];
    pub(super) const MYSQL: [&str; 2] = [
        "DROP TABLE IF EXISTS plain",
        "CREATE TABLE plain (id BINARY(26) PRIMARY KEY, deadline BIGINT NOT NULL, record LONGBLOB NOT NULL)",
    ];

    pub(super) struct Statements {
        pub(super) create: &'static str,
        pub(super) load: &'static str,
        pub(super) update: &'static str,
        pub(super) touch: &'static str,
        pub(super) renew: &'static str,
    }

    /// Parameters are: record, deadline, id and new id, as far as a statement has them.
    pub(super) const DOLLARS: Statements = Statements {
        create: "INSERT INTO plain (record, deadline, id) VALUES ($1, $2, $3)",
        load: "SELECT record FROM plain WHERE id = $1",
        update: "UPDATE plain SET record = $1, deadline = $2 WHERE id = $3",
        touch: "UPDATE plain SET deadline = $1 WHERE id = $2",
        renew: "UPDATE plain SET id = $1 WHERE id = $2",
    };
    pub(super) const QUESTION_MARKS: Statements = Statements {
        create: "INSERT INTO plain (record, deadline, id) VALUES (?, ?, ?)",
        load: "SELECT record FROM plain WHERE id = ?",
        update: "UPDATE plain SET record = ?, deadline = ? WHERE id = ?",
        touch: "UPDATE plain SET deadline = ? WHERE id = ?",
        renew: "UPDATE plain SET id = ? WHERE id = ?",
    };
}

/// A pool of sqlx with its default settings.
macro_rules! sqlx_subject {
    ($name:ident, $pool:ty, $statements:path) => {
        struct $name($pool);

        #[async_trait]
        impl Subject for $name {
            async fn call(&self, call: Call, seat: &Seat) -> Done {
                let current = seat.current().as_bytes().to_vec();
                let deadline = millis(SystemClock.now() + DAY);
                let changed = match call {
                    Call::Create => {
                        let (id, moves) = seat.next();
                        let query = sqlx::query($statements.create).bind(seat.record().encode()).bind(deadline);
                        let done = query.bind(id.as_bytes().to_vec()).execute(&self.0).await?;
                        seat.moves.store(moves, Ordering::Relaxed);
                        done.rows_affected()
                    }
                    Call::Load => {
                        let (bytes,): (Vec<u8>,) =
                            sqlx::query_as($statements.load).bind(current).fetch_one(&self.0).await?;
                        Record::decode(&bytes.into())?;
                        1
                    }
                    Call::Update => {
                        let query = sqlx::query($statements.update).bind(seat.record().encode()).bind(deadline);
                        query.bind(current).execute(&self.0).await?.rows_affected()
                    }
                    // Where nothing changes, MySQL counts the row only because sqlx asks it to.
                    Call::Touch => {
                        let query = sqlx::query($statements.touch).bind(deadline).bind(current);
                        query.execute(&self.0).await?.rows_affected()
                    }
                    Call::Renew => {
                        let (id, moves) = seat.next();
                        let query = sqlx::query($statements.renew).bind(id.as_bytes().to_vec()).bind(current);
                        let done = query.execute(&self.0).await?;
                        seat.moves.store(moves, Ordering::Relaxed);
                        done.rows_affected()
                    }
                };
                if changed == 1 { Ok(()) } else { Err(format!("{changed} rows").into()) }
            }
        }
    };
}

sqlx_subject!(RawPgPool, PgPool, plain::DOLLARS);
sqlx_subject!(RawMySqlPool, MySqlPool, plain::QUESTION_MARKS);

/// Prepared statements of tokio-postgres, which pipelines what is sent at the same time, on one connection.
struct RawPipelined {
    client: tokio_postgres::Client,
    statements: BTreeMap<Call, tokio_postgres::Statement>,
}

impl RawPipelined {
    async fn connect(url: &str) -> Result<Self, Error> {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        let mut statements = BTreeMap::new();
        let texts = plain::DOLLARS;
        for (call, text) in [
            (Call::Create, texts.create),
            (Call::Load, texts.load),
            (Call::Update, texts.update),
            (Call::Touch, texts.touch),
            (Call::Renew, texts.renew),
        ] {
            statements.insert(call, client.prepare(text).await?);
        }
        Ok(Self { client, statements })
    }
}

#[async_trait]
impl Subject for RawPipelined {
    async fn call(&self, call: Call, seat: &Seat) -> Done {
        let statement = &self.statements[&call];
        let current = seat.current();
        let current = current.as_bytes().as_slice();
        let deadline = millis(SystemClock.now() + DAY);
        let changed = match call {
            Call::Create => {
                let (id, moves) = seat.next();
                let done = self
                    .client
                    .execute(statement, &[&seat.record().encode(), &deadline, &id.as_bytes().as_slice()])
                    .await?;
                seat.moves.store(moves, Ordering::Relaxed);
                done
            }
            Call::Load => {
                let row = self.client.query_one(statement, &[&current]).await?;
                Record::decode(&row.get::<_, Vec<u8>>(0).into())?;
                1
            }
            Call::Update => self.client.execute(statement, &[&seat.record().encode(), &deadline, &current]).await?,
            Call::Touch => self.client.execute(statement, &[&deadline, &current]).await?,
            Call::Renew => {
                let (id, moves) = seat.next();
                let done = self.client.execute(statement, &[&id.as_bytes().as_slice(), &current]).await?;
                seat.moves.store(moves, Ordering::Relaxed);
                done
            }
        };
        if changed == 1 { Ok(()) } else { Err(format!("{changed} rows").into()) }
    }
}

/// A budget of `docs/ARCHITECTURE.md`: the least ratio of a store to a raw client.
struct Budget {
    server: &'static str,
    call: Call,
    tasks: u64,
    raw: &'static str,
    least: f64,
}

const POOL: &str = "sqlx pool";
const PIPELINED: &str = "pipelined";
const MULTIPLEXED: &str = "multiplexed";

const BUDGETS: [Budget; 4] = [
    Budget { server: "redis", call: Call::Load, tasks: 64, raw: MULTIPLEXED, least: 1.2 },
    Budget { server: "redis", call: Call::Update, tasks: 64, raw: MULTIPLEXED, least: 0.65 },
    Budget { server: "postgres", call: Call::Load, tasks: 64, raw: POOL, least: 8.0 },
    Budget { server: "postgres", call: Call::Update, tasks: 64, raw: POOL, least: 5.0 },
];

/// What one task alone may have for the calls of which a budget speaks.
const ALONE: f64 = 1.0;

fn budget(server: &str, call: Call, tasks: u64, raw: &str) -> Option<f64> {
    let listed = BUDGETS
        .iter()
        .find(|budget| budget.server == server && budget.call == call && budget.tasks == tasks && budget.raw == raw);
    let alone = tasks == 1 && matches!(call, Call::Load | Call::Update);
    listed.map(|budget| budget.least).or(alone.then_some(ALONE))
}

const SERVERS: [&str; 3] = ["redis", "postgres", "mariadb"];
const SIZES: [usize; 2] = [200, 4096];
const TASKS: [u64; 3] = [1, 64, 512];

/// What was named on the command line.
struct Wanted(Vec<String>);

impl Wanted {
    /// Whether this one was named, or none of its kind was.
    fn wants(&self, kind: &[impl ToString], one: impl ToString) -> bool {
        let named = |one: &dyn ToString| self.0.contains(&one.to_string());
        named(&one) || !kind.iter().any(|other| named(other))
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Done {
    // cargo adds an option of its own.
    let wanted = Wanted(std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect());
    let wants = |server: &str| wanted.wants(&SERVERS, server);
    println!(
        "| server | record | tasks | call | store, calls/s | p50 | p99 | raw client | raw, calls/s | ratio | budget |"
    );
    println!("|---|--:|--:|---|--:|--:|--:|---|--:|--:|--:|");
    if wants("redis") {
        let server = Redis::start()?;
        let client = redis::Client::open(server.url())?;
        let raw = RawRedis(client.get_multiplexed_async_connection().await?);
        let store = RedisOptions::new(&server.url())?.open().await?;
        compare("redis", &wanted, Arc::new(Store(Arc::new(store))), &[(MULTIPLEXED, Arc::new(raw))]).await?;
    }
    if wants("postgres") {
        let server = Postgres::start()?;
        let pool = PgPoolOptions::new().connect(&server.url()).await?;
        for statement in plain::POSTGRES {
            sqlx::query(statement).execute(&pool).await?;
        }
        let pipelined = RawPipelined::connect(&server.url()).await?;
        let store = PostgresOptions::new(&server.url())?.open().await?;
        let raw: [(_, Arc<dyn Subject>); 2] = [(POOL, Arc::new(RawPgPool(pool))), (PIPELINED, Arc::new(pipelined))];
        compare("postgres", &wanted, Arc::new(Store(Arc::new(store))), &raw).await?;
    }
    if wants("mariadb") {
        let server = MariaDb::start()?;
        let pool = MySqlPoolOptions::new().connect(&server.url()).await?;
        for statement in plain::MYSQL {
            sqlx::query(statement).execute(&pool).await?;
        }
        let store = MySqlOptions::new(&server.url())?.open().await?;
        compare("mariadb", &wanted, Arc::new(Store(Arc::new(store))), &[(POOL, Arc::new(RawMySqlPool(pool)))]).await?;
    }
    Ok(())
}

async fn compare(
    server: &str,
    wanted: &Wanted,
    store: Arc<dyn Subject>,
    raw: &[(&'static str, Arc<dyn Subject>)],
) -> Done {
    for size in SIZES.into_iter().filter(|size| wanted.wants(&SIZES, size)) {
        let seats = seats(size);
        fill(&store, &seats).await?;
        let mut beside = Vec::new();
        for (name, subject) in raw {
            let seats = self::seats(size);
            fill(subject, &seats).await?;
            beside.push((*name, subject, seats));
        }
        for tasks in TASKS.into_iter().filter(|tasks| wanted.wants(&TASKS, tasks)) {
            for call in Call::ALL.into_iter().filter(|call| wanted.wants(&Call::ALL.map(Call::name), call.name())) {
                let ours = measure(&store, &seats, call, tasks).await?;
                for (name, subject, seats) in &beside {
                    let theirs = measure(subject, seats, call, tasks).await?;
                    report(server, size, tasks, call, &ours, name, &theirs);
                }
            }
        }
    }
    Ok(())
}

fn report(server: &str, size: usize, tasks: u64, call: Call, ours: &Measured, raw: &str, theirs: &Measured) {
    let ratio = ours.a_second / theirs.a_second;
    let budget = match budget(server, call, tasks, raw) {
        None => String::new(),
        Some(least) if ratio >= least => format!("{least}: kept"),
        Some(least) => format!("{least}: **missed by {:.2}**", least - ratio),
    };
    println!(
        "| {server} | {size} | {tasks} | {} | {:.0} | {} µs | {} µs | {raw} | {:.0} | {ratio:.2} | {budget} |",
        call.name(),
        ours.a_second,
        ours.p50.as_micros(),
        ours.p99.as_micros(),
        theirs.a_second,
    );
}

/// Seats of a size, whose ids no other run of this program has had.
fn seats(size: usize) -> Arc<Vec<Seat>> {
    static USED: AtomicU64 = AtomicU64::new(0);
    let first = USED.fetch_add(SESSIONS, Ordering::Relaxed);
    let seat = |number| Seat { number, moves: AtomicU64::new(0), revision: AtomicU64::new(1), size };
    Arc::new((first..first + SESSIONS).map(seat).collect())
}

async fn fill(subject: &Arc<dyn Subject>, seats: &Arc<Vec<Seat>>) -> Done {
    let filling = (0..64).map(|task| {
        let (subject, seats) = (Arc::clone(subject), Arc::clone(seats));
        tokio::spawn(async move {
            for seat in seats.iter().skip(task).step_by(64) {
                subject.call(Call::Create, seat).await?;
            }
            Ok::<_, Error>(())
        })
    });
    for task in filling.collect::<Vec<_>>() {
        task.await??;
    }
    Ok(())
}

struct Measured {
    a_second: f64,
    p50: Duration,
    p99: Duration,
}

/// Each task has seats of its own and takes them in no order.
async fn measure(
    subject: &Arc<dyn Subject>,
    seats: &Arc<Vec<Seat>>,
    call: Call,
    tasks: u64,
) -> Result<Measured, Error> {
    run(subject, seats, call, tasks, SPAN / 10).await?;
    run(subject, seats, call, tasks, SPAN).await
}

async fn run(
    subject: &Arc<dyn Subject>,
    seats: &Arc<Vec<Seat>>,
    call: Call,
    tasks: u64,
    span: Duration,
) -> Result<Measured, Error> {
    let started = Instant::now();
    let running = (0..tasks).map(|task| {
        let (subject, seats) = (Arc::clone(subject), Arc::clone(seats));
        tokio::spawn(async move {
            let mut took = Vec::new();
            while started.elapsed() < span {
                let seat = mix(took.len() as u64) % (SESSIONS / tasks) * tasks + task;
                let begun = Instant::now();
                subject.call(call, &seats[usize::try_from(seat)?]).await?;
                took.push(begun.elapsed());
            }
            Ok::<_, Error>(took)
        })
    });
    let mut took = Vec::new();
    for task in running.collect::<Vec<_>>() {
        took.extend(task.await??);
    }
    let a_second = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(Measured { a_second, p50: took[took.len() / 2], p99: took[took.len() * 99 / 100] })
}

fn millis(time: SystemTime) -> i64 {
    i64::try_from(cloakroom_core::clock::unix_millis(time)).unwrap_or(i64::MAX)
}

fn id(number: u64, moves: u64) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    for (word, place) in bytes.chunks_mut(8).zip(0u64..) {
        let word_of = mix(mix(number * 4 + place).wrapping_add(moves));
        word.copy_from_slice(&word_of.to_be_bytes()[..word.len()]);
    }
    SessionId::from_bytes(bytes)
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
