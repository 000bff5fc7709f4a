//! What values are called, and their form.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{SessionError, SessionErrorKind};

/// A key with the type of its value, declared once.
///
/// ```
/// use cloakroom_core::Key;
///
/// const VISITS: Key<u64> = Key::new("visits");
/// ```
pub struct Key<T> {
    name: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A key of 1 to 64 bytes that does not begin with `cloakroom.`; others are refused when used.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, value: PhantomData }
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.name)
    }
}

/// What names a value of type `T`: a [`Key<T>`], or text, which leaves the type to the call.
pub trait SessionKey<T> {
    /// The name.
    fn name(&self) -> &str;
    /// The name, to be kept.
    fn to_owned_name(&self) -> Cow<'static, str>;
}

impl<T> SessionKey<T> for Key<T> {
    fn name(&self) -> &str {
        self.name
    }

    fn to_owned_name(&self) -> Cow<'static, str> {
        Cow::Borrowed(self.name)
    }
}

impl<T> SessionKey<T> for &str {
    fn name(&self) -> &str {
        self
    }

    fn to_owned_name(&self) -> Cow<'static, str> {
        Cow::Owned((*self).to_owned())
    }
}

/// Keys that begin so are the library's.
pub(super) const RESERVED: &str = "cloakroom.";
const MAX_KEY: usize = 64;

pub(super) fn check_key(key: &str) -> Result<(), SessionError> {
    let message = if key.is_empty() {
        "a session key must not be empty".to_owned()
    } else if key.len() > MAX_KEY {
        format!(
            "the session key `{}…` has {} bytes and may have {MAX_KEY}",
            key.chars().take(16).collect::<String>(),
            key.len()
        )
    } else if key.starts_with(RESERVED) {
        format!("the session key `{key}` begins with `{RESERVED}`, which is the library's own")
    } else {
        return Ok(());
    };
    Err(SessionError::new(SessionErrorKind::InvalidKey, message))
}

pub(super) fn encode<T: Serialize>(key: &str, value: &T) -> Result<Vec<u8>, SessionError> {
    serde_json::to_vec(value).map_err(|error| {
        let message = format!("the value of `{key}` ({}) has no JSON form", std::any::type_name::<T>());
        SessionError::new(SessionErrorKind::Unencodable, message).with_source(error)
    })
}

pub(super) fn decode<T: DeserializeOwned>(key: &str, encoded: &[u8]) -> Result<T, SessionError> {
    // serde_json's own message may quote the value, so only its place is told.
    serde_json::from_slice(encoded).map_err(|error| {
        let (name, column) = (std::any::type_name::<T>(), error.column());
        let message = format!("the value of `{key}` is not a {name} (byte {column}); it is kept as it is");
        SessionError::new(SessionErrorKind::WrongType, message)
    })
}
