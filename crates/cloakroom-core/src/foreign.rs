//! Sessions that another session library runs, kept in a store of ours.
//!
//! Such a library has a store trait of its own: it loads a record by the secret in its cookie, and writes
//! it back whole, without a revision. What its adapters put between that trait and
//! [`SessionStore`] is here, the same for all of them:
//!
//! * the store sees a keyed hash of the secret, as it does of a token;
//! * what was loaded travels with the values, under a reserved key, and comes back with them, so that a
//!   write is conditional and merges by key with what other requests wrote;
//! * only `create` brings a session to life, always under a secret that was minted here, and not with the
//!   values of a session that somebody else has ended meanwhile.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::clock::{Clock, SystemClock, from_unix_millis, plausible};
use crate::error::{SessionError, SessionErrorKind, StoreError};
use crate::events::{Event, EventSink, TracingSink};
use crate::id::{Handle, SessionId};
use crate::keyring::KeyRing;
use crate::manager::{Backend, Manager};
use crate::policy::Policy;
use crate::record::{Record, Value};
use crate::session::{ATTEMPTS, MINTS, back_off};
use crate::store::{Create, EndReason, Load, Revision, SessionStore, Stored, Update, Verb};
use crate::token::{OsRandom, Random};

/// For adapters: the sessions of another session library in one of our stores.
///
/// * A secret is minted by [`create`](Self::create) and nowhere else, and never reaches the store.
/// * [`save`](Self::save), [`touch`](Self::touch) and [`delete`](Self::delete) create nothing. A
///   session that was deleted or has expired stays so.
/// * `create` with the values of a loaded session, which is how these libraries replace a secret, is refused
///   where another request ended that session.
/// * Of two parallel writes both land, each with the keys that it changed; of one key, the later.
/// * No session outlives the absolute timeout of the policy, whatever its library asks for.
///
/// Its sessions have no owner: they are not listed, not counted, and not ended by `revoke_all`.
#[derive(Clone)]
pub struct ForeignSessions {
    library: &'static str,
    store: Arc<dyn SessionStore>,
    keys: KeyRing,
    policy: Policy,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    events: Arc<dyn EventSink>,
}

/// A session as its library sees it. `Debug` shows no value.
#[derive(Clone, PartialEq, Eq)]
pub struct ForeignRecord {
    /// Encoded by the library, in the order of their keys. One of them, under [`ForeignSessions::RESERVED`], is
    /// JSON that says what was loaded; it belongs to what `save` and `create` are given later.
    pub values: Vec<(String, Vec<u8>)>,
    /// When it ends if nothing happens.
    pub deadline: SystemTime,
}

/// When a session is to end, as its library says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForeignExpiry {
    /// At this time, to the nanosecond, be it earlier than what was asked before.
    At(SystemTime),
    /// So long from now, unless it was asked to live longer before.
    In(Duration),
}

impl ForeignSessions {
    /// The key of the entry that says what was loaded. A value that the application sets under it is not kept.
    pub const RESERVED: &'static str = "cloakroom.foreign";
    /// The longest key of a value, in bytes.
    pub const MAX_KEY: usize = 255;
    /// For how long it is remembered what became of a session that was ended twice or replaced: longer than
    /// any request takes.
    const MEMORY: Duration = Duration::from_secs(60 * 60);

    /// The sessions of this library in this store. What one library made is unknown to another.
    #[must_use]
    pub fn new(library: &'static str, store: Arc<dyn SessionStore>, keys: KeyRing) -> Self {
        Self {
            library,
            store,
            keys,
            policy: Policy::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(OsRandom::default()),
            events: Arc::new(TracingSink),
        }
    }

    /// In the manager's store, under its keys, limits, clock and randomness; `None` where its sessions are
    /// self-contained.
    #[must_use]
    pub fn of(library: &'static str, manager: &Manager) -> Option<Self> {
        let Backend::Reference(store) = manager.backend() else { return None };
        Some(manager.lend(Self::new(library, Arc::clone(store), manager.keys().clone())))
    }

    /// Other limits: of a policy, the absolute timeout and the size of a record count here.
    #[must_use]
    pub fn with_policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    pub(crate) fn with_surroundings(
        mut self,
        clock: &Arc<dyn Clock>,
        random: &Arc<dyn Random>,
        events: &Arc<dyn EventSink>,
    ) -> Self {
        (self.clock, self.random, self.events) = (Arc::clone(clock), Arc::clone(random), Arc::clone(events));
        self
    }

    /// Files a new session under a fresh secret. The record returned is what a `load` would give.
    ///
    /// # Errors
    /// [`Ended`](SessionErrorKind::Ended) when the values are those of a loaded session that another request has
    /// ended, or that has expired; `TooLarge`, `InvalidKey`; the store's.
    pub async fn create<const N: usize>(
        &self,
        values: Vec<(String, Vec<u8>)>,
        expiry: ForeignExpiry,
    ) -> Result<([u8; N], ForeignRecord), SessionError> {
        const { assert!(N >= 16, "a secret has at least 128 bits") };
        let now = self.now()?;
        let (former, values) = Loaded::split(values);
        if let Some(former) = former.as_ref().filter(|former| former.is_over(now)) {
            return Err(self.dropped(former.record.handle(), Some(EndReason::Expired)));
        }
        let absolute = self.policy.absolute();
        let blank = Record::new(Handle::mint(self.random.as_ref())?, now, absolute, absolute);
        let record = self.filled(&blank, &values, expiry, now)?;
        let key = self.keys.primary();
        for _ in 0..MINTS {
            let mut secret = [0; N];
            self.random.fill(&mut secret)?;
            let id = key.foreign_id(self.library, &secret);
            let record = record.clone().filed_under(&id);
            match self.store.create(&id, &record, None).await? {
                Create::Created { .. } => {}
                Create::Occupied | Create::LimitReached => continue,
            }
            if let Some(former) = &former {
                self.succeed(former, &id, now).await?;
            }
            self.events.emit(&Event::Created { handle: record.handle() });
            return Ok((secret, Loaded { id, revision: Revision::FIRST, record }.reveal()));
        }
        Err(SessionError::new(SessionErrorKind::System, "the random generator repeats itself; nothing was created"))
    }

    /// The live session of this secret.
    ///
    /// # Errors
    /// The store's.
    pub async fn load(&self, secret: &[u8]) -> Result<Option<ForeignRecord>, SessionError> {
        let now = self.now()?;
        Ok(self.find(secret, now).await?.map(|loaded| loaded.reveal()))
    }

    /// Writes the values of a session, if it is still there. Never creates.
    ///
    /// The keys that differ from what was loaded are applied to what is there now. Without the reserved
    /// entry, which a library loses that clears its values, all that is there is replaced.
    ///
    /// # Errors
    /// [`Ended`](SessionErrorKind::Ended) when there is no such session, unless no values are to be kept anyway;
    /// `TooLarge`, `InvalidKey`, `Contended`; the store's.
    pub async fn save(
        &self,
        secret: &[u8],
        values: Vec<(String, Vec<u8>)>,
        expiry: ForeignExpiry,
    ) -> Result<(), SessionError> {
        let now = self.now()?;
        let (base, values) = Loaded::split(values);
        let base = base.filter(|base| self.ids(secret).any(|id| id == base.id));
        let current = match &base {
            // What is over by what was loaded may have been pushed since.
            Some(base) if !base.is_over(now) => Some(base.clone()),
            _ => self.find(secret, now).await?,
        };
        let Some(mut current) = current else {
            let reason = base.as_ref().map(|_| EndReason::Expired);
            return self.gone(base.as_ref().map(|base| base.record.handle()), &values, reason);
        };
        let handle = current.record.handle();
        for attempt in 1..=ATTEMPTS {
            if current.is_over(now) {
                return self.gone(Some(handle), &values, Some(EndReason::Expired));
            }
            let merged = merge(base.as_ref().map(|base| &base.record), &values, &current.record);
            let record = self.filled(&current.record, &merged, expiry, now)?;
            match self.store.update(&current.id, current.revision, &record).await? {
                Update::Saved(_) => return Ok(()),
                Update::Gone(reason) => return self.gone(Some(handle), &values, reason),
                Update::Conflict(stored) => current = Loaded::of(current.id, stored, Verb::Update)?,
            }
            self.events.emit(&Event::Conflict { handle, attempt });
            back_off(self.random.as_ref(), attempt).await?;
        }
        Err(SessionError::contended(ATTEMPTS))
    }

    /// Lets a session live so much longer from now. Does nothing to one that is gone.
    ///
    /// # Errors
    /// The store's.
    pub async fn touch(&self, secret: &[u8], ttl: Duration) -> Result<(), SessionError> {
        let now = self.now()?;
        for id in self.ids(secret) {
            // All of them: a store that writes in the background says so of one that it has never had.
            self.store.touch(&id, now, after(now, ttl)).await?;
        }
        Ok(())
    }

    /// Ends a session. Idempotent.
    ///
    /// Where it had ended before, a `create` with its values that is still to come is refused, whichever process it
    /// comes from.
    ///
    /// # Errors
    /// The store's.
    pub async fn delete(&self, secret: &[u8]) -> Result<(), SessionError> {
        let now = self.now()?;
        for id in self.ids(secret) {
            if self.store.delete(&id, EndReason::Destroyed).await? {
                return Ok(());
            }
        }
        for id in self.ids(secret) {
            if matches!(self.store.load(&id).await?, Load::Gone(Some(_))) {
                // Occupied: it is known already what became of it.
                self.remember(&id, None, now).await?;
            }
        }
        Ok(())
    }

    /// States that `new` took the place of `former`, or takes `new` back if somebody else had ended that.
    ///
    /// These libraries delete the old session and create the new one some time later, and a deletion does not say
    /// whether it begins such a replacement or is a logout. So whoever deletes a session that is gone
    /// leaves a note, and so does whoever replaces one; the first note stands. One session may be replaced by two
    /// requests at once, as by two clicks on "sign in": the second passes while the first one's is live.
    async fn succeed(&self, former: &Loaded, new: &SessionId, now: SystemTime) -> Result<(), SessionError> {
        if self.remember(&former.id, Some(new), now).await? {
            return Ok(());
        }
        if let Load::Live(Stored { record, .. }) = self.store.load(&note_about(&former.id)).await?
            && let Some(first) = successor(&record)
            && matches!(self.store.load(&first).await?, Load::Live(_))
        {
            return Ok(());
        }
        self.store.delete(new, EndReason::Destroyed).await?;
        Err(self.dropped(former.record.handle(), Some(EndReason::Destroyed)))
    }

    /// Leaves a note of what became of a session, if there is none yet. Returns whether there was none.
    async fn remember(
        &self,
        id: &SessionId,
        successor: Option<&SessionId>,
        now: SystemTime,
    ) -> Result<bool, SessionError> {
        let note = note_about(id);
        let encoded = successor.map(|id| quoted(id.as_bytes()));
        let values = encoded.iter().map(|encoded| Value { key: SUCCESSOR, encoded, expires: 0 });
        let record = Record::new(Handle::mint(self.random.as_ref())?, now, Self::MEMORY, Self::MEMORY);
        let record = record.with_values(values).filed_under(&note);
        Ok(matches!(self.store.create(&note, &record, None).await?, Create::Created { .. }))
    }

    async fn find(&self, secret: &[u8], now: SystemTime) -> Result<Option<Loaded>, SessionError> {
        for id in self.ids(secret) {
            if let Load::Live(stored) = self.store.load(&id).await? {
                let loaded = Loaded::of(id, stored, Verb::Load)?;
                return Ok((!loaded.is_over(now)).then_some(loaded));
            }
        }
        Ok(None)
    }

    /// What a session of this secret may be filed under: the secret has no room for the name of a key, so
    /// while keys are rotated a session of an older one is found at the second look.
    fn ids(&self, secret: &[u8]) -> impl Iterator<Item = SessionId> {
        let keys = self.keys.current();
        let ids: Vec<_> = keys.iter().map(|key| key.foreign_id(self.library, secret)).collect();
        ids.into_iter()
    }

    /// The record with these values, seen now, to end as asked but within its absolute timeout.
    fn filled(
        &self,
        record: &Record,
        values: &Values,
        expiry: ForeignExpiry,
        now: SystemTime,
    ) -> Result<Record, SessionError> {
        let (deadline, exact) = match expiry {
            ForeignExpiry::At(at) => (at.min(record.absolute_deadline()), Some(nanos(at))),
            ForeignExpiry::In(ttl) => (after(now, ttl), None),
        };
        let idle_timeout = deadline.duration_since(now).unwrap_or_default();
        if let Some(key) = values.keys().find(|key| key.len() > Self::MAX_KEY) {
            let shown = &key[..key.floor_char_boundary(40)];
            let message = format!("the key `{shown}…` has {} bytes and may have {}", key.len(), Self::MAX_KEY);
            return Err(SessionError::new(SessionErrorKind::InvalidKey, message));
        }
        let exact = exact.map(|nanos| nanos.to_string().into_bytes());
        let exact = exact.iter().map(|encoded| (Self::RESERVED, encoded));
        let values = values.iter().map(|(key, encoded)| (key.as_str(), encoded));
        let values = exact.chain(values).map(|(key, encoded)| Value { key, encoded, expires: 0 });
        let mut record = record.clone().with_values(values).seen(now, deadline);
        record.idle_timeout = crate::clock::millis(idle_timeout);
        let (size, limit) = (record.filed_len(), self.policy.max_record());
        if size > limit {
            return Err(SessionError::too_large(size, limit));
        }
        Ok(record)
    }

    /// Nothing is lost where nothing was to be kept.
    fn gone(&self, handle: Option<Handle>, values: &Values, reason: Option<EndReason>) -> Result<(), SessionError> {
        if values.is_empty() {
            return Ok(());
        }
        Err(handle.map_or_else(|| SessionError::ended(reason), |handle| self.dropped(handle, reason)))
    }

    fn dropped(&self, handle: Handle, reason: Option<EndReason>) -> SessionError {
        self.events.emit(&Event::ChangesDropped { handle, reason });
        SessionError::ended(reason)
    }

    fn now(&self) -> Result<SystemTime, SessionError> {
        plausible(self.clock.as_ref()).map(from_unix_millis)
    }
}

impl fmt::Debug for ForeignSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignSessions")
            .field("library", &self.library)
            .field("store", &format_args!("{}", self.store))
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ForeignRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForeignRecord").field("values", &self.values.len()).field("deadline", &self.deadline).finish()
    }
}

type Values = BTreeMap<String, Vec<u8>>;

/// A record, and where and when it was found.
#[derive(Clone)]
struct Loaded {
    id: SessionId,
    revision: Revision,
    record: Record,
}

impl Loaded {
    fn of(id: SessionId, stored: Stored, verb: Verb) -> Result<Self, StoreError> {
        let Stored { record, revision } = stored;
        if record.is_filed_under(&id) { Ok(Self { id, revision, record }) } else { Err(StoreError::misdelivered(verb)) }
    }

    /// Takes the reserved entry out. What is none of ours is dropped.
    fn split(values: Vec<(String, Vec<u8>)>) -> (Option<Self>, Values) {
        let mut values: Values = values.into_iter().collect();
        let loaded = values.remove(ForeignSessions::RESERVED);
        (loaded.and_then(|entry| Self::read(&entry)), values)
    }

    fn reveal(&self) -> ForeignRecord {
        let theirs = self.record.values().filter(|value| value.key != ForeignSessions::RESERVED);
        let mut values: Vec<_> = theirs.map(|value| (value.key.to_owned(), value.encoded.to_vec())).collect();
        values.push((ForeignSessions::RESERVED.to_owned(), self.write()));
        ForeignRecord { values, deadline: self.deadline() }
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(SessionId::LEN + 8 + self.record.encoded_len());
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(&self.revision.as_u64().to_be_bytes());
        self.record.encode_into(&mut bytes);
        quoted(&bytes)
    }

    fn read(entry: &[u8]) -> Option<Self> {
        let bytes = unquoted(entry)?;
        let (id, rest) = bytes.split_first_chunk()?;
        let (revision, _) = rest.split_first_chunk()?;
        let (id, revision) = (SessionId::from_bytes(*id), Revision::from_u64(u64::from_be_bytes(*revision)));
        let record = Record::decode(&Bytes::from(bytes).slice(SessionId::LEN + 8..)).ok()?;
        record.is_filed_under(&id).then_some(Self { id, revision, record })
    }

    /// As its library asked, which a store may exceed: it takes no deadline back.
    fn deadline(&self) -> SystemTime {
        let exact = self.record.value(ForeignSessions::RESERVED);
        let exact = exact.and_then(|value| std::str::from_utf8(value.encoded).ok()?.parse().ok());
        match exact {
            Some(nanos) => (UNIX_EPOCH + Duration::from_nanos(nanos)).min(self.record.absolute_deadline()),
            None => self.record.deadline(),
        }
    }

    fn is_over(&self, now: SystemTime) -> bool {
        now >= self.deadline()
    }
}

/// What is there now, with what `mine` changed of what was loaded; all of `mine` where that is not known.
fn merge(base: Option<&Record>, mine: &Values, current: &Record) -> Values {
    let Some(base) = base else { return mine.clone() };
    let theirs = |record: &Record| -> Values {
        let values = record.values().filter(|value| value.key != ForeignSessions::RESERVED);
        values.map(|value| (value.key.to_owned(), value.encoded.to_vec())).collect()
    };
    let (base, mut merged) = (theirs(base), theirs(current));
    merged.retain(|key, _| mine.contains_key(key) || !base.contains_key(key));
    let changed = mine.iter().filter(|(key, value)| base.get(*key) != Some(value));
    merged.extend(changed.map(|(key, value)| (key.clone(), value.clone())));
    merged
}

const SUCCESSOR: &str = "successor";

/// Where the note of what became of a session is filed: beside it, in a store that keeps shards together.
fn note_about(id: &SessionId) -> SessionId {
    let mut shard = [0; SessionId::SHARD_LEN];
    shard.copy_from_slice(id.shard());
    SessionId::for_ledger("foreign-former", shard, id.as_bytes())
}

fn successor(note: &Record) -> Option<SessionId> {
    let bytes = unquoted(note.value(SUCCESSOR)?.encoded)?;
    Some(SessionId::from_bytes(bytes.try_into().ok()?))
}

/// Bytes as a JSON string.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    format!("\"{}\"", URL_SAFE_NO_PAD.encode(bytes)).into_bytes()
}

fn unquoted(text: &[u8]) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.strip_prefix(b"\"")?.strip_suffix(b"\"")?).ok()
}

fn after(now: SystemTime, time: Duration) -> SystemTime {
    now.checked_add(time).unwrap_or_else(|| from_unix_millis(u64::MAX))
}

/// Since 1970; good until the year 2554.
fn nanos(time: SystemTime) -> u64 {
    let nanos = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::keyring::SecretKey;

    fn ring() -> KeyRing {
        let hex: String = (0..32u32).map(|n| format!("{:02x}", (n * n + 7) % 256)).collect();
        KeyRing::new("shop", &[SecretKey::parse(&hex).unwrap()]).unwrap()
    }

    /// Frozen: whoever changes the derivation signs everybody out.
    #[test]
    fn what_a_secret_is_filed_under_is_what_it_always_was() {
        let id = |library| {
            let id = ring().primary().foreign_id(library, &[7; 16]);
            id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!([id("tower-sessions"), id("actix-session")], FROZEN);
    }

    const FROZEN: [&str; 2] = [
        "12dc96548fcd3f4d9b7d5b723fcec80753ab81b573e6ab7378e9",
        "c874114c2dc605f7212a64a7d2fe56f517d08bbaac971c435a94",
    ];

    fn record(values: &Values) -> Record {
        let values = values.iter().map(|(key, encoded)| Value { key, encoded, expires: 0 });
        let hour = Duration::from_secs(3600);
        Record::new(Handle::from_bytes([7; 10]), from_unix_millis(1_800_000_000_000), hour, hour).with_values(values)
    }

    fn values() -> impl Strategy<Value = Values> {
        proptest::collection::btree_map("[a-e]", "[01]".prop_map(String::into_bytes), 0..5)
    }

    proptest! {
        #[test]
        fn what_was_loaded_comes_back_and_no_other_entry_makes_the_reader_panic(
            values in values(), revision: u64, mut bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: bool,
        ) {
            let id = ring().primary().foreign_id("tower-sessions", &[7; 16]);
            let loaded = Loaded { id, revision: Revision::from_u64(revision), record: record(&values).filed_under(&id) };
            let (back, rest) = Loaded::split(loaded.reveal().values);
            let back = back.unwrap();
            prop_assert_eq!((back.id, back.revision, &back.record), (id, loaded.revision, &loaded.record));
            prop_assert_eq!(&rest, &values);
            if ours {
                bytes = [loaded.write(), bytes].concat();
            }
            drop((Loaded::read(&bytes), Loaded::read(&quoted(&bytes))));
        }

        #[test]
        fn each_key_is_mine_where_i_changed_it_and_else_theirs(base in values(), mine in values(), theirs in values()) {
            let merged = merge(Some(&record(&base)), &mine, &record(&theirs));
            for key in ["a", "b", "c", "d", "e"] {
                let is_changed = mine.get(key) != base.get(key);
                prop_assert_eq!(merged.get(key), if is_changed { mine.get(key) } else { theirs.get(key) });
            }
            prop_assert_eq!(merge(Some(&record(&base)), &mine, &record(&base)), mine.clone());
            prop_assert_eq!(merge(None, &mine, &record(&theirs)), mine);
        }
    }
}
