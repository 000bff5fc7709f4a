//! Tables of one's own on the shared server, a clock that stands still, and sessions to put in.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Clock as _, Create, Handle, Load, Principal, Record, SessionId, SessionStore, Stored, Value};
use cloakroom_services::shared;
use cloakroom_sql::{PostgresOptions, PostgresStore};
use cloakroom_testkit::ManualClock;
use tokio_postgres::{Client, NoTls};

pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) prefix: String,
    pub(crate) clock: Arc<ManualClock>,
}

impl Place {
    /// On the server that all tests share.
    pub(crate) fn new() -> Self {
        Self::at(shared::postgres())
    }

    pub(crate) fn at(url: String) -> Self {
        // Process ids come round again, and tables stay.
        let prefix = format!("t{:016x}_", RandomState::new().build_hasher().finish());
        Self { url, prefix, clock: Arc::new(ManualClock::new()) }
    }

    /// With the server's clock.
    pub(crate) fn options(&self) -> PostgresOptions {
        PostgresOptions::new(&self.url).unwrap().with_table_prefix(&self.prefix).unwrap()
    }

    pub(crate) async fn open(&self) -> PostgresStore {
        self.options().with_clock(self.clock.clone()).open().await.unwrap()
    }

    /// The database as any other program sees it.
    pub(crate) async fn client(&self) -> Client {
        connect(&self.url).await
    }

    /// Runs what names tables with the default prefix.
    pub(crate) async fn run(&self, sql: &str) {
        self.client().await.batch_execute(&sql.replace("cloakroom_", &self.prefix)).await.unwrap();
    }

    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let row = self.client().await.query_one(&sql.replace("cloakroom_", &self.prefix), &[]).await.unwrap();
        row.get(0)
    }

    pub(crate) fn record(&self, n: u8) -> Record {
        let values = [Value { key: "n", encoded: &[b'1', b'0' + n % 10], expires: 0 }];
        let record = Record::new(handle(n), self.clock.now(), Duration::from_secs(60), Duration::from_secs(600));
        record.owned_by(alice()).with_values(values)
    }
}

pub(crate) async fn connect(url: &str) -> Client {
    let url = url.split('?').next().unwrap_or(url);
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

pub(crate) fn alice() -> Principal {
    Principal::new("alice").unwrap()
}

pub(crate) const fn handle(n: u8) -> Handle {
    Handle::from_bytes([n; Handle::LEN])
}

pub(crate) const fn id(n: u8) -> SessionId {
    SessionId::from_bytes([n; SessionId::LEN])
}

pub(crate) async fn create(store: &PostgresStore, n: u8, record: &Record) {
    assert_eq!(store.create(&id(n), record, None).await.unwrap(), Create::Created { evicted: vec![] });
}

pub(crate) async fn live(store: &PostgresStore, n: u8) -> Stored {
    match store.load(&id(n)).await.unwrap() {
        Load::Live(stored) => stored,
        Load::Gone(reason) => panic!("session {n} is gone: {reason:?}"),
    }
}
