//! The keys: one primary that signs and encrypts, any number that only verify.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use base64ct::{Base64, Base64Unpadded, Base64Url, Base64UrlUnpadded, Encoding};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

use crate::envelope::Suite;
use crate::id::SessionId;
use crate::token::{Random, RandomError};

/// 32 random bytes from which every other key is derived.
///
/// Written as base64 (with or without padding, either alphabet) or hexadecimal. What a person would
/// type is refused: passphrases, placeholders, short, patterned and repeated keys. It is wiped
/// from memory when dropped and cannot be cloned, compared or printed.
///
/// ```
/// use cloakroom_core::{OsRandom, SecretKey};
///
/// let key = SecretKey::generate(&OsRandom::default()).unwrap();
/// let written = key.expose_base64();
/// assert!(SecretKey::parse(&written).is_ok());
/// assert!(SecretKey::parse("changeme").is_err());
/// ```
pub struct SecretKey(Box<Zeroizing<[u8; SecretKey::LEN]>>);

/// The command that prints a good key, for error messages and documentation.
pub const KEY_COMMAND: &str = "openssl rand -base64 32";

impl SecretKey {
    /// The length of a key in bytes.
    pub const LEN: usize = 32;

    /// A fresh key.
    ///
    /// # Errors
    /// When the random generator fails.
    pub fn generate(random: &dyn Random) -> Result<Self, RandomError> {
        let mut bytes = Box::new(Zeroizing::new([0; Self::LEN]));
        random.fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// Reads a key from base64 or hexadecimal text; white space around it is ignored.
    ///
    /// # Errors
    /// [`KeyError`] says what is wrong and which command prints a good key, and never repeats the text.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if is_placeholder(text) {
            return Err(KeyError::Placeholder);
        }
        let decoded = Zeroizing::new(decode(text).ok_or(KeyError::Encoding)?);
        let bytes: &[u8; Self::LEN] = decoded.as_slice().try_into().map_err(|_| KeyError::Length(decoded.len()))?;
        check_strength(bytes)?;
        Ok(Self(Box::new(Zeroizing::new(*bytes))))
    }

    /// The key as base64, to be written into a secret store. Name says it: this reveals the key.
    #[must_use]
    pub fn expose_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(Base64::encode_string(self.0.as_slice()))
    }

    fn derive(&self, purpose: &str, suite: u8, audience: &str) -> Box<Zeroizing<[u8; 32]>> {
        let extracted = Hkdf::<Sha256>::new(Some(b"cloakroom.v1"), self.0.as_slice());
        let mut info = Vec::with_capacity(64);
        for part in [b"cloakroom/v1/key".as_slice(), &[suite], purpose.as_bytes(), audience.as_bytes()] {
            push_length_prefixed(&mut info, part);
        }
        let mut key = Box::new(Zeroizing::new([0; 32]));
        // HKDF-SHA-256 refuses only outputs over 8160 bytes; an unfilled key must never be used.
        if extracted.expand(&info, key.as_mut_slice()).is_err() {
            unreachable!("32 bytes are a valid HKDF-SHA-256 output length");
        }
        key
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

pub(crate) fn push_length_prefixed(out: &mut Vec<u8>, part: &[u8]) {
    out.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(part);
}

/// A key was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// No key at all.
    #[error("the key is empty; make one with `{KEY_COMMAND}`")]
    Empty,
    /// A well-known stand-in such as `changeme`.
    #[error("the key is a placeholder that others know; make your own with `{KEY_COMMAND}`")]
    Placeholder,
    /// Neither base64 nor hexadecimal.
    #[error("the key is neither base64 nor hexadecimal (passphrases are not accepted); make one with `{KEY_COMMAND}`")]
    Encoding,
    /// Not 32 bytes.
    #[error("the key is {0} bytes long and must be 32; make one with `{KEY_COMMAND}`")]
    Length(usize),
    /// Readable text, a pattern, or too few different bytes.
    #[error("the key is not random ({0}); make one with `{KEY_COMMAND}`")]
    Weak(&'static str),
    /// The same key twice in one ring.
    #[error("keys {0} and {1} of the ring are the same; remove one")]
    Duplicate(usize, usize),
    /// Two different keys that happen to share their four-byte name: one in four thousand million.
    #[error("keys {0} and {1} of the ring share a key id; replace the newer one, made with `{KEY_COMMAND}`")]
    SameId(usize, usize),
}

fn decode(text: &str) -> Option<Vec<u8>> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
        let pairs = text.as_bytes().chunks_exact(2);
        return pairs.map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
    }
    Base64::decode_vec(text)
        .or_else(|_| Base64Unpadded::decode_vec(text))
        .or_else(|_| Base64Url::decode_vec(text))
        .or_else(|_| Base64UrlUnpadded::decode_vec(text))
        .ok()
}

fn is_placeholder(text: &str) -> bool {
    const WORDS: [&str; 14] = [
        "secret",
        "changeme",
        "change-me",
        "change_me",
        "password",
        "placeholder",
        "example",
        "default",
        "your-secret",
        "your_secret",
        "replace",
        "insecure",
        "xxxx",
        "todo",
    ];
    let lower = text.to_ascii_lowercase();
    lower.len() < 64
        && WORDS.iter().any(|word| lower.contains(word))
        && decode(text).is_none_or(|bytes| bytes.len() != 32)
}

fn check_strength(bytes: &[u8; 32]) -> Result<(), KeyError> {
    let distinct = bytes.iter().collect::<std::collections::BTreeSet<_>>().len();
    let step = bytes[1].wrapping_sub(bytes[0]);
    if distinct < 8 {
        Err(KeyError::Weak("fewer than eight different bytes"))
    } else if bytes.iter().all(|byte| (0x20..0x7f).contains(byte) || byte.is_ascii_whitespace()) {
        Err(KeyError::Weak("readable text"))
    } else if bytes[..16] == bytes[16..] {
        Err(KeyError::Weak("the second half repeats the first"))
    } else if bytes.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) == step) {
        Err(KeyError::Weak("a counting sequence"))
    } else {
        Ok(())
    }
}

/// The four-byte name of a key, carried by everything made with it: one name selects one key, so
/// there is never a trial with several (I4).
///
/// It is derived from the key, so every process that is given the key gives it the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyId([u8; KeyId::LEN]);

impl KeyId {
    /// The length of a key id in bytes.
    pub const LEN: usize = 4;

    /// The bytes, as they stand in tokens and envelopes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The id in the first four bytes; the caller has checked that there are as many.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        Self([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", u32::from_be_bytes(self.0))
    }
}

/// One key of the ring with everything derived from it, once.
pub struct RingKey {
    id: KeyId,
    token: Hmac<Sha256>,
    csrf: Hmac<Sha256>,
    ticket: Hmac<Sha256>,
    foreign: Hmac<Sha256>,
    seals: [Box<Zeroizing<[u8; 32]>>; Suite::ALL.len()],
}

impl RingKey {
    fn new(secret: &SecretKey, audience: &str) -> Self {
        let id = KeyId::read(secret.derive("key-id", 0, "").as_slice());
        let keyed = |purpose| {
            let key = secret.derive(purpose, 0, audience);
            // HMAC takes keys of any length.
            match Hmac::<Sha256>::new_from_slice(key.as_slice()) {
                Ok(mac) => mac,
                Err(_) => unreachable!("HMAC-SHA-256 takes keys of any length"),
            }
        };
        Self {
            id,
            token: keyed("token"),
            csrf: keyed("csrf"),
            ticket: keyed("ticket"),
            foreign: keyed("foreign"),
            seals: Suite::ALL.map(|suite| secret.derive("seal", suite.byte(), audience)),
        }
    }

    /// The name of this key.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    /// The key for sealing with this suite. For implementations of [`Seal`](crate::Seal) only.
    #[must_use]
    pub fn seal_key(&self, suite: Suite) -> &[u8; 32] {
        &self.seals[usize::from(suite.byte() - 1)]
    }

    /// The body has a fixed length, so the name needs no length of its own.
    pub(crate) fn token_hash(&self, body: &[u8], binding: &str) -> [u8; 32] {
        self.token.clone().chain_update(body).chain_update(binding.as_bytes()).finalize().into_bytes().into()
    }

    /// What the session of this library with this secret is filed under. No part of it but all of the hash, since
    /// such a secret carries no shard: nobody owns the session.
    pub(crate) fn foreign_id(&self, library: &str, secret: &[u8]) -> SessionId {
        let mut parts = Vec::with_capacity(64);
        push_length_prefixed(&mut parts, library.as_bytes());
        push_length_prefixed(&mut parts, secret);
        let hash: [u8; 32] = self.foreign.clone().chain_update(&parts).finalize().into_bytes().into();
        parts.zeroize();
        SessionId::from_parts([hash[0], hash[1], hash[2], hash[3]], &hash[SessionId::SHARD_LEN..])
    }

    pub(crate) fn ticket_hash(&self, body: &[u8], binding: &str) -> [u8; 32] {
        self.ticket.clone().chain_update(body).chain_update(binding.as_bytes()).finalize().into_bytes().into()
    }

    pub(crate) fn csrf_mac(&self) -> Hmac<Sha256> {
        self.csrf.clone()
    }
}

impl fmt::Debug for RingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingKey({})", self.id)
    }
}

/// One primary key that signs and encrypts, any number that only verify, for one audience.
///
/// Cloning shares the ring, and [`reload`](Self::reload) changes it everywhere at once while
/// requests run. To rotate without losing a session: add the new key behind the primary on every
/// node, then put it first on every node, then, after the longest absolute timeout, drop the old one.
///
/// The audience separates applications that share a master key: what one minted, the other refuses.
///
/// ```
/// use cloakroom_core::{KeyRing, OsRandom, SecretKey};
///
/// let random = OsRandom::default();
/// let (old, new) = (SecretKey::generate(&random).unwrap(), SecretKey::generate(&random).unwrap());
/// let ring = KeyRing::new("shop", &[new, old]).unwrap();
/// assert_eq!(ring.ids().len(), 2);
/// ```
#[derive(Clone)]
pub struct KeyRing {
    keys: Arc<RwLock<Arc<[Arc<RingKey>]>>>,
    audience: Arc<str>,
}

impl KeyRing {
    /// A ring whose first key is the primary.
    ///
    /// # Errors
    /// [`KeyError::Empty`] without a key, [`KeyError::Duplicate`] for the same key twice.
    pub fn new(audience: &str, keys: &[SecretKey]) -> Result<Self, KeyError> {
        let keys = Self::derive(audience, keys)?;
        Ok(Self { keys: Arc::new(RwLock::new(keys)), audience: audience.into() })
    }

    /// Replaces all keys, in every clone of this ring, from the next request on.
    ///
    /// # Errors
    /// As [`new`](Self::new); the ring then stays as it was.
    pub fn reload(&self, keys: &[SecretKey]) -> Result<(), KeyError> {
        let keys = Self::derive(&self.audience, keys)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// The names of the keys, the primary's first.
    #[must_use]
    pub fn ids(&self) -> Vec<KeyId> {
        self.current().iter().map(|key| key.id()).collect()
    }

    /// Whom tokens of this ring are for.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.audience
    }

    /// The key that signs and encrypts.
    #[must_use]
    pub fn primary(&self) -> Arc<RingKey> {
        Arc::clone(&self.current()[0])
    }

    /// The key of this name.
    #[must_use]
    pub fn find(&self, id: KeyId) -> Option<Arc<RingKey>> {
        self.current().iter().find(|key| key.id == id).cloned()
    }

    /// All keys, the primary first.
    pub(crate) fn current(&self) -> Arc<[Arc<RingKey>]> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn derive(audience: &str, keys: &[SecretKey]) -> Result<Arc<[Arc<RingKey>]>, KeyError> {
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        let derived: Arc<[_]> = keys.iter().map(|key| Arc::new(RingKey::new(key, audience))).collect();
        for second in 1..keys.len() {
            for first in 0..second {
                if bool::from(keys[first].0.ct_eq(keys[second].0.as_slice())) {
                    return Err(KeyError::Duplicate(first + 1, second + 1));
                }
                if derived[first].id == derived[second].id {
                    return Err(KeyError::SameId(first + 1, second + 1));
                }
            }
        }
        Ok(derived)
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("audience", &self.audience).field("keys", &self.ids()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::OsRandom;

    fn refused(text: &str) -> KeyError {
        SecretKey::parse(text).expect_err("must be refused")
    }

    #[test]
    fn keys_that_people_type_are_refused() {
        assert_eq!(refused(""), KeyError::Empty);
        assert_eq!(refused("changeme"), KeyError::Placeholder);
        assert_eq!(refused("my-super-secret-key"), KeyError::Placeholder);
        assert_eq!(refused("correct horse battery staple"), KeyError::Encoding);
        assert_eq!(refused("c2hvcnQ="), KeyError::Length(5));
        assert_eq!(refused(&"00".repeat(32)), KeyError::Weak("fewer than eight different bytes"));
        assert_eq!(
            refused(&Base64::encode_string(b"correct-horse-battery-staple-123")),
            KeyError::Weak("readable text")
        );
        // As `echo … | base64` makes it, with the end of the line.
        assert_eq!(
            refused(&Base64::encode_string(b"correct-horse-battery-staple-12\n")),
            KeyError::Weak("readable text")
        );
        let half: Vec<u8> = (100..116).map(|n: u8| n.wrapping_mul(37)).collect();
        assert_eq!(
            refused(&Base64::encode_string(&[half.clone(), half].concat())),
            KeyError::Weak("the second half repeats the first")
        );
        let counting: Vec<u8> = (0..32).map(|n: u8| n.wrapping_mul(3)).collect();
        assert_eq!(refused(&Base64::encode_string(&counting)), KeyError::Weak("a counting sequence"));
    }

    #[test]
    fn one_key_has_one_id_in_every_spelling() {
        let key = SecretKey::generate(&OsRandom::default()).unwrap();
        let hex: String = key.0.iter().map(|byte| format!("{byte:02X}")).collect();
        let spellings = [
            key.expose_base64().to_string(),
            key.expose_base64().trim_end_matches('=').to_owned(),
            key.expose_base64().replace('+', "-").replace('/', "_"),
            format!(" {hex}\n"),
        ];
        let id = RingKey::new(&key, "a").id;
        for spelling in spellings {
            assert_eq!(RingKey::new(&SecretKey::parse(&spelling).unwrap(), "b").id, id);
        }
    }

    #[test]
    fn every_purpose_suite_and_audience_has_its_own_key() {
        let secret = SecretKey(Box::new(Zeroizing::new(std::array::from_fn(|n| (n * n) as u8))));
        let mut seen = std::collections::BTreeSet::new();
        for audience in ["a", "b"] {
            for (purpose, suite) in
                [("token", 0), ("csrf", 0), ("ticket", 0), ("foreign", 0), ("seal", 1), ("seal", 2), ("seal", 3)]
            {
                assert!(seen.insert(**secret.derive(purpose, suite, audience)));
            }
        }
        // A known answer: changing the derivation would end every session in the field.
        assert_eq!(RingKey::new(&secret, "a").id.to_string(), "96452b75");
    }

    #[test]
    fn a_ring_refuses_the_same_key_twice_and_keeps_its_keys_when_a_reload_is_refused() {
        let random = OsRandom::default();
        let key = SecretKey::generate(&random).unwrap();
        let same = SecretKey::parse(&key.expose_base64()).unwrap();
        let ring = KeyRing::new("a", std::slice::from_ref(&key)).unwrap();
        let before = ring.ids();
        assert_eq!(ring.reload(&[key, same]).unwrap_err(), KeyError::Duplicate(1, 2));
        assert_eq!(ring.ids(), before);
    }
}
