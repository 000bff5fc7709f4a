//! Carries a plan out: one store call, again on the current record after a conflict, never blindly.
//!
//! Cancellation: a handle whose write was sent and not answered is left in [`Mode::Unknown`], in
//! which it refuses to write again. Everything else is decided under the lock and undone by it.

use std::time::Duration;

use bytes::Bytes;
use zeroize::Zeroizing;

use super::Shared;
use super::changes::Changes;
use super::plan::{CookieOp, Facts, Plan, StoreOp, plan};
use super::state::{CookieReply, Former, Inner, Intents, Mode, Origin, State};
use crate::clock::from_unix_millis;
use crate::error::{SessionError, SessionErrorKind, StoreError};
use crate::events::Event;
use crate::id::{Handle, SessionId};
use crate::manager::Backend;
use crate::record::Record;
use crate::revocation::Revocations;
use crate::seal::Seal;
use crate::store::{Create, EndReason, Load, Renew, Renewal, Revision, SessionStore, Stored, Touch, Update, Verb};
use crate::token::{Random, Rejection, Token};

/// How often a request repeats its changes on what other requests wrote.
pub(crate) const ATTEMPTS: u32 = 128;
/// How often a fresh id may be taken already, which a working generator never sees once.
pub(crate) const MINTS: u32 = 3;

/// How a commit went that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Committed {
    Done,
    /// The session was ended meanwhile; the changes are dropped.
    Ended(Option<EndReason>),
}

/// What one attempt is to do, decided under the lock.
struct Step {
    plan: Plan,
    origin: Origin,
    base: Option<Record>,
    former: Option<Former>,
    intents: Intents,
    /// How many changes the plan's record holds.
    count: usize,
    now: u64,
}

/// How one attempt went.
enum Outcome {
    Nothing,
    /// This record stands now.
    Written {
        record: Record,
        origin: Origin,
        cookie: CookieReply,
    },
    Deleted,
    /// Somebody else was faster; the changes go on top of this.
    Conflict(Stored),
    Gone(Option<EndReason>),
}

impl Shared {
    /// Writes what is pending. The caller holds the commit lock.
    pub(super) async fn commit_pending(&self) -> Result<Committed, SessionError> {
        for attempt in 1..=ATTEMPTS {
            if let Some(ended) = self.refuse_after_end() {
                return Ok(ended);
            }
            let Some(step) = self.prepare(None)? else { return Ok(Committed::Done) };
            let handle = step.handle();
            let outcome = match self.manager.backend() {
                Backend::Reference(store) => self.write(store.as_ref(), &step).await,
                Backend::SelfContained { seal, revocations } => {
                    self.reseal(seal.as_ref(), revocations.as_ref(), &step).await
                }
            };
            match self.settle(step, outcome)? {
                None => {
                    self.manager.emit(&Event::Conflict { handle, attempt });
                    back_off(self.manager.random(), attempt).await?;
                }
                Some(committed) => return Ok(committed),
            }
        }
        Err(SessionError::contended(ATTEMPTS))
    }

    /// Whether a commit would do nothing at all, so that nobody has to wait for one.
    pub(super) fn has_nothing_to_write(&self, inner: &Inner) -> Result<bool, SessionError> {
        let state = inner.state();
        if inner.ended.is_some() || !matches!(state, State::Absent | State::Unchanged) {
            return Ok(false);
        }
        let Some(handle) = inner.handle else { return Ok(true) };
        let plan = plan(&self.facts(inner, state, &inner.intents, handle, self.manager.now()?), self.manager.policy());
        Ok(plan.store == StoreOp::None && plan.cookie == CookieOp::Leave)
    }

    fn facts<'a>(&self, inner: &'a Inner, state: State, intents: &'a Intents, handle: Handle, now: u64) -> Facts<'a> {
        Facts {
            state,
            base: inner.base.as_ref(),
            intents,
            handle,
            client: &inner.client,
            touchable: inner.touchable,
            self_contained: matches!(self.manager.backend(), Backend::SelfContained { .. }),
            now,
        }
    }

    /// What was asked of a session after its end is dropped, and not silently.
    fn refuse_after_end(&self) -> Option<Committed> {
        let mut inner = self.lock();
        let reason = inner.ended?;
        let asked = !inner.changes.is_empty() || inner.intents.create || inner.intents.renews();
        inner.changes.discard();
        inner.intents = Intents { destroy: inner.intents.destroy, ..Intents::default() };
        if !asked || inner.intents.destroy {
            return None;
        }
        let handle = inner.handle;
        drop(inner);
        if let Some(handle) = handle {
            self.manager.emit(&Event::ChangesDropped { handle, reason });
        }
        Some(Committed::Ended(reason))
    }

    /// Decides what to do, and takes the intents out until it is done. A transaction has the values
    /// `rewritten`, which hold so many of the pending changes; else they are what all of them make.
    fn prepare(&self, rewritten: Option<(Bytes, usize)>) -> Result<Option<Step>, SessionError> {
        let now = self.manager.now()?;
        let mut inner = self.lock();
        // Whatever became of an earlier write, a session can be ended: that applies twice as once.
        if !(inner.mode == Mode::Unknown && inner.intents.destroy && rewritten.is_none()) {
            inner.check_writable()?;
        }
        if inner.ended.is_some() && !(inner.intents.destroy && inner.former.is_some()) {
            return Ok(None);
        }
        // A transaction writes values only: what another clone asks for meanwhile comes after it.
        let (state, intents) = match &rewritten {
            None => (inner.state(), inner.intents.clone()),
            Some(_) if inner.base.is_none() => (State::Created, Intents::default()),
            Some(_) => (State::Changed, Intents::default()),
        };
        let handle = match inner.handle {
            Some(handle) => handle,
            None if state == State::Absent => return Ok(None),
            None => *inner.handle.insert(Handle::mint(self.manager.random())?),
        };
        let mut plan = plan(&self.facts(&inner, state, &intents, handle, now), self.manager.policy());
        // A session that began since then is the one to end.
        let former = inner.former.clone().filter(|_| intents.destroy && inner.base.is_none());
        if former.is_some() {
            plan.store = StoreOp::Delete;
        }
        let mut count = inner.changes.len();
        match &mut plan.store {
            StoreOp::None => {
                if plan.cookie == CookieOp::Clear {
                    inner.cookie = CookieReply::Clear;
                    inner.changes.discard();
                    inner.intents = Intents::default();
                }
                return Ok(None);
            }
            StoreOp::Delete | StoreOp::Touch(_) => {}
            StoreOp::Create(record) | StoreOp::Update(record) | StoreOp::Renew(record) => {
                record.values = match &rewritten {
                    Some((values, seen)) => {
                        count = *seen;
                        values.clone()
                    }
                    None => inner.changes.encode(now),
                };
                let (size, limit) = (record.filed_len(), self.manager.policy().max_record());
                if size > limit {
                    return Err(SessionError::too_large(size, limit));
                }
            }
        }
        // A touch or a deletion may safely be repeated, by whoever comes after a dropped future;
        // nothing else may.
        let repeatable = matches!(plan.store, StoreOp::Touch(_) | StoreOp::Delete);
        if !repeatable {
            if rewritten.is_none() {
                inner.intents = Intents::default();
            }
            inner.mode = Mode::Unknown;
            inner.changes.sent(count);
        }
        let (origin, base) = (inner.origin, inner.base.clone());
        Ok(Some(Step { origin, base, former, count, intents, plan, now }))
    }

    /// Takes in how it went. `None` asks for another attempt.
    fn settle(&self, step: Step, outcome: Result<Outcome, SessionError>) -> Result<Option<Committed>, SessionError> {
        let handle = step.handle();
        let touch_only = matches!(step.plan.store, StoreOp::Touch(_));
        let mut inner = self.lock();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                if step.intents.destroy {
                    inner.cookie = CookieReply::Clear;
                }
                inner.changes.sent(0);
                if error.kind() == SessionErrorKind::LimitReached {
                    // Nobody was signed in, so nothing that was meant for them is kept.
                    inner.changes.discard();
                    inner.handle = inner.base.as_ref().map(Record::handle);
                } else {
                    inner.intents.restore(step.intents);
                }
                if error.kind() != SessionErrorKind::Unknown && inner.mode == Mode::Unknown {
                    inner.mode = Mode::Open;
                }
                return Err(error);
            }
        };
        if inner.mode == Mode::Unknown {
            inner.mode = Mode::Open;
        }
        match outcome {
            Outcome::Nothing => Ok(Some(Committed::Done)),
            Outcome::Written { record, origin, mut cookie } => {
                inner.handle = Some(record.handle());
                inner.origin = origin;
                inner.base = Some(record.clone());
                if let CookieReply::Set { token, required, .. } = &mut cookie {
                    if matches!(origin, Origin::Stored { .. }) {
                        inner.presented = self.manager.resends(&record).then(|| token.clone());
                    }
                    // A token that the client has to get does not become optional by being sent again.
                    *required |= matches!(inner.cookie, CookieReply::Set { required: true, .. });
                    inner.cookie = cookie;
                }
                // Last, because what was asked for meanwhile may fail; what is written is written.
                let meanwhile = if touch_only { Ok(()) } else { inner.changes.committed(record, step.count, step.now) };
                drop(inner);
                self.report(&step);
                meanwhile.map(|()| Some(Committed::Done))
            }
            Outcome::Deleted => {
                inner.end(Some(EndReason::Destroyed));
                drop(inner);
                // Of a session that was renewed away only the id is known.
                if !matches!(step.former, Some(Former::Stored(_))) {
                    self.manager.emit(&Event::Ended { handle, reason: EndReason::Destroyed });
                }
                Ok(Some(Committed::Done))
            }
            Outcome::Conflict(Stored { record, revision }) => {
                inner.intents.restore(step.intents);
                if let Origin::Stored { revision: known, .. } = &mut inner.origin {
                    *known = revision;
                }
                inner.base = Some(record.clone());
                inner.changes.rebase(record, step.now)?;
                Ok(None)
            }
            Outcome::Gone(reason) => {
                inner.end(reason);
                drop(inner);
                if touch_only {
                    self.manager.emit(&Event::TokenRejected { reason: Rejection::Ended });
                } else {
                    self.manager.emit(&Event::ChangesDropped { handle, reason });
                }
                Ok(Some(Committed::Ended(reason)))
            }
        }
    }

    /// The step wrote nothing, for certain.
    fn untried(&self, step: Step) {
        let mut inner = self.lock();
        inner.intents.restore(step.intents);
        inner.changes.sent(0);
        inner.mode = Mode::Open;
    }

    fn report(&self, step: &Step) {
        let (StoreOp::Create(record) | StoreOp::Renew(record)) = &step.plan.store else { return };
        let handle = record.handle();
        if step.base.is_none() {
            self.manager.emit(&Event::Created { handle });
        } else {
            self.manager.emit(&Event::Renewed { handle });
        }
        if let Some(old) = step.base.as_ref().map(Record::handle).filter(|old| *old != handle) {
            self.manager.emit(&Event::Ended { handle: old, reason: EndReason::Destroyed });
        }
        if let Some(principal) = record.principal().filter(|_| record.authenticated == step.now) {
            self.manager.emit(&Event::SignedIn { handle, principal });
        }
    }

    /// One call to the store.
    async fn write(&self, store: &dyn SessionStore, step: &Step) -> Result<Outcome, SessionError> {
        if let (StoreOp::Delete, Some(Former::Stored(id))) = (&step.plan.store, &step.former) {
            store.delete(id, EndReason::Destroyed).await?;
            return Ok(Outcome::Deleted);
        }
        let Origin::Stored { id, revision } = step.origin else {
            return match &step.plan.store {
                StoreOp::Create(record) => self.create(store, record, step.plan.cookie).await,
                StoreOp::None | StoreOp::Update(_) | StoreOp::Touch(_) | StoreOp::Renew(_) | StoreOp::Delete => {
                    Ok(Outcome::Nothing)
                }
            };
        };
        match &step.plan.store {
            StoreOp::None => Ok(Outcome::Nothing),
            StoreOp::Create(record) => self.create(store, record, step.plan.cookie).await,
            StoreOp::Update(record) => match store.update(&id, revision, record).await? {
                Update::Saved(revision) => {
                    Ok(self.written(record.clone(), id, revision, self.same_token(step.plan.cookie)))
                }
                Update::Conflict(current) => conflict(&id, current, Verb::Update),
                Update::Gone(reason) => Ok(Outcome::Gone(reason)),
            },
            StoreOp::Touch(record) => match store.touch(&id, record.last_seen(), record.idle_deadline()).await {
                Ok(Touch::Touched) => Ok(self.written(record.clone(), id, revision, self.same_token(step.plan.cookie))),
                Ok(Touch::Gone(reason)) => Ok(Outcome::Gone(reason)),
                // A session must not be lost because its deadline could not be pushed.
                Err(error) => {
                    self.manager.emit(&Event::TouchFailed { kind: error.kind() });
                    Ok(Outcome::Nothing)
                }
            },
            StoreOp::Renew(record) => self.renew(store, &id, revision, record, step).await,
            StoreOp::Delete => match store.delete(&id, EndReason::Destroyed).await {
                Ok(_) => Ok(Outcome::Deleted),
                Err(error) => Err(error.into()),
            },
        }
    }

    async fn create(
        &self,
        store: &dyn SessionStore,
        record: &Record,
        cookie: CookieOp,
    ) -> Result<Outcome, SessionError> {
        for _ in 0..MINTS {
            let (token, id) = self.manager.mint(record)?;
            let record = record.clone().filed_under(&id);
            match store.create(&id, &record, self.manager.limit_for(None, &record)).await? {
                Create::Created { evicted } => {
                    self.evicted(&evicted);
                    return Ok(self.written(record, id, Revision::FIRST, fresh_token(&token, cookie)));
                }
                Create::Occupied => {}
                Create::LimitReached => return Err(self.limit_reached(&record)),
            }
        }
        Err(never_free())
    }

    async fn renew(
        &self,
        store: &dyn SessionStore,
        old: &SessionId,
        expected: Revision,
        record: &Record,
        step: &Step,
    ) -> Result<Outcome, SessionError> {
        for _ in 0..MINTS {
            let (token, new) = self.manager.mint(record)?;
            let record = &record.clone().filed_under(&new);
            let limit = self.manager.limit_for(step.base.as_ref(), record);
            match store.renew(Renewal { old, new: &new, expected, record, limit }).await? {
                Renew::Renewed { revision, evicted } => {
                    self.evicted(&evicted);
                    return Ok(self.written(record.clone(), new, revision, fresh_token(&token, step.plan.cookie)));
                }
                Renew::Occupied => {}
                Renew::Conflict(current) => return conflict(old, current, Verb::Renew),
                Renew::Gone(reason) => return Ok(Outcome::Gone(reason)),
                Renew::LimitReached => return Err(self.limit_reached(record)),
            }
        }
        Err(never_free())
    }

    fn written(&self, record: Record, id: SessionId, revision: Revision, cookie: CookieReply) -> Outcome {
        Outcome::Written { record, origin: Origin::Stored { id, revision }, cookie }
    }

    /// The token as the client presented it, where its cookie has to be sent again.
    fn same_token(&self, cookie: CookieOp) -> CookieReply {
        match (cookie, &self.lock().presented) {
            (CookieOp::Set { max_age }, Some(token)) => {
                CookieReply::Set { token: token.clone(), max_age, required: false }
            }
            (CookieOp::Set { .. } | CookieOp::Leave | CookieOp::Clear, _) => CookieReply::Leave,
        }
    }

    fn evicted(&self, handles: &[Handle]) {
        for handle in handles {
            self.manager.emit(&Event::Ended { handle: *handle, reason: EndReason::Evicted });
        }
    }

    fn limit_reached(&self, record: &Record) -> SessionError {
        self.manager.emit(&Event::LimitReached { handle: record.handle() });
        SessionError::new(
            SessionErrorKind::LimitReached,
            "the principal has as many sessions as the policy allows; nobody was signed in",
        )
    }

    /// The same for a session that its token carries.
    async fn reseal(
        &self,
        seal: &dyn Seal,
        revocations: Option<&Revocations>,
        step: &Step,
    ) -> Result<Outcome, SessionError> {
        let now = from_unix_millis(step.now);
        let (mut record, max_age, required) = match (&step.plan.store, step.plan.cookie) {
            (StoreOp::None, _) => return Ok(Outcome::Nothing),
            (StoreOp::Delete, _) => {
                if let (Some(revocations), Some(ended)) = (revocations, step.carried()) {
                    revocations.end(ended, EndReason::Destroyed, now).await?;
                }
                return Ok(Outcome::Deleted);
            }
            (StoreOp::Create(record) | StoreOp::Update(record) | StoreOp::Renew(record), CookieOp::Set { max_age }) => {
                (record.clone(), max_age, true)
            }
            (StoreOp::Touch(record), CookieOp::Set { max_age }) => (record.clone(), max_age, false),
            (_, CookieOp::Leave | CookieOp::Clear) => return Ok(Outcome::Nothing),
        };
        // It was live when it was loaded; what has expired since is not sealed again.
        if step.base.as_ref().is_some_and(|base| base.is_expired(now)) {
            return Ok(Outcome::Gone(Some(EndReason::Expired)));
        }
        if let (Some(revocations), Some(principal)) = (revocations, &step.intents.login) {
            record.epoch = revocations.epoch(principal).await.map_err(not_sealed)?;
        }
        // Sealed before anything is revoked: a session too large for a cookie stays as it was.
        let token = Zeroizing::new(seal.seal(self.manager.binding(), &record)?);
        if let (Some(revocations), Some(base)) = (revocations, &step.base) {
            let renewed = matches!(step.plan.store, StoreOp::Renew(_)) && record.handle() == base.handle();
            // After the epoch was read: whoever was signed out everywhere since does not sign in again by this.
            let mut reason = match revocations.reason(base).await {
                Ok(reason) => reason,
                Err(error) if matches!(step.plan.store, StoreOp::Touch(_)) => {
                    self.manager.emit(&Event::TouchFailed { kind: error.kind() });
                    return Ok(Outcome::Nothing);
                }
                Err(error) => return Err(not_sealed(error)),
            };
            if renewed && reason.is_none() {
                reason = revocations.renew(base, &record, now).await?;
            }
            if reason.is_some() {
                return Ok(Outcome::Gone(reason));
            }
            if record.handle() != base.handle() {
                revocations.end(base, EndReason::Destroyed, now).await?;
            }
        }
        Ok(Outcome::Written {
            record,
            origin: Origin::SelfContained,
            cookie: CookieReply::Set { token, max_age, required },
        })
    }

    /// Loads the record as it is now, has `change` change a view of it, and writes it on condition
    /// that nobody else did; again from the start if somebody was faster. The caller holds the commit lock.
    pub(super) async fn transact<R, E: From<SessionError>>(
        &self,
        mut change: impl FnMut(&mut Changes, u64) -> Result<R, E>,
    ) -> Result<R, E> {
        let Backend::Reference(store) = self.manager.backend() else {
            let message = "a self-contained session cannot be read and written in one step, since each request carries a copy; keep one-time values in a store";
            return Err(SessionError::new(SessionErrorKind::Unsupported, message).into());
        };
        // A renewal or destruction that was asked for comes first: the transaction is on what it leaves.
        let pending = { self.lock().intents != Intents::default() };
        if pending && let Committed::Ended(reason) = self.commit_pending().await? {
            return Err(SessionError::ended(reason).into());
        }
        let mut current: Option<Stored> = None;
        for attempt in 1..=ATTEMPTS {
            let origin = self.lock().origin;
            if let (Origin::Stored { id, .. }, None) = (origin, &current) {
                match store.load(&id).await.map_err(SessionError::from)? {
                    Load::Live(stored) if !stored.record.is_filed_under(&id) => {
                        return Err(SessionError::from(StoreError::misdelivered(Verb::Load)).into());
                    }
                    Load::Live(stored) => current = Some(stored),
                    Load::Gone(reason) => {
                        let handle = {
                            let mut inner = self.lock();
                            inner.end(reason);
                            inner.handle
                        };
                        if let Some(handle) = handle {
                            self.manager.emit(&Event::ChangesDropped { handle, reason });
                        }
                        return Err(SessionError::ended(reason).into());
                    }
                }
            }
            let now = self.manager.now()?;
            let (mut view, seen) = {
                let mut inner = self.lock();
                inner.check_writable()?;
                if let Some(ended) = inner.ended {
                    return Err(SessionError::ended(ended).into());
                }
                if let Some(Stored { record, revision }) = current.take() {
                    if let Origin::Stored { revision: known, .. } = &mut inner.origin {
                        *known = revision;
                    }
                    inner.base = Some(record.clone());
                    inner.changes.rebase(record, now)?;
                }
                let seen = inner.changes.len();
                inner.changes.sent(seen);
                (inner.changes.fork(), seen)
            };
            let answer = change(&mut view, now)?;
            if view.is_empty() {
                return Ok(answer);
            }
            let Some(step) = self.prepare(Some((view.encode(now), seen)))? else { return Ok(answer) };
            let handle = step.handle();
            let outcome = self.write(store.as_ref(), &step).await;
            if let Ok(Outcome::Conflict(stored)) = outcome {
                // Taken in at the start of the next attempt; the handle is as it was before this one.
                self.untried(step);
                current = Some(stored);
                self.manager.emit(&Event::Conflict { handle, attempt });
                back_off(self.manager.random(), attempt).await?;
                continue;
            }
            return match self.settle(step, outcome)? {
                Some(Committed::Done) | None => Ok(answer),
                Some(Committed::Ended(reason)) => Err(SessionError::ended(reason).into()),
            };
        }
        Err(SessionError::new(
            SessionErrorKind::Contended,
            "other requests changed the session faster than this transaction; nothing was written",
        )
        .into())
    }
}

impl Step {
    /// The record that the client's token carried.
    fn carried(&self) -> Option<&Record> {
        match &self.former {
            Some(Former::SelfContained(record)) => Some(record),
            Some(Former::Stored(_)) | None => self.base.as_ref(),
        }
    }

    fn handle(&self) -> Handle {
        let planned = match &self.plan.store {
            StoreOp::Create(record) | StoreOp::Update(record) | StoreOp::Touch(record) | StoreOp::Renew(record) => {
                Some(record.handle())
            }
            StoreOp::None | StoreOp::Delete => None,
        };
        let known = planned.or(self.carried().map(Record::handle));
        known.unwrap_or(Handle::from_bytes([0; Handle::LEN]))
    }
}

/// Another request was faster; unless the answer is not about this session at all.
fn conflict(id: &SessionId, current: Stored, verb: Verb) -> Result<Outcome, SessionError> {
    if current.record.is_filed_under(id) {
        Ok(Outcome::Conflict(current))
    } else {
        Err(StoreError::misdelivered(verb).into())
    }
}

fn fresh_token(token: &Token, cookie: CookieOp) -> CookieReply {
    match cookie {
        CookieOp::Set { max_age } => CookieReply::Set { token: token.expose(), max_age, required: true },
        CookieOp::Leave | CookieOp::Clear => CookieReply::Leave,
    }
}

/// A read of the revocation list failed before anything was handed out or written.
fn not_sealed(error: StoreError) -> SessionError {
    SessionError::from(error)
}

fn never_free() -> SessionError {
    SessionError::new(SessionErrorKind::System, "every fresh session id was taken: the random generator repeats itself")
}

/// Lets others go first, the longer the more often they were faster.
pub(crate) async fn back_off(random: &dyn Random, attempt: u32) -> Result<(), SessionError> {
    if attempt > 2 {
        let mut byte = [0; 8];
        random.fill(&mut byte)?;
        let most = 1u64 << attempt.min(14);
        tokio::time::sleep(Duration::from_micros(u64::from_le_bytes(byte) % most)).await;
    }
    Ok(())
}
