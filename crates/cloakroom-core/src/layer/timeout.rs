use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::{Layer, forward_every_verb};
use crate::error::{StoreError, StoreErrorKind};
use crate::store::{SessionStore, Verb};

/// Bounds each call to the store. A call that takes longer is dropped and is an error of kind
/// [`Timeout`](StoreErrorKind::Timeout); of a write, nobody knows then whether it happened. An answer that is there when
/// the time is up counts, however late the process got to look.
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
        let mut call = pin!(call);
        if let Ok(answer) = tokio::time::timeout(self.limit, call.as_mut()).await {
            return answer;
        }
        // A machine that stood still lets the time run out before whoever has the answer gets to hand it over: theirs is
        // the next turn.
        tokio::task::yield_now().await;
        match tokio::time::timeout(Duration::ZERO, call).await {
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

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::sync::oneshot;

    use super::*;
    use crate::memory::MemoryStore;

    const LIMIT: Duration = Duration::from_secs(1);

    async fn bounded(call: impl Future<Output = Result<u8, StoreError>>) -> Result<u8, StoreError> {
        Timeout { inner: Arc::new(MemoryStore::new()), limit: LIMIT }.bounded(Verb::Load, call).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_there_when_the_time_is_up_counts() {
        let (sender, answer) = oneshot::channel();
        let begun = tokio::time::Instant::now();
        // Has its turn after the call, which is woken by the same movement of the clock.
        tokio::spawn(async move {
            tokio::time::sleep_until(begun + LIMIT).await; // tidy: sleep — the clock stands, and is moved by this
            sender.send(Ok(7)).unwrap();
        });
        assert_eq!(bounded(async { answer.await.unwrap() }).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends_when_the_time_is_up() {
        let begun = tokio::time::Instant::now();
        let error = bounded(pending()).await.unwrap_err();
        assert_eq!((error.kind(), error.verb()), (StoreErrorKind::Timeout, Verb::Load));
        assert!(begun.elapsed() < LIMIT + Duration::from_millis(10), "{:?}", begun.elapsed());
    }
}
