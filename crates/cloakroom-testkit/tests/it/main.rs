//! The testkit's own tests: the suites pass on what is right and catch what is wrong.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here fails a test")]

mod defects;
mod epoch;
mod faulty;
mod memory;
mod naive;
mod seals;
