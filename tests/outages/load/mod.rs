//! A load on a store that keeps an account of every answer.
//!
//! Workers create, load, change, touch, renew, sign in, end and list sessions of their own and shared
//! ones, through several clients of one store; visitors do what browsers do, through the engine. Whatever happens to the store meanwhile, what was
//! acknowledged binds it: the [account](account) says what a call may answer, and at the end every
//! session that ever was is asked for under every id that it may have had.

mod account;
mod report;
mod visitor;
mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cloakroom_core::{
    Backend, KeyRing, Load as Found, Manager, OsRandom, SecretKey, SessionId, SessionStore, StoreError, Verb,
};
use cloakroom_testkit::SeededRandom;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::account::{Account, LineNo};
use self::visitor::Visitor;
use self::worker::Worker;

pub(crate) use self::account::Promise;
pub(crate) use self::report::{Latency, Report};

/// How long a task waits after an error.
const PACE: Duration = Duration::from_millis(2);
/// So many successes in a row are a service that is back.
const STREAK: u64 = 50;

/// What a load is to be.
pub(crate) struct Load {
    stores: Vec<Arc<dyn SessionStore>>,
    workers: usize,
    visitors: usize,
    patience: Duration,
    think: Duration,
}

/// What the tasks share.
struct Shared {
    account: Account,
    lines: Vec<Mutex<Option<LineNo>>>,
    stopped: AtomicBool,
    /// Answers so far, that is successes.
    answers: watch::Sender<u64>,
    /// Successes in a row, by task.
    streaks: Vec<AtomicU64>,
    messages: Mutex<BTreeMap<String, String>>,
    /// How long one call may take.
    patience: Duration,
    think: Duration,
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn succeeded(&self, task: usize) {
        self.streaks[task].fetch_add(1, Ordering::Relaxed);
        self.answers.send_modify(|answers| *answers += 1);
    }

    fn failed(&self, task: usize, error: &StoreError) {
        self.streaks[task].store(0, Ordering::Relaxed);
        let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
        let key = format!("{:?} {:?}", error.kind(), error.outcome());
        self.messages.lock().unwrap().entry(key).or_insert_with(|| format!("{error}{source}"));
    }
}

impl Load {
    /// On these clients of one store.
    pub(crate) fn on(stores: Vec<Arc<dyn SessionStore>>) -> Self {
        Self { stores, workers: 16, visitors: 0, patience: Duration::from_secs(30), think: Duration::ZERO }
    }

    pub(crate) fn with_workers(self, workers: usize) -> Self {
        Self { workers, ..self }
    }

    /// Browsers that visit a service on these stores, each of which is one of its processes.
    pub(crate) fn with_visitors(self, visitors: usize) -> Self {
        Self { visitors, ..self }
    }

    /// A call that takes longer is a broken promise.
    pub(crate) fn with_patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// A pause of workers between two of their steps. Default none.
    pub(crate) fn with_think_time(self, think: Duration) -> Self {
        Self { think, ..self }
    }

    pub(crate) fn start(self) -> Running {
        const OWN: usize = 8;
        let tasks = self.workers + self.visitors;
        let shared = Arc::new(Shared {
            account: Account::new(self.workers, 8),
            lines: (0..self.workers).map(|_| Mutex::default()).collect(),
            stopped: AtomicBool::new(false),
            answers: watch::Sender::new(0),
            streaks: (0..tasks).map(|_| AtomicU64::new(0)).collect(),
            messages: Mutex::default(),
            patience: self.patience,
            think: self.think,
        });
        let managers = self.managers();
        let mut tasks = JoinSet::new();
        for number in 0..self.workers {
            let worker = Worker {
                number,
                store: Arc::clone(&self.stores[number % self.stores.len()]),
                shared: Arc::clone(&shared),
                random: Self::random(number),
                own: vec![None; OWN],
                samples: Vec::new(),
            };
            tasks.spawn(worker.run());
        }
        for number in self.workers..self.workers + self.visitors {
            let visitor = Visitor {
                number,
                managers: managers.clone(),
                shared: Arc::clone(&shared),
                random: Self::random(number),
                jar: None,
                past: Vec::new(),
                counted: 0,
                perhaps: 0,
                uncertain: false,
            };
            tasks.spawn(async {
                visitor.run().await;
                Vec::new()
            });
        }
        Running { shared, tasks, store: Arc::clone(&self.stores[0]) }
    }

    fn random(task: usize) -> SeededRandom {
        SeededRandom::new(task as u64)
    }

    fn managers(&self) -> Vec<Arc<Manager>> {
        let key = SecretKey::generate(&OsRandom::default()).unwrap();
        let keys = KeyRing::new("load", &[key]).unwrap();
        let manager = |store: &Arc<dyn SessionStore>| Manager::builder(Backend::store(Arc::clone(store)), keys.clone());
        self.stores.iter().map(|store| manager(store).build().unwrap()).collect()
    }

    /// Starts, waits for so many answers, stops, and asks for everything.
    pub(crate) async fn run(self, answers: u64) -> Report {
        let running = self.start();
        running.answers(answers).await;
        running.stop().await
    }
}

/// A load that goes on.
pub(crate) struct Running {
    shared: Arc<Shared>,
    tasks: JoinSet<Vec<report::Sample>>,
    store: Arc<dyn SessionStore>,
}

impl Running {
    /// How long the service may be away before a test gives up.
    const LONGEST: Duration = Duration::from_secs(90);

    /// Waits for so many answers more.
    pub(crate) async fn answers(&self, more: u64) {
        let mut answers = self.shared.answers.subscribe();
        let enough = *answers.borrow() + more;
        let reached = answers.wait_for(|answers| *answers >= enough);
        if tokio::time::timeout(Self::LONGEST, reached).await.is_err() {
            let messages = self.shared.messages.lock().unwrap().clone();
            panic!("the store does not answer any more: {messages:#?}");
        }
    }

    /// The moment at which something is done to the store. The service counts as away from here on.
    pub(crate) fn outage(&self) -> Instant {
        let now = Instant::now();
        for streak in &self.shared.streaks {
            streak.store(0, Ordering::Relaxed);
        }
        now
    }

    /// Waits until every task has had so many successes in a row that nothing can be away.
    pub(crate) async fn back(&self) {
        let mut answers = self.shared.answers.subscribe();
        let back =
            answers.wait_for(|_| self.shared.streaks.iter().all(|streak| streak.load(Ordering::Relaxed) >= STREAK));
        if tokio::time::timeout(Self::LONGEST, back).await.is_err() {
            let messages = self.shared.messages.lock().unwrap().clone();
            panic!("the service does not come back: {messages:#?}");
        }
    }

    /// Ends the load and asks for every session under every id.
    pub(crate) async fn stop(mut self) -> Report {
        self.shared.stopped.store(true, Ordering::Relaxed);
        let mut samples = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok(worker) => samples.extend(worker),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
        }
        let (shared, store) = (&self.shared, &self.store);
        let lines = 0..shared.account.lines();
        futures_util::stream::iter(lines).for_each_concurrent(32, |line| settle(shared, store, line)).await;
        let messages = shared.messages.lock().unwrap().clone();
        Report { samples, breaches: shared.account.breaches(), sessions: shared.account.lines(), messages }
    }
}

/// Asks for every id of a session.
async fn settle(shared: &Shared, store: &Arc<dyn SessionStore>, line: LineNo) {
    let mut live = 0;
    for before in shared.account.before_each(line) {
        match ask(shared, store, &before.id).await {
            Some(Found::Live(stored)) => {
                live += 1;
                shared.account.saw_live(&before, &stored);
            }
            Some(Found::Gone(_)) => {
                shared.account.saw_gone(&before);
            }
            None => return,
        }
    }
    shared.account.settle(line, live);
}

/// Asks until there is an answer.
async fn ask(shared: &Shared, store: &Arc<dyn SessionStore>, id: &SessionId) -> Option<Found> {
    let deadline = Instant::now() + shared.patience;
    loop {
        match tokio::time::timeout_at(deadline.into(), store.load(id)).await {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(error)) if Instant::now() < deadline => {
                shared.account.failed(Verb::Load, &error);
                // tidy: sleep — the pace of a client whose server is away; nothing is decided by it
                tokio::time::sleep(PACE).await;
            }
            Ok(Err(_)) | Err(_) => {
                shared.account.breach(Promise::CallsReturn, "after the load a session could not be asked for");
                return None;
            }
        }
    }
}
