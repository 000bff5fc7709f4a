//! Sessions in this process: for tests, for one-process services, and as the revocation list of
//! self-contained sessions.
//!
//! Lock order: principals in order of their index, then shards in order of theirs. Whoever needs a
//! record's owner looks first, locks in order, and looks again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::clock::{Clock, SystemClock, from_unix_millis, millis, unix_millis};
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{Handle, Principal, SessionId};
use crate::record::Record;
use crate::signals::{Signal, Signaller, Signals};
use crate::store::{
    Create, Durability, EndReason, Ended, Excess, Listing, Load, Page, PageCursor, Probe, Renew, Renewal, Revision,
    SessionLimit, SessionStore, Stored, Summary, Swept, Touch, Update, Verb,
};

const SHARDS: usize = 64;

/// Sessions in the memory of this process. Everything is gone when it ends.
///
/// Bounded: at [`capacity`](Self::with_capacity) entries (records and tombstones) a new session is
/// refused rather than somebody's session dropped. Expired entries count until they are swept, and
/// the store does not sweep itself: a stack built in code starts a [`Sweeper`](crate::Sweeper) for it.
///
/// ```
/// use cloakroom_core::{MemoryStore, SessionStore};
///
/// let store = MemoryStore::new().with_capacity(100_000);
/// assert_eq!(store.to_string(), "memory");
/// ```
pub struct MemoryStore {
    shards: Box<[Mutex<HashMap<SessionId, Slot>>]>,
    principals: Box<[Mutex<HashMap<Principal, Index>>]>,
    hasher: RandomState,
    entries: AtomicUsize,
    next_swept: AtomicUsize,
    capacity: usize,
    tombstones: Duration,
    clock: Arc<dyn Clock>,
    signaller: Signaller,
}

enum Slot {
    Live(Stored),
    Ended(Tombstone),
}

#[derive(Clone, Copy)]
struct Tombstone {
    handle: Handle,
    reason: EndReason,
    at: u64,
    successor: Option<SessionId>,
}

type Shard<'a> = MutexGuard<'a, HashMap<SessionId, Slot>>;
type Index = BTreeMap<PageCursor, SessionId>;

impl MemoryStore {
    /// How many entries a store holds unless told otherwise.
    pub const DEFAULT_CAPACITY: usize = 1_000_000;
    /// How long the reason of an end is remembered unless told otherwise.
    pub const DEFAULT_TOMBSTONES: Duration = Duration::from_secs(24 * 60 * 60);

    /// An empty store on the system's clock.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            principals: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            entries: AtomicUsize::new(0),
            next_swept: AtomicUsize::new(0),
            capacity: Self::DEFAULT_CAPACITY,
            tombstones: Self::DEFAULT_TOMBSTONES,
            clock: Arc::new(SystemClock),
            signaller: Signaller::new(),
        }
    }

    /// The most entries it holds. Default one million.
    #[must_use]
    pub const fn with_capacity(mut self, entries: usize) -> Self {
        self.capacity = entries;
        self
    }

    /// Another clock, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How long the reason of an end is remembered. Default 24 hours; must outlast the longest request.
    #[must_use]
    pub const fn with_tombstones(mut self, kept: Duration) -> Self {
        self.tombstones = kept;
        self
    }

    /// How many records and tombstones it holds, expired ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }

    /// Whether it holds nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn now(&self) -> u64 {
        unix_millis(self.clock.now())
    }

    fn shard_of(id: &SessionId) -> usize {
        usize::from(id.as_bytes()[SessionId::LEN - 1]) % SHARDS
    }

    fn shard(&self, id: &SessionId) -> Shard<'_> {
        lock(&self.shards[Self::shard_of(id)])
    }

    fn index_of(&self, principal: &Principal) -> usize {
        self.hasher.hash_one(principal) as usize % SHARDS
    }

    /// Whoever the id's live record belongs to at this moment.
    fn owner(&self, id: &SessionId) -> Option<Principal> {
        match self.shard(id).get(id) {
            Some(Slot::Live(stored)) => stored.record.principal().cloned(),
            Some(Slot::Ended(_)) | None => None,
        }
    }

    /// Takes one entry's room, or says that there is none.
    fn reserve(&self, verb: Verb) -> Result<(), StoreError> {
        let taken = self.entries.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |entries| {
            (entries < self.capacity).then_some(entries + 1)
        });
        taken.map(|_| ()).map_err(|_| {
            let message =
                format!("the store holds its {} entries; raise its capacity, or sweep more often", self.capacity);
            StoreError::new(StoreErrorKind::Full, verb, message).not_done()
        })
    }

    fn release(&self, entries: usize) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
    }

    /// Locks the indexes of these principals, in order, each once.
    fn lock_indexes(&self, principals: [Option<&Principal>; 2]) -> Indexes<'_> {
        let mut wanted = principals.map(|principal| principal.map(|principal| self.index_of(principal)));
        wanted.sort_unstable();
        let mut guards = Vec::with_capacity(2);
        for at in wanted.into_iter().flatten() {
            if guards.last().is_none_or(|(last, _)| *last != at) {
                guards.push((at, lock(&self.principals[at])));
            }
        }
        Indexes { store: self, guards }
    }

    /// Locks the shards of these ids, in order, each once.
    fn lock_shards<'a>(&self, ids: impl IntoIterator<Item = &'a SessionId>) -> Shards<'_> {
        let wanted: BTreeSet<_> = ids.into_iter().map(Self::shard_of).collect();
        Shards { guards: wanted.into_iter().map(|at| (at, lock(&self.shards[at]))).collect() }
    }

    /// Who has to go so that the principal may have one more session, or `None` if it may not.
    /// `instead_of` is the id whose session the new one replaces.
    fn excess(
        &self,
        indexes: &mut Indexes<'_>,
        record: &Record,
        limit: Option<SessionLimit>,
        instead_of: Option<&SessionId>,
        now: u64,
    ) -> Option<Vec<(PageCursor, SessionId)>> {
        let (Some(principal), Some(limit)) = (record.principal(), limit) else { return Some(Vec::new()) };
        let Some(index) = indexes.of(principal).get(principal) else { return Some(Vec::new()) };
        let is_live = |id| self.shard(id).get(id).is_some_and(|slot| slot.live(now).is_some());
        let live = index.iter().filter(|(_, id)| instead_of != Some(id) && is_live(id));
        let mut live: Vec<_> = live.map(|(cursor, id)| (*cursor, *id)).collect();
        live.truncate((live.len() + 1).saturating_sub(limit.max.get() as usize));
        (live.is_empty() || limit.excess == Excess::EvictOldest).then_some(live)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("entries", &self.len()).field("capacity", &self.capacity).finish()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code below panics while it holds a lock; were it to, the maps are still whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The locked indexes of up to two principals.
struct Indexes<'a> {
    store: &'a MemoryStore,
    guards: Vec<(usize, MutexGuard<'a, HashMap<Principal, Index>>)>,
}

impl Indexes<'_> {
    fn of(&mut self, principal: &Principal) -> &mut HashMap<Principal, Index> {
        let wanted = self.store.index_of(principal);
        let at = self.guards.iter().position(|(at, _)| *at == wanted);
        &mut self.guards[at.unwrap_or_default()].1
    }

    fn add(&mut self, record: &Record, id: SessionId) {
        if let Some(principal) = record.principal() {
            self.of(principal).entry(principal.clone()).or_default().insert(cursor(record), id);
        }
    }

    /// Takes sessions of one principal out, as [`MemoryStore::excess`] named them.
    fn remove_all(&mut self, record: &Record, sessions: &[(PageCursor, SessionId)]) {
        if let Some(principal) = record.principal()
            && let Some(index) = self.of(principal).get_mut(principal)
        {
            for (cursor, _) in sessions {
                index.remove(cursor);
            }
        }
    }

    fn remove(&mut self, record: &Record) {
        if let Some(principal) = record.principal()
            && let Entry::Occupied(mut index) = self.of(principal).entry(principal.clone())
        {
            index.get_mut().remove(&cursor(record));
            if index.get().is_empty() {
                index.remove();
            }
        }
    }
}

/// The locked shards of some ids.
struct Shards<'a> {
    guards: Vec<(usize, Shard<'a>)>,
}

impl Shards<'_> {
    fn of(&mut self, id: &SessionId) -> &mut HashMap<SessionId, Slot> {
        let wanted = MemoryStore::shard_of(id);
        let at = self.guards.iter().position(|(at, _)| *at == wanted);
        &mut self.guards[at.unwrap_or_default()].1
    }

    fn evict(&mut self, excess: &[(PageCursor, SessionId)], now: u64) -> Vec<Handle> {
        for (_, id) in excess {
            self.of(id).entry(*id).and_modify(|slot| slot.end(EndReason::Evicted, now, None));
        }
        excess.iter().map(|(cursor, _)| cursor.handle).collect()
    }
}

fn cursor(record: &Record) -> PageCursor {
    PageCursor { created: record.created, handle: record.handle() }
}

impl Slot {
    fn live(&self, now: u64) -> Option<&Stored> {
        match self {
            Self::Live(stored) if now < stored.record.idle_deadline.min(stored.record.absolute_deadline) => {
                Some(stored)
            }
            Self::Live(_) | Self::Ended(_) => None,
        }
    }

    /// Why there is nothing live here.
    fn reason(&self) -> EndReason {
        match self {
            Self::Live(_) => EndReason::Expired,
            Self::Ended(tombstone) => tombstone.reason,
        }
    }

    fn end(&mut self, reason: EndReason, at: u64, successor: Option<SessionId>) {
        if let Self::Live(stored) = self {
            *self = Self::Ended(Tombstone { handle: stored.record.handle(), reason, at, successor });
        }
    }
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError> {
        let now = self.now();
        Ok(match self.shard(id).get(id) {
            None => Load::Gone(None),
            Some(slot) => match slot.live(now) {
                Some(stored) => Load::Live(stored.clone()),
                None => Load::Gone(Some(slot.reason())),
            },
        })
    }

    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError> {
        let now = self.now();
        let mut indexes = self.lock_indexes([record.principal(), None]);
        if self.shard(id).contains_key(id) {
            return Ok(Create::Occupied);
        }
        let Some(excess) = self.excess(&mut indexes, record, limit, None, now) else { return Ok(Create::LimitReached) };
        self.reserve(Verb::Create)?;
        let mut shards = self.lock_shards(excess.iter().map(|(_, id)| id).chain([id]));
        if shards.of(id).contains_key(id) {
            self.release(1);
            return Ok(Create::Occupied);
        }
        let evicted = shards.evict(&excess, now);
        shards.of(id).insert(*id, Slot::Live(Stored { record: record.clone(), revision: Revision::FIRST }));
        drop(shards);
        indexes.remove_all(record, &excess);
        indexes.add(record, *id);
        self.tell(evicted.iter().copied());
        Ok(Create::Created { evicted })
    }

    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError> {
        let now = self.now();
        let mut shard = self.shard(id);
        let Some(slot) = shard.get_mut(id) else { return Ok(Update::Gone(None)) };
        if slot.live(now).is_none() {
            return Ok(Update::Gone(Some(slot.reason())));
        }
        let Slot::Live(stored) = slot else { return Ok(Update::Gone(None)) };
        if stored.revision != expected {
            return Ok(Update::Conflict(stored.clone()));
        }
        if stored.record.principal() != record.principal() || cursor(&stored.record) != cursor(record) {
            let message = "an update must not change the owner, the handle or the time of creation; renew instead";
            return Err(StoreError::new(StoreErrorKind::Corrupt, Verb::Update, message).not_done());
        }
        let (last_seen, idle_deadline) = (stored.record.last_seen, stored.record.idle_deadline);
        stored.record = record.clone();
        stored.record.last_seen = record.last_seen.max(last_seen);
        stored.record.idle_deadline = record.idle_deadline.max(idle_deadline).min(record.absolute_deadline);
        stored.revision = expected.next();
        Ok(Update::Saved(stored.revision))
    }

    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError> {
        let now = self.now();
        let mut shard = self.shard(id);
        let Some(slot) = shard.get_mut(id) else { return Ok(Touch::Gone(None)) };
        if slot.live(now).is_none() {
            return Ok(Touch::Gone(Some(slot.reason())));
        }
        if let Slot::Live(Stored { record, .. }) = slot {
            record.last_seen = unix_millis(last_seen).max(record.last_seen);
            record.idle_deadline = unix_millis(idle_deadline).max(record.idle_deadline).min(record.absolute_deadline);
        }
        Ok(Touch::Touched)
    }

    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError> {
        let Renewal { old, new, expected, record, limit } = renewal;
        let now = self.now();
        let before = self.owner(old);
        let mut indexes = self.lock_indexes([before.as_ref(), record.principal()]);
        let current = match self.shard(old).get(old) {
            None => return Ok(Renew::Gone(None)),
            Some(slot) => match slot.live(now) {
                None => return Ok(Renew::Gone(Some(slot.reason()))),
                Some(stored) => stored.clone(),
            },
        };
        // Only a renewal changes the owner, and it changes the revision too, so an owner that changed
        // before the locks were taken shows here.
        if current.revision != expected || current.record.principal() != before.as_ref() {
            return Ok(Renew::Conflict(current));
        }
        if self.shard(new).contains_key(new) {
            return Ok(Renew::Occupied);
        }
        let Some(excess) = self.excess(&mut indexes, record, limit, Some(old), now) else {
            return Ok(Renew::LimitReached);
        };
        self.reserve(Verb::Renew)?;
        let revision = expected.next();
        let mut shards = self.lock_shards(excess.iter().map(|(_, id)| id).chain([old, new]));
        // Neither an update nor the filing of an anonymous session needs an index lock: either may
        // have come between the look above and these locks.
        let refusal = match shards.of(old).get(old) {
            None => Some(Renew::Gone(None)),
            Some(slot) => match slot.live(now) {
                None => Some(Renew::Gone(Some(slot.reason()))),
                Some(stored) if stored.revision != expected => Some(Renew::Conflict(stored.clone())),
                Some(_) => shards.of(new).contains_key(new).then_some(Renew::Occupied),
            },
        };
        if let Some(refusal) = refusal {
            self.release(1);
            return Ok(refusal);
        }
        let evicted = shards.evict(&excess, now);
        shards.of(old).entry(*old).and_modify(|slot| slot.end(EndReason::Renewed, now, Some(*new)));
        shards.of(new).insert(*new, Slot::Live(Stored { record: record.clone(), revision }));
        drop(shards);
        indexes.remove_all(record, &excess);
        indexes.remove(&current.record);
        indexes.add(record, *new);
        self.tell(evicted.iter().copied().chain([current.record.handle()]));
        Ok(Renew::Renewed { revision, evicted })
    }

    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError> {
        let now = self.now();
        let mut id = *id;
        loop {
            let owner = self.owner(&id);
            let mut indexes = self.lock_indexes([owner.as_ref(), None]);
            let mut shard = self.shard(&id);
            let Some(slot) = shard.get_mut(&id) else { return Ok(false) };
            match slot {
                Slot::Ended(Tombstone { successor: Some(successor), .. }) => id = *successor,
                Slot::Ended(_) => return Ok(false),
                // Filed between the look and the locks: look again, for its owner's index is not locked.
                Slot::Live(stored) if stored.record.principal() != owner.as_ref() => {}
                Slot::Live(stored) => {
                    let record = stored.record.clone();
                    let was_live = slot.live(now).is_some();
                    slot.end(if was_live { reason } else { EndReason::Expired }, now, None);
                    drop(shard);
                    indexes.remove(&record);
                    self.tell([record.handle()]);
                    return Ok(was_live);
                }
            }
        }
    }

    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError> {
        let now = self.now();
        let mut indexes = self.lock_indexes([Some(principal), None]);
        let mut summaries = Vec::new();
        if let Some(index) = indexes.of(principal).get(principal) {
            for (cursor, id) in index {
                if page.after.is_some_and(|after| *cursor <= after) {
                    continue;
                }
                if let Some(stored) = self.shard(id).get(id).and_then(|slot| slot.live(now)) {
                    summaries.push(Summary::from(&stored.record));
                }
                if summaries.len() > page.bounded_limit() {
                    break;
                }
            }
        }
        Ok(Listing::from_summaries(summaries, page))
    }

    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError> {
        let ended = self.end_sessions(principal, |cursor| cursor.handle == handle);
        Ok(ended > 0)
    }

    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError> {
        Ok(self.end_sessions(principal, |cursor| Some(cursor.handle) != except))
    }

    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError> {
        let now = self.now();
        let kept_since = now.saturating_sub(millis(self.tombstones));
        let mut gone = 0;
        for _ in 0..SHARDS {
            let at = self.next_swept.load(Ordering::Relaxed) % SHARDS;
            let mut expired = Vec::new();
            let mut removed = 0;
            let room = u64::from(limit).saturating_sub(gone);
            lock(&self.shards[at]).retain(|id, slot| {
                if removed + expired.len() as u64 >= room {
                    return true;
                }
                match slot {
                    Slot::Ended(tombstone) if tombstone.at < kept_since => {
                        removed += 1;
                        return false;
                    }
                    Slot::Live(stored) if slot_expired(stored, now) => expired.push((*id, stored.record.clone())),
                    Slot::Ended(_) | Slot::Live(_) => {}
                }
                true
            });
            self.release(removed as usize);
            gone += removed;
            for (id, record) in expired {
                // The index comes first in the lock order, so the slot is looked at again.
                let mut indexes = self.lock_indexes([record.principal(), None]);
                if let Some(slot @ Slot::Live(_)) = self.shard(&id).get_mut(&id)
                    && slot.live(now).is_none()
                {
                    let deadline = unix_millis(record.deadline());
                    slot.end(EndReason::Expired, deadline, None);
                    gone += 1;
                    indexes.remove(&record);
                }
            }
            if gone >= u64::from(limit) {
                break;
            }
            self.next_swept.store(at + 1, Ordering::Relaxed);
        }
        Ok(Swept { removed: gone, more: gone >= u64::from(limit) })
    }

    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError> {
        let now = self.now();
        let mut found: BTreeMap<SessionId, Stored> = BTreeMap::new();
        for shard in &self.shards {
            for (id, slot) in &*lock(shard) {
                if after.is_none_or(|after| *id > after)
                    && let Some(stored) = slot.live(now)
                {
                    found.insert(*id, stored.clone());
                    if found.len() > limit as usize {
                        found.pop_last();
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }

    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError> {
        let now = self.now();
        let mut ended = None;
        for shard in &self.shards {
            for slot in lock(shard).values() {
                let found = match slot {
                    Slot::Live(stored) if stored.record.handle() == handle => {
                        if slot.live(now).is_some() {
                            return Ok(None);
                        }
                        Ended { reason: EndReason::Expired, at: stored.record.deadline() }
                    }
                    // A renewal ends a token, not the session.
                    Slot::Ended(tombstone) if tombstone.handle == handle && tombstone.reason != EndReason::Renewed => {
                        Ended { reason: tombstone.reason, at: from_unix_millis(tombstone.at) }
                    }
                    Slot::Live(_) | Slot::Ended(_) => continue,
                };
                ended = Some(found);
            }
        }
        Ok(ended)
    }

    async fn probe(&self) -> Result<Probe, StoreError> {
        let entries = self.len();
        let full = entries.saturating_mul(10) >= self.capacity.saturating_mul(9);
        let warning =
            format!("{entries} of {} entries are taken: raise the capacity, or sweep more often", self.capacity);
        Ok(Probe {
            server: format!("memory ({entries} entries)"),
            latency: Duration::ZERO,
            durability: Durability::Process,
            warnings: full.then_some(warning).into_iter().collect(),
        })
    }

    fn signals(&self) -> Option<Signals> {
        Some(self.signaller.signals())
    }
}

fn slot_expired(stored: &Stored, now: u64) -> bool {
    now >= stored.record.idle_deadline.min(stored.record.absolute_deadline)
}

impl MemoryStore {
    fn tell(&self, ended: impl IntoIterator<Item = Handle>) {
        ended.into_iter().for_each(|handle| self.signaller.tell(Signal::Ended(handle)));
    }

    /// Ends the principal's sessions that match, while nobody can add or move one of theirs.
    fn end_sessions(&self, principal: &Principal, matches: impl Fn(&PageCursor) -> bool) -> u64 {
        let now = self.now();
        let mut indexes = self.lock_indexes([Some(principal), None]);
        let principals = indexes.of(principal);
        let Some(index) = principals.get_mut(principal) else { return 0 };
        let mut ended = 0;
        index.retain(|cursor, id| {
            if !matches(cursor) {
                return true;
            }
            if let Some(slot) = self.shard(id).get_mut(id) {
                let was_live = slot.live(now).is_some();
                slot.end(if was_live { EndReason::Revoked } else { EndReason::Expired }, now, None);
                ended += u64::from(was_live);
                self.tell([cursor.handle]);
            }
            false
        });
        if index.is_empty() {
            principals.remove(principal);
        }
        ended
    }
}
