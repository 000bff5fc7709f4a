//! The names of a session: what the store sees, what people see, and whose it is.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::error::InvalidPrincipal;
use crate::token::{Random, RandomError};

/// What a store files a session under: a keyed hash of the token, safe to log.
///
/// Nobody can compute an id without the key ring, and no id leads back to a token, so a copied
/// database yields no usable token and a written one cannot plant a session. Two parts: a
/// four-byte shard, equal for all sessions of one principal so that a clustered store can keep them
/// together, and 22 bytes of HMAC-SHA-256 output.
///
/// Compare ids as bytes. `Debug` and `Display` show eight hexadecimal digits of the hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId([u8; SessionId::LEN]);

impl SessionId {
    /// The length of an id in bytes.
    pub const LEN: usize = Self::SHARD_LEN + 22;
    /// How many of its first bytes are the shard.
    pub const SHARD_LEN: usize = 4;

    /// The id a store kept. For stores and tools that read ids back; nothing turns an id into a token.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes to file the session under.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The part that all sessions of one principal share.
    #[must_use]
    pub fn shard(&self) -> &[u8] {
        &self.0[..Self::SHARD_LEN]
    }

    /// What a record carries of the id that it is filed under.
    pub(crate) fn stamp(&self) -> [u8; 8] {
        let mut stamp = [0; 8];
        stamp.copy_from_slice(&self.0[Self::SHARD_LEN..Self::SHARD_LEN + 8]);
        stamp
    }

    pub(crate) fn from_parts(shard: [u8; Self::SHARD_LEN], hash: &[u8]) -> Self {
        let mut id = [0; Self::LEN];
        id[..Self::SHARD_LEN].copy_from_slice(&shard);
        id[Self::SHARD_LEN..].copy_from_slice(&hash[..Self::LEN - Self::SHARD_LEN]);
        Self(id)
    }

    /// An id for something that is no session, such as an entry of the revocation list.
    pub(crate) fn for_ledger(domain: &str, shard: [u8; Self::SHARD_LEN], name: &[u8]) -> Self {
        Self::from_parts(shard, &hash(domain, name))
    }
}

impl Hash for SessionId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // The hash part is uniform and cannot be chosen from outside, so eight bytes of it do.
        state.write_u64(u64::from_le_bytes(self.stamp()));
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[Self::SHARD_LEN..Self::SHARD_LEN + 4] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({self}…)")
    }
}

fn hash(domain: &str, name: &[u8]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in [b"cloakroom/v1/".as_slice(), domain.as_bytes(), name] {
        hasher.update((part.len() as u64).to_be_bytes());
        hasher.update(part);
    }
    hasher.finalize().into()
}

/// The public name of a session in device lists, logs and `explain`: random, and no credential.
///
/// It stays the same when the session is renewed, so a list of devices does not change under the
/// person who reads it. Written as 16 letters and digits (Crockford's base 32, lower case).
///
/// ```
/// use cloakroom_core::Handle;
///
/// let handle: Handle = "0123456789abcdef".parse().unwrap();
/// assert_eq!(handle.to_string(), "0123456789abcdef");
/// assert!("0123456789ABCDEF".parse::<Handle>().is_err(), "one spelling only");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handle([u8; Handle::LEN]);

impl Handle {
    /// The length of a handle in bytes.
    pub const LEN: usize = 10;

    /// The handle a store kept.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// The bytes to keep.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    pub(crate) fn mint(random: &dyn Random) -> Result<Self, RandomError> {
        let mut bytes = [0; Self::LEN];
        random.fill(&mut bytes)?;
        Ok(Self(bytes))
    }
}

const BASE32: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 16];
        for (block, out) in self.0.chunks_exact(5).zip(text.chunks_exact_mut(8)) {
            let word = block.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            for (place, letter) in out.iter_mut().enumerate() {
                *letter = BASE32[(word >> (35 - 5 * place) & 31) as usize];
            }
        }
        f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

/// The text is not a handle: 16 letters and digits of Crockford's base 32 in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a session handle: expected 16 characters out of 0-9 a-z without i, l, o, u")]
pub struct InvalidHandle;

impl std::str::FromStr for Handle {
    type Err = InvalidHandle;

    fn from_str(text: &str) -> Result<Self, InvalidHandle> {
        let text: &[u8; 16] = text.as_bytes().try_into().map_err(|_| InvalidHandle)?;
        let mut bytes = [0; Self::LEN];
        for (letters, out) in text.chunks_exact(8).zip(bytes.chunks_exact_mut(5)) {
            let mut word = 0u64;
            for letter in letters {
                let value = BASE32.iter().position(|known| known == letter).ok_or(InvalidHandle)?;
                word = word << 5 | value as u64;
            }
            out.copy_from_slice(&word.to_be_bytes()[3..]);
        }
        Ok(Self(bytes))
    }
}

/// Whose session it is: the application's own stable name for an account.
///
/// Any text of 1 to 255 bytes without control characters. Prefer an account number over an e-mail
/// address: it does not change hands, and it is no personal data. `Debug` does not show it.
///
/// ```
/// use cloakroom_core::Principal;
///
/// let principal = Principal::new("account-42").unwrap();
/// assert_eq!(principal.as_str(), "account-42");
/// assert!(Principal::new("").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Principal(Arc<str>);

impl Principal {
    /// The most bytes a principal may have.
    pub const MAX_LEN: usize = 255;

    /// # Errors
    /// When the name is empty, longer than 255 bytes, or holds a control character.
    pub fn new(name: impl Into<Arc<str>>) -> Result<Self, InvalidPrincipal> {
        let name = name.into();
        if name.is_empty() {
            Err(InvalidPrincipal::Empty)
        } else if name.len() > Self::MAX_LEN {
            Err(InvalidPrincipal::TooLong(name.len()))
        } else if name.chars().any(char::is_control) {
            Err(InvalidPrincipal::ControlCharacter)
        } else {
            Ok(Self(name))
        }
    }

    /// The name as the application gave it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The shard of all ids of this principal. Unkeyed, so that it outlives every key rotation.
    #[must_use]
    pub fn shard(&self) -> [u8; SessionId::SHARD_LEN] {
        let hash = hash("shard", self.0.as_bytes());
        [hash[0], hash[1], hash[2], hash[3]]
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Principal(..)")
    }
}

impl TryFrom<&str> for Principal {
    type Error = InvalidPrincipal;

    fn try_from(name: &str) -> Result<Self, InvalidPrincipal> {
        Self::new(name)
    }
}

impl TryFrom<String> for Principal {
    type Error = InvalidPrincipal;

    fn try_from(name: String) -> Result<Self, InvalidPrincipal> {
        Self::new(name)
    }
}

impl TryFrom<&Principal> for Principal {
    type Error = InvalidPrincipal;

    fn try_from(principal: &Principal) -> Result<Self, InvalidPrincipal> {
        Ok(principal.clone())
    }
}
