//! A store that fails where a test tells it to, and remembers what it was asked.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use cloakroom_core::{
    Create, EndReason, Ended, Handle, Listing, Load, Page, Principal, Probe, Record, Renew, Renewal, Revision,
    SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored, Swept, Touch, Update, Verb,
};
use tokio::sync::watch;

/// What goes wrong with a call.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It fails and nothing was written. The error says so.
    FailBefore(StoreErrorKind),
    /// It is done, and then fails. The error says that the outcome is unknown.
    FailAfter(StoreErrorKind),
    /// It does nothing until the gate opens.
    HoldBefore(Gate),
    /// It is done, but does not answer until the gate opens.
    HoldAfter(Gate),
    /// It does nothing and never answers.
    NeverBegin,
    /// It is done and never answers.
    NeverAnswer,
}

/// Where a held call waits for the test, so that no test needs to sleep.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use cloakroom_core::{MemoryStore, SessionStore, Verb};
/// use cloakroom_testkit::{Fault, FaultyStore, Gate};
///
/// let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
/// let gate = Gate::new();
/// store.once(Verb::Probe, Fault::HoldBefore(gate.clone()));
/// let call = tokio::spawn({ let store = store.clone(); async move { store.probe().await } });
/// gate.arrived(1).await;
/// gate.open();
/// assert!(call.await.unwrap().is_ok());
/// # });
/// ```
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<GateState>>);

#[derive(Clone, Copy, Debug, Default)]
struct GateState {
    arrived: usize,
    open: bool,
}

impl Gate {
    /// A closed gate.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(GateState::default())))
    }

    /// Lets everything through that waits, and whatever comes later.
    pub fn open(&self) {
        self.0.send_modify(|state| state.open = true);
    }

    /// Waits until so many calls in all have come to the gate.
    pub async fn arrived(&self, calls: usize) {
        self.wait_for(|state| state.arrived >= calls).await;
    }

    async fn pass(&self) {
        self.0.send_modify(|state| state.arrived += 1);
        self.wait_for(|state| state.open).await;
    }

    async fn wait_for(&self, reached: impl FnMut(&GateState) -> bool) {
        if self.0.subscribe().wait_for(reached).await.is_err() {
            unreachable!("the gate holds its own sender");
        }
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// A layer whose calls fail, wait or lose their answer as told, and which counts them.
///
/// Without a fault every call goes through unchanged.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// use std::sync::Arc;
/// use cloakroom_core::{MemoryStore, SessionStore, StoreErrorKind, Verb, WriteOutcome};
/// use cloakroom_testkit::{Fault, FaultyStore};
///
/// let store = FaultyStore::new(Arc::new(MemoryStore::new()));
/// store.once(Verb::Sweep, Fault::FailAfter(StoreErrorKind::Timeout));
/// assert_eq!(store.sweep(10).await.unwrap_err().outcome(), WriteOutcome::Unknown);
/// assert!(store.sweep(10).await.is_ok());
/// assert_eq!(store.calls(Verb::Sweep), 2);
/// # });
/// ```
pub struct FaultyStore {
    inner: Arc<dyn SessionStore>,
    plan: Mutex<Plan>,
}

#[derive(Default)]
struct Plan {
    next: HashMap<Verb, VecDeque<Fault>>,
    always: HashMap<Verb, Fault>,
    calls: HashMap<Verb, usize>,
    ids: Vec<(Verb, SessionId)>,
}

impl FaultyStore {
    /// This store, without faults so far.
    #[must_use]
    pub fn new(inner: Arc<dyn SessionStore>) -> Self {
        Self { inner, plan: Mutex::default() }
    }

    /// One of the next calls of this verb goes wrong: each fault hits one call, in the order given.
    pub fn once(&self, verb: Verb, fault: Fault) {
        self.plan().next.entry(verb).or_default().push_back(fault);
    }

    /// Every call of this verb goes wrong, after those that [`once`](Self::once) names, until [`heal`](Self::heal).
    pub fn always(&self, verb: Verb, fault: Fault) {
        self.plan().always.insert(verb, fault);
    }

    /// Nothing goes wrong any more. Calls that wait at a gate go on waiting for it.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.next.clear();
        plan.always.clear();
    }

    /// How often this verb was called, whatever became of the calls.
    #[must_use]
    pub fn calls(&self, verb: Verb) -> usize {
        self.plan().calls.get(&verb).copied().unwrap_or_default()
    }

    /// How many calls there were that only read.
    #[must_use]
    pub fn reads(&self) -> usize {
        self.count(|verb| !verb.writes())
    }

    /// How many calls there were that may change something.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.count(Verb::writes)
    }

    /// The session ids that came with the calls, in their order; both ids of a renewal, the old first.
    #[must_use]
    pub fn ids(&self) -> Vec<(Verb, SessionId)> {
        self.plan().ids.clone()
    }

    /// Forgets the calls so far, to count from here.
    pub fn forget_calls(&self) {
        let mut plan = self.plan();
        plan.calls.clear();
        plan.ids.clear();
    }

    fn count(&self, wanted: impl Fn(Verb) -> bool) -> usize {
        self.plan().calls.iter().filter(|(verb, _)| wanted(**verb)).map(|(_, calls)| calls).sum()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, verb: Verb, ids: &[&SessionId]) -> Option<Fault> {
        let mut plan = self.plan();
        *plan.calls.entry(verb).or_default() += 1;
        plan.ids.extend(ids.iter().map(|id| (verb, **id)));
        let next = plan.next.get_mut(&verb).and_then(VecDeque::pop_front);
        next.or_else(|| plan.always.get(&verb).cloned())
    }

    async fn pass<T>(
        &self,
        verb: Verb,
        ids: &[&SessionId],
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.begin(verb, ids) {
            None => call.await,
            Some(Fault::FailBefore(kind)) => Err(StoreError::new(kind, verb, "injected before the call").not_done()),
            Some(Fault::FailAfter(kind)) => {
                call.await?;
                Err(StoreError::new(kind, verb, "injected after the call"))
            }
            Some(Fault::HoldBefore(gate)) => {
                gate.pass().await;
                call.await
            }
            Some(Fault::HoldAfter(gate)) => {
                let answer = call.await;
                gate.pass().await;
                answer
            }
            Some(Fault::NeverBegin) => pending().await,
            Some(Fault::NeverAnswer) => {
                call.await?;
                pending().await
            }
        }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "faulty({})", self.inner)
    }
}

#[async_trait]
impl SessionStore for FaultyStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        self.pass(Verb::Load, &[id], self.inner.load(id)).await
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        self.pass(Verb::Create, &[id], self.inner.create(id, record, limit)).await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        self.pass(Verb::Update, &[id], self.inner.update(id, expected, record)).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        self.pass(Verb::Touch, &[id], self.inner.touch(id, last_seen, idle_deadline)).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        self.pass(Verb::Renew, &[renewal.old, renewal.new], self.inner.renew(renewal)).await
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        self.pass(Verb::Delete, &[id], self.inner.delete(id, reason)).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        self.pass(Verb::List, &[], self.inner.list(principal, page)).await
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        self.pass(Verb::Revoke, &[], self.inner.revoke(principal, handle)).await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        self.pass(Verb::RevokeAll, &[], self.inner.revoke_all(principal, except)).await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        self.pass(Verb::Sweep, &[], self.inner.sweep(limit)).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        self.pass(Verb::Scan, &[], self.inner.scan(after, limit)).await
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.pass(Verb::Explain, &[], self.inner.explain(handle)).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        self.pass(Verb::Probe, &[], self.inner.probe()).await
    }

    fn signals(&self) -> Option<Signals> {
        self.inner.signals()
    }
}
