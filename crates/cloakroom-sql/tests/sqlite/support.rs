//! A file, a clock that stands still, and sessions to put in.

use std::sync::Arc;
use std::time::Duration;

use cloakroom_core::{Clock as _, Create, Handle, Load, Principal, Record, SessionId, SessionStore, Stored, Value};
use cloakroom_sql::{SqliteOptions, SqliteStore};
use cloakroom_testkit::ManualClock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Row as _};
use tempfile::TempDir;

pub(crate) struct Place {
    pub(crate) directory: TempDir,
    pub(crate) clock: Arc<ManualClock>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), clock: Arc::new(ManualClock::new()) }
    }

    pub(crate) fn options(&self) -> SqliteOptions {
        SqliteOptions::new(self.directory.path().join("sessions.db")).with_clock(self.clock.clone())
    }

    pub(crate) async fn open(&self) -> SqliteStore {
        self.options().open().await.unwrap()
    }

    /// The file as any other program sees it.
    pub(crate) async fn sqlite(&self) -> SqliteConnection {
        let options = SqliteConnectOptions::new().filename(self.directory.path().join("sessions.db"));
        options.busy_timeout(Duration::from_secs(30)).connect().await.unwrap()
    }

    pub(crate) fn record(&self, n: u8) -> Record {
        let values = [Value { key: "n", encoded: &[b'1', b'0' + n % 10], expires: 0 }];
        let record = Record::new(handle(n), self.clock.now(), Duration::from_secs(60), Duration::from_secs(600));
        record.owned_by(alice()).with_values(values)
    }
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

pub(crate) async fn create(store: &SqliteStore, n: u8, record: &Record) {
    assert_eq!(store.create(&id(n), record, None).await.unwrap(), Create::Created { evicted: vec![] });
}

pub(crate) async fn live(store: &SqliteStore, n: u8) -> Stored {
    match store.load(&id(n)).await.unwrap() {
        Load::Live(stored) => stored,
        Load::Gone(reason) => panic!("session {n} is gone: {reason:?}"),
    }
}

pub(crate) async fn run(connection: &mut SqliteConnection, sql: &'static str) {
    sqlx::query(sql).execute(connection).await.unwrap();
}

pub(crate) async fn number(connection: &mut SqliteConnection, sql: &'static str) -> i64 {
    sqlx::query(sql).fetch_one(connection).await.unwrap().get(0)
}
