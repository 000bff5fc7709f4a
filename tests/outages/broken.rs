//! A store that breaks one promise now and then: what the load must catch.

use std::collections::HashMap;
use std::fmt;
use std::future::pending;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use cloakroom_core::{
    Create, EndReason, Ended, Handle, Listing, Load, MemoryStore, Page, Principal, Probe, Record, Renew, Renewal,
    Revision, SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored, Swept, Touch, Update,
    Verb,
};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Answers from what it read before the session ended, as an incoherent cache does.
    ServesTheDead,
    /// Files the record anew when it was deleted meanwhile, as an unconditional write does.
    UpdateCreates,
    /// Touches what ended.
    TouchRevives,
    /// Acknowledges an update and forgets it.
    ForgetsUpdates,
    /// Writes over what somebody else wrote.
    Overwrites,
    /// Delivers another session's record.
    SwapsRecords,
    /// Files the values of one session under another.
    SwapsValues,
    /// Leaves the old id alive when a session is renewed.
    RenewCopies,
    /// Loses the session when it is renewed.
    RenewLoses,
    /// Loses a session.
    LosesSessions,
    /// Takes what was renewed for what ended.
    DeletesOneId,
    /// Leaves one session of the principal alive.
    RevokesAllButOne,
    /// Leaves a session out of the list.
    ListsTooFew,
    /// Says that it did nothing, and did it.
    LiesAboutFailure,
    /// Fails in a way that no outage explains.
    CallsItCorrupt,
    /// Never answers.
    Hangs,
}

pub(crate) struct Broken {
    inner: MemoryStore,
    defect: Defect,
    calls: AtomicU64,
    seen: Mutex<HashMap<SessionId, Stored>>,
}

impl Broken {
    pub(crate) fn new(defect: Defect) -> Self {
        Self { inner: MemoryStore::new(), defect, calls: AtomicU64::new(0), seen: Mutex::default() }
    }

    /// Whether this call goes wrong.
    fn hits(&self, defect: Defect) -> bool {
        self.defect == defect && self.calls.fetch_add(1, Ordering::Relaxed) % 32 == 31
    }

    fn other_record(&self, id: &SessionId) -> Option<Stored> {
        self.seen.lock().unwrap().iter().find(|(other, _)| *other != id).map(|(_, stored)| stored.clone())
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broken").field("defect", &self.defect).finish_non_exhaustive()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken({})", self.inner)
    }
}

#[async_trait::async_trait]
impl SessionStore for Broken {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let found = self.inner.load(id).await?;
        // So that whoever read before writes after somebody else did.
        tokio::task::yield_now().await;
        if let Load::Live(stored) = &found {
            self.seen.lock().unwrap().insert(*id, stored.clone());
        } else if self.hits(Defect::ServesTheDead)
            && let Some(stored) = self.seen.lock().unwrap().get(id)
        {
            return Ok(Load::Live(stored.clone()));
        }
        if self.hits(Defect::SwapsRecords)
            && let Some(other) = self.other_record(id)
        {
            return Ok(Load::Live(other));
        }
        if self.hits(Defect::LosesSessions) {
            self.inner.delete(id, EndReason::Destroyed).await?;
        }
        if self.hits(Defect::CallsItCorrupt) {
            return Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Load, "an answer to another call"));
        }
        if self.defect == Defect::Hangs && self.calls.fetch_add(1, Ordering::Relaxed) == 31 {
            return pending().await;
        }
        Ok(found)
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        self.inner.create(id, record, limit).await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        if self.hits(Defect::ForgetsUpdates) {
            return Ok(Update::Saved(expected.next()));
        }
        if self.hits(Defect::SwapsValues)
            && let Some(other) = self.other_record(id)
        {
            return self.inner.update(id, expected, &record.clone().with_values(other.record.values())).await;
        }
        let answer = self.inner.update(id, expected, record).await?;
        match &answer {
            Update::Conflict(current) if self.defect == Defect::Overwrites => {
                self.inner.update(id, current.revision, record).await?;
                Ok(Update::Saved(expected.next()))
            }
            Update::Gone(_) if self.defect == Defect::UpdateCreates => Ok(Update::Saved(expected.next())),
            Update::Saved(_) if self.hits(Defect::LiesAboutFailure) => {
                Err(StoreError::new(StoreErrorKind::Unavailable, Verb::Update, "the connection was cut").not_done())
            }
            Update::Saved(_) | Update::Conflict(_) | Update::Gone(_) => Ok(answer),
        }
    }

    async fn touch(&self, id: &SessionId, last_seen: SystemTime, idle: SystemTime) -> Result<Touch, StoreError> {
        let answer = self.inner.touch(id, last_seen, idle).await?;
        Ok(if self.defect == Defect::TouchRevives { Touch::Touched } else { answer })
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        if self.hits(Defect::RenewCopies) {
            let current = self.inner.load(renewal.old).await?.live();
            if current.is_some_and(|current| current.revision == renewal.expected) {
                // As the new id is another session's, the old one goes on.
                let handle = Handle::from_bytes([9; Handle::LEN]);
                let now = renewal.record.created();
                let hour = std::time::Duration::from_secs(3600);
                let other = Record::new(handle, now, hour, hour).with_values(renewal.record.values());
                self.inner.create(renewal.new, &other, None).await?;
                return Ok(Renew::Renewed { revision: renewal.expected.next(), evicted: vec![] });
            }
        }
        let answer = self.inner.renew(renewal).await?;
        if matches!(answer, Renew::Renewed { .. }) && self.hits(Defect::RenewLoses) {
            self.inner.delete(renewal.new, EndReason::Destroyed).await?;
        }
        Ok(answer)
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        if self.defect == Defect::DeletesOneId && self.inner.load(id).await? == Load::Gone(Some(EndReason::Renewed)) {
            return Ok(false);
        }
        self.inner.delete(id, reason).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let mut listing = self.inner.list(principal, page).await?;
        if self.hits(Defect::ListsTooFew) {
            listing.sessions.pop();
        }
        Ok(listing)
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        self.inner.revoke(principal, handle).await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        if self.defect == Defect::RevokesAllButOne {
            let listing = self.inner.list(principal, Page::FIRST).await?;
            let spared = listing.sessions.first().map(|summary| summary.handle);
            return self.inner.revoke_all(principal, spared).await;
        }
        self.inner.revoke_all(principal, except).await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        self.inner.sweep(limit).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        self.inner.scan(after, limit).await
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.inner.explain(handle).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        self.inner.probe().await
    }

    fn signals(&self) -> Option<Signals> {
        self.inner.signals()
    }
}
