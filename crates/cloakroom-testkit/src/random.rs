//! Randomness that a test can foresee. Never for production: everybody can foresee it.

use std::sync::{Mutex, PoisonError};

use cloakroom_core::{Random, RandomError};

/// The same bytes for the same seed, in every run and on every machine.
///
/// ```
/// use cloakroom_core::Random;
/// use cloakroom_testkit::SeededRandom;
///
/// let (mut first, mut second) = ([0; 32], [0; 32]);
/// SeededRandom::new(7).fill(&mut first).unwrap();
/// SeededRandom::new(7).fill(&mut second).unwrap();
/// assert_eq!(first, second);
/// ```
#[derive(Debug)]
pub struct SeededRandom {
    seed: u64,
    /// The call that is answered like an earlier one.
    repeat: Option<Repeat>,
    calls: Mutex<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Repeat {
    call: u64,
    earlier: u64,
}

impl SeededRandom {
    /// A generator of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { seed, repeat: None, calls: Mutex::new(0) }
    }

    /// Answers one call, counted from 0, with the bytes of an earlier one: a generator that
    /// collides once, for tests of what happens when an id is already taken.
    #[must_use]
    pub const fn repeating(mut self, call: u64, earlier: u64) -> Self {
        self.repeat = Some(Repeat { call, earlier });
        self
    }

    /// How often it was asked.
    #[must_use]
    pub fn calls(&self) -> u64 {
        *self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Random for SeededRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        let call = match self.repeat {
            Some(repeat) if repeat.call == *calls => repeat.earlier,
            Some(_) | None => *calls,
        };
        *calls += 1;
        expand(self.seed ^ mix(call), buffer);
        Ok(())
    }
}

/// A generator that fails, always or from some call on, or is stuck.
///
/// ```
/// use cloakroom_core::{Random, RandomError};
/// use cloakroom_testkit::FailingRandom;
///
/// assert_eq!(FailingRandom::after(0).fill(&mut [0; 32]), Err(RandomError::Unavailable));
/// ```
#[derive(Debug)]
pub struct FailingRandom {
    good: SeededRandom,
    from: u64,
    how: Failure,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Reported,
    Stuck,
}

impl FailingRandom {
    /// Delivers for so many calls, and from then on reports that it cannot.
    #[must_use]
    pub const fn after(calls: u64) -> Self {
        Self { good: SeededRandom::new(0), from: calls, how: Failure::Reported }
    }

    /// Claims to deliver, but every call gives the same bytes: a generator that is broken and does not know.
    #[must_use]
    pub const fn stuck() -> Self {
        Self { good: SeededRandom::new(0), from: 0, how: Failure::Stuck }
    }
}

impl Random for FailingRandom {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        match self.how {
            Failure::Reported if self.good.calls() >= self.from => Err(RandomError::Unavailable),
            Failure::Reported => self.good.fill(buffer),
            Failure::Stuck => {
                expand(0, buffer);
                Ok(())
            }
        }
    }
}

/// Fills the buffer from one number.
pub(crate) fn expand(seed: u64, buffer: &mut [u8]) {
    for (place, chunk) in (0u64..).zip(buffer.chunks_mut(8)) {
        let word = mix(seed.wrapping_add(mix(place))).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// SplitMix64: a bijection whose outputs look random.
pub(crate) const fn mix(number: u64) -> u64 {
    let word = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(random: &dyn Random) -> Result<[u8; 42], RandomError> {
        let mut bytes = [0; 42];
        random.fill(&mut bytes).map(|()| bytes)
    }

    #[test]
    fn successive_outputs_differ_except_the_one_that_repeats() {
        let random = SeededRandom::new(1).repeating(3, 1);
        let outputs: Vec<_> = (0..6).map(|_| next(&random).unwrap()).collect();
        for (second, output) in outputs.iter().enumerate() {
            for (first, earlier) in outputs[..second].iter().enumerate() {
                assert_eq!(output == earlier, (first, second) == (1, 3), "{first} {second}");
            }
        }
        assert_eq!(random.calls(), 6);
    }

    #[test]
    fn a_failing_generator_delivers_as_often_as_told_and_then_never_again() {
        let random = FailingRandom::after(2);
        assert_ne!(next(&random).unwrap(), next(&random).unwrap());
        assert_eq!(next(&random), Err(RandomError::Unavailable));
        assert_eq!(next(&random), Err(RandomError::Unavailable));
        let stuck = FailingRandom::stuck();
        assert_eq!(next(&stuck), next(&stuck));
    }
}
