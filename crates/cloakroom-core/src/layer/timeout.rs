use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Layer, forward_every_verb};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{SessionStore, Verb};

/// Bounds each call to the store. A call that takes longer is dropped and is an error of kind
/// [`Timeout`](StoreErrorKind::Timeout); of a write, nobody knows then whether it happened.
///
/// Needs a tokio runtime with time enabled.
#[derive(Clone, Copy, Debug)]
pub struct TimeoutLayer {
    limit: Duration,
}

impl TimeoutLayer {
    /// The limit where the facade puts this layer around a store unless told otherwise.
    pub const DEFAULT_LIMIT: Duration = Duration::from_secs(2);

    /// At most this long for one call.
    #[must_use]
    pub const fn new(limit: Duration) -> Self {
        Self { limit }
    }
}

impl Layer for TimeoutLayer {
    fn wrap(self, inner: Arc<dyn SessionStore>) -> Arc<dyn SessionStore> {
        Arc::new(Timeout { inner, limit: self.limit })
    }
}

#[derive(Debug)]
struct Timeout {
    inner: Arc<dyn SessionStore>,
    limit: Duration,
}

impl Timeout {
    async fn bounded<T>(&self, verb: Verb, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.limit, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("{} gave no answer within {:?}", self.inner, self.limit);
                Err(StoreError::new(StoreErrorKind::Timeout, verb, message))
            }
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "timeout({:?}, {})", self.limit, self.inner)
    }
}

forward_every_verb!(Timeout, bounded);
