//! Time is an argument: everything that decides takes it from a [`Clock`].

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{SessionError, SessionErrorKind};

/// Where the engine and the embedded stores take the time from.
///
/// Production uses [`SystemClock`]; tests use the testkit's `ManualClock`, so that no test waits.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The time now.
    fn now(&self) -> SystemTime;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for the time")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// A clock before this moment (2026-01-01) is broken: a machine without battery starts in 1970, and
/// by such a clock nothing would ever be expired. The engine fails closed (I6).
const EARLIEST_PLAUSIBLE: u64 = 1_767_225_600_000;

/// The clock's time in milliseconds, or an error when it cannot be right.
pub(crate) fn plausible(clock: &dyn Clock) -> Result<u64, SessionError> {
    let now = unix_millis(clock.now());
    if now < EARLIEST_PLAUSIBLE {
        let message = "the clock is before 2026, so no timeout can be enforced; set the machine's time";
        return Err(SessionError::new(SessionErrorKind::System, message));
    }
    Ok(now)
}

/// Milliseconds since 1970, the form in which records and stores keep time.
///
/// A time before 1970 gives 0; a time beyond the year 584,000,000 saturates.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use cloakroom_core::clock::{from_unix_millis, unix_millis};
///
/// let time = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
/// assert_eq!(unix_millis(time), 1_800_000_000_123);
/// assert_eq!(from_unix_millis(1_800_000_000_123), time);
/// ```
#[must_use]
pub fn unix_millis(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, millis)
}

/// The time that [`unix_millis`] came from. A value no `SystemTime` can hold saturates at the year 9999.
#[must_use]
pub fn from_unix_millis(millis: u64) -> SystemTime {
    /// 9999-12-31T23:59:59.999Z
    const LATEST: u64 = 253_402_300_799_999;
    UNIX_EPOCH + Duration::from_millis(millis.min(LATEST))
}

/// A duration in whole milliseconds, saturating.
#[must_use]
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
