//! Where the next batch of a sweep begins.

use std::sync::{Mutex, PoisonError};

/// The first time that a batch looks at, in the index of what ended and in that of what is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) ended: i64,
    pub(super) due: i64,
}

impl Place {
    pub(super) const START: Self = Self { ended: i64::MIN, due: i64::MIN };
}

/// Where this process's last batch ended. Only saves time: whoever sweeps to the end begins once more
/// at the start.
#[derive(Debug)]
pub(super) struct SweptTo(Mutex<Place>);

impl Default for SweptTo {
    fn default() -> Self {
        Self(Mutex::new(Place::START))
    }
}

impl SweptTo {
    pub(super) fn get(&self) -> Place {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, place: Place) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }
}
