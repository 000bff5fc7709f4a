//! The memory of sessions whose own place can forget: which of them were ended, and which tokens replaced.
//!
//! A token that carries its own state stays valid wherever it was copied to, and a store may come back
//! from a failover with what it held before, unless the server remembers elsewhere that the session
//! ended. This is that memory, kept in any [`SessionStore`]: one small entry for a
//! session that was renewed or ended, one for a principal who was signed out everywhere. A session
//! to which neither happened costs a lookup and no entry.
//!
//! Of sealed sessions an entry kills the tokens by generation. Of stored ones, for
//! [`EpochLayer`](crate::layer::EpochLayer), each id that was renewed away has an entry of its own,
//! and the epoch of a sign-in stands in the entry of its handle, so that records stay as they are.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// The id that this id was renewed to.
    successor: Option<SessionId>,
    /// What is known of single owners of this stored session.
    owners: Vec<Owner>,
}

/// What an entry says of one owner of a stored session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Owner {
    /// Their shard.
    tag: u32,
    /// The epoch in which they signed in.
    epoch: u64,
    /// The session is over as long as it is theirs.
    ended: Option<EndReason>,
}

/// What a ledger knows a stored session by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) handle: Handle,
    pub(crate) principal: Option<Principal>,
    pub(crate) absolute_deadline: SystemTime,
}

impl Known {
    /// Whether the ledger says the same of both.
    pub(crate) fn is_judged_as(&self, other: &Self) -> bool {
        self.handle == other.handle && self.principal == other.principal
    }
}

impl From<&Record> for Known {
    fn from(record: &Record) -> Self {
        Self {
            handle: record.handle(),
            principal: record.principal().cloned(),
            absolute_deadline: record.absolute_deadline(),
        }
    }
}

/// What was ended of everything that is a principal's.
#[derive(Debug)]
pub(crate) struct SignedOut(Entry);

impl Revocations {
    /// Entries about principals outlive every session there can be.
    const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);
    /// How much longer than the tokens an entry lives, because the store that expires it may have
    /// another clock than the server that expires them.
    pub(crate) const SKEW: Duration = Duration::from_secs(24 * 60 * 60);
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
        self.end_handle(record.handle(), reason, now, record.absolute_deadline() + Self::SKEW).await.map(|_| ())
    }

    /// Ends whatever has this handle, and says whether it had not ended before.
    pub(crate) async fn end_handle(
        &self,
        handle: Handle,
        reason: EndReason,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<bool, StoreError> {
        let written = self.write(family(handle), handle, now, until, |entry| {
            if entry.ended.is_some() { Err(entry.ended) } else { Ok(Entry { ended: Some(reason), ..entry }) }
        });
        match written.await? {
            Ok(()) => Ok(true),
            Err(Some(_)) => Ok(false),
            Err(None) => Err(unwritable(Verb::Delete)),
        }
    }

    /// Ends all sessions of a principal that were signed in before this call, but for the excepted one.
    pub(crate) async fn end_all(
        &self,
        principal: &Principal,
        except: Option<Handle>,
        now: SystemTime,
    ) -> Result<(), StoreError> {
        let id = everything_of(principal);
        self.write(id, name_of(&id), now, now + Self::FOREVER, |entry| {
            // Later than whatever was handed out, even should the clock have gone back.
            let since = if except.is_some() && except == entry.except { entry.since } else { entry.epoch };
            Ok(Entry { epoch: unix_millis(now).max(entry.epoch + 1), except, since, ..entry })
        })
        .await?
        .map_err(|_| unwritable(Verb::RevokeAll))
    }

    /// Why the stored session of this id is dead, if it is. All entries are asked for at once.
    pub(crate) async fn reason_of(&self, id: &SessionId, known: &Known) -> Result<Option<EndReason>, StoreError> {
        let (renewed, family) = (renewed_away(id), family(known.handle));
        let of_session = both(self.read(&renewed), self.read(&family));
        let ((renewed, family), signed_out) = both(of_session, self.signed_out(known.principal.as_ref())).await;
        if let Some((entry, _)) = renewed?
            && entry.ended.is_some()
        {
            return Ok(entry.ended);
        }
        let entry = family?.map(|(entry, _)| entry).unwrap_or_default();
        Ok(entry.reason(known.handle, known.principal.as_ref(), signed_out?.as_ref()))
    }

    /// Why the session of this handle is dead as one of this owner, if it is.
    pub(crate) async fn reason_of_handle(
        &self,
        handle: Handle,
        principal: Option<&Principal>,
        signed_out: Option<&SignedOut>,
    ) -> Result<Option<EndReason>, StoreError> {
        let entry = self.read(&family(handle)).await?.map(|(entry, _)| entry).unwrap_or_default();
        Ok(entry.reason(handle, principal, signed_out))
    }

    /// What ends sessions of this principal that are signed in; `None` where nothing ever did.
    pub(crate) async fn signed_out(&self, principal: Option<&Principal>) -> Result<Option<SignedOut>, StoreError> {
        let Some(principal) = principal else { return Ok(None) };
        let read = self.read(&everything_of(principal)).await?;
        Ok(read.map(|(entry, _)| SignedOut(entry)))
    }

    /// Has the session of this handle count as signed in by this principal in this epoch.
    pub(crate) async fn sign_in(
        &self,
        handle: Handle,
        principal: &Principal,
        epoch: u64,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Option<EndReason>, StoreError> {
        let written = self.write(family(handle), handle, now, until, |mut entry| {
            let ended = entry.ended;
            let owner = entry.owner_mut(principal);
            if let Some(reason) = ended.or(owner.ended) {
                return Err(Some(reason));
            }
            owner.epoch = owner.epoch.max(epoch);
            Ok(entry)
        });
        match written.await? {
            Ok(()) => Ok(None),
            Err(Some(reason)) => Ok(Some(reason)),
            Err(None) => Err(unwritable(Verb::Create)),
        }
    }

    /// Ends the session of this handle as long as it is this principal's, and says whether it had not ended before.
    pub(crate) async fn end_of(
        &self,
        principal: &Principal,
        handle: Handle,
        reason: EndReason,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<bool, StoreError> {
        let written = self.write(family(handle), handle, now, until, |mut entry| {
            let ended = entry.ended;
            let owner = entry.owner_mut(principal);
            if let Some(reason) = ended.or(owner.ended) {
                return Err(Some(reason));
            }
            owner.ended = Some(reason);
            Ok(entry)
        });
        match written.await? {
            Ok(()) => Ok(true),
            Err(Some(_)) => Ok(false),
            Err(None) => Err(unwritable(Verb::Revoke)),
        }
    }

    /// The epoch in which this session of the principal was signed in.
    pub(crate) async fn sign_in_of(&self, handle: Handle, principal: &Principal) -> Result<u64, StoreError> {
        Ok(self.read(&family(handle)).await?.map_or(0, |(entry, _)| entry.owner(principal).epoch))
    }

    /// Kills this id, whose session goes on under the next. Of this and [`end_id`](Self::end_id) the first
    /// wins; returns why it is too late, if it is.
    pub(crate) async fn renew_id(
        &self,
        old: &SessionId,
        new: &SessionId,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<Option<EndReason>, StoreError> {
        let id = renewed_away(old);
        let renewed = Entry { ended: Some(EndReason::Renewed), successor: Some(*new), ..Entry::default() };
        // As a rule there is no entry yet, so none is looked for.
        let written = self.write_on(None, id, name_of(&id), now, until, |entry| match entry.ended {
            None => Ok(renewed.clone()),
            // Repeated.
            Some(EndReason::Renewed) if entry.successor == Some(*new) => Ok(entry),
            Some(reason) => Err(Some(reason)),
        });
        match written.await? {
            Ok(()) => Ok(None),
            Err(Some(reason)) => Ok(Some(reason)),
            Err(None) => Err(unwritable(Verb::Renew)),
        }
    }

    /// Ends this id, so that a renewal of it that is under way loses, and says whether it had not ended before.
    pub(crate) async fn end_id(
        &self,
        id: &SessionId,
        reason: EndReason,
        now: SystemTime,
        until: SystemTime,
    ) -> Result<bool, StoreError> {
        let key = renewed_away(id);
        let written = self.write(key, name_of(&key), now, until, |entry| {
            if entry.ended.is_some() { Err(entry.ended) } else { Ok(Entry { ended: Some(reason), ..entry }) }
        });
        match written.await? {
            Ok(()) => Ok(true),
            Err(Some(_)) => Ok(false),
            Err(None) => Err(unwritable(Verb::Delete)),
        }
    }

    /// The id that this id was renewed to.
    pub(crate) async fn successor(&self, id: &SessionId) -> Result<Option<SessionId>, StoreError> {
        Ok(self.read(&renewed_away(id)).await?.and_then(|(entry, _)| entry.successor))
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
        let known = self.store.load(&id).await?.live();
        self.write_on(known, id, name, now, until, change).await
    }

    /// The same on the entry that is known to be there, if one is.
    async fn write_on(
        &self,
        mut known: Option<Stored>,
        id: SessionId,
        name: Handle,
        now: SystemTime,
        until: SystemTime,
        change: impl Fn(Entry) -> Result<Entry, Option<EndReason>> + Send,
    ) -> Result<Result<(), Option<EndReason>>, StoreError> {
        let lifetime = until.duration_since(now).unwrap_or_default();
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

fn renewed_away(id: &SessionId) -> SessionId {
    let mut shard = [0; SessionId::SHARD_LEN];
    shard.copy_from_slice(&id.as_bytes()[..SessionId::SHARD_LEN]);
    SessionId::for_ledger("renewed-id", shard, id.as_bytes())
}

/// The name of an entry that belongs to no handle.
fn name_of(id: &SessionId) -> Handle {
    let mut name = [0; Handle::LEN];
    name.copy_from_slice(&id.as_bytes()[..Handle::LEN]);
    Handle::from_bytes(name)
}

/// Tells the few owners apart that the session of one handle may have had.
fn tag(principal: &Principal) -> u32 {
    u32::from_be_bytes(principal.shard())
}

impl SignedOut {
    /// Before which epoch sign-ins are dead.
    pub(crate) const fn epoch(&self) -> u64 {
        self.0.epoch
    }
}

/// Both at once.
pub(crate) async fn both<A, B>(first: impl Future<Output = A>, second: impl Future<Output = B>) -> (A, B) {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let (mut one, mut other) = (None, None);
    poll_fn(|context| {
        one = one.take().or_else(|| ready(first.as_mut().poll(context)));
        other = other.take().or_else(|| ready(second.as_mut().poll(context)));
        match (one.take(), other.take()) {
            (Some(one), Some(other)) => Poll::Ready((one, other)),
            so_far => {
                (one, other) = so_far;
                Poll::Pending
            }
        }
    })
    .await
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// What an entry is written as: what only entries of stored sessions have comes last, where it may be missing.
#[derive(Deserialize)]
struct Written(u32, u8, u64, String, u64, #[serde(default)] String, #[serde(default)] Vec<(u32, u64, u8)>);

impl Entry {
    const KEY: &str = "entry";

    fn from_record(record: &Record) -> Result<Self, StoreError> {
        let value = record.value(Self::KEY);
        let read = value.and_then(|value| serde_json::from_slice::<Written>(value.encoded).ok());
        let entry = read.and_then(|Written(generation, ended, epoch, except, since, successor, owners)| {
            let ended = if ended == 0 { None } else { Some(EndReason::from_byte(ended)?) };
            let except = if except.is_empty() { None } else { Some(except.parse().ok()?) };
            let successor = if successor.is_empty() { None } else { Some(id_from_base64(&successor)?) };
            let owners = owners.into_iter().map(|(tag, epoch, ended)| {
                let ended = if ended == 0 { None } else { Some(EndReason::from_byte(ended)?) };
                Some(Owner { tag, epoch, ended })
            });
            Some(Self { generation, ended, epoch, except, since, successor, owners: owners.collect::<Option<_>>()? })
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
        let mut encoded = format!("[{},{ended},{},\"{except}\",{}", self.generation, self.epoch, self.since);
        if self.successor.is_some() || !self.owners.is_empty() {
            let successor = self.successor.map(|id| URL_SAFE_NO_PAD.encode(id.as_bytes())).unwrap_or_default();
            let owners: Vec<_> = self.owners.iter().map(Owner::to_string).collect();
            encoded.push_str(&format!(",\"{successor}\",[{}]", owners.join(",")));
        }
        encoded.push(']');
        record.with_values([Value { key: Self::KEY, encoded: encoded.as_bytes(), expires: 0 }])
    }

    /// Why a session of this handle and owner is dead, if it is.
    fn reason(
        &self,
        handle: Handle,
        principal: Option<&Principal>,
        signed_out: Option<&SignedOut>,
    ) -> Option<EndReason> {
        let owner = principal.map(|principal| self.owner(principal)).unwrap_or_default();
        let signed_out = signed_out.is_some_and(|SignedOut(all)| {
            let excepted = all.except == Some(handle) && owner.epoch >= all.since;
            owner.epoch < all.epoch && !excepted
        });
        self.ended.or(owner.ended).or(signed_out.then_some(EndReason::Revoked))
    }

    /// What is known of this owner; nothing before they were ever signed out.
    fn owner(&self, principal: &Principal) -> Owner {
        let tag = tag(principal);
        self.owners.iter().find(|owner| owner.tag == tag).copied().unwrap_or_default()
    }

    fn owner_mut(&mut self, principal: &Principal) -> &mut Owner {
        let tag = tag(principal);
        let place = self.owners.iter().position(|owner| owner.tag == tag).unwrap_or_else(|| {
            self.owners.push(Owner { tag, ..Owner::default() });
            self.owners.len() - 1
        });
        &mut self.owners[place]
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{},{},{}]", self.tag, self.epoch, self.ended.map_or(0, EndReason::byte))
    }
}

fn id_from_base64(text: &str) -> Option<SessionId> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    Some(SessionId::from_bytes(bytes.try_into().ok()?))
}
