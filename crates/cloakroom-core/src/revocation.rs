//! The memory of self-contained sessions: which of them were ended, and which tokens replaced.
//!
//! A token that carries its own state stays valid wherever it was copied to, unless the server
//! remembers that it ended. This is that memory, kept in any [`SessionStore`]: one small entry for a
//! session that was renewed or ended, one for a principal who was signed out everywhere. A session
//! to which neither happened costs a lookup and no entry.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::clock::unix_millis;
use crate::error::{StoreError, StoreErrorKind};
use crate::id::{Handle, Principal, SessionId};
use crate::record::{Record, Value};
use crate::store::{Create, EndReason, Load, Revision, SessionStore, Stored, Update, Verb};

/// The revocation list of self-contained sessions.
///
/// * A session that was ended here never opens again, under whatever token, copied or re-sealed.
/// * Of the tokens of one session only those since the last renewal open.
/// * Costs one load per request, one more when somebody is signed in, and as many again for a change. As durable, and as
///   widely visible, as the store that it is kept in: over a [`MemoryStore`](crate::MemoryStore) a
///   restart forgets it, and other processes do not see it.
#[derive(Clone, Debug)]
pub struct Revocations {
    store: Arc<dyn SessionStore>,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Tokens of an earlier generation are dead.
    generation: u32,
    /// The session is over.
    ended: Option<EndReason>,
    /// Sign-ins of an earlier epoch are dead, but for the excepted session.
    epoch: u64,
    except: Option<Handle>,
    /// What the excepted session must have survived: a session that was dead when it was excepted,
    /// by a request that was late, stays dead.
    since: u64,
}

impl Revocations {
    /// Entries about principals outlive every session there can be.
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    /// How much longer than the tokens an entry lives, because the store that expires it may have
    /// another clock than the server that expires them.
    const SKEW: Duration = Duration::from_secs(24 * 60 * 60);
    const ATTEMPTS: u32 = 128;

    /// Keeps the list in this store. It may be the store of other sessions as well.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>) -> Self {
        Self { store }
    }

    /// The store that the list is kept in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn SessionStore> {
        &self.store
    }

    /// Why a token that carries this record is dead, if it is.
    pub(crate) async fn reason(&self, record: &Record) -> Result<Option<EndReason>, StoreError> {
        if let Some((entry, _)) = self.read(&family(record.handle())).await? {
            if entry.ended.is_some() {
                return Ok(entry.ended);
            }
            if record.generation < entry.generation {
                return Ok(Some(EndReason::Renewed));
            }
        }
        if let Some(principal) = record.principal()
            && let Some((entry, _)) = self.read(&everything_of(principal)).await?
            && record.epoch < entry.epoch
            && !(entry.except == Some(record.handle()) && record.epoch >= entry.since)
        {
            return Ok(Some(EndReason::Revoked));
        }
        Ok(None)
    }

    /// The epoch that a sign-in of this principal belongs to.
    pub(crate) async fn epoch(&self, principal: &Principal) -> Result<u64, StoreError> {
        Ok(self.read(&everything_of(principal)).await?.map_or(0, |(entry, _)| entry.epoch))
    }

    /// Kills the tokens of this generation and before, for the renewal that replaces them; at most
    /// one of several renewals of one token succeeds. Returns why it is too late, if it is.
    pub(crate) async fn renew(
        &self,
        current: &Record,
        next: &Record,
        now: SystemTime,
    ) -> Result<Option<EndReason>, StoreError> {
        // The older token may have had longer to live than the one that replaces it.
        let until = current.absolute_deadline().max(next.absolute_deadline()) + Self::SKEW;
        self.write(family(current.handle()), current.handle(), now, until, |entry| {
            if entry.ended.is_some() {
                return Err(entry.ended);
            }
            if current.generation < entry.generation {
                return Err(Some(EndReason::Renewed));
            }
            Ok(Entry { generation: next.generation, ..entry })
        })
        .await
        .map(|answer| answer.err().map(|reason| reason.unwrap_or(EndReason::Expired)))
    }

    /// Ends the session, under all its tokens.
    pub(crate) async fn end(&self, record: &Record, reason: EndReason, now: SystemTime) -> Result<(), StoreError> {
        // A renewal that gave it a later deadline wrote that into the entry, and an entry is never
        // shortened; one that comes later finds the session ended.
        let until = record.absolute_deadline() + Self::SKEW;
        self.write(family(record.handle()), record.handle(), now, until, |entry| {
            if entry.ended.is_some() { Err(entry.ended) } else { Ok(Entry { ended: Some(reason), ..entry }) }
        })
        .await?
        .or_else(|already| if already.is_some() { Ok(()) } else { Err(unwritable(Verb::Delete)) })
    }

    /// Ends all sessions of a principal that were signed in before this call, but for the excepted one.
    pub(crate) async fn end_all(
        &self,
        principal: &Principal,
        except: Option<Handle>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let id = everything_of(principal);
        let mut name = [0; Handle::LEN];
        name.copy_from_slice(&id.as_bytes()[..Handle::LEN]);
        self.write(id, Handle::from_bytes(name), now, now + Self::FOREVER, |entry| {
            // Later than whatever was handed out, even should the clock have gone back.
            let since = if except.is_some() && except == entry.except { entry.since } else { entry.epoch };
            Ok(Entry { epoch: unix_millis(now).max(entry.epoch + 1), except, since, ..entry })
        })
        .await?
        .map_err(|_| unwritable(Verb::RevokeAll))
    }

    async fn read(&self, id: &SessionId) -> Result<Option<(Entry, Revision)>, StoreError> {
        match self.store.load(id).await? {
            Load::Live(stored) => Ok(Some((Entry::from_record(&stored.record)?, stored.revision))),
            Load::Gone(_) => Ok(None),
        }
    }

    /// Changes an entry, making it if need be. `change` says what it becomes, or why it stays.
    async fn write(
        &self,
        id: SessionId,
        name: Handle,
        now: SystemTime,
        until: SystemTime,
        change: impl Fn(Entry) -> Result<Entry, Option<EndReason>> + Send,
    ) -> Result<Result<(), Option<EndReason>>, StoreError> {
        let lifetime = until.duration_since(now).unwrap_or_default();
        let mut known: Option<Stored> = self.store.load(&id).await?.live();
        for _ in 0..Self::ATTEMPTS {
            let before = known.as_ref().map(|stored| Entry::from_record(&stored.record)).transpose()?;
            let entry = match change(before.unwrap_or_default()) {
                Ok(entry) => entry,
                Err(reason) => return Ok(Err(reason)),
            };
            known = match known {
                None => {
                    let record = entry.write_to(Record::new(name, now, lifetime, lifetime));
                    match self.store.create(&id, &record, None).await? {
                        Create::Created { .. } => return Ok(Ok(())),
                        Create::LimitReached => None,
                        // Somebody was faster, or the entry's time is over, and the session's with it.
                        Create::Occupied => match self.store.load(&id).await? {
                            Load::Live(stored) => Some(stored),
                            Load::Gone(reason) => return Ok(Err(reason)),
                        },
                    }
                }
                Some(stored) => {
                    let mut record = entry.write_to(stored.record.clone());
                    record.absolute_deadline = record.absolute_deadline.max(unix_millis(until));
                    record.idle_deadline = record.absolute_deadline;
                    match self.store.update(&id, stored.revision, &record).await? {
                        Update::Saved(_) => return Ok(Ok(())),
                        Update::Conflict(current) => Some(current),
                        Update::Gone(reason) => return Ok(Err(reason)),
                    }
                }
            };
        }
        let message = "the revocation list changed faster than this request could write to it";
        Err(StoreError::new(StoreErrorKind::Timeout, Verb::Update, message).not_done())
    }
}

/// The entry is there and cannot be read or replaced, so nothing was recorded.
fn unwritable(verb: Verb) -> StoreError {
    let message = "an entry of the revocation list cannot be read or replaced; repair or remove its row";
    StoreError::new(StoreErrorKind::Corrupt, verb, message).not_done()
}

/// A handle is random already, so it needs no hash to be filed under; the name behind it keeps the
/// id apart from those of sessions, which are the output of a keyed hash there.
fn family(handle: Handle) -> SessionId {
    let mut id = [0; SessionId::LEN];
    let (shard, rest) = id.split_at_mut(SessionId::SHARD_LEN);
    shard.copy_from_slice(&handle.as_bytes()[..SessionId::SHARD_LEN]);
    rest[..Handle::LEN].copy_from_slice(handle.as_bytes());
    rest[Handle::LEN..].copy_from_slice(b"revocation/1");
    SessionId::from_bytes(id)
}

fn everything_of(principal: &Principal) -> SessionId {
    SessionId::for_ledger("revoked-principal", principal.shard(), principal.as_str().as_bytes())
}

impl Entry {
    const KEY: &str = "entry";

    fn from_record(record: &Record) -> Result<Self, StoreError> {
        let value = record.value(Self::KEY);
        let read = value.and_then(|value| serde_json::from_slice::<(u32, u8, u64, String, u64)>(value.encoded).ok());
        let entry = read.and_then(|(generation, ended, epoch, except, since)| {
            let ended = if ended == 0 { None } else { Some(EndReason::from_byte(ended)?) };
            let except = if except.is_empty() { None } else { Some(except.parse().ok()?) };
            Some(Self { generation, ended, epoch, except, since })
        });
        // An entry that cannot be read may be a revocation: it fails closed.
        entry.ok_or_else(|| {
            let message = "an entry of the revocation list does not decode";
            StoreError::new(StoreErrorKind::Corrupt, Verb::Load, message).not_done()
        })
    }

    fn write_to(self, record: Record) -> Record {
        let except = self.except.map(|handle| handle.to_string()).unwrap_or_default();
        let ended = self.ended.map_or(0, EndReason::byte);
        let encoded = format!("[{},{ended},{},\"{except}\",{}]", self.generation, self.epoch, self.since);
        record.with_values([Value { key: Self::KEY, encoded: encoded.as_bytes(), expires: 0 }])
    }
}
