//! The one error: a text for the person who runs the tests.

use std::fmt;

/// Why a server could not be started, reached or stopped, with the end of its log.
///
/// `Debug` prints the text as it is, so that `unwrap` in a test shows a log that can be read.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(String);

/// A result with the one [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether somebody else took the port between choosing and binding it.
    pub(crate) fn is_port_taken(&self) -> bool {
        self.0.contains("ddress already in use")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Puts what was tried in front of the system's own words.
pub(crate) trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for std::io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error(format!("{}: {error}", what())))
    }
}
