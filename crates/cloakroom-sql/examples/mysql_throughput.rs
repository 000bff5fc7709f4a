//! Loads, updates and touches a second, beside the same statements through a sqlx pool.
//!
//! `cargo run --release -p cloakroom-sql --features mysql --example mysql_throughput`, on the server
//! that `CLOAKROOM_TEST_MARIADB` names.

#![expect(clippy::print_stdout, reason = "a report")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use cloakroom_core::{Create, Handle, Record, Revision, SessionId, SessionStore, Touch, Update, Value};
use cloakroom_sql::{MySqlOptions, MySqlStore};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{Executor as _, MySqlPool, Row as _};

const SESSIONS: u64 = 10_000;
const SPAN: Duration = Duration::from_millis(1500);
const SELECT: &str = "SELECT record FROM throughput_plain WHERE id = ?";
const UPDATE: &str = "UPDATE throughput_plain SET revision = revision + 1, record = ? WHERE id = ?";
const TOUCH: &str = "UPDATE throughput_plain SET deadline = deadline + 1 WHERE id = ?";

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = cloakroom_services::shared::mariadb();
    println!("| record | tasks | verb | sqlx pool | store | ratio |");
    println!("|--:|--:|---|--:|--:|--:|");
    for size in [200, 4096] {
        compare(&url, size).await?;
    }
    Ok(())
}

/// The same sessions in the store and in a table without anything else.
struct Bench {
    store: MySqlStore,
    pool: MySqlPool,
    size: usize,
}

async fn compare(url: &str, size: usize) -> Result<(), Error> {
    GUESSES.iter().for_each(|guess| guess.store(0, Ordering::Relaxed));
    let pool = MySqlPoolOptions::new().connect(url).await?;
    for procedure in ["make_room", "create", "renew", "delete", "revoke", "revoke_all", "sweep"] {
        pool.execute(sqlx::AssertSqlSafe(format!("DROP PROCEDURE IF EXISTS throughput_{procedure}"))).await?;
    }
    pool.execute("DROP TABLE IF EXISTS throughput_plain, throughput_sessions, throughput_locks, throughput_migrations")
        .await?;
    let table = "CREATE TABLE throughput_plain \
        (id BINARY(26) PRIMARY KEY, revision BIGINT, deadline BIGINT, record MEDIUMBLOB) ENGINE = InnoDB";
    pool.execute(table).await?;
    let store = MySqlOptions::new(url)?.with_table_prefix("throughput_").open().await?;
    let bench = Arc::new(Bench { store, pool, size });
    for first in (0..SESSIONS).step_by(64) {
        let filed = (first..(first + 64).min(SESSIONS)).map(|n| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move {
                let insert =
                    sqlx::query("INSERT INTO throughput_plain VALUES (?, 1, 1, ?)").bind(id(n).as_bytes().to_vec());
                insert.bind(vec![0u8; bench.size]).execute(&bench.pool).await?;
                Ok::<_, Error>(bench.store.create(&id(n), &bench.record(n), None).await?)
            })
        });
        for filed in filed.collect::<Vec<_>>() {
            assert!(matches!(filed.await??, Create::Created { .. }));
        }
    }
    for tasks in [1, 64, 512] {
        let pool = measure(tasks, &bench, |bench, n| async move { bench.pool_load(n).await }).await?;
        let store = measure(tasks, &bench, |bench, n| async move { bench.store_load(n).await }).await?;
        report(size, tasks, "load", pool, store);
        let pool = measure(tasks, &bench, |bench, n| async move { bench.pool_update(n).await }).await?;
        let store = measure(tasks, &bench, |bench, n| async move { bench.store_update(n).await }).await?;
        report(size, tasks, "update", pool, store);
        let pool = measure(tasks, &bench, |bench, n| async move { bench.pool_touch(n).await }).await?;
        let store = measure(tasks, &bench, |bench, n| async move { bench.store_touch(n).await }).await?;
        report(size, tasks, "touch", pool, store);
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
        let json = vec![b'1'; self.size - 110];
        Record::new(Handle::from_bytes(handle), now, Duration::from_secs(86_400), Duration::from_secs(604_800))
            .with_values([Value { key: "key", encoded: &json, expires: 0 }])
    }

    async fn pool_load(&self, n: u64) -> Result<(), Error> {
        let row = sqlx::query(SELECT).bind(id(n).as_bytes().to_vec()).fetch_one(&self.pool).await?;
        assert!(!row.get::<&[u8], _>(0).is_empty());
        Ok(())
    }

    async fn store_load(&self, n: u64) -> Result<(), Error> {
        self.store.load(&id(n)).await?.live().map(|_| ()).ok_or_else(|| "not found".into())
    }

    async fn pool_update(&self, n: u64) -> Result<(), Error> {
        let query = sqlx::query(UPDATE).bind(vec![1u8; self.size]).bind(id(n).as_bytes().to_vec());
        assert_eq!(query.execute(&self.pool).await?.rows_affected(), 1);
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

    async fn pool_touch(&self, n: u64) -> Result<(), Error> {
        let query = sqlx::query(TOUCH).bind(id(n).as_bytes().to_vec());
        assert_eq!(query.execute(&self.pool).await?.rows_affected(), 1);
        Ok(())
    }

    async fn store_touch(&self, n: u64) -> Result<(), Error> {
        // Each is later than the one before, as with a clock.
        let seen = UNIX_EPOCH + Duration::from_millis(4_000_000_000_000 + TOUCHES.fetch_add(1, Ordering::Relaxed));
        match self.store.touch(&id(n), seen, seen + Duration::from_secs(86_400)).await? {
            Touch::Touched => Ok(()),
            Touch::Gone(_) => Err("not found".into()),
        }
    }
}

static TOUCHES: AtomicU64 = AtomicU64::new(0);
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

fn report(size: usize, tasks: u64, verb: &str, pool: f64, store: f64) {
    println!("| {size} | {tasks} | {verb} | {pool:.0} | {store:.0} | {:.2} |", store / pool);
}

fn id(n: u64) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    for (word, place) in bytes.chunks_mut(8).zip(0u64..) {
        word.copy_from_slice(&mix(n * 4 + place).to_be_bytes()[..word.len()]);
    }
    SessionId::from_bytes(bytes)
}

fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb)
}
