//! The handle that request handlers hold, and what becomes of it when the request ends.

mod changes;
mod commit;
mod keys;
mod plan;
mod read;
mod state;
#[cfg(test)]
mod tests;
mod ticket;
mod transaction;

use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use self::changes::Change;
use self::commit::Committed;
pub(crate) use self::commit::{ATTEMPTS, MINTS, back_off};
pub use self::keys::{Key, SessionKey};
use self::keys::{RESERVED, check_key, decode, encode};
pub(crate) use self::plan::see;
pub use self::read::ReadSession;
pub use self::state::State;
pub(crate) use self::state::{CookieReply, Former, Inner, Mode, Origin};
pub use self::transaction::Transaction;
use crate::clock::millis;
use crate::csrf::{self, Binding};
use crate::error::{SessionError, SessionErrorKind};
use crate::id::{Handle, Principal};
use crate::manager::Manager;
use crate::record::Assurance;
use crate::store::{Listing, Page};
use crate::watch::SessionWatch;

/// The session of one request.
///
/// Reads and changes are synchronous; the record was loaded when the handle was made, and changes are
/// written when the request ends, before the response leaves.
///
/// * Changes of parallel requests to one session both land: on a conflict this request's changes
///   are made again on what the other wrote, and [`modify`](Self::modify) runs its function again.
/// * A session that was ended while the request ran stays ended; its changes are dropped with an
///   event, and nothing is created.
/// * When the response is a server error, or the handler panics, changes are dropped unless
///   [committed](Self::commit) before; a logout still stands, and a renewal too where a response
///   leaves that can carry its token.
///
/// Clones are the same session. After the response has left, a clone that somebody kept refuses
/// every change.
///
/// ```
/// use cloakroom_core::{Key, Session, SessionError};
///
/// const CART: Key<Vec<u32>> = Key::new("cart");
///
/// fn add_to_cart(session: &Session, article: u32) -> Result<usize, SessionError> {
///     let cart = session.modify(CART, move |cart| cart.push(article))?;
///     Ok(cart.len())
/// }
/// ```
#[derive(Clone)]
pub struct Session {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    manager: Arc<Manager>,
    inner: Mutex<Inner>,
    /// One commit at a time.
    committing: tokio::sync::Mutex<()>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panicking `modify` function leaves the lock poisoned and the changes as they were.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message for the next page, read once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flash {
    /// What kind of message, such as `success` or `error`; the application's own words.
    pub kind: String,
    /// The message.
    pub text: String,
}

const FLASH: &str = "cloakroom.flash";
/// How far the clocks of two processes may be apart.
const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Values.
impl Session {
    /// The value of this key, or `None` where there is none or its time is over.
    ///
    /// # Errors
    /// [`WrongType`](SessionErrorKind::WrongType) when the value is not a `T`. It is kept.
    /// [`InvalidKey`](SessionErrorKind::InvalidKey), [`Closed`](SessionErrorKind::Closed);
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn get<T: DeserializeOwned>(&self, key: impl SessionKey<T>) -> Result<Option<T>, SessionError> {
        check_key(key.name())?;
        self.read(key.name())
    }

    fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, SessionError> {
        let now = self.now_millis()?;
        let inner = self.open()?;
        let encoded = inner.changes.get(key, now);
        encoded.map(|encoded| decode(key, encoded)).transpose()
    }

    /// Sets a value.
    ///
    /// # Errors
    /// [`Unencodable`](SessionErrorKind::Unencodable) when JSON has no form for it,
    /// [`TooLarge`](SessionErrorKind::TooLarge), [`InvalidKey`](SessionErrorKind::InvalidKey),
    /// [`ReadOnly`](SessionErrorKind::ReadOnly), [`Closed`](SessionErrorKind::Closed);
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn set<T: Serialize>(&self, key: impl SessionKey<T>, value: T) -> Result<(), SessionError> {
        self.set_until(key.to_owned_name(), &value, 0)
    }

    /// Sets a value that ends by itself: for one-time codes and the like.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub fn set_for<T: Serialize>(
        &self,
        key: impl SessionKey<T>,
        value: T,
        time_to_live: Duration,
    ) -> Result<(), SessionError> {
        let expires = self.now_millis()?.saturating_add(millis(time_to_live)).max(1);
        self.set_until(key.to_owned_name(), &value, expires)
    }

    fn set_until<T: Serialize>(&self, key: Cow<'static, str>, value: &T, expires: u64) -> Result<(), SessionError> {
        let encoded = encode(&key, value)?;
        let limit = self.manager().policy().max_record();
        if encoded.len() > limit {
            let message =
                format!("the value of `{key}` takes {} bytes, over the session's limit of {limit}", encoded.len());
            return Err(SessionError::new(SessionErrorKind::TooLarge, message));
        }
        check_key(&key)?;
        self.push(Change::Set { key, encoded: encoded.into(), expires })
    }

    /// Removes a value. Nothing is written where there is none.
    ///
    /// # Errors
    /// [`InvalidKey`](SessionErrorKind::InvalidKey), [`ReadOnly`](SessionErrorKind::ReadOnly),
    /// [`Closed`](SessionErrorKind::Closed); [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn remove(&self, key: &str) -> Result<(), SessionError> {
        check_key(key)?;
        self.push(Change::Remove { key: key.to_owned().into() })
    }

    /// Removes a value and returns it. Two requests at once may both get it: see
    /// [`transaction`](Self::transaction) for what must be used only once.
    ///
    /// # Errors
    /// As [`get`](Self::get), where a value of the wrong type is not removed, and as
    /// [`remove`](Self::remove) where there is a value.
    pub fn take<T: DeserializeOwned>(&self, key: impl SessionKey<T>) -> Result<Option<T>, SessionError> {
        check_key(key.name())?;
        let name = key.to_owned_name();
        let value = self.get(key)?;
        if value.is_some() {
            self.push(Change::Remove { key: name })?;
        }
        Ok(value)
    }

    /// Changes a value in place, from its default where there is none, and returns what it became.
    ///
    /// The function runs now, and again on the current value whenever another request wrote first,
    /// so counters and carts from parallel requests add up. It should do nothing but change the value,
    /// and must not use this session: it runs while the handle is locked.
    ///
    /// # Errors
    /// As [`get`](Self::get) and [`set`](Self::set).
    pub fn modify<T, F>(&self, key: impl SessionKey<T>, mut change: F) -> Result<T, SessionError>
    where
        T: Default + DeserializeOwned + Serialize,
        F: FnMut(&mut T) + Send + 'static,
    {
        let name = key.to_owned_name();
        check_key(&name)?;
        // The function runs in here once; the closure that repeats it later starts from what is there then.
        let mut first = None;
        let mut run = {
            let name = name.clone();
            move |encoded: Option<&[u8]>| -> Result<(T, Vec<u8>), SessionError> {
                let mut value = encoded.map_or_else(|| Ok(T::default()), |encoded| decode(&name, encoded))?;
                change(&mut value);
                let encoded = encode(&name, &value)?;
                Ok((value, encoded))
            }
        };
        let now = self.now_millis()?;
        let mut inner = self.writable()?;
        let (value, encoded) = run(inner.changes.get(&name, now))?;
        first.replace(encoded);
        let apply = Box::new(move |encoded: Option<&[u8]>| match first.take() {
            Some(first) => Ok(Some(first)),
            None => run(encoded).map(|(_, encoded)| Some(encoded)),
        });
        inner.changes.push(Change::Modify { key: name, apply }, now)?;
        Ok(value)
    }

    /// Removes all values; the session, its owner and its token stay.
    ///
    /// # Errors
    /// [`ReadOnly`](SessionErrorKind::ReadOnly), [`Closed`](SessionErrorKind::Closed);
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn clear(&self) -> Result<(), SessionError> {
        self.push(Change::Clear)
    }

    /// Whether there is a value, of whatever type.
    ///
    /// # Errors
    /// [`InvalidKey`](SessionErrorKind::InvalidKey), [`Closed`](SessionErrorKind::Closed);
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn contains(&self, key: &str) -> Result<bool, SessionError> {
        check_key(key)?;
        Ok(self.open()?.changes.get(key, self.now_millis()?).is_some())
    }

    /// The keys of all values, in no particular order.
    ///
    /// # Errors
    /// [`Closed`](SessionErrorKind::Closed); [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn keys(&self) -> Result<Vec<String>, SessionError> {
        let mut keys = self.open()?.changes.keys(self.now_millis()?);
        keys.retain(|key| !key.starts_with(RESERVED));
        Ok(keys)
    }

    /// Leaves a message for the next page.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn flash(&self, kind: impl Into<String>, text: impl Into<String>) -> Result<(), SessionError> {
        let flash = Flash { kind: kind.into(), text: text.into() };
        self.modify_flashes(move |flashes| flashes.push(flash.clone()))
    }

    /// The messages that were left, each once. One that another request leaves meanwhile is kept.
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn take_flashes(&self) -> Result<Vec<Flash>, SessionError> {
        let flashes: Vec<Flash> = self.read(FLASH)?.unwrap_or_default();
        if !flashes.is_empty() {
            let read = flashes.clone();
            self.modify_flashes(move |current| {
                if current.starts_with(&read) {
                    current.drain(..read.len());
                }
            })?;
        }
        Ok(flashes)
    }

    fn modify_flashes(&self, mut change: impl FnMut(&mut Vec<Flash>) + Send + 'static) -> Result<(), SessionError> {
        let apply = Box::new(move |encoded: Option<&[u8]>| {
            let mut flashes = encoded.map_or_else(|| Ok(Vec::new()), |encoded| decode(FLASH, encoded))?;
            change(&mut flashes);
            if flashes.is_empty() { Ok(None) } else { encode(FLASH, &flashes).map(Some) }
        });
        self.push(Change::Modify { key: FLASH.into(), apply })
    }
}

/// Who, since when, and until when.
impl Session {
    /// Signs somebody in, under a fresh token: the old one dies at once, so whoever planted or saw it
    /// gains nothing.
    ///
    /// The values of an anonymous session are kept; those of another principal's session are not,
    /// and that session ends. Both timeouts start anew. Before the response has left, the principal
    /// is already what [`principal`](Self::principal) says.
    ///
    /// # Errors
    /// When the name is no [`Principal`].
    ///
    /// At the end of the request, where the policy limits the sessions of one principal and has the
    /// newest refused, [`LimitReached`](SessionErrorKind::LimitReached); call
    /// [`commit`](Self::commit) to learn of it in the handler.
    pub fn login<P>(&self, principal: P) -> Result<(), SessionError>
    where
        P: TryInto<Principal>,
        SessionError: From<P::Error>,
    {
        let principal = principal.try_into()?;
        let mut inner = self.writable()?;
        // A logout before it in this request ends the old session; this begins another.
        let other = inner.intents.destroy || inner.principal().is_some_and(|current| *current != principal);
        if other {
            inner.intents.destroy = false;
            inner.handle = Some(Handle::mint(self.manager().random())?);
            // Also what a parallel request of the other principal may be writing at this moment.
            inner.changes.clear_for_good();
        }
        inner.intents.login = Some(principal);
        // Whatever was proved before this sign-in was not proved by it.
        inner.intents.step_up = None;
        Ok(())
    }

    /// Records that the signed-in person proved who they are again, at this level, under a fresh token.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn).
    pub fn step_up(&self, assurance: Assurance) -> Result<(), SessionError> {
        let mut inner = self.writable()?;
        if inner.principal().is_none() {
            return Err(not_signed_in());
        }
        inner.intents.step_up = inner.intents.step_up.max(Some(assurance));
        Ok(())
    }

    /// Ends the session on the server and removes the cookie. Idempotent; without a session it only
    /// removes the cookie.
    ///
    /// # Errors
    /// [`ReadOnly`](SessionErrorKind::ReadOnly), [`Closed`](SessionErrorKind::Closed). A logout that
    /// the store could not take makes the response a 503: it is never reported as done when it was not.
    pub fn logout(&self) -> Result<(), SessionError> {
        let mut inner = self.writable()?;
        inner.changes.discard();
        inner.intents.destroy = true;
        Ok(())
    }

    /// Gives the session a fresh token; the old one dies at once. For any change of privilege that
    /// is no sign-in.
    ///
    /// # Errors
    /// [`ReadOnly`](SessionErrorKind::ReadOnly), [`Closed`](SessionErrorKind::Closed).
    pub fn renew(&self) -> Result<(), SessionError> {
        self.writable()?.intents.renew = true;
        Ok(())
    }

    /// Lets this session outlive the browser and be idle for this long ("remember me"), under a fresh
    /// token; the old one dies at once. Stays so over later writes; counted from the sign-in, or from
    /// the beginning of the session where nobody signed in.
    ///
    /// # Errors
    /// [`OutOfRange`](SessionErrorKind::OutOfRange) under a second, over the policy's
    /// [`remember`](crate::Policy::remember), and where the session would end at once.
    /// [`ReadOnly`](SessionErrorKind::ReadOnly), [`Closed`](SessionErrorKind::Closed);
    /// [`System`](SessionErrorKind::System) when the clock is broken.
    pub fn persist(&self, duration: Duration) -> Result<(), SessionError> {
        let most = self.manager().policy().remember();
        if duration > most || duration < Duration::from_secs(1) {
            let message = format!(
                "a session cannot be remembered for {duration:?}; the policy allows 1s to {most:?} (`remember`)"
            );
            return Err(SessionError::new(SessionErrorKind::OutOfRange, message));
        }
        let now = self.now_millis()?;
        let mut inner = self.writable()?;
        let began = inner.base.as_ref().filter(|_| inner.intents.login.is_none() && inner.intents.step_up.is_none());
        if began.is_some_and(|base| base.created.saturating_add(millis(duration)) <= now) {
            let message = format!(
                "the session began over {duration:?} ago and would end at once; sign in again before `persist`"
            );
            return Err(SessionError::new(SessionErrorKind::OutOfRange, message));
        }
        inner.intents.persist = Some(duration);
        Ok(())
    }

    /// Who is signed in.
    #[must_use]
    pub fn principal(&self) -> Option<Principal> {
        self.lock().principal().cloned()
    }

    /// When they last proved who they are.
    #[must_use]
    pub fn authenticated_at(&self) -> Option<SystemTime> {
        let inner = self.lock();
        if inner.intents.destroy {
            return None;
        }
        if inner.intents.login.is_some() || inner.intents.step_up.is_some() {
            return Some(self.manager().clock().now());
        }
        inner.base.as_ref()?.authenticated()
    }

    /// How surely.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        let inner = self.lock();
        if inner.principal().is_none() {
            return Assurance::None;
        }
        let base = if inner.intents.login.is_some() {
            Assurance::One
        } else {
            inner.base.as_ref().map_or(Assurance::None, |base| base.assurance)
        };
        base.max(inner.intents.step_up.unwrap_or_default())
    }

    /// Makes sure that somebody is signed in and proved who they are no longer ago than this.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn),
    /// [`ReauthenticationRequired`](SessionErrorKind::ReauthenticationRequired); both are 401.
    pub fn require_fresh(&self, max_age: Duration) -> Result<Principal, SessionError> {
        let principal = self.principal().ok_or_else(not_signed_in)?;
        let authenticated = self.authenticated_at().ok_or_else(not_signed_in)?;
        let now = self.manager().clock().now();
        // A sign-in in the future is a clock that went back: fresh within what clocks differ by, stale beyond.
        let age = now
            .duration_since(authenticated)
            .unwrap_or_else(|ahead| if ahead.duration() <= CLOCK_SKEW { Duration::ZERO } else { Duration::MAX });
        if age > max_age {
            let message =
                format!("the sign-in is {}s old and this action allows {}s", age.as_secs(), max_age.as_secs());
            return Err(SessionError::new(SessionErrorKind::ReauthenticationRequired, message));
        }
        Ok(principal)
    }

    /// When the session ends if nothing happens, as far as it is written.
    #[must_use]
    pub fn expires_at(&self) -> Option<SystemTime> {
        self.lock().base.as_ref().map(crate::Record::deadline)
    }

    /// The public name of the session, if there is one or will be.
    #[must_use]
    pub fn handle(&self) -> Option<Handle> {
        let inner = self.lock();
        if inner.intents.destroy { None } else { inner.handle }
    }

    /// Where in its life the session is.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().state()
    }
}

/// Forms.
impl Session {
    /// A token that proves that a form comes from this session's pages; different each time.
    ///
    /// Creates the session where there is none, since there would be nothing to bind it to.
    ///
    /// # Errors
    /// When the random generator fails; [`ReadOnly`](SessionErrorKind::ReadOnly),
    /// [`Closed`](SessionErrorKind::Closed).
    pub fn csrf_token(&self) -> Result<String, SessionError> {
        self.csrf_token_for("")
    }

    /// A token that is good for one action only, such as `delete-account`.
    ///
    /// # Errors
    /// As [`csrf_token`](Self::csrf_token).
    pub fn csrf_token_for(&self, action: &str) -> Result<String, SessionError> {
        let mut inner = self.writable()?;
        let handle = match inner.handle {
            Some(handle) => handle,
            None => *inner.handle.insert(Handle::mint(self.manager().random())?),
        };
        if inner.base.is_none() {
            inner.intents.create = true;
        }
        let binding = Binding { handle, generation: inner.generation(), action };
        Ok(csrf::mint(self.manager().keys(), binding, self.manager().random())?)
    }

    /// Whether this is a token of this session, from after its last renewal.
    #[must_use]
    pub fn verify_csrf(&self, token: &str) -> bool {
        self.verify_csrf_for("", token)
    }

    /// Whether this is a token of this session for this action.
    #[must_use]
    pub fn verify_csrf_for(&self, action: &str, token: &str) -> bool {
        let inner = self.lock();
        match &inner.base {
            Some(base) => {
                let binding = Binding { handle: base.handle(), generation: base.generation, action };
                csrf::verify(self.manager().keys(), binding, token.as_bytes())
            }
            None => false,
        }
    }
}

/// The principal's other sessions.
impl Session {
    /// The sessions of whoever is signed in here, oldest first.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn);
    /// [`Unsupported`](SessionErrorKind::Unsupported) where sessions are self-contained: nobody has a list of them.
    pub async fn list(&self, page: Page) -> Result<Listing, SessionError> {
        let principal = self.principal().ok_or_else(not_signed_in)?;
        let directory = self.manager().directory().ok_or_else(|| unsupported("list"))?;
        directory.list(&principal, page).await
    }

    /// Ends another session of whoever is signed in here. Returns whether there was one of this name.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn revoke(&self, handle: Handle) -> Result<bool, SessionError> {
        let principal = self.principal().ok_or_else(not_signed_in)?;
        let directory = self.manager().directory().ok_or_else(|| unsupported("revoke"))?;
        directory.revoke(&principal, handle).await
    }

    /// Ends all other sessions of whoever is signed in here.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn); [`Unsupported`](SessionErrorKind::Unsupported)
    /// for self-contained sessions without a revocation list.
    pub async fn revoke_others(&self) -> Result<(), SessionError> {
        let principal = self.principal().ok_or_else(not_signed_in)?;
        self.manager().revoke_all(&principal, self.handle()).await.map(|_count| ())
    }

    /// Signs out here and everywhere else.
    ///
    /// # Errors
    /// As [`revoke_others`](Self::revoke_others).
    pub async fn logout_everywhere(&self) -> Result<(), SessionError> {
        let principal = self.principal().ok_or_else(not_signed_in)?;
        self.manager().revoke_all(&principal, None).await?;
        self.logout()
    }
}

/// Writing before the request ends.
impl Session {
    /// Writes everything that is pending now, so that the handler learns how it went and a later
    /// failure does not undo it.
    ///
    /// # Errors
    /// [`Ended`](SessionErrorKind::Ended) when the session was ended meanwhile,
    /// [`NotCommitted`](SessionErrorKind::NotCommitted), [`Unknown`](SessionErrorKind::Unknown),
    /// [`TooLarge`](SessionErrorKind::TooLarge), [`LimitReached`](SessionErrorKind::LimitReached),
    /// [`Contended`](SessionErrorKind::Contended).
    ///
    /// # Cancellation
    /// Dropped before it ends, it may or may not have written. The handle then refuses to write again.
    pub async fn commit(&self) -> Result<(), SessionError> {
        let _one_at_a_time = self.shared.committing.lock().await;
        match self.shared.commit_pending().await? {
            Committed::Done => Ok(()),
            Committed::Ended(reason) => Err(SessionError::ended(reason)),
        }
    }

    /// Reads and changes the session as it is at this moment, in one step, and returns when that is
    /// written.
    ///
    /// Out of any number of parallel transactions each sees what the one before it wrote, so a
    /// one-time code is used exactly once. The function runs again when another request wrote first,
    /// and only its last run counts: it should do nothing but read and change the view it is given.
    /// An error that it returns leaves the session as it was.
    ///
    /// ```
    /// use cloakroom_core::{Key, Session, SessionError};
    ///
    /// const CODE: Key<String> = Key::new("code");
    ///
    /// async fn redeem(session: &Session, presented: String) -> Result<bool, SessionError> {
    ///     session
    ///         .transaction(|view| {
    ///             let matches = view.get(CODE)?.is_some_and(|code| code == presented);
    ///             if matches {
    ///                 view.remove("code")?;
    ///             }
    ///             Ok(matches)
    ///         })
    ///         .await
    /// }
    /// ```
    ///
    /// # Errors
    /// As [`commit`](Self::commit), and whatever the function returns;
    /// [`Unsupported`](SessionErrorKind::Unsupported) for self-contained sessions.
    pub async fn transaction<R, E: From<SessionError>>(
        &self,
        mut change: impl FnMut(&mut Transaction<'_>) -> Result<R, E>,
    ) -> Result<R, E> {
        let _one_at_a_time = self.shared.committing.lock().await;
        self.shared.transact(|changes, now| change(&mut Transaction::new(changes, now))).await
    }
}

/// Connections that outlive the request.
impl Session {
    /// Watches the session as it was loaded or last [committed](Self::commit), with its owner and its
    /// assurance of that moment.
    ///
    /// # Errors
    /// [`NotSignedIn`](SessionErrorKind::NotSignedIn) when there is none, or none yet.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn watch(&self) -> Result<SessionWatch, SessionError> {
        let inner = self.lock();
        SessionWatch::new(self.manager(), inner.origin, inner.base.as_ref())
    }
}

/// Internals.
impl Session {
    pub(crate) fn new(manager: Arc<Manager>, inner: Inner) -> Self {
        Self { shared: Arc::new(Shared { manager, inner: Mutex::new(inner), committing: tokio::sync::Mutex::new(()) }) }
    }

    pub(crate) fn manager(&self) -> &Arc<Manager> {
        &self.shared.manager
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.shared.lock()
    }

    /// From now on the request counts as activity.
    pub(crate) fn mark_touchable(&self) {
        self.lock().touchable = true;
    }

    /// The request failed: what takes power away stands, everything else is dropped. A renewal
    /// stands only where its token can still be `delivered`.
    pub(crate) fn discard(&self, delivered: bool) {
        let mut inner = self.lock();
        inner.changes.discard();
        inner.intents = inner.intents.after_failure();
        inner.intents.renew &= delivered && inner.base.is_some();
        // Whoever was about to take over did not.
        inner.handle = inner.base.as_ref().map(crate::Record::handle);
    }

    /// Closes the handle if there is nothing to write, and says what to do about the cookie.
    pub(crate) fn try_finish(&self) -> Result<Option<CookieReply>, SessionError> {
        let Ok(_one_at_a_time) = self.shared.committing.try_lock() else { return Ok(None) };
        let mut inner = self.lock();
        let idle = match inner.mode {
            Mode::ReadOnly => Ok(true),
            Mode::Open => self.shared.has_nothing_to_write(&inner),
            Mode::Unknown | Mode::Closed => Ok(false),
        };
        // An error ends the exchange as well.
        if !matches!(idle, Ok(false)) {
            inner.mode = Mode::Closed;
        }
        Ok(idle?.then(|| std::mem::replace(&mut inner.cookie, CookieReply::Leave)))
    }

    /// Writes what is pending at the end of the request, and closes the handle.
    pub(crate) async fn finish(&self) -> Result<CookieReply, SessionError> {
        self.lock().finishing = true;
        let _one_at_a_time = self.shared.committing.lock().await;
        let result =
            if self.lock().mode == Mode::ReadOnly { Ok(Committed::Done) } else { self.shared.commit_pending().await };
        let mut inner = self.lock();
        inner.mode = Mode::Closed;
        let cookie = std::mem::replace(&mut inner.cookie, CookieReply::Leave);
        match result {
            Ok(Committed::Done | Committed::Ended(_)) => Ok(cookie),
            // What is here was answered for: a token that failed was never put here, while that of an
            // earlier commit must reach the client, whose old one is dead.
            Err(error) => {
                inner.cookie = cookie;
                Err(error)
            }
        }
    }

    /// The response left without this handle: nothing of it is ever written.
    pub(crate) fn close(&self) {
        self.lock().mode = Mode::Closed;
    }

    fn now_millis(&self) -> Result<u64, SessionError> {
        self.manager().now()
    }

    fn open(&self) -> Result<MutexGuard<'_, Inner>, SessionError> {
        let inner = self.lock();
        if inner.mode == Mode::Closed { Err(SessionError::closed()) } else { Ok(inner) }
    }

    fn writable(&self) -> Result<MutexGuard<'_, Inner>, SessionError> {
        let inner = self.open()?;
        if inner.finishing {
            return Err(SessionError::closed());
        }
        match inner.mode {
            Mode::ReadOnly => Err(SessionError::new(
                SessionErrorKind::ReadOnly,
                "the session store is out of reach and this route reads without it; nothing can be changed",
            )),
            Mode::Open | Mode::Unknown | Mode::Closed => Ok(inner),
        }
    }

    fn push(&self, change: Change) -> Result<(), SessionError> {
        let now = self.now_millis()?;
        self.writable()?.changes.push(change, now)
    }
}

impl Inner {
    fn principal(&self) -> Option<&Principal> {
        if self.intents.destroy {
            return None;
        }
        self.intents.login.as_ref().or_else(|| self.base.as_ref()?.principal())
    }

    /// The generation that the session will have when the request has ended.
    fn generation(&self) -> u32 {
        match &self.base {
            Some(base) => base.generation.saturating_add(u32::from(self.intents.renews())),
            None => 0,
        }
    }

    fn check_writable(&self) -> Result<(), SessionError> {
        match self.mode {
            Mode::Open => Ok(()),
            Mode::Closed => Err(SessionError::closed()),
            Mode::ReadOnly => {
                Err(SessionError::new(SessionErrorKind::ReadOnly, "the session is an anonymous read-only view"))
            }
            Mode::Unknown => Err(SessionError::new(
                SessionErrorKind::Unknown,
                "an earlier write of this request was never answered; writing again could apply it twice",
            )),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Session").field("handle", &inner.handle).field("state", &inner.state()).finish_non_exhaustive()
    }
}

fn not_signed_in() -> SessionError {
    SessionError::new(SessionErrorKind::NotSignedIn, "nobody is signed in")
}

fn unsupported(verb: &str) -> SessionError {
    let message =
        format!("self-contained sessions cannot {verb}: nobody keeps a list of them; keep sessions in a store");
    SessionError::new(SessionErrorKind::Unsupported, message)
}
