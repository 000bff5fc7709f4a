//! Removing what is over, in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::error::StoreError;
use crate::store::SessionStore;

/// Sweeps a store at an interval for as long as this exists.
///
/// Removes in batches of 1000 until one comes back short, so that it never holds up live traffic for
/// long, and takes a failing store as it comes: it says so once in a `tracing` event per failure,
/// waits longer each time, and goes on. Any number of processes may sweep one store.
///
/// ```
/// use std::sync::Arc;
/// use std::time::Duration;
/// use cloakroom_core::{MemoryStore, Sweeper};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = Arc::new(MemoryStore::new());
/// let sweeper = Sweeper::start(store, Duration::from_secs(60));
/// drop(sweeper); // sweeps no more
/// # }
/// ```
#[derive(Debug)]
#[must_use = "sweeping ends when this is dropped"]
pub struct Sweeper(JoinHandle<()>);

impl Sweeper {
    /// The most rows of one batch.
    pub const BATCH: u32 = 1000;
    /// The longest pause after failures, unless the interval is longer.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

    /// Sweeps now, and then at this interval, which is brought to at least a millisecond.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(store: Arc<dyn SessionStore>, interval: Duration) -> Self {
        Self(tokio::spawn(run(store, interval.max(Duration::from_millis(1)))))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // Any call of a store may be dropped: it is done whole or not at all.
        self.0.abort();
    }
}

async fn run(store: Arc<dyn SessionStore>, interval: Duration) {
    let mut failures = 0;
    loop {
        match sweep(&*store).await {
            Ok(gone) => {
                failures = 0;
                tracing::debug!(%store, gone, "swept");
                tokio::time::sleep(interval).await;
            }
            Err(error) => {
                let pause = pause(interval, failures);
                failures += 1;
                complain(&*store, &error, failures, pause);
                tokio::time::sleep(pause).await;
            }
        }
    }
}

fn complain(store: &dyn SessionStore, error: &StoreError, failures: u32, pause: Duration) {
    let source = std::error::Error::source(error).map(tracing::field::display);
    tracing::warn!(%store, %error, source, failures, "the sweep failed; next attempt in {pause:?}");
}

async fn sweep(store: &dyn SessionStore) -> Result<u64, StoreError> {
    let mut gone = 0;
    loop {
        let batch = store.sweep(Sweeper::BATCH).await?;
        gone += batch;
        if batch < u64::from(Sweeper::BATCH) {
            return Ok(gone);
        }
        // Live traffic first.
        tokio::task::yield_now().await;
    }
}

/// Doubles from the interval on.
fn pause(interval: Duration, failures: u32) -> Duration {
    interval.saturating_mul(2u32.saturating_pow(failures.min(16))).min(Sweeper::LONGEST_PAUSE.max(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let pauses: Vec<_> = (0..6).map(|failures| pause(Duration::from_secs(60), failures).as_secs()).collect();
        assert_eq!(pauses, [60, 120, 240, 300, 300, 300]);
        assert_eq!(pause(Duration::from_secs(3600), u32::MAX), Duration::from_secs(3600));
    }
}
