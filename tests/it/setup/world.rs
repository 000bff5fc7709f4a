use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use cloakroom_cookie::EncryptedSeal;
use cloakroom_core::layer::{ObserveLayer, StoreExt as _, TimeoutLayer};
use cloakroom_core::{
    Backend, Exchange, Handle, KeyRing, Manager, ManagerBuilder, MemoryStore, OsRandom, Policy, Principal, Revocations,
    SecretKey, SessionStore,
};
use cloakroom_sql::{SqliteOptions, Synchronous};
use cloakroom_testkit::{FaultyStore, ManualClock, SeededRandom};

use super::{Browser, Recorder, Yielding, Yields};
use crate::apps::{self, Adapter};
use crate::place::{Place, Server};

/// Where sessions live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Memory,
    /// In the cookie, encrypted, with a revocation list in memory.
    Sealed,
    Sqlite,
    Redis,
    Sentinel,
    Cluster,
    RedisTls,
    Postgres,
    PgBouncer,
    MariaDb,
}

impl Kind {
    /// The server that all tests share, if it is on one.
    const fn server(self) -> Option<Server> {
        match self {
            Self::Memory | Self::Sealed | Self::Sqlite => None,
            Self::Redis => Some(Server::Redis),
            Self::Sentinel => Some(Server::Sentinel),
            Self::Cluster => Some(Server::Cluster),
            Self::RedisTls => Some(Server::RedisTls),
            Self::Postgres => Some(Server::Postgres),
            Self::PgBouncer => Some(Server::PgBouncer),
            Self::MariaDb => Some(Server::MariaDb),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stack {
    Bare,
    /// Observe around timeout.
    Layered,
}

/// A service with a backend, on a clock that stands still.
pub(crate) struct World {
    pub(crate) kind: Kind,
    pub(crate) stack: Stack,
    pub(crate) clock: Arc<ManualClock>,
    /// What the manager asks of the store, or of the revocation list, passes through here.
    pub(crate) spy: Arc<FaultyStore>,
    pub(crate) events: Arc<Recorder>,
    pub(crate) keys: KeyRing,
    pub(crate) manager: Arc<Manager>,
    pub(crate) issued: Arc<Mutex<Vec<String>>>,
    store: Arc<dyn SessionStore>,
    /// Removed with the world.
    directory: Option<tempfile::TempDir>,
    place: Option<Place>,
}

impl World {
    /// How long the layered stack waits for one call.
    pub(crate) const TIMEOUT: Duration = Duration::from_secs(2);

    /// Runs a test in a world of its own, and leaves nothing of it on a server.
    pub(crate) async fn run(adapter: Adapter, kind: Kind, stack: Stack, test: impl AsyncFnOnce(Self)) {
        let world = Self::start(kind, stack).await;
        let place = world.place.clone();
        apps::through(adapter, world.events.clone(), test(world)).await;
        if let Some(place) = place {
            place.remove().await;
        }
    }

    pub(crate) async fn start(kind: Kind, stack: Stack) -> Self {
        let clock = Arc::new(ManualClock::new());
        let directory = (kind == Kind::Sqlite).then(|| tempfile::tempdir().unwrap());
        let place = kind.server().map(Place::on);
        let backend: Arc<dyn SessionStore> = match (&directory, &place) {
            (None, None) => Arc::new(MemoryStore::new().with_clock(clock.clone())),
            (Some(directory), _) => {
                let file = directory.path().join("sessions.db");
                let options = SqliteOptions::new(file).with_synchronous(Synchronous::Normal);
                Arc::new(options.with_clock(clock.clone()).open().await.unwrap())
            }
            (None, Some(place)) => place.open(Some(clock.clone())).await,
        };
        let world = Self::on(kind, stack, Arc::new(Yielding::new(backend, Yields::BeforeAndAfter)), clock);
        Self { directory, place, ..world }
    }

    /// A world on this store, or for sealed sessions with this revocation list.
    pub(crate) fn on(kind: Kind, stack: Stack, backend: Arc<dyn SessionStore>, clock: Arc<ManualClock>) -> Self {
        let events = Arc::new(Recorder::default());
        let spy = Arc::new(FaultyStore::new(backend));
        let store: Arc<dyn SessionStore> = match stack {
            Stack::Bare => spy.clone(),
            Stack::Layered => {
                let spy: Arc<dyn SessionStore> = spy.clone();
                spy.layer(TimeoutLayer::new(Self::TIMEOUT)).layer(ObserveLayer::new(events.clone()))
            }
        };
        // Derived once: thousands of worlds share it.
        static KEYS: LazyLock<KeyRing> = LazyLock::new(|| ring("tests", &[1]));
        let keys = KEYS.clone();
        let manager = builder(kind, &store, &keys, &clock, &events).build().unwrap();
        let issued = Arc::default();
        Self { kind, stack, clock, spy, events, keys, manager, issued, store, directory: None, place: None }
    }

    /// The same service, configured otherwise.
    pub(crate) fn configured(mut self, configure: impl FnOnce(ManagerBuilder) -> ManagerBuilder) -> Self {
        self.manager = configure(self.builder()).build().unwrap();
        self
    }

    pub(crate) fn with_policy(self, policy: Policy) -> Self {
        self.configured(|builder| builder.policy(policy))
    }

    /// A second process of the service: the same store and keys, or keys of its own.
    pub(crate) fn builder(&self) -> ManagerBuilder {
        self.builder_with(&self.keys)
    }

    pub(crate) fn builder_with(&self, keys: &KeyRing) -> ManagerBuilder {
        builder(self.kind, &self.store, keys, &self.clock, &self.events)
    }

    /// A browser that was never here.
    pub(crate) fn browser(&self) -> Browser {
        Browser::new(self.manager.clone(), self.issued.clone())
    }

    /// A browser in which this person is signed in.
    pub(crate) async fn signed_in(&self, name: &str) -> Browser {
        let mut browser = self.browser();
        browser.visit(async |session| session.login(name).unwrap()).await;
        assert!(self.opens(browser.token()).await, "a sign-in must work");
        browser
    }

    /// Whether this token gives a session.
    pub(crate) async fn opens(&self, token: &str) -> bool {
        self.handle_of(token).await.is_some()
    }

    /// The session that this token gives.
    pub(crate) async fn handle_of(&self, token: &str) -> Option<Handle> {
        let cookie = format!("{}={token}", self.manager.cookie_name().unwrap());
        let exchange = Exchange::new(self.manager.clone());
        let session = exchange.read_session([cookie.as_bytes()].into_iter(), Default::default).await.unwrap();
        session.handle()
    }

    /// Every token that was ever sent to a browser.
    pub(crate) fn issued(&self) -> Vec<String> {
        self.issued.lock().unwrap().clone()
    }

    /// The handles of all live records.
    pub(crate) async fn live_handles(&self) -> Vec<Handle> {
        self.store.scan(None, 1000).await.unwrap().iter().map(|(_, stored)| stored.record.handle()).collect()
    }

    pub(crate) fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// Whether sessions are kept on the server.
    pub(crate) fn keeps_records(&self) -> bool {
        self.kind != Kind::Sealed
    }

    /// The files of the store, if it has any.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        let Some(directory) = &self.directory else { return Vec::new() };
        directory.path().read_dir().unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

fn builder(
    kind: Kind,
    store: &Arc<dyn SessionStore>,
    keys: &KeyRing,
    clock: &Arc<ManualClock>,
    events: &Arc<Recorder>,
) -> ManagerBuilder {
    let backend = match kind {
        Kind::Sealed => {
            let seal = EncryptedSeal::new(keys.clone(), Arc::new(OsRandom::default()));
            Backend::self_contained(Arc::new(seal), Revocations::new(store.clone()))
        }
        Kind::Memory
        | Kind::Sqlite
        | Kind::Redis
        | Kind::Sentinel
        | Kind::Cluster
        | Kind::RedisTls
        | Kind::Postgres
        | Kind::PgBouncer
        | Kind::MariaDb => Backend::store(store.clone()),
    };
    Manager::builder(backend, keys.clone()).clock(clock.clone()).events(events.clone())
}

/// The same key for the same number.
pub(crate) fn key(number: u64) -> SecretKey {
    SecretKey::generate(&SeededRandom::new(number)).unwrap()
}

/// A ring of these keys, the first one the primary.
pub(crate) fn ring(audience: &str, numbers: &[u64]) -> KeyRing {
    let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
    KeyRing::new(audience, &keys).unwrap()
}

pub(crate) fn principal(name: &str) -> Principal {
    Principal::new(name).unwrap()
}
