//! Removing what is over, in the background.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::error::StoreError;
use crate::events::{Event, EventSink, TracingSink};
use crate::store::SessionStore;
use crate::token::{OsRandom, Random};

/// Sweeps a store at an interval for as long as this exists, whatever the store does.
///
/// * Works in batches of [`BATCH`](Self::BATCH) until nothing is left, and rests
///   [`REST`](Self::REST) times as long as each took, at most [`LONGEST_REST`](Self::LONGEST_REST): live traffic
///   goes first, however slow the store.
/// * A failure is an event and no end: the next attempt comes after a pause that doubles with each
///   failure, from a second to five minutes, and is up to half as long again by chance, lest all
///   processes come back to a store at the same moment. The first batch that succeeds begins anew.
/// * Any number of processes may sweep one store.
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
    /// The most records of one batch. What meets a batch may wait for the whole of it, so it is small.
    pub const BATCH: u32 = 25;
    /// How many times as long as a batch took the sweeper rests before the next.
    pub const REST: u32 = 3;
    /// The longest rest: also a machine that slept through a batch goes on soon.
    pub const LONGEST_REST: Duration = Duration::from_secs(30);
    /// The pause after the first failure, before chance lengthens it.
    pub const SHORTEST_PAUSE: Duration = Duration::from_secs(1);
    /// The longest pause after failures, before chance lengthens it.
    pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

    /// Sweeps now, and then at this interval, which is brought to at least a millisecond. Reports to
    /// [`TracingSink`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(store: Arc<dyn SessionStore>, interval: Duration) -> Self {
        Self::start_reporting(store, interval, Arc::new(TracingSink))
    }

    /// The same, reporting each sweep and each failure to this sink.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start_reporting(store: Arc<dyn SessionStore>, interval: Duration, events: Arc<dyn EventSink>) -> Self {
        Self(tokio::spawn(run(store, interval.max(Duration::from_millis(1)), events)))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // Any call of a store may be dropped: it is done whole or not at all.
        self.0.abort();
    }
}

async fn run(store: Arc<dyn SessionStore>, interval: Duration, events: Arc<dyn EventSink>) {
    let random = OsRandom::default();
    let mut failures = 0;
    loop {
        let mut removed = 0;
        let swept = sweep(&*store, &mut removed, &mut failures).await;
        if swept.is_ok() || removed > 0 {
            events.emit(&Event::Swept { removed });
        }
        let pause = match swept {
            Ok(()) => interval,
            Err(error) => {
                let pause = jittered(pause(failures), &random);
                failures += 1;
                events.emit(&Event::SweepFailed { error: &error, failures, pause });
                pause
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// To the end, or the first batch that fails.
async fn sweep(store: &dyn SessionStore, removed: &mut u64, failures: &mut u32) -> Result<(), StoreError> {
    loop {
        let begun = Instant::now();
        let swept = store.sweep(Sweeper::BATCH).await?;
        *failures = 0;
        *removed = removed.saturating_add(swept.removed);
        if !swept.more {
            return Ok(());
        }
        // A store in memory takes no time by some clocks.
        tokio::task::yield_now().await;
        tokio::time::sleep((Sweeper::REST * begun.elapsed()).min(Sweeper::LONGEST_REST)).await;
    }
}

/// Doubles with each failure, up to the longest.
fn pause(failures: u32) -> Duration {
    Sweeper::SHORTEST_PAUSE.saturating_mul(2u32.saturating_pow(failures.min(16))).min(Sweeper::LONGEST_PAUSE)
}

/// Up to half as long again. Without randomness just as long: nothing secret hangs on it.
fn jittered(pause: Duration, random: &dyn Random) -> Duration {
    let mut byte = [0];
    let share = random.fill(&mut byte).map_or(0, |()| u32::from(byte[0]));
    pause + pause / 2 * share / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fmt;
    use std::sync::Mutex;

    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::clock::from_unix_millis;
    use crate::error::StoreErrorKind;
    use crate::id::{Handle, SessionId};
    use crate::layer::forward_every_verb;
    use crate::memory::MemoryStore;
    use crate::record::Record;
    use crate::store::Verb;
    use crate::token::RandomError;

    #[test]
    fn pauses_double_and_are_bounded() {
        let pauses: Vec<_> = (0..11).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(pause(u32::MAX), Sweeper::LONGEST_PAUSE);
    }

    #[derive(Debug)]
    struct Fixed(u8);

    impl Random for Fixed {
        fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
            buffer.fill(self.0);
            Ok(())
        }
    }

    #[test]
    fn chance_lengthens_a_pause_by_half_at_most() {
        let lengthened = [0, 51, 255].map(|byte| jittered(Duration::from_secs(10), &Fixed(byte)).as_millis());
        assert_eq!(lengthened, [10_000, 11_000, 15_000]);
    }

    /// A store whose next sweeps fail where it is told so.
    #[derive(Debug)]
    struct Failing {
        inner: MemoryStore,
        fails: Mutex<VecDeque<bool>>,
    }

    impl fmt::Display for Failing {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("failing")
        }
    }

    impl Failing {
        fn new(fails: impl IntoIterator<Item = bool>) -> Arc<Self> {
            Arc::new(Self { inner: MemoryStore::new(), fails: Mutex::new(fails.into_iter().collect()) })
        }

        async fn pass<T>(
            &self,
            verb: Verb,
            call: impl Future<Output = Result<T, StoreError>>,
        ) -> Result<T, StoreError> {
            if verb == Verb::Sweep && self.fails.lock().unwrap().pop_front() == Some(true) {
                return Err(StoreError::new(StoreErrorKind::Unavailable, verb, "it is out"));
            }
            call.await
        }
    }

    forward_every_verb!(Failing, pass);

    /// What a sweeper reported, and when.
    #[derive(Debug, PartialEq, Eq)]
    enum Report {
        Swept(u64),
        Failed(u32, Duration),
    }

    #[derive(Debug)]
    struct Reports(mpsc::UnboundedSender<(Instant, Report)>);

    impl EventSink for Reports {
        fn emit(&self, event: &Event<'_>) {
            #[expect(clippy::wildcard_enum_match_arm, reason = "a sweeper reports sweeps")]
            let report = match *event {
                Event::Swept { removed } => Report::Swept(removed),
                Event::SweepFailed { failures, pause, .. } => Report::Failed(failures, pause),
                _ => return,
            };
            drop(self.0.send((Instant::now(), report)));
        }
    }

    type Reported = mpsc::UnboundedReceiver<(Instant, Report)>;

    fn start(store: Arc<dyn SessionStore>, interval: u64) -> (Sweeper, Reported) {
        let (sender, reported) = mpsc::unbounded_channel();
        (Sweeper::start_reporting(store, Duration::from_secs(interval), Arc::new(Reports(sender))), reported)
    }

    #[tokio::test(start_paused = true)]
    async fn full_batches_are_followed_at_once_and_let_others_go_first() {
        let store = Arc::new(MemoryStore::new());
        let (long_ago, handle) = (from_unix_millis(1), Handle::from_bytes([0; Handle::LEN]));
        let record = Record::new(handle, long_ago, Duration::from_secs(1), Duration::from_secs(1));
        for number in 0..2500_u32 {
            let mut id = [0; SessionId::LEN];
            id[..4].copy_from_slice(&number.to_be_bytes());
            id[SessionId::LEN - 4..].copy_from_slice(&number.to_be_bytes());
            store.create(&SessionId::from_bytes(id), &record, None).await.unwrap();
        }
        let begun = Instant::now();
        let (sweeper, mut reported) = start(store.clone(), 60);
        // This task runs before the first batch and between any two.
        let mut turns = 0;
        let report = loop {
            match reported.try_recv() {
                Ok(report) => break report,
                Err(_) => tokio::task::yield_now().await,
            }
            turns += 1;
        };
        // Each expired record leaves a tombstone as old as itself, which the same sweep may take.
        assert!(matches!(report, (at, Report::Swept(2500..)) if at == begun), "{report:?}");
        assert!(turns >= 3, "{turns}");
        let (at, report) = reported.recv().await.unwrap();
        assert!(at.duration_since(begun) >= Duration::from_secs(60), "{report:?}");
        drop(sweeper);
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_outlived_with_longer_and_longer_pauses() {
        let failing = Failing::new([true, true, true, true, false, true]);
        let (_sweeper, mut reported) = start(failing, 60);
        let mut before: Option<(Instant, Duration)> = None;
        for (failures, shortest) in [(1, 1), (2, 2), (3, 4), (4, 8)] {
            let (at, report) = reported.recv().await.unwrap();
            let Report::Failed(counted, pause) = report else { panic!("{report:?}") };
            assert_eq!(counted, failures);
            let bounds = Duration::from_secs(shortest)..=Duration::from_millis(shortest * 1500);
            assert!(bounds.contains(&pause), "{pause:?} after {failures} failures");
            if let Some((last, pause)) = before {
                let waited = at.duration_since(last);
                assert!(waited >= pause && waited < pause + Duration::from_millis(5), "{waited:?}, not {pause:?}");
            }
            before = Some((at, pause));
        }
        // A success starts anew: the interval, and then the shortest pause again.
        let (swept, report) = reported.recv().await.unwrap();
        assert_eq!(report, Report::Swept(0));
        let (failed, report) = reported.recv().await.unwrap();
        assert!(failed.duration_since(swept) >= Duration::from_secs(60));
        assert!(matches!(report, Report::Failed(1, pause) if pause < Duration::from_secs(2)), "{report:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_never_recovers_is_asked_every_few_minutes_for_good() {
        let (_sweeper, mut reported) = start(Failing::new([true; 50]), 1);
        let mut last = Duration::ZERO;
        for _ in 0..50 {
            let (_, report) = reported.recv().await.unwrap();
            let Report::Failed(_, pause) = report else { panic!("{report:?}") };
            assert!(pause <= Sweeper::LONGEST_PAUSE * 3 / 2);
            last = pause;
        }
        assert!(last >= Sweeper::LONGEST_PAUSE);
        assert_eq!(reported.recv().await.unwrap().1, Report::Swept(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_sweeper_sweeps_no_more() {
        let (sweeper, mut reported) = start(Arc::new(MemoryStore::new()), 1);
        assert!(reported.recv().await.is_some());
        drop(sweeper);
        // The channel closes when the task is gone.
        while reported.recv().await.is_some() {}
    }
}
