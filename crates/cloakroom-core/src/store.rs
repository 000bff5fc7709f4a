//! The store contract. Its comments are the specification; the testkit's suite is the same as tests.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;

use crate::error::StoreError;
use crate::id::{Handle, Principal, SessionId};
use crate::record::{Assurance, Client, Record};
use crate::signals::Signals;

/// Where sessions live.
///
/// Every verb is atomic: each observer sees the state before it or the state after it. Expected
/// outcomes are values; a [`StoreError`] means that the system failed, and says of a write whether
/// it may have happened. A call may be dropped at any await: the store then did all of it or none,
/// and the next call, whosever it is, gets its own answer.
///
/// A record is **live** until it is deleted, renewed, revoked or its deadline comes, by the store's
/// own clock. What is no longer live never becomes live again, under any id: no verb but `create`
/// and `renew` brings an id to life, and those refuse an id that lived, as long as its tombstone is kept.
///
/// Whatever ends a session leaves a tombstone with the reason and the time, for 24 hours by default,
/// so that late writers and [`explain`](Self::explain) can be told why.
///
/// There are no default methods: a [layer](crate::layer) that forgot one would silently lose it.
/// `Display` prints the stack, outermost first, as in `observe(timeout(2s, memory))`.
#[async_trait]
pub trait SessionStore: fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// The live record of this id, or why there is none.
    ///
    /// * Unknown, expired, undecodable and foreign all give [`Load::Gone`], never an error.
    /// * A record of a newer format is an error of kind
    ///   [`NewerFormat`](crate::StoreErrorKind::NewerFormat): it is neither used nor removed.
    /// * Nothing is written.
    async fn load(&self, id: &SessionId) -> Result<Load, StoreError>;

    /// Files a new record. Never overwrites.
    ///
    /// * The id of an owned record has the [shard](SessionId::shard) of its owner: the manager mints it
    ///   so, and a store that keeps the sessions of an owner together may refuse any other. The same
    ///   holds for the new id of `renew`.
    /// * [`Create::Occupied`] when the id is taken, or was before.
    /// * With a `limit` and an owner, the number of the owner's live sessions never exceeds it,
    ///   however many calls run at once.
    async fn create(&self, id: &SessionId, record: &Record, limit: Option<SessionLimit>) -> Result<Create, StoreError>;

    /// Replaces the record if it is still at the expected revision. Never creates.
    ///
    /// * [`Update::Conflict`] brings the current record in the same call, for which a store may take a
    ///   second round trip.
    /// * The owner of a record and its handle do not change in an update; only `renew` changes the owner.
    /// * An idle deadline that a touch has pushed further meanwhile is not pulled back.
    async fn update(&self, id: &SessionId, expected: Revision, record: &Record) -> Result<Update, StoreError>;

    /// Pushes the idle deadline. Never creates, never revives.
    ///
    /// * Neither the revision nor any value changes, so a touch never conflicts with an update.
    /// * The deadline never passes the absolute one and never moves backwards.
    async fn touch(
        &self,
        id: &SessionId,
        last_seen: SystemTime,
        idle_deadline: SystemTime,
    ) -> Result<Touch, StoreError>;

    /// Moves a session to a new id, in one step to every observer: exactly one of the two is live.
    ///
    /// * A crash leaves the old or the new, never both for good, and never neither once success was reported.
    /// * Otherwise as `update` of the old and `create` of the new id.
    async fn renew(&self, renewal: Renewal<'_>) -> Result<Renew, StoreError>;

    /// Ends a session. Idempotent; an unknown id is no error.
    ///
    /// Ends what the id was renewed to as well, so a logout wins over a renewal that overtook it.
    /// Returns whether a live session was ended.
    async fn delete(&self, id: &SessionId, reason: EndReason) -> Result<bool, StoreError>;

    /// The live sessions of a principal, oldest first, as summaries: no token, no id, no value.
    async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, StoreError>;

    /// Ends the one session of this principal that has this handle. Returns whether there was one.
    ///
    /// Another principal's session is never ended, and is indistinguishable from none.
    async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, StoreError>;

    /// Ends all sessions of a principal, but for the excepted one. Returns how many.
    ///
    /// When it returns, every session of theirs that was live when it began is dead, those being
    /// renewed or updated at that moment included. A sign-in that starts later is not affected.
    async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<u64, StoreError>;

    /// Removes up to `limit` expired records and outdated tombstones. Says how many went, and whether
    /// to call again: a call that met its limit, or did not look at everything, may have left something.
    /// A record that expired may take two sweeps: one makes it a tombstone, one removes that.
    ///
    /// Never removes a live record. Several sweepers at once block neither each other nor live traffic.
    /// One call changes at most `limit` records, be it to note that they are live after all.
    async fn sweep(&self, limit: u32) -> Result<Swept, StoreError>;

    /// Up to `limit` live records after the cursor, for migration and statistics.
    ///
    /// Every record that is live during the whole scan comes exactly once. Never loads everything.
    async fn scan(&self, after: Option<SessionId>, limit: u32) -> Result<Vec<(SessionId, Stored)>, StoreError>;

    /// Why the session of this handle ended, as long as its tombstone is kept.
    async fn explain(&self, handle: Handle) -> Result<Option<Ended>, StoreError>;

    /// Whether the store answers, how fast, how durable it is, and what is set up wrongly.
    async fn probe(&self) -> Result<Probe, StoreError>;

    /// Tells of ends and renewals from now on, those by other processes included; `None` from a store that cannot.
    ///
    /// What `delete`, `revoke`, `revoke_all`, `renew` and a limit end is told; what expires is not. Each is
    /// a hint: one may be lost with a connection, and then [`Signal::Unsure`](crate::Signal::Unsure)
    /// follows when there is a connection again.
    ///
    /// A store that listens to a server begins with the first call, and ends when all signals are dropped.
    ///
    /// # Panics
    /// May panic outside of a Tokio runtime.
    fn signals(&self) -> Option<Signals>;
}

/// A verb of the store contract, for errors, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the method of its name")]
pub enum Verb {
    Load,
    Create,
    Update,
    Touch,
    Renew,
    Delete,
    List,
    Revoke,
    RevokeAll,
    Sweep,
    Scan,
    Explain,
    Probe,
}

impl Verb {
    /// The name of the method.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Create => "create",
            Self::Update => "update",
            Self::Touch => "touch",
            Self::Renew => "renew",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Revoke => "revoke",
            Self::RevokeAll => "revoke_all",
            Self::Sweep => "sweep",
            Self::Scan => "scan",
            Self::Explain => "explain",
            Self::Probe => "probe",
        }
    }

    /// Whether it changes anything.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Load | Self::List | Self::Scan | Self::Explain | Self::Probe)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How often a record was written. Each successful update or renewal takes it one further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(u64);

impl Revision {
    /// The revision of a record that was just created.
    pub const FIRST: Self = Self(1);

    /// The revision a store kept.
    #[must_use]
    pub const fn from_u64(number: u64) -> Self {
        Self(number)
    }

    /// The number to keep.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The revision after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A record and the revision it is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// Its revision.
    pub revision: Revision,
}

/// What `load` found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Load {
    /// A live record.
    Live(Stored),
    /// Nothing that may be used, and why, where the store remembers.
    Gone(Option<EndReason>),
}

impl Load {
    /// The live record, if there is one.
    #[must_use]
    pub fn live(self) -> Option<Stored> {
        match self {
            Self::Live(stored) => Some(stored),
            Self::Gone(_) => None,
        }
    }
}

/// What `create` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Create {
    /// It is live, at [`Revision::FIRST`]; these sessions of the principal made room for it.
    Created {
        /// Ended by [`Excess::EvictOldest`].
        evicted: Vec<Handle>,
    },
    /// The id is or was taken. Nothing was written: mint another.
    Occupied,
    /// The principal has as many sessions as allowed. Nothing was written.
    LimitReached,
}

/// What `update` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// It is written, and now at this revision.
    Saved(Revision),
    /// Somebody else wrote before. Nothing was written; this is what is there.
    Conflict(Stored),
    /// There is no live record. Nothing was written.
    Gone(Option<EndReason>),
}

/// What `touch` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// The session is live.
    Touched,
    /// There is no live record. Nothing was written.
    Gone(Option<EndReason>),
}

/// What `renew` did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renew {
    /// Only the new id is live, at this revision; these sessions of the principal made room for it.
    Renewed {
        /// One further than the expected one.
        revision: Revision,
        /// Ended by [`Excess::EvictOldest`].
        evicted: Vec<Handle>,
    },
    /// Somebody else wrote before. Nothing was written; this is what is there under the old id.
    Conflict(Stored),
    /// The new id is or was taken. Nothing was written: mint another.
    Occupied,
    /// There is no live record under the old id. Nothing was written.
    Gone(Option<EndReason>),
    /// The principal has as many sessions as allowed. Nothing was written.
    LimitReached,
}

/// What `renew` is to do.
#[derive(Clone, Copy, Debug)]
pub struct Renewal<'a> {
    /// The id that dies.
    pub old: &'a SessionId,
    /// The id that comes to life.
    pub new: &'a SessionId,
    /// The revision that the caller has seen under the old id.
    pub expected: Revision,
    /// What is to stand under the new id. May have another owner than the old record.
    pub record: &'a Record,
    /// How many sessions the new owner may have; the renewed one counts once.
    pub limit: Option<SessionLimit>,
}

/// How many sessions a principal may have at once, and what happens at one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionLimit {
    /// The most live sessions.
    pub max: NonZeroU32,
    /// What happens to the one too many.
    pub excess: Excess,
}

/// What happens when a principal signs in once too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    /// The new sign-in is refused.
    Reject,
    /// The session that was created first ends.
    EvictOldest,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Its owner signed out.
    Destroyed,
    /// It was ended from outside.
    Revoked,
    /// Its token was replaced; the session goes on under another.
    Renewed,
    /// A timeout.
    Expired,
    /// Its owner signed in elsewhere once too often.
    Evicted,
}

impl EndReason {
    /// All reasons, in the order of their bytes.
    pub const ALL: [Self; 5] = [Self::Destroyed, Self::Revoked, Self::Renewed, Self::Expired, Self::Evicted];

    /// A stable name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Destroyed => "destroyed",
            Self::Revoked => "revoked",
            Self::Renewed => "renewed",
            Self::Expired => "expired",
            Self::Evicted => "evicted",
        }
    }

    /// A stable number for stores.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::Destroyed => 1,
            Self::Revoked => 2,
            Self::Renewed => 3,
            Self::Expired => 4,
            Self::Evicted => 5,
        }
    }

    /// The reason of this number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.byte() == byte)
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Why.
    pub reason: EndReason,
    /// When, by the store's clock.
    pub at: SystemTime,
}

/// What one call of `sweep` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// How many records and tombstones went.
    pub removed: u64,
    /// Whether to call again, for the call met its limit or did not look at everything.
    pub more: bool,
}

/// Which part of a list is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page {
    /// The [`Listing::next`] of the page before; `None` for the first.
    pub after: Option<PageCursor>,
    /// At most this many, and never more than [`Page::MAX`].
    pub limit: u32,
}

impl Page {
    /// The most summaries that one page holds.
    pub const MAX: u32 = 100;

    /// The first page, as long as a page may be.
    pub const FIRST: Self = Self { after: None, limit: Self::MAX };

    /// The limit, brought between 1 and [`Page::MAX`].
    #[must_use]
    pub fn bounded_limit(self) -> usize {
        self.limit.clamp(1, Self::MAX) as usize
    }
}

/// A place in a list: the creation time and the handle of the last session before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCursor {
    /// In milliseconds since 1970.
    pub created: u64,
    /// Tells sessions of one millisecond apart.
    pub handle: Handle,
}

/// One page of a principal's sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Oldest first.
    pub sessions: Vec<Summary>,
    /// Where the next page starts, if there is one.
    pub next: Option<PageCursor>,
}

impl Listing {
    /// The page of these summaries, which are in order, lie after the cursor, and may be one too
    /// many: that is how the store knows that there is a next page.
    #[must_use]
    pub fn from_summaries(mut sessions: Vec<Summary>, page: Page) -> Self {
        let limit = page.bounded_limit();
        let next = (sessions.len() > limit).then(|| sessions[limit - 1].cursor());
        sessions.truncate(limit);
        Self { sessions, next }
    }
}

/// What a list tells of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its public name.
    pub handle: Handle,
    /// When it began.
    pub created: SystemTime,
    /// When its owner last proved who they are.
    pub authenticated: Option<SystemTime>,
    /// How surely.
    pub assurance: Assurance,
    /// Its last activity.
    pub last_seen: SystemTime,
    /// When it ends if nothing happens.
    pub idle_deadline: SystemTime,
    /// When it ends whatever happens.
    pub absolute_deadline: SystemTime,
    /// Whose browser it is.
    pub client: Client,
}

impl Summary {
    /// Its place in the order of lists.
    #[must_use]
    pub fn cursor(&self) -> PageCursor {
        PageCursor { created: crate::clock::unix_millis(self.created), handle: self.handle }
    }
}

impl From<&Record> for Summary {
    fn from(record: &Record) -> Self {
        Self {
            handle: record.handle(),
            created: record.created(),
            authenticated: record.authenticated(),
            assurance: record.assurance(),
            last_seen: record.last_seen(),
            idle_deadline: record.idle_deadline(),
            absolute_deadline: record.absolute_deadline(),
            client: record.client().clone(),
        }
    }
}

/// How a store is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// What kind of store, and its version.
    pub server: String,
    /// How long the probe's round trip took.
    pub latency: Duration,
    /// What survives what.
    pub durability: Durability,
    /// What is set up so that it can lose sessions or revocations, each with what to do.
    pub warnings: Vec<String>,
}

/// What a store keeps through a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing outlives the process.
    Process,
    /// What was acknowledged survives a crash of the process, and of the machine at most the last moments are lost.
    Crash,
    /// What was acknowledged survives a crash of the machine.
    Machine,
    /// Copied to replicas after it was acknowledged: a failover may lose the last moments, and with
    /// them the end of a session, which then lives again.
    Async,
    /// Acknowledged once this many replicas have it: it survives a failover to any of them.
    Acked {
        /// How many.
        replicas: u32,
    },
    /// As `Async`, but the end of a session is also kept where it cannot be lost, and asked for there.
    Epoch,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process => f.write_str("process"),
            Self::Crash => f.write_str("crash"),
            Self::Machine => f.write_str("machine"),
            Self::Async => f.write_str("async"),
            Self::Acked { replicas } => write!(f, "acked({replicas})"),
            Self::Epoch => f.write_str("epoch"),
        }
    }
}
