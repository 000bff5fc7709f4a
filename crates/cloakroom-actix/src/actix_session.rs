//! Our stores for applications that run their sessions with `actix-session`.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use ::actix_session::storage::{LoadError, SaveError, SessionKey, SessionStore as ActixStore, UpdateError};
use actix_web::cookie::time;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom_core::{
    ForeignExpiry, ForeignSessions, KeyRing, Manager, Policy, SessionError, SessionErrorKind, SessionStore,
};

/// One of our stores as a store of `actix-session`, and so of `actix-identity`.
///
/// What `actix_session::SessionMiddleware` then keeps in it:
///
/// * **No usable cookie is in the store.** Sessions are filed under a keyed hash of the session key.
/// * **What has ended stays ended.** `update` never creates, under the old key or another: where the session was
///   deleted or has expired while a request ran, the request's changes are refused and `actix-session` answers 500.
///   `update_ttl` revives nothing. A key that was not minted by `save` never becomes a session.
/// * **Parallel requests both land**, each with the keys that it changed. Of one key, the later write stands.
/// * **Life is bounded** by the absolute timeout of the [policy](Policy) (7 days unless told otherwise), from the
///   creation or the last `renew` on. Below that the time to live that `actix-session` asks for holds; one that is
///   shorter than what was asked before does not shorten the life of a session that is there. The policy's idle timeout
///   does not apply.
///
/// ```
/// use std::sync::Arc;
///
/// use actix_session::SessionMiddleware;
/// use actix_web::{App, cookie::Key};
/// use cloakroom_actix::ActixSessionStore;
/// use cloakroom_core::Manager;
///
/// fn serve(manager: Arc<Manager>, cookie_key: Key) -> Result<(), &'static str> {
///     let store = ActixSessionStore::of(&manager).ok_or("self-contained sessions have no store")?;
///     // One for all workers: clone it inside of the closure of HttpServer::new.
///     let _app = App::new().wrap(SessionMiddleware::new(store.clone(), cookie_key));
///     Ok(())
/// }
/// ```
///
/// # What the trait makes impossible
///
/// * `get` and then `insert` of one counter by two parallel requests may count once: the trait does not say that the
///   second was computed from the first. [`Session::modify`](crate::Session) is what does.
/// * `renew` deletes the old session and creates the new one, in two steps. A logout that was on its way with the old
///   key and comes after both finds nothing to end.
/// * Two requests that renew one session at once, as two clicks on "sign in" do, leave two sessions. Ending one
///   leaves the other.
/// * The sessions belong to nobody: [`Directory`](cloakroom_core::Directory) and `revoke_all` do not know them.
///
/// # In the store
///
/// A record has one value for each key. While a request runs its state also holds what was loaded, under the key
/// [`cloakroom.foreign`](ForeignSessions::RESERVED), which `Session::entries` shows. Deleting a session that is gone, and
/// `renew`, leave a note without values for an hour. A key of the application has at most 255 bytes.
///
/// # Errors
///
/// They hold a [`SessionError`], which says what the store said, without keys and values. The client sees an empty 500.
#[derive(Clone)]
pub struct ActixSessionStore(ForeignSessions);

impl ActixSessionStore {
    const LIBRARY: &str = "actix-session";

    /// In this store, under these keys.
    #[must_use]
    pub fn new(store: Arc<dyn SessionStore>, keys: KeyRing) -> Self {
        Self(ForeignSessions::new(Self::LIBRARY, store, keys))
    }

    /// In the store of this manager, under its keys and limits. `None` where its sessions are self-contained.
    #[must_use]
    pub fn of(manager: &Manager) -> Option<Self> {
        ForeignSessions::of(Self::LIBRARY, manager).map(Self)
    }

    /// Other limits: of a policy, the absolute timeout and the size of a record count.
    #[must_use]
    pub fn with_policy(self, policy: Policy) -> Self {
        Self(self.0.with_policy(policy))
    }
}

impl fmt::Debug for ActixSessionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActixSessionStore").field(&self.0).finish()
    }
}

type State = HashMap<String, String>;

impl ActixStore for ActixSessionStore {
    async fn load(&self, key: &SessionKey) -> Result<Option<State>, LoadError> {
        let Some(secret) = secret(key) else { return Ok(None) };
        let found = self.0.load(&secret).await.map_err(|error| LoadError::Other(error.into()))?;
        let Some(found) = found else { return Ok(None) };
        let texts = found.values.into_iter().map(|(key, value)| Ok((key, String::from_utf8(value)?)));
        let texts: Result<State, std::string::FromUtf8Error> = texts.collect();
        // Without the error, which holds the value.
        texts.map(Some).map_err(|_| LoadError::Deserialization(NotText.into()))
    }

    async fn save(&self, state: State, ttl: &time::Duration) -> Result<SessionKey, SaveError> {
        let (secret, _) = self.0.create::<32>(values(state), expiry(ttl)).await.map_err(|error| {
            if is_about_values(&error) {
                SaveError::Serialization(error.into())
            } else {
                SaveError::Other(error.into())
            }
        })?;
        URL_SAFE_NO_PAD.encode(secret).try_into().map_err(|error| SaveError::Other(anyhow::Error::new(error)))
    }

    async fn update(&self, key: SessionKey, state: State, ttl: &time::Duration) -> Result<SessionKey, UpdateError> {
        // One that cannot be ours is one that nobody has.
        let secret = secret(&key).unwrap_or_default();
        self.0.save(&secret, values(state), expiry(ttl)).await.map(|()| key).map_err(|error| {
            if is_about_values(&error) {
                UpdateError::Serialization(error.into())
            } else {
                UpdateError::Other(error.into())
            }
        })
    }

    async fn update_ttl(&self, key: &SessionKey, ttl: &time::Duration) -> Result<(), anyhow::Error> {
        let Some(secret) = secret(key) else { return Ok(()) };
        Ok(self.0.touch(&secret, lasting(ttl)).await?)
    }

    async fn delete(&self, key: &SessionKey) -> Result<(), anyhow::Error> {
        let Some(secret) = secret(key) else { return Ok(()) };
        Ok(self.0.delete(&secret).await?)
    }
}

/// What the key says, in its one spelling.
fn secret(key: &SessionKey) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(key.as_ref()).ok().filter(|secret| secret.len() == 32)
}

fn values(state: State) -> Vec<(String, Vec<u8>)> {
    state.into_iter().map(|(key, value)| (key, value.into_bytes())).collect()
}

fn expiry(ttl: &time::Duration) -> ForeignExpiry {
    ForeignExpiry::In(lasting(ttl))
}

/// A negative time to live is none.
fn lasting(ttl: &time::Duration) -> std::time::Duration {
    (*ttl).try_into().unwrap_or_default()
}

fn is_about_values(error: &SessionError) -> bool {
    matches!(error.kind(), SessionErrorKind::TooLarge | SessionErrorKind::InvalidKey)
}

/// A value in the store is not what `actix-session` puts there.
#[derive(Debug)]
struct NotText;

impl fmt::Display for NotText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value of the session is not text: another program wrote it")
    }
}

impl std::error::Error for NotText {}
