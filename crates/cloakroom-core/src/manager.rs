//! The orchestrator: from the header of a request that carries the token to a session.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::clock::{Clock, SystemClock, from_unix_millis, plausible};
use crate::cookie::{CookieError, CookieSettings, Presented};
use crate::error::{SessionError, SessionErrorKind, StoreError, StoreErrorKind};
use crate::events::{Event, EventSink, TracingSink};
use crate::foreign::ForeignSessions;
use crate::id::{Handle, Principal, SessionId};
use crate::keyring::KeyRing;
use crate::policy::{OutagePolicy, Policy, PolicyError};
use crate::record::{Client, Record};
use crate::revocation::Revocations;
use crate::seal::{Seal, SealError};
use crate::session::{CookieReply, Former, Inner, Mode, Origin, Session};
use crate::store::{EndReason, Ended, Listing, Load, Page, SessionLimit, SessionStore, Stored, Verb};
use crate::token::{OsRandom, Random, RandomError, Rejection, Token};
use crate::transport::{Carrier, HeaderError, Transport};
use crate::watch::Watches;

/// Where a session's record is: on the server, or in the client's token.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Backend {
    /// The token points at a record in this store.
    Reference(Arc<dyn SessionStore>),
    /// The token carries the record.
    ///
    /// What such a session cannot do: be listed, be ended by handle, run a
    /// [`transaction`](Session::transaction), or merge parallel changes, since each request carries
    /// a copy of its own and the browser keeps the last one it was sent.
    SelfContained {
        /// Seals and opens tokens.
        seal: Arc<dyn Seal>,
        /// Remembers which sessions were ended. Without it a logout removes the cookie and nothing
        /// else: a copy of it stays valid until its timeouts.
        revocations: Option<Revocations>,
    },
}

impl Backend {
    /// Sessions in this store.
    #[must_use]
    pub fn store(store: Arc<dyn SessionStore>) -> Self {
        Self::Reference(store)
    }

    /// Sessions in their tokens, and a list of those that ended.
    #[must_use]
    pub fn self_contained(seal: Arc<dyn Seal>, revocations: Revocations) -> Self {
        Self::SelfContained { seal, revocations: Some(revocations) }
    }

    /// Sessions in their tokens, which nothing on the server can end.
    ///
    /// **Danger:** a copied cookie works until its timeouts, after a logout, a renewal and a change of
    /// password too. OWASP ASVS 5.0 asks for better at its lowest level (7.4.1).
    #[must_use]
    pub fn danger_self_contained_without_revocation(seal: Arc<dyn Seal>) -> Self {
        Self::SelfContained { seal, revocations: None }
    }
}

/// Everything that is the same for all requests: backend, keys, transport, policy, time and randomness.
///
/// ```
/// use std::sync::Arc;
/// use cloakroom_core::{Backend, KeyRing, Manager, MemoryStore, OsRandom, SecretKey};
///
/// let key = SecretKey::generate(&OsRandom::default()).unwrap();
/// let keys = KeyRing::new("shop", &[key]).unwrap();
/// let manager: Arc<Manager> = Manager::builder(Backend::store(Arc::new(MemoryStore::new())), keys).build().unwrap();
/// assert_eq!(manager.cookie_name(), Some("__Host-id"));
/// ```
pub struct Manager {
    backend: Backend,
    keys: KeyRing,
    carrier: Carrier,
    policy: Policy,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    events: Arc<dyn EventSink>,
    watches: Watches,
}

/// Makes a [`Manager`]. Whatever is not set has the library's default.
#[derive(Debug)]
pub struct ManagerBuilder {
    backend: Backend,
    keys: KeyRing,
    transport: Transport,
    policy: Policy,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    events: Arc<dyn EventSink>,
}

impl ManagerBuilder {
    /// Tokens in a cookie, named and scoped so.
    #[must_use]
    pub fn cookie(self, cookie: CookieSettings) -> Self {
        self.transport(Transport::Cookie(cookie))
    }

    /// How tokens travel. There is one way: the last call counts. Default: in a cookie of the default settings.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use cloakroom_core::{Backend, KeyRing, Manager, MemoryStore, OsRandom, SecretKey, Transport};
    ///
    /// let key = SecretKey::generate(&OsRandom::default()).unwrap();
    /// let keys = KeyRing::new("shop-api", &[key]).unwrap();
    /// let backend = Backend::store(Arc::new(MemoryStore::new()));
    /// let manager = Manager::builder(backend, keys).transport(Transport::bearer()).build().unwrap();
    /// assert_eq!(manager.cookie_name(), None);
    /// ```
    #[must_use]
    pub fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// The limits of sessions.
    #[must_use]
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// Where the time comes from.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where randomness comes from.
    #[must_use]
    pub fn random(mut self, random: Arc<dyn Random>) -> Self {
        self.random = random;
        self
    }

    /// Where events go. Default: [`TracingSink`].
    #[must_use]
    pub fn events(mut self, events: Arc<dyn EventSink>) -> Self {
        self.events = events;
        self
    }

    /// The manager.
    ///
    /// # Errors
    /// A setting, or two together, that cannot work, with what to write instead.
    pub fn build(self) -> Result<Arc<Manager>, BuildError> {
        let carrier = Carrier::new(&self.transport)?;
        self.policy.validate()?;
        if self.policy.session_limit().is_some() && matches!(self.backend, Backend::SelfContained { .. }) {
            return Err(BuildError::LimitWithoutStore);
        }
        Ok(Arc::new(Manager {
            backend: self.backend,
            keys: self.keys,
            carrier,
            policy: self.policy,
            clock: self.clock,
            random: self.random,
            events: self.events,
            watches: Watches::default(),
        }))
    }
}

/// A manager cannot be built of these settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// No browser would keep the cookie.
    #[error(transparent)]
    Cookie(#[from] CookieError),
    /// The header cannot carry a token.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The limits contradict each other.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// Nobody counts self-contained sessions.
    #[error(
        "a limit on sessions per principal needs a store: self-contained sessions cannot be counted; keep sessions in a store, or drop the limit"
    )]
    LimitWithoutStore,
}

impl Manager {
    /// Starts from where sessions live and the keys.
    #[must_use]
    pub fn builder(backend: Backend, keys: KeyRing) -> ManagerBuilder {
        ManagerBuilder {
            backend,
            keys,
            transport: Transport::default(),
            policy: Policy::default(),
            clock: Arc::new(SystemClock),
            random: Arc::new(OsRandom::default()),
            events: Arc::new(TracingSink),
        }
    }

    /// The session of a request with these lines of the transport's header.
    ///
    /// The presented token is valid, invalid or unknown. An invalid one gives an absent session and,
    /// unless another node may know it, has the cookie removed; an unknown one, because the store is out
    /// of reach, follows the [outage policy](OutagePolicy) and leaves the cookie alone.
    ///
    /// # Errors
    /// [`Unavailable`](SessionErrorKind::Unavailable) under [`OutagePolicy::FailClosed`];
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub(crate) async fn open<'a>(
        self: &Arc<Self>,
        lines: impl Iterator<Item = &'a [u8]>,
        client: impl FnOnce() -> Client,
        outage: OutagePolicy,
    ) -> Result<Session, SessionError> {
        let now = self.now()?;
        let inner = match self.pick(lines) {
            Ok(None) => Inner::absent(client(), CookieReply::Leave),
            Ok(Some(candidate)) => match self.load(candidate, now).await {
                Ok(Ok(inner)) => inner,
                Ok(Err(reason)) => self.rejected(reason, client),
                Err(error) => return self.unavailable(error, outage),
            },
            Err(Rejected { rejection: Rejection::NewerFormat, .. }) => {
                let message = "the sealed session was written by a newer release; finish the rolling deploy";
                return self.unavailable(StoreError::new(StoreErrorKind::NewerFormat, Verb::Load, message), outage);
            }
            Err(reason) => self.rejected(reason, client),
        };
        Ok(Session::new(Arc::clone(self), inner))
    }

    fn rejected(&self, reason: Rejected, client: impl FnOnce() -> Client) -> Inner {
        self.emit(&Event::TokenRejected { reason: reason.rejection });
        let cookie = if reason.clears_cookie { CookieReply::Clear } else { CookieReply::Leave };
        Inner { former: reason.former, ..Inner::absent(client(), cookie) }
    }

    fn unavailable(self: &Arc<Self>, error: StoreError, outage: OutagePolicy) -> Result<Session, SessionError> {
        self.emit(&Event::StoreUnavailable { kind: error.kind() });
        match outage {
            OutagePolicy::FailClosed => Err(error.into()),
            OutagePolicy::AnonymousReadOnly => {
                let inner = Inner {
                    mode: Mode::ReadOnly,
                    read_only: true,
                    ..Inner::absent(Client::default(), CookieReply::Leave)
                };
                Ok(Session::new(Arc::clone(self), inner))
            }
        }
    }

    /// The one token to look at. Costs no store call.
    fn pick<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> Result<Option<Candidate<'a>>, Rejected> {
        match self.carrier.find(lines) {
            Presented::Nothing => Ok(None),
            Presented::One(text) => self.authenticate(text).map(Some).map_err(Rejected::from),
            Presented::Ambiguous => Err(Rejection::Ambiguous.into()),
            Presented::Several(texts) => {
                let (mut authentic, mut rejection) = (None, Rejection::Forged);
                for text in texts {
                    match self.authenticate(text) {
                        Ok(_) if authentic.is_some() => return Err(Rejection::Ambiguous.into()),
                        Ok(candidate) => authentic = Some(candidate),
                        // One that another node may know is left alone, whatever stands beside it.
                        Err(reason) if !reason.clears_cookie() && rejection != Rejection::NewerFormat => {
                            rejection = reason;
                        }
                        Err(_) => {}
                    }
                }
                authentic.map(Some).ok_or_else(|| rejection.into())
            }
        }
    }

    fn authenticate<'a>(&self, text: &'a [u8]) -> Result<Candidate<'a>, Rejection> {
        match &self.backend {
            Backend::Reference(_) => {
                Token::open(&self.keys, self.binding(), text).map(|id| Candidate::Reference { id, text })
            }
            // None that long was handed out, so nothing is decrypted to find out.
            Backend::SelfContained { seal, .. } if self.binding().len() + text.len() > seal.max_len() => {
                Err(Rejection::Malformed)
            }
            Backend::SelfContained { seal, .. } => seal.open(self.binding(), text).map(Candidate::SelfContained),
        }
    }

    /// What the store, or the revocation list, says.
    async fn load(&self, candidate: Candidate<'_>, now: u64) -> Result<Result<Inner, Rejected>, StoreError> {
        match (candidate, &self.backend) {
            (Candidate::Reference { id, text }, Backend::Reference(store)) => match store.load(&id).await? {
                Load::Live(Stored { record, .. }) if record.is_expired(from_unix_millis(now)) => {
                    Ok(Err(Rejection::Expired.into()))
                }
                Load::Live(Stored { record, .. }) if !record.is_filed_under(&id) => {
                    Err(StoreError::misdelivered(Verb::Load))
                }
                Load::Live(Stored { record, revision }) => {
                    let presented =
                        self.resends(&record).then(|| Zeroizing::new(String::from_utf8_lossy(text).into_owned()));
                    Ok(Ok(Inner { presented, ..Inner::loaded(Origin::Stored { id, revision }, record) }))
                }
                Load::Gone(reason) => Ok(Err(Rejected::ended(reason, Former::Stored(id)))),
            },
            (Candidate::SelfContained(record), Backend::SelfContained { revocations, .. }) => {
                if record.is_expired(from_unix_millis(now)) {
                    return Ok(Err(Rejection::Expired.into()));
                }
                if let Some(revocations) = revocations
                    && let Some(reason) = revocations.reason(&record).await?
                {
                    return Ok(Err(Rejected::ended(Some(reason), Former::SelfContained(record))));
                }
                Ok(Ok(Inner::loaded(Origin::SelfContained, record)))
            }
            // `authenticate` made the candidate for this backend.
            (Candidate::Reference { .. } | Candidate::SelfContained(_), _) => Ok(Err(Rejection::Malformed.into())),
        }
    }

    /// The live session of this id, which somebody proved to be theirs otherwise than by its token.
    pub(crate) async fn session_of(self: &Arc<Self>, id: &SessionId) -> Result<Option<Session>, SessionError> {
        let candidate = Candidate::Reference { id: *id, text: b"" };
        Ok(self.load(candidate, self.now()?).await?.ok().map(|inner| Session::new(Arc::clone(self), inner)))
    }

    /// The list of sessions by principal; `None` where sessions are self-contained.
    #[must_use]
    pub fn directory(&self) -> Option<Directory<'_>> {
        match &self.backend {
            Backend::Reference(store) => Some(Directory { manager: self, store: store.as_ref() }),
            Backend::SelfContained { .. } => None,
        }
    }

    /// Ends all sessions of a principal, but for the excepted one. Returns how many, where they can be counted.
    ///
    /// When it returns, none that was live when it began is accepted any more, by any process that
    /// shares the store, or the revocation list.
    ///
    /// # Errors
    /// The store's; [`Unsupported`](SessionErrorKind::Unsupported) for self-contained sessions
    /// without a revocation list.
    pub async fn revoke_all(&self, principal: &Principal, except: Option<Handle>) -> Result<Option<u64>, SessionError> {
        let ended = match &self.backend {
            Backend::Reference(store) => Some(store.revoke_all(principal, except).await?),
            Backend::SelfContained { revocations: Some(revocations), .. } => {
                revocations.end_all(principal, except, from_unix_millis(self.now()?)).await?;
                None
            }
            Backend::SelfContained { revocations: None, .. } => {
                let message = "these self-contained sessions have no revocation list, so nothing can end them; give the backend one";
                return Err(SessionError::new(SessionErrorKind::Unsupported, message));
            }
        };
        self.emit(&Event::RevokedAll { principal, ended });
        Ok(ended)
    }

    /// Where sessions live.
    #[must_use]
    pub const fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The limits.
    #[must_use]
    pub const fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The keys.
    #[must_use]
    pub const fn keys(&self) -> &KeyRing {
        &self.keys
    }

    /// The cookie's name; `None` where tokens travel in headers.
    #[must_use]
    pub fn cookie_name(&self) -> Option<&str> {
        self.carrier.is_cookie().then(|| self.carrier.binding())
    }

    pub(crate) const fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// What tokens are bound to besides key and audience.
    pub(crate) fn binding(&self) -> &str {
        self.carrier.binding()
    }

    /// Whether the client is sent the same token again when the session is used: a cookie has a Max-Age that moves
    /// with the idle timeout, and a header has nothing new to tell.
    pub(crate) fn resends(&self, record: &Record) -> bool {
        record.persistent && self.carrier.is_cookie()
    }

    pub(crate) const fn watches(&self) -> &Watches {
        &self.watches
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    pub(crate) fn random(&self) -> &dyn Random {
        self.random.as_ref()
    }

    pub(crate) fn emit(&self, event: &Event<'_>) {
        self.events.emit(event);
    }

    /// The time in milliseconds, or an error when the clock cannot be right.
    pub(crate) fn now(&self) -> Result<u64, SessionError> {
        plausible(self.clock.as_ref())
    }

    /// What sessions of another library, in the same store, have in common with those of this manager.
    pub(crate) fn lend(&self, foreign: ForeignSessions) -> ForeignSessions {
        foreign.with_policy(self.policy.clone()).with_surroundings(&self.clock, &self.random, &self.events)
    }

    pub(crate) fn mint(&self, record: &Record) -> Result<(Token, SessionId), RandomError> {
        Token::mint(&self.keys, self.binding(), record.principal(), self.random())
    }

    /// The limit that holds for whoever owns the next record and did not own the one before: somebody who
    /// is signed in already is not counted again.
    pub(crate) fn limit_for(&self, before: Option<&Record>, next: &Record) -> Option<SessionLimit> {
        let joins = next.principal().is_some() && before.and_then(Record::principal) != next.principal();
        self.policy.session_limit().filter(|_| joins)
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Manager")
            .field("backend", &self.backend)
            .field("keys", &self.keys)
            .field("transport", &self.carrier)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

/// A presented token that is authentic.
enum Candidate<'a> {
    Reference { id: SessionId, text: &'a [u8] },
    SelfContained(Record),
}

/// A presented token that is not accepted.
struct Rejected {
    rejection: Rejection,
    clears_cookie: bool,
    /// What a logout ends all the same.
    former: Option<Former>,
}

impl Rejected {
    /// A token whose session is gone. The cookie of a renewed one stays: a request that was on its
    /// way with the old token must not remove the new cookie.
    fn ended(reason: Option<EndReason>, former: Former) -> Self {
        let rejection = if reason == Some(EndReason::Expired) { Rejection::Expired } else { Rejection::Ended };
        let renewed = reason == Some(EndReason::Renewed);
        Self { rejection, clears_cookie: !renewed, former: renewed.then_some(former) }
    }
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, clears_cookie: rejection.clears_cookie(), former: None }
    }
}

impl From<SealError> for SessionError {
    fn from(error: SealError) -> Self {
        let kind = match error {
            SealError::TooLarge { .. } => SessionErrorKind::TooLarge,
            SealError::Random(_) | SealError::Cipher => SessionErrorKind::System,
        };
        Self::new(kind, error.to_string())
    }
}

/// The sessions of principals, for device lists and administration.
#[derive(Clone, Copy, Debug)]
pub struct Directory<'a> {
    manager: &'a Manager,
    store: &'a dyn SessionStore,
}

impl Directory<'_> {
    /// The live sessions of a principal, oldest first.
    ///
    /// # Errors
    /// The store's.
    pub async fn list(&self, principal: &Principal, page: Page) -> Result<Listing, SessionError> {
        Ok(self.store.list(principal, page).await?)
    }

    /// Ends one session of a principal. Returns whether there was one of this name; another's is never touched.
    ///
    /// # Errors
    /// The store's.
    pub async fn revoke(&self, principal: &Principal, handle: Handle) -> Result<bool, SessionError> {
        let ended = self.store.revoke(principal, handle).await?;
        if ended {
            self.manager.emit(&Event::Ended { handle, reason: EndReason::Revoked });
        }
        Ok(ended)
    }

    /// Why and when the session of this name ended, while that is remembered.
    ///
    /// # Errors
    /// The store's.
    pub async fn explain(&self, handle: Handle) -> Result<Option<Ended>, SessionError> {
        Ok(self.store.explain(handle).await?)
    }
}
