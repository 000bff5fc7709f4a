//! Our stores for applications that run their sessions with `tower-sessions`.

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use async_trait::async_trait;
use cloakroom_core::{
    ForeignExpiry, ForeignRecord, ForeignSessions, KeyRing, Manager, Policy, SessionError, SessionErrorKind,
    SessionStore,
};
use serde_json::Value;

/// One of our stores as a store of `tower-sessions`, and so of `axum-login`.
///
/// What `SessionManagerLayer` then keeps in it:
///
/// * **No usable cookie is in the store.** Sessions are filed under a keyed hash of the cookie's id.
/// * **What has ended stays ended.** `save` never creates: where the session was deleted or has expired while a
///   request ran, the request's changes are refused and `tower-sessions` answers 500. An id that was not minted by
///   [`create`](tower_sessions_core::SessionStore::create) never becomes a session.
/// * **Parallel requests both land**, each with the keys that it changed. Of one key, the later write stands.
/// * **Life is bounded** by the absolute timeout of the [policy](Policy) (7 days unless told otherwise), from the
///   creation or the last `cycle_id` on. The `Expiry` of `tower-sessions` is kept to the nanosecond below that; the
///   policy's idle timeout does not apply.
///
/// ```
/// use std::sync::Arc;
/// use cloakroom_axum::TowerSessionsStore;
/// use cloakroom_core::{KeyRing, MemoryStore, OsRandom, SecretKey};
/// use tower_sessions_core::Session;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = KeyRing::new("shop", &[SecretKey::generate(&OsRandom::default())?])?;
/// let store = TowerSessionsStore::new(Arc::new(MemoryStore::new()), keys);
/// // In an application: SessionManagerLayer::new(store)
/// let session = Session::new(None, Arc::new(store), None);
/// session.insert("visits", 1).await?;
/// session.save().await?;
/// # Ok(()) }
/// ```
///
/// It implements the trait of `tower-sessions` 0.15, and that of 0.14, which `axum-login` 0.18 uses.
///
/// # What the trait makes impossible
///
/// * `get` and then `insert` of one counter by two parallel requests may count once: the trait does not say that the
///   second was computed from the first. [`Session::modify`](crate::Session) is what does.
/// * `cycle_id` deletes the old session at once and creates the new one with the response. A logout that comes
///   before the new one exists wins, and the request that cycles is refused. One that was on its way with the
///   old id and comes later finds nothing to end.
/// * Two requests that cycle one session, as two clicks on "sign in" do, leave two sessions if one comes after the
///   other; ending one leaves the other. Where they overlap both are refused, and the session is gone.
/// * What a request has saved by itself, and then takes back before the response, stays: the second `save` is
///   compared with what was loaded, which the trait cannot move on.
/// * The sessions belong to nobody: [`Directory`](cloakroom_core::Directory) and `revoke_all` do not know them.
/// * In front of it, a `CachingSessionStore` shows what another process has ended until the cache forgets it; and it is
///   not to be the cache itself, which has to create with `save`.
///
/// # In the store
///
/// A record has one value for each key, and one for the expiry. While a request runs its `Record` also holds what was
/// loaded, under the key [`cloakroom.foreign`](ForeignSessions::RESERVED). Deleting a session that is gone, and `cycle_id`, leave a
/// note without values for an hour. A key of the application has at most 255 bytes.
///
/// # Errors
///
/// `Encode` and `Decode` are about one value; `Backend` says what the store said, without ids and values.
#[derive(Clone)]
pub struct TowerSessionsStore(ForeignSessions);

impl TowerSessionsStore {
    const LIBRARY: &str = "tower-sessions";

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

    async fn create(&self, data: &Data, expiry: SystemTime) -> Result<(i128, ForeignRecord), Failure> {
        let (id, record) = self.0.create(encode(data)?, ForeignExpiry::At(expiry)).await?;
        Ok((i128::from_le_bytes(id), record))
    }

    async fn save(&self, id: i128, data: &Data, expiry: SystemTime) -> Result<(), Failure> {
        Ok(self.0.save(&id.to_le_bytes(), encode(data)?, ForeignExpiry::At(expiry)).await?)
    }

    async fn load(&self, id: i128) -> Result<Option<(Data, SystemTime)>, Failure> {
        let Some(record) = self.0.load(&id.to_le_bytes()).await? else { return Ok(None) };
        Ok(Some((decode(record.values)?, record.deadline)))
    }

    async fn delete(&self, id: i128) -> Result<(), Failure> {
        Ok(self.0.delete(&id.to_le_bytes()).await?)
    }
}

impl fmt::Debug for TowerSessionsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TowerSessionsStore").field(&self.0).finish()
    }
}

type Data = HashMap<String, Value>;

fn encode(data: &Data) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let encoded = |(key, value): (&String, &Value)| match serde_json::to_vec(value) {
        Ok(bytes) => Ok((key.clone(), bytes)),
        Err(error) => Err(Failure::Encode(error.to_string())),
    };
    data.iter().map(encoded).collect()
}

fn decode(values: Vec<(String, Vec<u8>)>) -> Result<Data, Failure> {
    let decoded = |(key, bytes): (String, Vec<u8>)| match serde_json::from_slice(&bytes) {
        Ok(value) => Ok((key, value)),
        // What serde says names places in the text, not what stands there.
        Err(error) => Err(Failure::Decode(format!("the value of `{key}` is not JSON: {error}"))),
    };
    values.into_iter().map(decoded).collect()
}

/// The error of either version.
enum Failure {
    Encode(String),
    Decode(String),
    Backend(String),
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Self {
        // The trait keeps text only, and its users print it.
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            message.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        if matches!(error.kind(), SessionErrorKind::TooLarge | SessionErrorKind::InvalidKey) {
            Self::Encode(message)
        } else {
            Self::Backend(message)
        }
    }
}

/// The traits of both versions have the same text.
macro_rules! implement {
    ($version:ident) => {
        #[async_trait]
        impl $version::SessionStore for TowerSessionsStore {
            async fn create(&self, record: &mut $version::session::Record) -> $version::session_store::Result<()> {
                let (id, filed) = self.create(&record.data, record.expiry_date.into()).await?;
                record.id = $version::session::Id(id);
                record.expiry_date = filed.deadline.into();
                record.data = decode(filed.values)?;
                Ok(())
            }

            async fn save(&self, record: &$version::session::Record) -> $version::session_store::Result<()> {
                Ok(self.save(record.id.0, &record.data, record.expiry_date.into()).await?)
            }

            async fn load(
                &self,
                id: &$version::session::Id,
            ) -> $version::session_store::Result<Option<$version::session::Record>> {
                let found = self.load(id.0).await?;
                Ok(found.map(|(data, deadline)| $version::session::Record {
                    id: *id,
                    data,
                    expiry_date: deadline.into(),
                }))
            }

            async fn delete(&self, id: &$version::session::Id) -> $version::session_store::Result<()> {
                Ok(self.delete(id.0).await?)
            }
        }

        impl From<Failure> for $version::session_store::Error {
            fn from(failure: Failure) -> Self {
                match failure {
                    Failure::Encode(message) => Self::Encode(message),
                    Failure::Decode(message) => Self::Decode(message),
                    Failure::Backend(message) => Self::Backend(message),
                }
            }
        }
    };
}

implement!(tower_sessions_core);
implement!(tower_sessions_core_0_14);
