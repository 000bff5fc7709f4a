//! What a session costs in the memory of the server, beside the same bytes under plain keys.
//!
//! `cargo run --release -p cloakroom-redis --example redis_bytes [SESSIONS]`, on a server of its own.

#![expect(clippy::print_stdout, reason = "a report")]

use std::time::Duration;

use cloakroom_core::{
    Client, Clock as _, Create, Handle, Principal, Record, SessionId, SessionStore, SystemClock, Value,
};
use cloakroom_redis::{RedisOptions, RedisStore};
use cloakroom_services::Redis;
use redis::aio::MultiplexedConnection;

type Error = Box<dyn std::error::Error + Send + Sync>;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const BROWSER: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let sessions = std::env::args().nth(1).map_or(Ok(100_000), |number| number.parse())?;
    println!("{sessions} sessions, bytes of `used_memory` for each");
    println!("| sessions | values | record | key and value | store | ratio |");
    println!("|---|--:|--:|--:|--:|--:|");
    for (kind, budget) in [(Kind::Anonymous, 1.15), (Kind::SignedIn, 1.5)] {
        for values in [50, 100, 200, 400] {
            let plain = plain(kind, values, sessions).await?;
            let store = stored(kind, values, sessions).await?;
            let ratio = store / plain;
            let record = record(kind, values, 0).encoded_len();
            let verdict = if ratio <= budget { "kept" } else { "over" };
            println!("| {kind:?} | {values} | {record} | {plain:.0} | {store:.0} | {ratio:.2} ({budget} {verdict}) |");
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Anonymous,
    /// Each of another principal, so that every session pays for an index of its own.
    SignedIn,
}

/// With `SET` and an expiry: what a session costs at least.
async fn plain(kind: Kind, values: usize, sessions: u64) -> Result<f64, Error> {
    let (_server, mut connection, url) = server().await?;
    drop(url);
    let before = used_memory(&mut connection).await?;
    for first in (0..sessions).step_by(1000) {
        let mut pipeline = redis::pipe();
        for number in first..(first + 1000).min(sessions) {
            let key = [b"cloakroom:".as_slice(), id(kind, number).as_bytes()].concat();
            pipeline.set_ex(key, record(kind, values, number).encode(), DAY.as_secs()).ignore();
        }
        pipeline.query_async::<()>(&mut connection).await?;
    }
    Ok((used_memory(&mut connection).await? - before) / sessions as f64)
}

async fn stored(kind: Kind, values: usize, sessions: u64) -> Result<f64, Error> {
    let (_server, mut connection, url) = server().await?;
    let store = RedisOptions::new(&url)?.open().await?;
    // The scripts are there before the measurement begins, as they are in a server that runs.
    file(&store, kind, values, sessions).await?;
    let before = used_memory(&mut connection).await?;
    for first in (0..sessions).step_by(64) {
        let filed = (first..(first + 64).min(sessions)).map(|number| file(&store, kind, values, number));
        futures_util::future::try_join_all(filed).await?;
    }
    let used = (used_memory(&mut connection).await? - before) / sessions as f64;
    store.close().await;
    Ok(used)
}

async fn file(store: &RedisStore, kind: Kind, values: usize, number: u64) -> Result<(), Error> {
    match store.create(&id(kind, number), &record(kind, values, number), None).await? {
        Create::Created { .. } => Ok(()),
        Create::Occupied | Create::LimitReached => Err(format!("session {number} was not filed").into()),
    }
}

async fn server() -> Result<(Redis, MultiplexedConnection, String), Error> {
    let server = tokio::task::spawn_blocking(Redis::start).await??;
    let url = server.url();
    let connection = redis::Client::open(url.as_str())?.get_multiplexed_async_connection().await?;
    Ok((server, connection, url))
}

async fn used_memory(connection: &mut MultiplexedConnection) -> Result<f64, Error> {
    let text: String = redis::cmd("INFO").arg("memory").query_async(connection).await?;
    let used = text.lines().find_map(|line| line.strip_prefix("used_memory:"));
    Ok(used.ok_or("the server does not say how much memory it uses")?.trim().parse()?)
}

fn record(kind: Kind, values: usize, number: u64) -> Record {
    let mut handle = [0; Handle::LEN];
    handle[2..].copy_from_slice(&mix(number).to_be_bytes());
    let json = vec![b'1'; values];
    let record = Record::new(Handle::from_bytes(handle), SystemClock.now(), DAY, 7 * DAY)
        .with_client(Client::new(Some(BROWSER), Some([192, 0, 2, 1].into())))
        .with_values([Value { key: "cart", encoded: &json, expires: 0 }]);
    match kind {
        Kind::Anonymous => record,
        Kind::SignedIn => record.owned_by(principal(number)),
    }
}

fn principal(number: u64) -> Principal {
    Principal::new(format!("account-{number}")).unwrap_or_else(|error| unreachable!("{error}"))
}

/// As random as the ids of sessions, in the shard of the owner.
fn id(kind: Kind, number: u64) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    for (place, word) in bytes.chunks_mut(8).enumerate() {
        word.copy_from_slice(&mix(number ^ (place as u64) << 32).to_be_bytes()[..word.len()]);
    }
    if let Kind::SignedIn = kind {
        bytes[..SessionId::SHARD_LEN].copy_from_slice(&principal(number).shard());
    }
    SessionId::from_bytes(bytes)
}

/// A number's place in a permutation that looks random (the finalizer of `SplitMix64`).
const fn mix(number: u64) -> u64 {
    let word = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
