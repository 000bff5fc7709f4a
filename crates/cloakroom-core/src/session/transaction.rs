//! The view of a session that a transaction reads and changes.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::changes::{Change, Changes};
use super::keys::{SessionKey, check_key, decode, encode};
use crate::clock::millis;
use crate::error::SessionError;

/// The session as it is at one moment, inside of [`Session::transaction`](crate::Session::transaction).
pub struct Transaction<'a> {
    changes: &'a mut Changes,
    now: u64,
}

impl<'a> Transaction<'a> {
    pub(super) const fn new(changes: &'a mut Changes, now: u64) -> Self {
        Self { changes, now }
    }

    /// The value of this key.
    ///
    /// # Errors
    /// As [`Session::get`](crate::Session::get).
    pub fn get<T: DeserializeOwned>(&self, key: impl SessionKey<T>) -> Result<Option<T>, SessionError> {
        check_key(key.name())?;
        let encoded = self.changes.get(key.name(), self.now);
        encoded.map(|encoded| decode(key.name(), encoded)).transpose()
    }

    /// Sets a value.
    ///
    /// # Errors
    /// As [`Session::set`](crate::Session::set).
    pub fn set<T: Serialize>(&mut self, key: impl SessionKey<T>, value: T) -> Result<(), SessionError> {
        let key = key.to_owned_name();
        check_key(&key)?;
        let encoded = encode(&key, &value)?.into();
        self.changes.push(Change::Set { key, encoded, expires: 0 }, self.now)
    }

    /// Sets a value that ends by itself.
    ///
    /// # Errors
    /// As [`Session::set`](crate::Session::set).
    pub fn set_for<T: Serialize>(
        &mut self,
        key: impl SessionKey<T>,
        value: T,
        time_to_live: Duration,
    ) -> Result<(), SessionError> {
        let key = key.to_owned_name();
        check_key(&key)?;
        let encoded = encode(&key, &value)?.into();
        let expires = self.now.saturating_add(millis(time_to_live)).max(1);
        self.changes.push(Change::Set { key, encoded, expires }, self.now)
    }

    /// Removes a value.
    ///
    /// # Errors
    /// As [`Session::remove`](crate::Session::remove).
    pub fn remove(&mut self, key: &str) -> Result<(), SessionError> {
        check_key(key)?;
        self.changes.push(Change::Remove { key: key.to_owned().into() }, self.now)
    }

    /// Removes a value and returns it.
    ///
    /// # Errors
    /// As [`Session::take`](crate::Session::take).
    pub fn take<T: DeserializeOwned>(&mut self, key: impl SessionKey<T>) -> Result<Option<T>, SessionError> {
        let name = key.to_owned_name();
        let value = self.get(key)?;
        if value.is_some() {
            self.remove(&name)?;
        }
        Ok(value)
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Transaction(..)")
    }
}
