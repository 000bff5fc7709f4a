//! What the checks share: ids, records, and a store whose failures are the check's failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cloakroom_core::{
    Create, EndReason, Ended, Excess, Handle, Listing, Load, Page, Principal, Probe, Record, Renew, Renewal, Revision,
    SessionId, SessionLimit, SessionStore, StoreError, Stored, Summary, Swept, Touch, Update, Value,
};

use super::Fixture;
use crate::random::{expand, mix};

pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);

/// A store, its time, and the sessions that a check makes.
pub(super) struct Stage<'f> {
    fixture: &'f dyn Fixture,
    pub(super) client: Client,
}

/// A session that a check made.
#[derive(Clone, Debug)]
pub(super) struct Filed {
    pub(super) id: SessionId,
    pub(super) record: Record,
}

impl Filed {
    pub(super) fn handle(&self) -> Handle {
        self.record.handle()
    }
}

impl<'f> Stage<'f> {
    pub(super) fn new(fixture: &'f dyn Fixture) -> Self {
        Self { fixture, client: Client(fixture.store()) }
    }

    pub(super) fn now(&self) -> SystemTime {
        self.fixture.now()
    }

    /// Whether time stands still unless the check moves it.
    pub(super) fn is_manual(&self) -> bool {
        self.fixture.clock().is_some()
    }

    pub(super) fn advance(&self, by: Duration) {
        if let Some(clock) = self.fixture.clock() {
            clock.advance(by);
        }
    }

    /// A record with an hour to the idle and eight to the absolute deadline.
    pub(super) fn record(&self, owner: Option<&Principal>) -> Record {
        self.record_until(owner, HOUR, 8 * HOUR)
    }

    pub(super) fn record_until(&self, owner: Option<&Principal>, idle: Duration, absolute: Duration) -> Record {
        owned(Record::new(new_handle(), self.now(), idle, absolute), owner)
    }

    /// A live session of this owner.
    pub(super) async fn session(&self, owner: Option<&Principal>) -> Filed {
        self.file(self.record(owner)).await
    }

    /// So many live sessions, the first created first.
    pub(super) async fn sessions(&self, owner: Option<&Principal>, count: usize) -> Vec<Filed> {
        let mut sessions = Vec::with_capacity(count);
        for _ in 0..count {
            sessions.push(self.session(owner).await);
            self.advance(MILLISECOND);
        }
        sessions
    }

    pub(super) async fn file(&self, record: Record) -> Filed {
        let id = new_id(record.principal());
        self.client.file(&id, &record).await;
        Filed { id, record }
    }

    /// A session whose idle deadline comes soon: see [`expire`](Self::expire).
    pub(super) async fn fleeting(&self, owner: Option<&Principal>) -> Filed {
        let idle = if self.is_manual() { Duration::from_secs(60) } else { Duration::from_millis(400) };
        self.file(self.record_until(owner, idle, 8 * HOUR)).await
    }

    /// Returns as soon as these fleeting sessions are over by the store's clock.
    pub(super) async fn expire(&self, sessions: &[Filed]) {
        for session in sessions {
            match self.fixture.clock() {
                Some(clock) => clock.set(self.now().max(session.record.deadline())),
                None => {
                    while matches!(self.client.load(&session.id).await, Load::Live(_)) {
                        let late = self.now() > session.record.deadline() + Duration::from_secs(10);
                        assert!(!late, "load: a session is still live ten seconds after its idle deadline");
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                }
            }
        }
    }
}

/// A client whose every error is the failure of the check.
#[derive(Clone)]
pub(super) struct Client(pub(super) Arc<dyn SessionStore>);

fn answer<T>(result: Result<T, StoreError>) -> T {
    result.unwrap_or_else(|error| panic!("{}: failed where it must answer: {error:?}", error.verb()))
}

impl Client {
    pub(super) async fn load(&self, id: &SessionId) -> Load {
        answer(self.0.load(id).await)
    }

    /// The live record of the id, which has to be there.
    pub(super) async fn live(&self, id: &SessionId) -> Stored {
        match self.load(id).await {
            Load::Live(stored) => stored,
            Load::Gone(reason) => panic!("load: a session that must be live is gone ({reason:?})"),
        }
    }

    pub(super) async fn is_live(&self, id: &SessionId) -> bool {
        matches!(self.load(id).await, Load::Live(_))
    }

    pub(super) async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Create {
        answer(self.0.create(id, record, limit).await)
    }

    /// Creates where nothing stands in the way.
    pub(super) async fn file(&self, id: &SessionId, record: &Record) {
        let created = self.create(id, record, None).await;
        assert_eq!(created, Create::Created { evicted: vec![] }, "create: a fresh id without a limit must be filed");
    }

    pub(super) async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Update {
        answer(self.0.update(id, expected, record).await)
    }

    pub(super) async fn touch(&self, id: &SessionId, last_seen: SystemTime, idle_deadline: SystemTime) -> Touch {
        answer(self.0.touch(id, last_seen, idle_deadline).await)
    }

    pub(super) async fn renew(&self, renewal: Renewal<'_>) -> Renew {
        answer(self.0.renew(renewal).await)
    }

    /// Renews from the first revision without a limit.
    pub(super) async fn renew_fresh(&self, old: &SessionId, new: &SessionId, record: &Record) -> Renew {
        self.renew(Renewal { old, new, expected: Revision::FIRST, record, limit: None }).await
    }

    pub(super) async fn delete(&self, id: &SessionId) -> bool {
        answer(self.0.delete(id, EndReason::Destroyed).await)
    }

    pub(super) async fn list(&self, principal: &Principal, page: Page) -> Listing {
        answer(self.0.list(principal, page).await)
    }

    /// All pages together.
    pub(super) async fn list_all(&self, principal: &Principal) -> Vec<Summary> {
        let mut page = Page::FIRST;
        let mut sessions = Vec::new();
        loop {
            let listing = self.list(principal, page).await;
            sessions.extend(listing.sessions);
            match listing.next {
                Some(next) => page.after = Some(next),
                None => return sessions,
            }
        }
    }

    pub(super) async fn handles(&self, principal: &Principal) -> Vec<Handle> {
        self.list_all(principal).await.iter().map(|summary| summary.handle).collect()
    }

    pub(super) async fn revoke(&self, principal: &Principal, handle: Handle) -> bool {
        answer(self.0.revoke(principal, handle).await)
    }

    pub(super) async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> u64 {
        answer(self.0.revoke_all(principal, except).await)
    }

    pub(super) async fn sweep(&self, limit: u32) -> Swept {
        let swept = answer(self.0.sweep(limit).await);
        let removed = swept.removed;
        assert!(removed <= u64::from(limit), "sweep: removed {removed} in a call that was limited to {limit}");
        swept
    }

    /// Sweeps until nothing is left to go.
    pub(super) async fn sweep_out(&self, limit: u32) -> u64 {
        let mut gone = 0;
        for _ in 0..100_000 {
            let swept = self.sweep(limit).await;
            gone += swept.removed;
            if !swept.more {
                return gone;
            }
        }
        panic!("sweep: still says that there is more after 100,000 calls without new sessions");
    }

    pub(super) async fn scan(&self, after: Option<SessionId>, limit: u32) -> Vec<(SessionId, Stored)> {
        let found = answer(self.0.scan(after, limit).await);
        assert!(
            found.len() <= limit as usize,
            "scan: brought {} records, but at most {limit} were wanted",
            found.len()
        );
        found
    }

    /// All batches together.
    pub(super) async fn scan_all(&self, limit: u32) -> Vec<(SessionId, Stored)> {
        let mut found = Vec::new();
        let mut after = None;
        loop {
            let batch = self.scan(after, limit).await;
            let Some((last, _)) = batch.last() else { return found };
            after = Some(*last);
            found.extend(batch);
            assert!(found.len() <= 1_000_000, "scan: does not come to an end");
        }
    }

    pub(super) async fn explain(&self, handle: Handle) -> Option<Ended> {
        answer(self.0.explain(handle).await)
    }

    pub(super) async fn probe(&self) -> Probe {
        answer(self.0.probe().await)
    }
}

/// Runs all of them at once, each in a task of its own, and gives their results in order.
pub(super) async fn together<T: Send + 'static>(
    futures: impl IntoIterator<Item = impl Future<Output = T> + Send + 'static>,
) -> Vec<T> {
    let tasks: Vec<_> = futures.into_iter().map(tokio::spawn).collect();
    let mut results = Vec::with_capacity(tasks.len());
    for task in tasks {
        match task.await {
            Ok(result) => results.push(result),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
    results
}

pub(super) fn principal(name: &str) -> Principal {
    Principal::new(name).unwrap_or_else(|error| panic!("the check uses a principal that cannot be: {error}"))
}

/// At most so many sessions.
pub(super) fn limit(max: u32, excess: Excess) -> Option<SessionLimit> {
    std::num::NonZeroU32::new(max).map(|max| SessionLimit { max, excess })
}

/// The record with one value in place of its own.
pub(super) fn with_value(record: &Record, encoded: &[u8]) -> Record {
    record.clone().with_values([Value { key: "n", encoded, expires: 0 }])
}

pub(super) fn with_number(record: &Record, number: u64) -> Record {
    with_value(record, number.to_string().as_bytes())
}

/// The number of [`with_number`], or zero.
pub(super) fn number(record: &Record) -> u64 {
    let text =
        record.values().find(|value| value.key == "n").map(|value| String::from_utf8_lossy(value.encoded).into_owned());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A record that began when this one did, of this handle and owner.
pub(super) fn remade(record: &Record, handle: Handle, owner: Option<&Principal>) -> Record {
    owned(Record::new(handle, record.created(), HOUR, 8 * HOUR), owner)
}

fn owned(record: Record, owner: Option<&Principal>) -> Record {
    match owner {
        Some(owner) => record.owned_by(owner.clone()),
        None => record,
    }
}

static NEXT: AtomicU64 = AtomicU64::new(1);

fn next() -> u64 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// An id that nobody has had, in the shard of its owner.
pub(super) fn new_id(owner: Option<&Principal>) -> SessionId {
    let mut bytes = [0; SessionId::LEN];
    expand(next() ^ mix(u64::from(std::process::id())), &mut bytes);
    if let Some(owner) = owner {
        bytes[..SessionId::SHARD_LEN].copy_from_slice(&owner.shard());
    }
    SessionId::from_bytes(bytes)
}

/// A handle that nobody has had, greater than those before, so that sessions of one millisecond
/// have an order.
pub(super) fn new_handle() -> Handle {
    let mut bytes = [0; Handle::LEN];
    bytes[..2].copy_from_slice(&std::process::id().to_be_bytes()[2..]);
    bytes[2..].copy_from_slice(&next().to_be_bytes());
    Handle::from_bytes(bytes)
}
