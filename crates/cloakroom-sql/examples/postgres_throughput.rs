//! Loads and updates a second, beside the same statements through an sqlx pool and through one
//! pipelined client of the driver.
//!
//! `cargo run --release -p cloakroom-sql --features postgres --example postgres_throughput -- URL [OPTIONS]`
//!
//! Options of the store as in a URL: `connections=2&prepared=off`.

#![expect(clippy::print_stdout, reason = "a report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cloakroom_core::{Create, Handle, Record, Revision, SessionId, SessionStore, Update, Value};
use cloakroom_sql::{PostgresOptions, PostgresStore};
use sqlx::postgres::{PgPool, PgPoolOptions};
use sqlx::{Executor as _, Row as _};
use tokio_postgres::{Client, NoTls, Statement};

const SESSIONS: u64 = 10_000;
const SPAN: Duration = Duration::from_millis(1500);
const TABLE: &str = "DROP TABLE IF EXISTS plain; \
    CREATE TABLE plain (id bytea PRIMARY KEY, revision bigint, record bytea) WITH (fillfactor = 80)";
const INSERT: &str = "INSERT INTO plain VALUES ($1, 1, $2)";
const SELECT: &str = "SELECT record FROM plain WHERE id = $1";
const UPDATE: &str = "UPDATE plain SET revision = revision + 1, record = $1 WHERE id = $2";

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).ok_or("the URL of a PostgreSQL server, please")?;
    let options = std::env::args().nth(2).unwrap_or_default();
    println!("| record | tasks | verb | sqlx pool | one raw client | store | of the pool | of the client |");
    println!("|--:|--:|---|--:|--:|--:|--:|--:|");
    for size in [200, 4096] {
        compare(&url, &options, size).await?;
    }
    Ok(())
}

/// The same sessions in the store and in a table without anything else.
struct Bench {
    store: PostgresStore,
    pool: PgPool,
    raw: Client,
    select: Statement,
    update: Statement,
    size: usize,
}

async fn compare(url: &str, options: &str, size: usize) -> Result<(), Error> {
    GUESSES.iter().for_each(|guess| guess.store(0, Ordering::Relaxed));
    let pool = PgPoolOptions::new().connect(url).await?;
    pool.execute(TABLE).await?;
    pool.execute("DROP TABLE IF EXISTS bench_sessions, bench_migrations").await?;
    for function in ["now", "owner_lock", "create", "evict", "renew", "delete", "revoke"] {
        pool.execute(sqlx::AssertSqlSafe(format!("DROP FUNCTION IF EXISTS bench_{function}"))).await?;
    }
    let (raw, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    let (insert, select, update) = (raw.prepare(INSERT).await?, raw.prepare(SELECT).await?, raw.prepare(UPDATE).await?);
    for n in 0..SESSIONS {
        raw.execute(&insert, &[&id(n).as_bytes().as_slice(), &bytes(n, size)]).await?;
    }
    let store = PostgresOptions::new(&format!("{url}?{options}"))?.with_table_prefix("bench_")?.open().await?;
    let bench = Arc::new(Bench { store, pool, raw, select, update, size });
    for first in (0..SESSIONS).step_by(64) {
        let filed = (first..(first + 64).min(SESSIONS)).map(|n| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.store.create(&id(n), &bench.record(n), None).await })
        });
        for filed in filed.collect::<Vec<_>>() {
            assert!(matches!(filed.await??, Create::Created { .. }));
        }
    }
    bench.pool.execute("VACUUM ANALYZE").await?;
    for tasks in [1, 64, 512] {
        let pool = measure(tasks, &bench, |bench, n| async move { bench.pool_load(n).await }).await?;
        let raw = measure(tasks, &bench, |bench, n| async move { bench.raw_load(n).await }).await?;
        let store = measure(tasks, &bench, |bench, n| async move { bench.store_load(n).await }).await?;
        report(size, tasks, "load", pool, raw, store);
        let pool = measure(tasks, &bench, |bench, n| async move { bench.pool_update(n).await }).await?;
        let raw = measure(tasks, &bench, |bench, n| async move { bench.raw_update(n).await }).await?;
        let store = measure(tasks, &bench, |bench, n| async move { bench.store_update(n).await }).await?;
        report(size, tasks, "update", pool, raw, store);
    }
    bench.store.close().await;
    bench.pool.close().await;
    Ok(())
}

impl Bench {
    fn record(&self, n: u64) -> Record {
        let mut handle = [0; Handle::LEN];
        handle[2..].copy_from_slice(&mix(n).to_be_bytes());
        let now = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        // Nothing that compresses, as sealed records do not.
        let json: Vec<u8> = noise(n, self.size - 112).map(|byte| b'0' + byte % 10).collect();
        let json = [b"\"", json.as_slice(), b"\""].concat();
        Record::new(Handle::from_bytes(handle), now, Duration::from_secs(86_400), Duration::from_secs(604_800))
            .with_values([Value { key: "key", encoded: &json, expires: 0 }])
    }

    async fn pool_load(&self, n: u64) -> Result<(), Error> {
        let row = sqlx::query(SELECT).bind(id(n).as_bytes().to_vec()).fetch_one(&self.pool).await?;
        assert!(!row.get::<&[u8], _>(0).is_empty());
        Ok(())
    }

    async fn raw_load(&self, n: u64) -> Result<(), Error> {
        let row = self.raw.query_one(&self.select, &[&id(n).as_bytes().as_slice()]).await?;
        assert!(!row.get::<_, &[u8]>(0).is_empty());
        Ok(())
    }

    async fn store_load(&self, n: u64) -> Result<(), Error> {
        self.store.load(&id(n)).await?.live().map(|_| ()).ok_or_else(|| "not found".into())
    }

    async fn pool_update(&self, n: u64) -> Result<(), Error> {
        let query = sqlx::query(UPDATE).bind(bytes(n, self.size)).bind(id(n).as_bytes().to_vec());
        assert_eq!(query.execute(&self.pool).await?.rows_affected(), 1);
        Ok(())
    }

    async fn raw_update(&self, n: u64) -> Result<(), Error> {
        let id = id(n);
        let updated = self.raw.execute(&self.update, &[&bytes(n, self.size), &id.as_bytes().as_slice()]).await?;
        assert_eq!(updated, 1);
        Ok(())
    }

    async fn store_update(&self, n: u64) -> Result<(), Error> {
        let guess = &GUESSES[n as usize];
        let record = self.record(n);
        let mut revision = Revision::from_u64(guess.load(Ordering::Relaxed) + 1);
        loop {
            match self.store.update(&id(n), revision, &record).await? {
                Update::Saved(saved) => {
                    guess.store(saved.as_u64() - 1, Ordering::Relaxed);
                    return Ok(());
                }
                Update::Conflict(stored) => revision = stored.revision,
                Update::Gone(_) => return Err("not found".into()),
            }
        }
    }
}

static GUESSES: [AtomicU64; SESSIONS as usize] = [const { AtomicU64::new(0) }; SESSIONS as usize];

/// Calls a second, each on the next of the sessions in no order.
async fn measure<F>(tasks: u64, bench: &Arc<Bench>, call: fn(Arc<Bench>, u64) -> F) -> Result<f64, Error>
where
    F: Future<Output = Result<(), Error>> + Send + 'static,
{
    let started = Instant::now();
    let running: Vec<_> = (0..tasks)
        .map(|task| {
            let bench = Arc::clone(bench);
            tokio::spawn(async move {
                let mut done = 0;
                while started.elapsed() < SPAN {
                    // Each task has sessions of its own, so no update conflicts for long.
                    call(Arc::clone(&bench), (mix(done) % (SESSIONS / tasks)) * tasks + task).await?;
                    done += 1;
                }
                Ok::<_, Error>(done)
            })
        })
        .collect();
    let mut done = 0;
    for task in running {
        done += task.await??;
    }
    Ok(done as f64 / started.elapsed().as_secs_f64())
}

fn report(size: usize, tasks: u64, verb: &str, pool: f64, raw: f64, store: f64) {
    println!(
        "| {size} | {tasks} | {verb} | {pool:.0} | {raw:.0} | {store:.0} | {:.2} | {:.2} |",
        store / pool,
        store / raw
    );
}

fn id(n: u64) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    for (word, place) in bytes.chunks_mut(8).zip(0u64..) {
        word.copy_from_slice(&mix(n * 4 + place).to_be_bytes()[..word.len()]);
    }
    SessionId::from_bytes(bytes)
}

fn noise(n: u64, size: usize) -> impl Iterator<Item = u8> {
    (0..size as u64).map(move |place| mix(n * 8192 + place).to_be_bytes()[3])
}

fn bytes(n: u64, size: usize) -> Vec<u8> {
    noise(n, size).collect()
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
