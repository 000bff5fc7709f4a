use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;

use super::Layer;
use crate::clock::{Clock, SystemClock};
use crate::error::{StoreError, StoreErrorKind, WriteOutcome};
use crate::id::{Handle, Principal, SessionId};
use crate::policy::MAX_LIFETIME;
use crate::record::Record;
use crate::revocation::{Known, Revocations, both};
use crate::store::{
    Create, Durability, EndReason, Ended, Listing, Load, Page, Probe, Renew, Renewal, Revision, SessionLimit,
    SessionStore, Stored, Summary, Swept, Touch, Update, Verb,
};

/// Keeps the ends of sessions where they cannot be lost, for a store that may lose what it
/// acknowledged: Redis, when a replica takes over that had not got the last writes yet.
///
/// After an acknowledged `delete`, `revoke`, `revoke_all`, `renew` or eviction that session, or the old
/// id, is dead for every process that has this layer over the store, even if the store comes back with
/// what it held before. A lost `create`, `update` or `touch` stays lost: somebody may have to sign in
/// again, and nobody stays signed in who must not.
///
/// The ledger is a second store: PostgreSQL, MySQL, SQLite, or Redis with `acked` durability. Every
/// session that ends has a small entry there until its absolute deadline and a day; whoever was signed
/// out everywhere has one for good, and one more for each sign-in after it. All processes must have
/// the same ledger, and all of them this layer.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use cloakroom_core::layer::{EpochLayer, ObserveLayer, StoreExt, TimeoutLayer};
/// use cloakroom_core::{MemoryStore, TracingSink};
///
/// let (redis, postgres) = (MemoryStore::new(), MemoryStore::new()); // as it were
/// let store = redis
///     .layer(EpochLayer::new(Arc::new(postgres)))
///     .layer(TimeoutLayer::new(Duration::from_secs(2)))
///     .layer(ObserveLayer::new(Arc::new(TracingSink)));
/// assert_eq!(store.to_string(), "observe(timeout(2s, epoch(memory, memory)))");
/// ```
///
/// # Order
///
/// Directly around the store, inside of the timeout: what a request waits for is both stores together,
/// and a call that is cut between the two has either not been acknowledged, or ended the session.
///
/// # Cost
///
/// `load`, `update` and `touch` ask store and ledger at once and take as long as the slower of the two, but for the
/// first time that a process sees an id. A sign-in asks the ledger first, a renewal and an end write
/// to it. The ledger gets up to three lookups a request, by primary key, most of which find nothing.
///
/// # Failures
///
/// A ledger that does not answer is an error of every verb, and never "live". Ends are written to the
/// ledger first: if that fails nothing was done, unless the error says otherwise; if the store then
/// fails, the session has ended all the same, and the outcome is called unknown because nobody knows
/// whether there was one. Renewals, one that ended on its way to the new id too, and evictions are the store's to
/// decide, so the ledger learns of them after it and before the caller does: if that fails the outcome is unknown, and a
/// new token is not handed out.
///
/// # Limits
///
/// A session whose last renewal the store lost is in lists until it is revoked or times out, though no
/// token opens it.
#[derive(Clone, Debug)]
pub struct EpochLayer {
    ledger: Revocations,
    clock: Arc<dyn Clock>,
}

impl EpochLayer {
    /// Keeps the ends of sessions in this store too.
    #[must_use]
    pub fn new(ledger: Arc<dyn SessionStore>) -> Self {
        Self { ledger: Revocations::new(ledger), clock: Arc::new(SystemClock) }
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }
}

impl Layer for EpochLayer {
    fn wrap(self, inner: Arc<dyn SessionStore>) -> Arc<dyn SessionStore> {
        Arc::new(Epoch { inner, ledger: self.ledger, clock: self.clock, seen: Seen::default() })
    }
}

#[derive(Debug)]
struct Epoch {
    inner: Arc<dyn SessionStore>,
    ledger: Revocations,
    clock: Arc<dyn Clock>,
    seen: Seen,
}

/// How far a logout follows renewals. More than any session has: it would be a circle.
const LONGEST_CHAIN: usize = 100_000;
/// How many records of a scan are looked up at once.
const AT_ONCE: usize = 64;

impl Epoch {
    /// Why the ledger has the session as dead, if it does.
    async fn reason(&self, verb: Verb, id: &SessionId, known: &Known) -> Result<Option<EndReason>, StoreError> {
        self.ledger.reason_of(id, known).await.map_err(|error| unanswered(verb, error).not_done())
    }

    /// Whose session an id is, from an earlier call or the store; or why it has none.
    async fn known(&self, verb: Verb, id: &SessionId) -> Result<Result<Known, Option<EndReason>>, StoreError> {
        if let Some(known) = self.seen.get(id) {
            return Ok(Ok(known));
        }
        match self.inner.load(id).await.map_err(|error| relabelled(verb, error).not_done())? {
            Load::Live(stored) => Ok(Ok(self.seen.put(id, &stored.record))),
            Load::Gone(reason) => Ok(Err(reason)),
        }
    }

    /// Before a record gets an owner: the sign-in belongs to the epoch in which it began. One that is read
    /// while the store files the session might be that of a sign-out that came after it.
    /// Returns why it is too late, if the handle is that of a session that ended.
    async fn sign_in(
        &self,
        verb: Verb,
        record: &Record,
        from: Option<&Known>,
    ) -> Result<Option<EndReason>, StoreError> {
        let Some(principal) = record.principal() else { return Ok(None) };
        let same_owner = from.filter(|from| from.principal.as_ref() == Some(principal));
        if same_owner.is_some_and(|from| from.handle == record.handle()) {
            return Ok(None);
        }
        let failed = |error| unanswered(verb, error).not_done();
        let epoch = match same_owner {
            Some(from) => self.ledger.sign_in_of(from.handle, principal).await.map_err(failed)?,
            None => self.ledger.signed_out(Some(principal)).await.map_err(failed)?.map_or(0, |all| all.epoch()),
        };
        if epoch == 0 {
            return Ok(None);
        }
        let (now, until) = (self.clock.now(), record.absolute_deadline() + Revocations::SKEW);
        self.ledger.sign_in(record.handle(), principal, epoch, now, until).await.map_err(failed)
    }

    /// After the store made room for a new session, and before that session is anybody's.
    async fn evict(&self, verb: Verb, evicted: &[Handle]) -> Result<(), StoreError> {
        let now = self.clock.now();
        for handle in evicted {
            let ended = self.ledger.end_handle(*handle, EndReason::Evicted, now, latest(now)).await;
            ended.map_err(|error| unfinished(verb, error))?;
        }
        Ok(())
    }

    /// Ends in the store what the ledger has as ended, so that it does not count towards the limit of
    /// sessions. Returns whether there was anything.
    async fn make_room(&self, verb: Verb, principal: Option<&Principal>) -> Result<bool, StoreError> {
        let Some(principal) = principal else { return Ok(false) };
        let failed = |error| relabelled(verb, error).not_done();
        let signed_out = self.ledger.signed_out(Some(principal)).await.map_err(failed)?;
        let (mut page, mut ended) = (Page::FIRST, false);
        loop {
            let Listing { sessions, next } = self.inner.list(principal, page).await.map_err(failed)?;
            for Summary { handle, .. } in sessions {
                if self
                    .ledger
                    .reason_of_handle(handle, Some(principal), signed_out.as_ref())
                    .await
                    .map_err(failed)?
                    .is_some()
                {
                    ended |= self.inner.revoke(principal, handle).await.map_err(failed)?;
                }
            }
            match next {
                Some(next) => page.after = Some(next),
                None => return Ok(ended),
            }
        }
    }

    /// Ends a session in the ledger, under this id and what it was renewed to. Returns whether that
    /// ended it; `None` where there is nothing that the ledger could know the session by.
    async fn end(&self, id: &SessionId, reason: EndReason) -> Result<Option<bool>, StoreError> {
        let (now, mut id, mut ended) = (self.clock.now(), *id, None);
        for _ in 0..LONGEST_CHAIN {
            let failed = |error| match ended {
                None => unanswered(Verb::Delete, error),
                Some(_) => unfinished(Verb::Delete, error),
            };
            let loaded = self.inner.load(&id).await.map_err(|error| relabelled(Verb::Delete, error).not_done())?;
            let known = match &loaded {
                Load::Live(stored) => Some(self.seen.put(&id, &stored.record)),
                Load::Gone(None) => self.seen.get(&id),
                Load::Gone(Some(_)) => None,
            };
            let newly = match known {
                Some(known) => {
                    let until = known.absolute_deadline + Revocations::SKEW;
                    Some(self.ledger.end_handle(known.handle, reason, now, until).await.map_err(failed)?)
                }
                // By whom it was renewed, and whether that is under way still, only the ledger knows.
                None if loaded == Load::Gone(Some(EndReason::Renewed)) => {
                    Some(self.ledger.end_id(&id, reason, now, latest(now)).await.map_err(failed)?)
                }
                None => None,
            };
            if let Some(newly) = newly {
                ended = Some(newly || ended == Some(true));
            }
            // Asked for after the end is written, as a renewal looks for the end after it has written
            // this: so one of the two sees the other.
            let failed =
                |error| if ended.is_some() { unfinished(Verb::Delete, error) } else { unanswered(Verb::Delete, error) };
            match self.ledger.successor(&id).await.map_err(failed)? {
                Some(successor) => id = successor,
                None => return Ok(ended),
            }
        }
        let message = "the renewals of a session form a circle in the ledger; remove its entries";
        Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Delete, message))
    }

    /// After the store renewed a session: has the ledger kill the old id, unless the session was ended meanwhile.
    async fn renewed(&self, renewal: Renewal<'_>, old: &Known) -> Result<Option<EndReason>, StoreError> {
        let Renewal { old: old_id, new, record, .. } = renewal;
        let (now, until) = (self.clock.now(), record.absolute_deadline().max(old.absolute_deadline));
        let until = until + Revocations::SKEW;
        let failed = |error| unfinished(Verb::Renew, error);
        let mut reason = self.ledger.renew_id(old_id, new, now, until).await.map_err(failed)?;
        if reason.is_none() {
            reason = self.ledger.reason_of_handle(old.handle, old.principal.as_ref(), None).await.map_err(failed)?;
        }
        match reason {
            Some(reason) => {
                self.ledger.end_handle(record.handle(), reason, now, until).await.map_err(failed)?;
                self.inner.delete(new, reason).await.map_err(|error| relabelled(Verb::Renew, error))?;
                Ok(Some(reason))
            }
            None if record.principal() != old.principal.as_ref() => self.overtaken(Verb::Renew, new, record).await,
            None => Ok(None),
        }
    }

    /// After the store filed a session that somebody signed in to: ends it there too if a sign-out
    /// everywhere overtook it, after which the ledger has it as dead.
    async fn overtaken(&self, verb: Verb, id: &SessionId, record: &Record) -> Result<Option<EndReason>, StoreError> {
        if record.principal().is_none() {
            return Ok(None);
        }
        let reason = self.ledger.reason_of(id, &Known::from(record)).await.map_err(|error| unfinished(verb, error))?;
        if let Some(reason) = reason {
            self.inner.delete(id, reason).await.map_err(|error| relabelled(verb, error))?;
        }
        Ok(reason)
    }

    /// The session of this handle in the list of this principal.
    async fn listed(&self, principal: &Principal, handle: Handle) -> Result<Option<Summary>, StoreError> {
        let mut page = Page::FIRST;
        loop {
            let Listing { sessions, next } = self.inner.list(principal, page).await?;
            let found = sessions.into_iter().find(|summary| summary.handle == handle);
            match (found, next) {
                (None, Some(next)) => page.after = Some(next),
                (found, _) => return Ok(found),
            }
        }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch({}, {})", self.inner, self.ledger.store())
    }
}

#[async_trait]
impl SessionStore for Epoch {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let (loaded, early) = match self.seen.get(id) {
            // What an id belongs to never changes, so the ledger can be asked before the store has answered.
            Some(known) => {
                let (loaded, reason) = both(self.inner.load(id), self.reason(Verb::Load, id, &known)).await;
                (loaded?, Some((known, reason)))
            }
            None => (self.inner.load(id).await?, None),
        };
        let Load::Live(stored) = loaded else { return Ok(loaded) };
        let known = self.seen.put(id, &stored.record);
        let reason = match early {
            Some((early, reason)) if early.is_judged_as(&known) => reason?,
            Some(_) | None => self.reason(Verb::Load, id, &known).await?,
        };
        Ok(if reason.is_some() { Load::Gone(reason) } else { Load::Live(stored) })
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        if self.sign_in(Verb::Create, record, None).await?.is_some() {
            let message = "the handle of the new session is that of one that ended";
            return Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Create, message).not_done());
        }
        let mut created = self.inner.create(id, record, limit).await?;
        if created == Create::LimitReached && self.make_room(Verb::Create, record.principal()).await? {
            created = self.inner.create(id, record, limit).await?;
        }
        if let Create::Created { evicted } = &created {
            self.seen.put(id, record);
            self.evict(Verb::Create, evicted).await?;
            // One that was overtaken was created all the same, and has ended since.
            self.overtaken(Verb::Create, id, record).await?;
        }
        Ok(created)
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        // What is saved has the handle and the owner of this record. Writing to a record that the ledger has as dead makes it
        // no less so.
        let known = Known::from(record);
        let (updated, reason) =
            both(self.inner.update(id, expected, record), self.reason(Verb::Update, id, &known)).await;
        let reason = match &updated {
            Ok(Update::Saved(_)) => reason.map_err(|error| unfinished(Verb::Update, error))?,
            // What is there instead may have others than the caller thought.
            Ok(Update::Conflict(current)) if !known.is_judged_as(&Known::from(&current.record)) => {
                self.reason(Verb::Update, id, &Known::from(&current.record)).await?
            }
            Ok(Update::Conflict(_)) => reason?,
            Ok(Update::Gone(_)) | Err(_) => None,
        };
        if reason.is_some() { Ok(Update::Gone(reason)) } else { updated }
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let known = match self.known(Verb::Touch, id).await? {
            Ok(known) => known,
            Err(reason) => return Ok(Touch::Gone(reason)),
        };
        let (touched, reason) =
            both(self.inner.touch(id, last_seen, idle_deadline), self.reason(Verb::Touch, id, &known)).await;
        match touched? {
            Touch::Gone(reason) => Ok(Touch::Gone(reason)),
            Touch::Touched => match reason.map_err(|error| unfinished(Verb::Touch, error))? {
                None => Ok(Touch::Touched),
                reason => Ok(Touch::Gone(reason)),
            },
        }
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, record, .. } = renewal;
        let known = match self.known(Verb::Renew, old).await? {
            Ok(known) => known,
            Err(reason) => return Ok(Renew::Gone(reason)),
        };
        // First, because what is renewed is alive.
        let reason = self.reason(Verb::Renew, old, &known).await?;
        if reason.is_some() {
            // Where the store has ended it too, it knows best why.
            return match self.inner.load(old).await.map_err(|error| relabelled(Verb::Renew, error).not_done())? {
                Load::Gone(Some(reason)) => Ok(Renew::Gone(Some(reason))),
                Load::Gone(None) | Load::Live(_) => Ok(Renew::Gone(reason)),
            };
        }
        if let Some(reason) = self.sign_in(Verb::Renew, record, Some(&known)).await? {
            return Ok(Renew::Gone(Some(reason)));
        }
        let mut renewed = self.inner.renew(renewal).await?;
        if renewed == Renew::LimitReached && self.make_room(Verb::Renew, record.principal()).await? {
            renewed = self.inner.renew(renewal).await?;
        }
        match &renewed {
            Renew::Renewed { evicted, .. } => {
                self.seen.put(new, record);
                let reason = self.renewed(renewal, &known).await?;
                self.evict(Verb::Renew, evicted).await?;
                if reason.is_some() {
                    return Ok(Renew::Gone(reason));
                }
            }
            // It may have left the old id and ended before it came to the new one, and whoever ended it knew it by one
            // of them only.
            Renew::Gone(Some(reason @ (EndReason::Destroyed | EndReason::Revoked | EndReason::Evicted))) => {
                let until = record.absolute_deadline().max(known.absolute_deadline) + Revocations::SKEW;
                let (now, failed) = (self.clock.now(), |error| unfinished(Verb::Renew, error));
                self.ledger.end_id(old, *reason, now, until).await.map_err(failed)?;
                self.ledger.end_handle(record.handle(), *reason, now, until).await.map_err(failed)?;
            }
            Renew::Gone(None | Some(EndReason::Renewed | EndReason::Expired))
            | Renew::Conflict(_)
            | Renew::Occupied
            | Renew::LimitReached => {}
        }
        Ok(renewed)
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let recorded = self.end(id, reason).await?;
        let ended = self.inner.delete(id, reason).await.map_err(|error| ended_all_the_same(Verb::Delete, error))?;
        if let Some(recorded) = recorded {
            return Ok(recorded);
        }
        if ended {
            // Filed since it was looked for.
            let now = self.clock.now();
            self.ledger.end_id(id, reason, now, latest(now)).await.map_err(|error| unfinished(Verb::Delete, error))?;
        }
        Ok(ended)
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let (listing, signed_out) =
            both(self.inner.list(principal, page), self.ledger.signed_out(Some(principal))).await;
        let (mut listing, signed_out) = (listing?, signed_out.map_err(|error| unanswered(Verb::List, error))?);
        loop {
            let mut sessions = Vec::with_capacity(listing.sessions.len());
            let lookups = listing
                .sessions
                .iter()
                .map(|summary| self.ledger.reason_of_handle(summary.handle, Some(principal), signed_out.as_ref()));
            let reasons = all(lookups).await;
            for (summary, reason) in listing.sessions.into_iter().zip(reasons) {
                if reason.map_err(|error| unanswered(Verb::List, error))?.is_none() {
                    sessions.push(summary);
                }
            }
            // An empty page would look like the end to whoever shows it.
            match listing.next {
                Some(_) if sessions.is_empty() => {
                    listing = self.inner.list(principal, Page { after: listing.next, ..page }).await?;
                }
                next => return Ok(Listing { sessions, next }),
            }
        }
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let now = self.clock.now();
        // Looked for first: nobody ends, or fills the ledger with, sessions that are not theirs.
        let listed =
            self.listed(principal, handle).await.map_err(|error| relabelled(Verb::Revoke, error).not_done())?;
        let until = listed.as_ref().map_or(latest(now), |session| session.absolute_deadline + Revocations::SKEW);
        let end = self.ledger.end_of(principal, handle, EndReason::Revoked, now, until);
        match listed {
            Some(_) => {
                let newly = end.await.map_err(|error| unanswered(Verb::Revoke, error))?;
                let revoked = self.inner.revoke(principal, handle).await;
                let revoked = revoked.map_err(|error| ended_all_the_same(Verb::Revoke, error))?;
                // Else it was renewed to another owner meanwhile, and goes on as theirs.
                Ok(newly && revoked)
            }
            None => {
                let revoked = self.inner.revoke(principal, handle).await?;
                if revoked {
                    end.await.map_err(|error| unfinished(Verb::Revoke, error))?;
                }
                Ok(revoked)
            }
        }
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        let ended = self.ledger.end_all(principal, except, self.clock.now()).await;
        ended.map_err(|error| unanswered(Verb::RevokeAll, error))?;
        self.inner.revoke_all(principal, except).await.map_err(|error| ended_all_the_same(Verb::RevokeAll, error))
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let swept = self.inner.sweep(limit).await?;
        if swept.more {
            return Ok(swept);
        }
        let left = limit.saturating_sub(u32::try_from(swept.removed).unwrap_or(limit));
        let of_ledger = self.ledger.store().sweep(left).await?;
        Ok(Swept { removed: swept.removed.saturating_add(of_ledger.removed), more: of_ledger.more })
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let mut after = after;
        loop {
            let found = self.inner.scan(after, limit).await?;
            let Some((last, _)) = found.last() else { return Ok(found) };
            after = Some(*last);
            let mut live = Vec::with_capacity(found.len());
            for some in found.chunks(AT_ONCE) {
                let reasons = all(some
                    .iter()
                    .map(async |(id, stored)| self.reason(Verb::Scan, id, &Known::from(&stored.record)).await));
                for (found, reason) in some.iter().zip(reasons.await) {
                    if reason?.is_none() {
                        live.push(found.clone());
                    }
                }
            }
            // An empty batch would be the end of the scan.
            if !live.is_empty() {
                return Ok(live);
            }
        }
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        self.inner.explain(handle).await
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let (probe, ledger) = both(self.inner.probe(), self.ledger.store().probe()).await;
        let (probe, ledger) = (probe?, ledger.map_err(|error| unanswered(Verb::Probe, error))?);
        let mut warnings = probe.warnings;
        warnings.extend(ledger.warnings.into_iter().map(|warning| format!("ledger: {warning}")));
        if matches!(ledger.durability, Durability::Process | Durability::Async) {
            warnings.push(format!(
                "ledger: its durability is `{}`, so it may forget the end of a session: keep the ledger in PostgreSQL, MySQL, \
                 SQLite, or Redis with `acked`",
                ledger.durability
            ));
        }
        Ok(Probe {
            server: format!("{}; ledger: {}", probe.server, ledger.server),
            latency: probe.latency.max(ledger.latency),
            durability: Durability::Epoch,
            warnings,
        })
    }

    fn signals(&self) -> Option<crate::Signals> {
        self.inner.signals()
    }
}

const UNANSWERED: &str = "the ledger of ended sessions gave no answer";

/// The ledger failed, so the verb did; the error says of a write what the ledger's said.
fn unanswered(verb: Verb, error: StoreError) -> StoreError {
    let outcome = error.outcome();
    let failed = StoreError::new(error.kind(), verb, UNANSWERED).with_source(error);
    if outcome == WriteOutcome::NotDone { failed.not_done() } else { failed }
}

/// The same after the store has done its part.
fn unfinished(verb: Verb, error: StoreError) -> StoreError {
    StoreError::new(error.kind(), verb, UNANSWERED).with_source(error)
}

/// A call on the way failed, and with it the verb.
fn relabelled(verb: Verb, error: StoreError) -> StoreError {
    StoreError::new(error.kind(), verb, "a call that this needs failed").with_source(error)
}

fn ended_all_the_same(verb: Verb, error: StoreError) -> StoreError {
    let message = "the ledger has the end of the session and the store does not: it has ended, and nobody knows whether it was live";
    StoreError::new(error.kind(), verb, message).with_source(error)
}

/// Until when the end of a session must be remembered of which nobody knows when it would end by itself.
fn latest(now: SystemTime) -> SystemTime {
    now + MAX_LIFETIME + Revocations::SKEW
}

/// All at once, their answers in order.
async fn all<T>(calls: impl Iterator<Item = impl Future<Output = T> + Send>) -> Vec<T> {
    let mut calls: Vec<_> = calls.map(|call| (Box::pin(call), None)).collect();
    std::future::poll_fn(|context| {
        let mut pending = false;
        for (call, answer) in &mut calls {
            if answer.is_none() {
                match call.as_mut().poll(context) {
                    std::task::Poll::Ready(ready) => *answer = Some(ready),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    calls.into_iter().filter_map(|(_, answer)| answer).collect()
}

/// What ids belong to, for those that were seen last. It never changes, so it is never wrong.
#[derive(Default)]
struct Seen(Mutex<Generations>);

/// The older is dropped whole when the younger is full: at least so many are remembered, at most twice as many.
#[derive(Default)]
struct Generations {
    young: HashMap<SessionId, Known>,
    old: HashMap<SessionId, Known>,
}

impl Seen {
    const CAPACITY: usize = 16 * 1024;

    fn get(&self, id: &SessionId) -> Option<Known> {
        let generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        generations.young.get(id).or_else(|| generations.old.get(id)).cloned()
    }

    fn put(&self, id: &SessionId, record: &Record) -> Known {
        let known = Known::from(record);
        let mut generations = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if generations.young.get(id) != Some(&known) {
            if generations.young.len() >= Self::CAPACITY {
                generations.old = std::mem::take(&mut generations.young);
            }
            generations.young.insert(*id, known.clone());
        }
        known
    }
}

impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seen(..)")
    }
}
