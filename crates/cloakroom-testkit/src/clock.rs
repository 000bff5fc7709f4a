//! A clock that stands still until a test moves it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use cloakroom_core::Clock;
use cloakroom_core::clock::{from_unix_millis, unix_millis};

/// Time as an argument of a test: it stands still until it is told to move.
///
/// Share it in an [`Arc`](std::sync::Arc) between the store, the manager and the test. It keeps
/// milliseconds, as records do.
///
/// ```
/// use std::time::Duration;
/// use cloakroom_core::Clock;
/// use cloakroom_testkit::ManualClock;
///
/// let clock = ManualClock::new();
/// let start = clock.now();
/// clock.advance(Duration::from_secs(60));
/// assert_eq!(clock.now(), start + Duration::from_secs(60));
/// ```
pub struct ManualClock {
    millis: AtomicU64,
}

impl ManualClock {
    /// 2027-01-15T08:00:00Z, where a new clock stands.
    const START: u64 = 1_800_000_000_000;

    /// A clock that stands at 2027-01-15T08:00:00Z.
    #[must_use]
    pub const fn new() -> Self {
        Self { millis: AtomicU64::new(Self::START) }
    }

    /// A clock that stands at this time.
    #[must_use]
    pub fn at(time: SystemTime) -> Self {
        Self { millis: AtomicU64::new(unix_millis(time)) }
    }

    /// Moves it forward; a part of a millisecond is dropped.
    pub fn advance(&self, by: Duration) {
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.millis.update(Ordering::SeqCst, Ordering::SeqCst, |now| now.saturating_add(by));
    }

    /// Puts it to this time, which may lie before the present one.
    pub fn set(&self, time: SystemTime) {
        self.millis.store(unix_millis(time), Ordering::SeqCst);
    }
}

impl Default for ManualClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        from_unix_millis(self.millis.load(Ordering::SeqCst))
    }
}

impl fmt::Debug for ManualClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ManualClock({} ms)", self.millis.load(Ordering::SeqCst))
    }
}
