//! Wrappers around a store, one idea each.
//!
//! The outermost comes first when a request goes down: observe ▸ fallback ▸ cache ▸ retry ▸ timeout ▸
//! encrypt ▸ epoch ▸ store. This release has [observe](ObserveLayer), [timeout](TimeoutLayer) and
//! [epoch](EpochLayer), which keeps the ends of sessions that its store may forget; the others come
//! later. Order matters, and the wrong one compiles:
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use cloakroom_core::layer::{ObserveLayer, StoreExt, TimeoutLayer};
//! use cloakroom_core::{MemoryStore, TracingSink};
//!
//! // Right: what is observed includes the calls that timed out.
//! let store = MemoryStore::new()
//!     .layer(TimeoutLayer::new(Duration::from_secs(2)))
//!     .layer(ObserveLayer::new(Arc::new(TracingSink)));
//! assert_eq!(store.to_string(), "observe(timeout(2s, memory))");
//!
//! // Wrong: a call that the timeout cuts off is never observed.
//! let store = MemoryStore::new()
//!     .layer(ObserveLayer::new(Arc::new(TracingSink)))
//!     .layer(TimeoutLayer::new(Duration::from_secs(2)));
//! assert_eq!(store.to_string(), "timeout(2s, observe(memory))");
//! ```

mod epoch;
mod observe;
mod timeout;

use std::sync::Arc;

pub use epoch::EpochLayer;
pub use observe::ObserveLayer;
pub use timeout::TimeoutLayer;

use crate::store::SessionStore;

/// Makes a store out of a store.
///
/// A wrapper must keep every guarantee of the contract; the testkit's suite runs over it unchanged.
pub trait Layer {
    /// Wraps the store.
    fn wrap(self, inner: Arc<dyn SessionStore>) -> Arc<dyn SessionStore>;
}

/// Puts layers around a store, the innermost first.
pub trait StoreExt {
    /// Puts this layer around it.
    fn layer(self, layer: impl Layer) -> Arc<dyn SessionStore>;
}

impl<S: SessionStore> StoreExt for S {
    fn layer(self, layer: impl Layer) -> Arc<dyn SessionStore> {
        layer.wrap(Arc::new(self))
    }
}

impl StoreExt for Arc<dyn SessionStore> {
    fn layer(self, layer: impl Layer) -> Arc<dyn SessionStore> {
        layer.wrap(self)
    }
}

/// Writes a store that sends every verb through `$around`, a method of the wrapper that takes the
/// verb and the inner call. One place for the list of verbs, so that no layer can forget one.
macro_rules! forward_every_verb {
    ($wrapper:ident, $around:ident) => {
        forward_every_verb! { $wrapper $around
            load(id: &crate::SessionId) -> crate::Load = Load;
            create(id: &crate::SessionId, record: &crate::Record, limit: Option<crate::SessionLimit>) -> crate::Create = Create;
            update(id: &crate::SessionId, expected: crate::Revision, record: &crate::Record) -> crate::Update = Update;
            touch(id: &crate::SessionId, last_seen: std::time::SystemTime, idle_deadline: std::time::SystemTime) -> crate::Touch = Touch;
            renew(renewal: crate::Renewal<'_>) -> crate::Renew = Renew;
            delete(id: &crate::SessionId, reason: crate::EndReason) -> bool = Delete;
            list(principal: &crate::Principal, page: crate::Page) -> crate::Listing = List;
            revoke(principal: &crate::Principal, handle: crate::Handle) -> bool = Revoke;
            revoke_all(principal: &crate::Principal, except: Option<crate::Handle>) -> u64 = RevokeAll;
            sweep(limit: u32) -> crate::Swept = Sweep;
            scan(after: Option<crate::SessionId>, limit: u32) -> Vec<(crate::SessionId, crate::Stored)> = Scan;
            explain(handle: crate::Handle) -> Option<crate::Ended> = Explain;
            probe() -> crate::Probe = Probe;
        }
    };
    ($wrapper:ident $around:ident $($method:ident($($name:ident: $type:ty),*) -> $answer:ty = $verb:ident;)*) => {
        #[async_trait::async_trait]
        impl crate::store::SessionStore for $wrapper {
            $(
                async fn $method(&self $(, $name: $type)*) -> Result<$answer, crate::StoreError> {
                    self.$around(crate::Verb::$verb, self.inner.$method($($name),*)).await
                }
            )*

            fn signals(&self) -> Option<crate::Signals> {
                self.inner.signals()
            }
        }
    };
}
pub(crate) use forward_every_verb;
