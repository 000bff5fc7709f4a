//! How long sessions live, how large and how many they may be, and what happens in an outage.

use std::time::Duration;

use crate::store::SessionLimit;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;

/// The longest that any session, and any cookie, may live: 400 days, where browsers cap Max-Age
/// (RFC 6265bis).
pub const MAX_LIFETIME: Duration = Duration::from_secs(400 * DAY);

/// A named set of limits.
///
/// | profile | idle timeout | absolute timeout | `remember` at most | source |
/// |---|---|---|---|---|
/// | `standard` | 24 hours | 7 days | 30 days | ours |
/// | `aal1` | 30 days | 30 days | 30 days | NIST SP 800-63B-4, AAL1 |
/// | `aal2` | 1 hour | 24 hours | never | NIST SP 800-63B-4, AAL2 |
/// | `aal3` | 15 minutes | 12 hours | never | NIST SP 800-63B-4, AAL3 |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Profile {
    /// For most services.
    #[default]
    Standard,
    /// NIST assurance level 1.
    Aal1,
    /// NIST assurance level 2. No "remember me".
    Aal2,
    /// NIST assurance level 3. No "remember me".
    Aal3,
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Aal1, Self::Aal2, Self::Aal3];

    /// The name to configure it by.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Aal1 => "aal1",
            Self::Aal2 => "aal2",
            Self::Aal3 => "aal3",
        }
    }

    /// The profile of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.as_str() == name)
    }
}

/// The limits that sessions are held to, by stored or authenticated data, never by the client (I5).
///
/// ```
/// use std::time::Duration;
/// use cloakroom_core::{Policy, Profile};
///
/// let policy = Policy::new(Profile::Standard).with_idle(Duration::from_secs(30 * 60));
/// assert_eq!(policy.idle(), Duration::from_secs(30 * 60));
/// assert_eq!(policy.absolute(), Duration::from_secs(7 * 24 * 60 * 60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    idle: Duration,
    absolute: Duration,
    remember: Duration,
    touch_interval: Duration,
    max_record: usize,
    sessions: Option<SessionLimit>,
    outage: OutagePolicy,
}

/// What a request gets whose session nobody can check, because the store is out of reach.
///
/// The cookie stays as it is either way: an outage never signs anybody out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OutagePolicy {
    /// 503 with `Retry-After`.
    #[default]
    FailClosed,
    /// An anonymous view that refuses changes; the response carries `X-Session-Warning`.
    AnonymousReadOnly,
}

impl Policy {
    /// At most one touch per session in this time, unless told otherwise.
    pub const DEFAULT_TOUCH_INTERVAL: Duration = Duration::from_secs(MINUTE);
    /// The largest record in bytes, unless told otherwise.
    pub const DEFAULT_MAX_RECORD: usize = 256 * 1024;

    /// The limits of a profile.
    #[must_use]
    pub const fn new(profile: Profile) -> Self {
        let (idle, absolute, remember) = match profile {
            Profile::Standard => (DAY, 7 * DAY, 30 * DAY),
            Profile::Aal1 => (30 * DAY, 30 * DAY, 30 * DAY),
            Profile::Aal2 => (HOUR, DAY, 0),
            Profile::Aal3 => (15 * MINUTE, 12 * HOUR, 0),
        };
        Self {
            idle: Duration::from_secs(idle),
            absolute: Duration::from_secs(absolute),
            remember: Duration::from_secs(remember),
            touch_interval: Self::DEFAULT_TOUCH_INTERVAL,
            max_record: Self::DEFAULT_MAX_RECORD,
            sessions: None,
            outage: OutagePolicy::FailClosed,
        }
    }

    /// Another idle timeout: the longest inactivity.
    #[must_use]
    pub const fn with_idle(mut self, idle: Duration) -> Self {
        self.idle = idle;
        self
    }

    /// Another absolute timeout: the longest life, whatever happens.
    #[must_use]
    pub const fn with_absolute(mut self, absolute: Duration) -> Self {
        self.absolute = absolute;
        self
    }

    /// The longest that [`Session::persist`](crate::Session::persist) may ask for; zero forbids it.
    #[must_use]
    pub const fn with_remember(mut self, remember: Duration) -> Self {
        self.remember = remember;
        self
    }

    /// Another touch interval: how far behind the last activity the record may be.
    #[must_use]
    pub const fn with_touch_interval(mut self, interval: Duration) -> Self {
        self.touch_interval = interval;
        self
    }

    /// Another limit for the encoded record, in bytes.
    #[must_use]
    pub const fn with_max_record(mut self, bytes: usize) -> Self {
        self.max_record = bytes;
        self
    }

    /// How many sessions one principal may have. Default: any number.
    #[must_use]
    pub const fn with_session_limit(mut self, limit: SessionLimit) -> Self {
        self.sessions = Some(limit);
        self
    }

    /// What requests get while the store is out of reach. Default: [`OutagePolicy::FailClosed`].
    #[must_use]
    pub const fn with_outage(mut self, outage: OutagePolicy) -> Self {
        self.outage = outage;
        self
    }

    /// The longest inactivity.
    #[must_use]
    pub const fn idle(&self) -> Duration {
        self.idle
    }

    /// The longest life.
    #[must_use]
    pub const fn absolute(&self) -> Duration {
        self.absolute
    }

    /// The longest life of a remembered session; zero where nobody is remembered.
    #[must_use]
    pub const fn remember(&self) -> Duration {
        self.remember
    }

    /// How far behind the last activity the record may be.
    #[must_use]
    pub const fn touch_interval(&self) -> Duration {
        self.touch_interval
    }

    /// The largest encoded record in bytes.
    #[must_use]
    pub const fn max_record(&self) -> usize {
        self.max_record
    }

    /// How many sessions one principal may have.
    #[must_use]
    pub const fn session_limit(&self) -> Option<SessionLimit> {
        self.sessions
    }

    /// What requests get while the store is out of reach.
    #[must_use]
    pub const fn outage(&self) -> OutagePolicy {
        self.outage
    }

    /// Whether the limits make sense together. Called when a [`Manager`](crate::Manager) is built.
    ///
    /// # Errors
    /// The first rule that is broken, with what to write instead.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.idle < Duration::from_secs(1) {
            Err(PolicyError::IdleTooShort(self.idle))
        } else if self.idle > self.absolute {
            Err(PolicyError::IdleOverAbsolute { idle: self.idle, absolute: self.absolute })
        } else if self.absolute > MAX_LIFETIME {
            Err(PolicyError::AbsoluteTooLong(self.absolute))
        } else if self.remember > MAX_LIFETIME {
            Err(PolicyError::RememberTooLong(self.remember))
        } else if self.touch_interval >= self.idle {
            Err(PolicyError::TouchOverIdle { interval: self.touch_interval, idle: self.idle })
        } else if !(1024..=16 * 1024 * 1024).contains(&self.max_record) {
            Err(PolicyError::MaxRecord(self.max_record))
        } else {
            Ok(())
        }
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self::new(Profile::Standard)
    }
}

/// Limits that contradict each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Nobody could click that fast.
    #[error("an idle timeout of {0:?} ends sessions between two clicks; use at least 1 s")]
    IdleTooShort(Duration),
    /// The absolute timeout would always come first.
    #[error(
        "the idle timeout ({idle:?}) is longer than the absolute timeout ({absolute:?}), so it would never matter; make it at most {absolute:?}"
    )]
    IdleOverAbsolute {
        /// As configured.
        idle: Duration,
        /// As configured.
        absolute: Duration,
    },
    /// Over 400 days.
    #[error(
        "an absolute timeout of {0:?} is over the 400 days (34560000 s) that browsers keep a cookie; make it at most that"
    )]
    AbsoluteTooLong(Duration),
    /// Over 400 days.
    #[error(
        "a Max-Age of {0:?} is over the 400 days (34560000 s) that browsers allow (RFC 6265bis); make it at most that"
    )]
    RememberTooLong(Duration),
    /// Sessions would end in the middle of use.
    #[error(
        "the touch interval ({interval:?}) is not below the idle timeout ({idle:?}), so sessions in use would end; make it a tenth of the idle timeout or less"
    )]
    TouchOverIdle {
        /// As configured.
        interval: Duration,
        /// As configured.
        idle: Duration,
    },
    /// Outside 1 KiB to 16 MiB.
    #[error("a record limit of {0} bytes is outside 1 KiB to 16 MiB")]
    MaxRecord(usize),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_words(time: Duration) -> String {
        match time.as_secs() {
            0 => "never".to_owned(),
            HOUR => "1 hour".to_owned(),
            seconds if seconds < HOUR => format!("{} minutes", seconds / MINUTE),
            seconds if seconds <= DAY => format!("{} hours", seconds / HOUR),
            seconds => format!("{} days", seconds / DAY),
        }
    }

    #[test]
    fn the_documented_limits_of_the_profiles_are_those_in_force() {
        let rustdoc = include_str!("policy.rs");
        let operations = include_str!("../../../docs/OPERATIONS.md");
        for profile in Profile::ALL {
            let policy = Policy::new(profile);
            let [idle, absolute, remember] = [policy.idle(), policy.absolute(), policy.remember()].map(in_words);
            let row = format!("| `{}` | {idle} | {absolute} | {remember} |", profile.as_str());
            assert!(rustdoc.lines().any(|line| line.starts_with(&format!("/// {row}"))), "rustdoc lacks {row}");
            assert!(operations.lines().any(|line| line == row), "docs/OPERATIONS.md lacks {row}");
        }
    }
}
