use std::fmt;

/// The configuration is refused: every setting that is, at once, with where it was set, why it
/// cannot be, and what to write instead.
///
/// The text is for whoever operates the service. It holds no key and no password. `Debug` prints the
/// same as `Display`, so that a `main` which returns the error shows it readably.
pub struct ConfigError {
    /// Never empty.
    problems: Vec<Problem>,
}

/// One setting that is refused.
#[derive(Clone)]
pub(crate) struct Problem {
    pub(crate) setting: String,
    pub(crate) origin: String,
    pub(crate) why: String,
    pub(crate) instead: String,
}

impl ConfigError {
    /// `Ok` where there are no problems.
    pub(crate) fn check(problems: &[Problem]) -> Result<(), Self> {
        if problems.is_empty() { Ok(()) } else { Err(Self { problems: problems.to_vec() }) }
    }

    /// The names of the refused settings.
    pub fn settings(&self) -> impl Iterator<Item = &str> {
        self.problems.iter().map(|problem| problem.setting.as_str())
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("cloakroom cannot start: one setting is refused")?,
            many => write!(f, "cloakroom cannot start: {many} settings are refused")?,
        }
        for Problem { setting, origin, why, instead } in &self.problems {
            write!(f, "\n\n  {setting} ({origin})\n    why:     {why}\n    instead: {instead}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

/// Why a value is refused and what to write instead.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) why: String,
    pub(crate) instead: String,
}

impl Refusal {
    pub(crate) fn new(why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { why: why.into(), instead: instead.into() }
    }

    /// Takes apart an error of the library, whose form is “why; what to do instead”.
    pub(crate) fn of(error: &impl fmt::Display) -> Self {
        let text = error.to_string();
        match text.rsplit_once("; ") {
            Some((why, instead)) => Self::new(why, instead),
            None => Self::new(text, "write a value within the limits"),
        }
    }

    pub(crate) fn at(self, setting: impl Into<String>, origin: impl Into<String>) -> Problem {
        Problem { setting: setting.into(), origin: origin.into(), why: self.why, instead: self.instead }
    }
}

/// A value for a message, unless it may be a key or a URL with a password in the wrong place.
pub(super) fn quoted(text: &str) -> String {
    if text.len() > 32 || text.contains("://") || text.contains('@') {
        "the value".to_owned()
    } else {
        format!("{text:?}")
    }
}
