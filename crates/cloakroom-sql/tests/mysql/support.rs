//! Tables of its own for each test, on the server that all of them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use cloakroom_core::{
    Clock as _, Create, Handle, Load, Principal, Record, SessionId, SessionStore, Stored, SystemClock, Value,
};
use cloakroom_sql::{MySqlOptions, MySqlStore};
use cloakroom_testkit::ManualClock;
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

/// The URL of the server, as a user who may do anything.
pub(crate) fn server() -> String {
    cloakroom_services::shared::mariadb()
}

pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) prefix: String,
    pub(crate) clock: Option<Arc<ManualClock>>,
}

impl Place {
    /// Tables that exist, and a role that has the least rights on them.
    pub(crate) async fn new() -> Self {
        let place = Self::bare();
        place.migrate().await;
        place.restrict().await
    }

    /// A prefix that nothing has yet.
    pub(crate) fn bare() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::UNIX_EPOCH.elapsed().unwrap().subsec_nanos();
        let prefix = format!("t{}_{nanos}_{count}_", std::process::id());
        Self { url: server(), prefix, clock: Some(Arc::new(ManualClock::new())) }
    }

    pub(crate) fn by_the_servers_clock(self) -> Self {
        Self { clock: None, ..self }
    }

    pub(crate) fn options(&self) -> MySqlOptions {
        let options = MySqlOptions::new(&self.url).unwrap().with_table_prefix(&self.prefix).with_connections(2);
        match &self.clock {
            Some(clock) => options.with_clock(clock.clone()),
            None => options,
        }
    }

    pub(crate) async fn open(&self) -> MySqlStore {
        self.options().with_migrate(false).open().await.unwrap()
    }

    async fn migrate(&self) {
        self.options().with_connections(1).open().await.unwrap().close().await;
    }

    /// From here on as a role that the script of grants made.
    async fn restrict(self) -> Self {
        let role = self.prefix.trim_end_matches('_');
        let mut admin = self.admin().await;
        run(&mut admin, &format!("CREATE USER '{role}'@'%' IDENTIFIED BY 'pw'")).await;
        let grants = MySqlStore::grants().replace("'cloakroom'@", &format!("'{role}'@"));
        let grants = grants.replace("cloakroom_", &self.prefix);
        let grants: String = grants.lines().filter(|line| !line.starts_with("--")).collect();
        for grant in grants.split_terminator(';') {
            run(&mut admin, grant).await;
        }
        admin.close().await.unwrap();
        let (scheme, rest) = self.url.split_once("://").unwrap();
        let (_, place) = rest.split_once('@').unwrap();
        let url = format!("{scheme}://{role}:pw@{place}");
        Self { url, ..self }
    }

    /// The server as any other program sees it.
    pub(crate) async fn admin(&self) -> MySqlConnection {
        let options: MySqlConnectOptions = server().parse().unwrap();
        options.connect().await.unwrap()
    }

    /// A statement with this place's names for those of the default prefix.
    pub(crate) fn sql(&self, text: &str) -> AssertSqlSafe<String> {
        AssertSqlSafe(text.replace("cloakroom_", &self.prefix))
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.clock.as_ref().map_or_else(|| SystemClock.now(), |clock| clock.now())
    }

    pub(crate) fn record(&self, n: u8) -> Record {
        let values = [Value { key: "n", encoded: &[b'1', b'0' + n % 10], expires: 0 }];
        let record = Record::new(handle(n), self.now(), Duration::from_secs(60), Duration::from_secs(600));
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

pub(crate) async fn create(store: &MySqlStore, n: u8, record: &Record) {
    assert_eq!(store.create(&id(n), record, None).await.unwrap(), Create::Created { evicted: vec![] });
}

pub(crate) async fn live(store: &MySqlStore, n: u8) -> Stored {
    match store.load(&id(n)).await.unwrap() {
        Load::Live(stored) => stored,
        Load::Gone(reason) => panic!("session {n} is gone: {reason:?}"),
    }
}

pub(crate) async fn run(connection: &mut MySqlConnection, sql: &str) {
    connection.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
}
