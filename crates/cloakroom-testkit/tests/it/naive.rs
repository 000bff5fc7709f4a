//! The contract written down as simply as it goes: one map behind one lock. It passes the suite;
//! with a [`Defect`] it breaks one guarantee, and the suite has to catch it.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use cloakroom_core::clock::{from_unix_millis, unix_millis};
use cloakroom_core::{
    Clock, Create, Durability, EndReason, Ended, Excess, Handle, Listing, Load, Page, Principal, Probe, Record, Renew,
    Renewal, Revision, SessionId, SessionLimit, SessionStore, Signals, StoreError, StoreErrorKind, Stored, Summary,
    Swept, Touch, Update, Verb,
};
use cloakroom_testkit::{ManualClock, store::Fixture};

/// One way in which stores go wrong in the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// A save that inserts where there is nothing to update.
    UpdateCreates,
    /// Last writer wins.
    UpdateIgnoresTheRevision,
    /// Get, compare, set: in three steps.
    UpdateInSteps,
    /// The record is replaced whole, with the deadline that the request once read.
    UpdatePullsTheDeadlineBack,
    /// Takes the owner that it is given.
    UpdateChangesTheOwner,
    /// An UPDATE without the condition that the session is live.
    TouchRevives,
    /// The absolute deadline is not looked at.
    TouchPassesTheAbsoluteLimit,
    /// Sets the deadline that the last caller says.
    TouchMovesBackwards,
    /// Counts as a write of the record.
    TouchChangesTheRevision,
    /// DELETE, then INSERT.
    RenewDeletesFirst,
    /// INSERT, then DELETE.
    RenewInsertsFirst,
    /// The old id stays readable for good.
    RenewKeepsTheOldId,
    /// The list of the owner before is not told.
    RenewForgetsTheFormerOwner,
    /// Ids compared in a column without regard to case.
    IdsWithoutCase,
    /// Only a prefix of the id is looked at.
    IdsByPrefix,
    /// One connection, answers in the order of questions, and questions are dropped.
    AnswersShift,
    /// Decides by the time that the caller says it is.
    CallersClock,
    /// At the deadline itself still live.
    DeadlineInclusive,
    /// LIKE 'name%'.
    ListByPrefix,
    /// Pages by the time of creation alone.
    ListPagesByTime,
    /// Lists the ids, then deletes each.
    RevokeAllBySnapshot,
    /// Marks all sessions older than now.
    RevokeAllByTime,
    /// The handle alone is enough.
    RevokeAnybodys,
    /// Count, then insert.
    LimitInSteps,
    /// Removes by the idle deadline that a touch has pushed meanwhile.
    SweepGoesByTheFirstDeadline,
    /// Removes everything that it finds, however much was asked for.
    SweepWithoutLimit,
    /// Says that there is no more when it met its limit.
    SweepIsDoneAtItsLimit,
    /// Tombstones go with the first sweep.
    SweepForgetsEndings,
    /// INSERT OR REPLACE.
    CreateOverwrites,
    /// Tombstones do not count.
    CreateReusesIds,
    /// Ends the id it is given and no other.
    DeleteDoesNotFollow,
    /// A scan that skips as many as it has seen.
    ScanByOffset,
    /// Values kept in a text column.
    ValuesAsText,
    /// Nothing is known of why a session ended.
    NoReasons,
    /// A row larger than a column.
    RecordsAreCut,
}

impl Defect {
    pub(crate) const ALL: [Self; 35] = [
        Self::UpdateCreates,
        Self::UpdateIgnoresTheRevision,
        Self::UpdateInSteps,
        Self::UpdatePullsTheDeadlineBack,
        Self::UpdateChangesTheOwner,
        Self::TouchRevives,
        Self::TouchPassesTheAbsoluteLimit,
        Self::TouchMovesBackwards,
        Self::TouchChangesTheRevision,
        Self::RenewDeletesFirst,
        Self::RenewInsertsFirst,
        Self::RenewKeepsTheOldId,
        Self::RenewForgetsTheFormerOwner,
        Self::IdsWithoutCase,
        Self::IdsByPrefix,
        Self::AnswersShift,
        Self::CallersClock,
        Self::DeadlineInclusive,
        Self::ListByPrefix,
        Self::ListPagesByTime,
        Self::RevokeAllBySnapshot,
        Self::RevokeAllByTime,
        Self::RevokeAnybodys,
        Self::LimitInSteps,
        Self::SweepGoesByTheFirstDeadline,
        Self::SweepWithoutLimit,
        Self::SweepIsDoneAtItsLimit,
        Self::SweepForgetsEndings,
        Self::CreateOverwrites,
        Self::CreateReusesIds,
        Self::DeleteDoesNotFollow,
        Self::ScanByOffset,
        Self::ValuesAsText,
        Self::NoReasons,
        Self::RecordsAreCut,
    ];
}

/// The store, its clock, and what is wrong with it.
pub(crate) struct NaiveStore {
    defect: Option<Defect>,
    clock: Arc<ManualClock>,
    rows: Mutex<BTreeMap<SessionId, Row>>,
    /// For [`Defect::AnswersShift`]: questions on their way.
    questions: Mutex<VecDeque<SessionId>>,
    /// For [`Defect::RevokeAllByTime`].
    revoked_at: Mutex<BTreeMap<String, u64>>,
}

#[derive(Clone)]
struct Row {
    /// The principal in whose list it is.
    listed: Option<Principal>,
    first_deadline: SystemTime,
    stored: Stored,
    end: Option<End>,
}

#[derive(Clone, Copy)]
struct End {
    reason: EndReason,
    at: SystemTime,
    successor: Option<SessionId>,
}

const TOMBSTONES: Duration = Duration::from_secs(24 * 60 * 60);

impl NaiveStore {
    pub(crate) fn new(defect: Option<Defect>, clock: Arc<ManualClock>) -> Self {
        let (rows, questions, revoked_at) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { defect, clock, rows, questions, revoked_at }
    }

    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<SessionId, Row>> {
        self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Lets others run in the middle of a call, where the defect is one of doing things in steps.
    async fn step(&self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
    }

    fn key(&self, id: &SessionId) -> SessionId {
        let mut bytes = *id.as_bytes();
        if self.has(Defect::IdsWithoutCase) {
            bytes.make_ascii_lowercase();
        }
        if self.has(Defect::IdsByPrefix) {
            bytes[24..].fill(0);
        }
        SessionId::from_bytes(bytes)
    }

    fn is_over(&self, record: &Record) -> bool {
        let now = self.clock.now();
        if self.has(Defect::DeadlineInclusive) { now > record.deadline() } else { record.is_expired(now) }
    }

    fn is_live(&self, row: &Row) -> bool {
        row.end.is_none() && !self.is_over(&row.stored.record) && !self.was_revoked(row)
    }

    fn was_revoked(&self, row: &Row) -> bool {
        let revoked_at = self.revoked_at.lock().unwrap();
        let owner = row.listed.as_ref().and_then(|owner| revoked_at.get(owner.as_str()));
        owner.is_some_and(|at| unix_millis(row.stored.record.created()) <= *at)
    }

    fn reason(&self, row: &Row) -> Option<EndReason> {
        let revoked = if self.was_revoked(row) { EndReason::Revoked } else { EndReason::Expired };
        (!self.has(Defect::NoReasons)).then(|| row.end.map_or(revoked, |end| end.reason))
    }

    fn end(&self, row: &mut Row, reason: EndReason, successor: Option<SessionId>) {
        row.end = Some(End { reason, at: self.clock.now(), successor });
    }

    fn row(&self, record: &Record, revision: Revision) -> Row {
        let mut record = record.clone();
        if self.has(Defect::ValuesAsText) {
            let values: Vec<_> = record
                .values()
                .map(|value| (value.key.to_owned(), String::from_utf8_lossy(value.encoded).into_owned(), value.expires))
                .collect();
            record = record.with_values(values.iter().map(|(key, encoded, expires)| cloakroom_core::Value {
                key,
                encoded: encoded.as_bytes(),
                expires: *expires,
            }));
        }
        if self.has(Defect::RecordsAreCut) && record.encoded_len() > 65_535 {
            record = record.with_values([]);
        }
        let listed = record.principal().cloned();
        Row { listed, first_deadline: record.deadline(), stored: Stored { record, revision }, end: None }
    }

    fn in_list(&self, row: &Row, principal: &Principal) -> bool {
        row.listed.as_ref().is_some_and(|listed| match self.has(Defect::ListByPrefix) {
            true => listed.as_str().starts_with(principal.as_str()),
            false => listed == principal,
        })
    }

    /// The live ids of the principal, oldest first.
    fn owned(&self, rows: &BTreeMap<SessionId, Row>, principal: &Principal) -> Vec<SessionId> {
        let owned = rows.iter().filter(|(_, row)| self.is_live(row) && self.in_list(row, principal));
        let mut owned: Vec<_> = owned.map(|(id, row)| (Summary::from(&row.stored.record).cursor(), *id)).collect();
        owned.sort_unstable();
        owned.into_iter().map(|(_, id)| id).collect()
    }

    /// Who has to make room for one more session, or `None` if nobody may.
    fn excess(
        &self,
        rows: &BTreeMap<SessionId, Row>,
        record: &Record,
        limit: Option<SessionLimit>,
        instead_of: Option<&SessionId>,
    ) -> Option<Vec<SessionId>> {
        let (Some(owner), Some(limit)) = (record.principal(), limit) else { return Some(vec![]) };
        let mut owned = self.owned(rows, owner);
        owned.retain(|id| Some(id) != instead_of);
        owned.truncate((owned.len() + 1).saturating_sub(limit.max.get() as usize));
        (owned.is_empty() || limit.excess == Excess::EvictOldest).then_some(owned)
    }

    fn evict(&self, rows: &mut BTreeMap<SessionId, Row>, ids: &[SessionId]) -> Vec<Handle> {
        let mut handles = Vec::new();
        for id in ids {
            if let Some(row) = rows.get_mut(id) {
                handles.push(row.stored.record.handle());
                self.end(row, EndReason::Evicted, None);
            }
        }
        handles
    }

    fn end_owned(&self, principal: &Principal, mut wanted: impl FnMut(&Row) -> bool) -> u64 {
        let mut rows = self.rows();
        let mut ended = 0;
        for row in rows.values_mut() {
            if self.is_live(row) && self.in_list(row, principal) && wanted(row) {
                self.end(row, EndReason::Revoked, None);
                ended += 1;
            }
        }
        ended
    }
}

impl fmt::Debug for NaiveStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NaiveStore").field("defect", &self.defect).finish_non_exhaustive()
    }
}

impl fmt::Display for NaiveStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("naive")
    }
}

#[async_trait]
impl SessionStore for NaiveStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let mut asked = *id;
        if self.has(Defect::AnswersShift) {
            self.questions.lock().unwrap().push_back(*id);
            self.step().await;
            asked = self.questions.lock().unwrap().pop_front().unwrap_or(*id);
        }
        let rows = self.rows();
        Ok(match rows.get(&self.key(&asked)) {
            None => Load::Gone(None),
            Some(row) if self.is_live(row) => Load::Live(row.stored.clone()),
            Some(row) => Load::Gone(self.reason(row)),
        })
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let id = self.key(id);
        let occupied = |rows: &BTreeMap<SessionId, Row>| match rows.get(&id) {
            None => false,
            Some(_) if self.has(Defect::CreateOverwrites) => false,
            Some(row) => self.is_live(row) || !self.has(Defect::CreateReusesIds),
        };
        if self.has(Defect::LimitInSteps) {
            let room = self.excess(&self.rows(), record, limit, None);
            self.step().await;
            let mut rows = self.rows();
            if occupied(&rows) {
                return Ok(Create::Occupied);
            }
            let Some(excess) = room else { return Ok(Create::LimitReached) };
            let evicted = self.evict(&mut rows, &excess);
            rows.insert(id, self.row(record, Revision::FIRST));
            return Ok(Create::Created { evicted });
        }
        let mut rows = self.rows();
        if occupied(&rows) {
            return Ok(Create::Occupied);
        }
        let Some(excess) = self.excess(&rows, record, limit, None) else { return Ok(Create::LimitReached) };
        let evicted = self.evict(&mut rows, &excess);
        rows.insert(id, self.row(record, Revision::FIRST));
        Ok(Create::Created { evicted })
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let id = self.key(id);
        if self.has(Defect::UpdateInSteps) {
            let seen = self.rows().get(&id).cloned();
            self.step().await;
            let mut rows = self.rows();
            return Ok(match (seen, rows.get_mut(&id)) {
                (Some(seen), Some(row)) if self.is_live(&seen) && seen.stored.revision == expected => {
                    *row = self.row(record, expected.next());
                    Update::Saved(expected.next())
                }
                (Some(seen), _) if self.is_live(&seen) => Update::Conflict(seen.stored),
                (Some(seen), _) => Update::Gone(self.reason(&seen)),
                (None, _) => Update::Gone(None),
            });
        }
        let mut rows = self.rows();
        if self.has(Defect::UpdateCreates) && rows.get(&id).is_none_or(|row| !self.is_live(row)) {
            rows.insert(id, self.row(record, expected.next()));
            return Ok(Update::Saved(expected.next()));
        }
        let Some(row) = rows.get_mut(&id) else { return Ok(Update::Gone(None)) };
        let is_over = self.has(Defect::CallersClock) && row.stored.record.is_expired(record.last_seen());
        let is_live = if self.has(Defect::CallersClock) { row.end.is_none() && !is_over } else { self.is_live(row) };
        if !is_live {
            return Ok(Update::Gone(self.reason(row)));
        }
        if row.stored.revision != expected && !self.has(Defect::UpdateIgnoresTheRevision) {
            return Ok(Update::Conflict(row.stored.clone()));
        }
        let old = &row.stored.record;
        let same = old.principal() == record.principal() && old.handle() == record.handle();
        if !same && !self.has(Defect::UpdateChangesTheOwner) {
            return Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Update, "another owner or handle").not_done());
        }
        let mut new = self.row(record, row.stored.revision.next());
        if !self.has(Defect::UpdatePullsTheDeadlineBack) {
            let (seen, idle) =
                (old.last_seen().max(record.last_seen()), old.idle_deadline().max(record.idle_deadline()));
            new.stored.record = new.stored.record.seen(seen, idle);
        }
        *row = new;
        Ok(Update::Saved(row.stored.revision))
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let mut rows = self.rows();
        let Some(row) = rows.get_mut(&self.key(id)) else { return Ok(Touch::Gone(None)) };
        let is_live = match self.defect {
            Some(Defect::TouchRevives) => row.end.is_none(),
            Some(Defect::CallersClock) => row.end.is_none() && !row.stored.record.is_expired(last_seen),
            Some(_) | None => self.is_live(row),
        };
        if !is_live {
            return Ok(Touch::Gone(self.reason(row)));
        }
        let record = row.stored.record.clone();
        let backwards = self.has(Defect::TouchMovesBackwards);
        let idle = if backwards { idle_deadline } else { record.idle_deadline().max(idle_deadline) };
        let seen = record.last_seen().max(last_seen);
        row.stored.record = if self.has(Defect::TouchPassesTheAbsoluteLimit) && idle > record.absolute_deadline() {
            let longer = idle.duration_since(record.created()).unwrap_or_default();
            let values: Vec<_> = record.values().collect();
            let longer = Record::new(record.handle(), record.created(), longer, longer).with_values(values);
            record.principal().map_or(longer.clone(), |owner| longer.owned_by(owner.clone())).seen(seen, idle)
        } else {
            record.seen(seen, idle)
        };
        if self.has(Defect::TouchChangesTheRevision) {
            row.stored.revision = row.stored.revision.next();
        }
        Ok(Touch::Touched)
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { expected, record, limit, .. } = renewal;
        let (old, new) = (self.key(renewal.old), self.key(renewal.new));
        let revision = expected.next();
        let (taken, evicted) = {
            let mut rows = self.rows();
            let Some(row) = rows.get(&old) else { return Ok(Renew::Gone(None)) };
            if !self.is_live(row) {
                return Ok(Renew::Gone(self.reason(row)));
            }
            if row.stored.revision != expected {
                return Ok(Renew::Conflict(row.stored.clone()));
            }
            if rows.contains_key(&new) {
                return Ok(Renew::Occupied);
            }
            let Some(excess) = self.excess(&rows, record, limit, Some(&old)) else { return Ok(Renew::LimitReached) };
            let evicted = self.evict(&mut rows, &excess);
            let mut fresh = self.row(record, revision);
            if self.has(Defect::RenewForgetsTheFormerOwner) {
                fresh.listed = rows.get(&old).and_then(|row| row.listed.clone()).or(fresh.listed);
            }
            match self.defect {
                Some(Defect::RenewDeletesFirst) => {}
                Some(_) | None => drop(rows.insert(new, fresh.clone())),
            }
            match (self.defect, rows.get_mut(&old)) {
                (Some(Defect::RenewInsertsFirst | Defect::RenewKeepsTheOldId), _) | (_, None) => {}
                (_, Some(row)) => self.end(row, EndReason::Renewed, Some(new)),
            }
            (fresh, evicted)
        };
        if self.has(Defect::RenewDeletesFirst) {
            self.step().await;
            self.rows().insert(new, taken);
        } else if self.has(Defect::RenewInsertsFirst) {
            self.step().await;
            if let Some(row) = self.rows().get_mut(&old) {
                self.end(row, EndReason::Renewed, Some(new));
            }
        }
        Ok(Renew::Renewed { revision, evicted })
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let mut rows = self.rows();
        let mut id = self.key(id);
        while let Some(Row { end: Some(End { successor: Some(successor), .. }), .. }) = rows.get(&id) {
            if self.has(Defect::DeleteDoesNotFollow) {
                return Ok(false);
            }
            id = *successor;
        }
        let Some(row) = rows.get_mut(&id) else { return Ok(false) };
        let was_live = self.is_live(row);
        if was_live {
            self.end(row, reason, None);
        }
        Ok(was_live)
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let rows = self.rows();
        let owned = self.owned(&rows, principal);
        let summaries = owned.iter().map(|id| Summary::from(&rows[id].stored.record));
        let after = |summary: &Summary| match page.after {
            None => true,
            Some(after) if self.has(Defect::ListPagesByTime) => summary.cursor().created > after.created,
            Some(after) => summary.cursor() > after,
        };
        Ok(Listing::from_summaries(summaries.filter(after).collect(), page))
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let owner = match self.has(Defect::RevokeAnybodys) {
            false => principal.clone(),
            true => {
                let rows = self.rows();
                let row = rows.values().find(|row| row.stored.record.handle() == handle && self.is_live(row));
                row.and_then(|row| row.listed.clone()).unwrap_or_else(|| principal.clone())
            }
        };
        Ok(self.end_owned(&owner, |row| row.stored.record.handle() == handle) > 0)
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        if self.has(Defect::RevokeAllByTime) && except.is_none() {
            let count = self.owned(&self.rows(), principal).len() as u64;
            self.revoked_at.lock().unwrap().insert(principal.as_str().to_owned(), unix_millis(self.clock.now()));
            return Ok(count);
        }
        if self.has(Defect::RevokeAllBySnapshot) {
            let snapshot = self.owned(&self.rows(), principal);
            let mut ended = 0;
            for id in snapshot {
                self.step().await;
                if let Some(row) = self.rows().get_mut(&id)
                    && self.is_live(row)
                    && Some(row.stored.record.handle()) != except
                {
                    self.end(row, EndReason::Revoked, None);
                    ended += 1;
                }
            }
            return Ok(ended);
        }
        Ok(self.end_owned(principal, |row| Some(row.stored.record.handle()) != except))
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let now = self.clock.now();
        let mut rows = self.rows();
        let mut gone = 0;
        let is_due = |row: &Row| match row.end {
            None if self.has(Defect::SweepGoesByTheFirstDeadline) => now >= row.first_deadline,
            None => self.is_over(&row.stored.record),
            Some(_) if self.has(Defect::SweepForgetsEndings) => true,
            Some(end) => now.duration_since(end.at).unwrap_or_default() > TOMBSTONES,
        };
        let limit = if self.has(Defect::SweepWithoutLimit) { u64::MAX } else { u64::from(limit) };
        let mut removed = Vec::new();
        for (id, row) in rows.iter_mut().filter(|(_, row)| is_due(row)) {
            if gone == limit {
                break;
            }
            gone += 1;
            match row.end {
                None => {
                    row.end =
                        Some(End { reason: EndReason::Expired, at: row.stored.record.deadline(), successor: None });
                }
                Some(_) => removed.push(*id),
            }
        }
        for id in removed {
            rows.remove(&id);
        }
        let more = gone >= limit && !self.has(Defect::SweepIsDoneAtItsLimit);
        Ok(Swept { removed: gone, more })
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let rows = self.rows();
        let live = rows.iter().filter(|(_, row)| self.is_live(row)).map(|(id, row)| (*id, row.stored.clone()));
        if self.has(Defect::ScanByOffset) {
            // As many as lay before the cursor when it was read: what went since is skipped.
            let seen = after.map_or(0, |after| rows.keys().filter(|id| **id <= after).count());
            return Ok(live.skip(seen).take(limit as usize).collect());
        }
        Ok(live.filter(|(id, _)| after.is_none_or(|after| *id > after)).take(limit as usize).collect())
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        let rows = self.rows();
        let mut ended = None;
        for row in rows.values().filter(|row| row.stored.record.handle() == handle) {
            match row.end {
                None if self.is_live(row) => return Ok(None),
                None => ended = Some(Ended { reason: EndReason::Expired, at: row.stored.record.deadline() }),
                Some(End { reason: EndReason::Renewed, .. }) => {}
                Some(End { reason, at, .. }) => ended = Some(Ended { reason, at: from_unix_millis(unix_millis(at)) }),
            }
        }
        Ok(ended)
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let (server, durability) = ("naive".to_owned(), Durability::Process);
        Ok(Probe { server, latency: Duration::ZERO, durability, warnings: vec![] })
    }

    fn signals(&self) -> Option<Signals> {
        None
    }
}

/// A naive store on a clock of its own.
pub(crate) struct OnNaive {
    clock: Arc<ManualClock>,
    store: Arc<NaiveStore>,
}

impl OnNaive {
    pub(crate) async fn with(defect: Option<Defect>) -> Self {
        let clock = Arc::new(ManualClock::new());
        Self { store: Arc::new(NaiveStore::new(defect, clock.clone())), clock }
    }
}

impl Fixture for OnNaive {
    fn store(&self) -> Arc<dyn SessionStore> {
        self.store.clone()
    }

    fn clock(&self) -> Option<Arc<ManualClock>> {
        Some(self.clock.clone())
    }

    fn options(&self) -> cloakroom_testkit::store::Options {
        let mut options = cloakroom_testkit::store::Options::default();
        options.patience = Duration::from_secs(20);
        if self.store.defect.is_some() {
            // As many sequences as it takes: which are drawn is chance, and one of them has to hit.
            options.cases = 5_000;
        }
        options
    }
}
