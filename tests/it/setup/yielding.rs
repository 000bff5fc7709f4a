use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use cloakroom_core::{
    Create, EndReason, Ended, Handle, Listing, Load, Page, Principal, Probe, Record, Renew, Renewal, Revision,
    SessionId, SessionLimit, SessionStore, Signals, StoreError, Stored, Swept, Touch, Update,
};
use tokio::runtime::Runtime;

/// A store that gives way at every call, so that whoever polls decides who goes on: also for a
/// store that never waits.
#[derive(Debug)]
pub(crate) struct Yielding {
    inner: Arc<dyn SessionStore>,
    yields: Yields,
    /// Where the store lives that has to wait for its disk.
    runtime: Option<Arc<Runtime>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Yields {
    Before,
    BeforeAndAfter,
}

impl Yielding {
    pub(crate) fn new(inner: Arc<dyn SessionStore>, yields: Yields) -> Self {
        Self { inner, yields, runtime: None }
    }

    /// Waits for the store's answer inside of one poll, so that giving way is the only thing between
    /// two polls. Whoever polls must not be in a runtime.
    pub(crate) fn waiting_on(self, runtime: Arc<Runtime>) -> Self {
        Self { runtime: Some(runtime), ..self }
    }

    async fn pass<T>(&self, call: impl Future<Output = T>) -> T {
        give_way().await;
        let answer = match &self.runtime {
            Some(runtime) => runtime.block_on(call),
            None => call.await,
        };
        if self.yields == Yields::BeforeAndAfter {
            give_way().await;
        }
        answer
    }
}

async fn give_way() {
    let mut first = true;
    std::future::poll_fn(move |context| {
        if std::mem::take(&mut first) {
            context.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    })
    .await;
}

impl fmt::Display for Yielding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "yielding({})", self.inner)
    }
}

#[async_trait::async_trait]
impl SessionStore for Yielding {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        self.pass(self.inner.load(id)).await
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        self.pass(self.inner.create(id, record, limit)).await
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        self.pass(self.inner.update(id, expected, record)).await
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        self.pass(self.inner.touch(id, last_seen, idle_deadline)).await
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        self.pass(self.inner.renew(renewal)).await
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        self.pass(self.inner.delete(id, reason)).await
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        self.pass(self.inner.list(principal, page)).await
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        self.pass(self.inner.revoke(principal, handle)).await
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        self.pass(self.inner.revoke_all(principal, except)).await
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        self.pass(self.inner.sweep(limit)).await
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        self.pass(self.inner.scan(after, limit)).await
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.pass(self.inner.explain(handle)).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        self.pass(self.inner.probe()).await
    }

    fn signals(&self) -> Option<Signals> {
        self.inner.signals()
    }
}
