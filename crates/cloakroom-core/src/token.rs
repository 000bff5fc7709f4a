//! The secret the client holds, and where randomness comes from.
//!
//! ```text
//! wire = base64url( version 1 | key id 4 | shard 4 | secret 32 | check 10 )      68 characters
//! hash = HMAC-SHA-256(key of the key id, version | key id | shard | secret | cookie name, or header)
//! check = hash[..10]        refuses guesses without a store call
//! session id = shard | hash[10..]        never leaves the server
//! ```
//!
//! 51 bytes encode without spare bits, so every token has exactly one spelling.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::id::{Principal, SessionId};
use crate::keyring::{KeyId, KeyRing, RingKey};

/// Where tokens, handles, nonces and keys take their randomness from.
///
/// An implementation must be a cryptographically secure generator, and must fail rather than
/// return bytes it cannot vouch for: a failure becomes an error for the request, never a token.
pub trait Random: fmt::Debug + Send + Sync + 'static {
    /// Fills the whole buffer.
    ///
    /// # Errors
    /// When the generator cannot deliver. The buffer's content is then not used.
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError>;
}

/// The random generator failed; nothing was minted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RandomError {
    /// The operating system returned an error.
    #[error("the operating system's random generator failed")]
    Unavailable,
    /// Two successive outputs were equal.
    #[error("the random generator is stuck: two successive outputs were equal")]
    Stuck,
}

/// The operating system's generator, asked anew for each value: nothing to seed, fork or snapshot.
///
/// Two equal successive outputs of eight bytes or more count as a failure.
#[derive(Debug, Default)]
pub struct OsRandom {
    last: AtomicU64,
}

impl Random for OsRandom {
    #[expect(clippy::disallowed_methods, reason = "the one place that asks the system for randomness")]
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        getrandom::fill(buffer).map_err(|_| RandomError::Unavailable)?;
        if let Some(first) = buffer.first_chunk::<8>() {
            let word = u64::from_le_bytes(*first);
            if self.last.swap(word, Ordering::Relaxed) == word {
                return Err(RandomError::Stuck);
            }
        }
        Ok(())
    }
}

/// The secret a client holds. There is no way to make one but to have the server mint it.
///
/// It is wiped from memory when dropped, and cannot be cloned, compared or printed.
pub struct Token(Zeroizing<[u8; Token::LEN]>);

impl Token {
    /// The length in bytes.
    pub(crate) const LEN: usize = Self::BODY + Self::CHECK;
    /// The length as text.
    pub(crate) const TEXT_LEN: usize = Self::LEN / 3 * 4;
    const VERSION: u8 = 1;
    const BODY: usize = 1 + KeyId::LEN + SessionId::SHARD_LEN + 32;
    const CHECK: usize = 10;
    const SHARD_AT: usize = 1 + KeyId::LEN;

    /// A fresh token under the primary key, and the id its session will be filed under.
    pub(crate) fn mint(
        ring: &KeyRing,
        binding: &str,
        principal: Option<&Principal>,
        random: &dyn Random,
    ) -> Result<(Self, SessionId), RandomError> {
        let key = ring.primary();
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        random.fill(&mut bytes[Self::SHARD_AT..Self::BODY])?;
        bytes[0] = Self::VERSION;
        bytes[1..Self::SHARD_AT].copy_from_slice(key.id().as_bytes());
        if let Some(principal) = principal {
            bytes[Self::SHARD_AT..Self::SHARD_AT + SessionId::SHARD_LEN].copy_from_slice(&principal.shard());
        }
        let hash = key.token_hash(&bytes[..Self::BODY], binding);
        bytes[Self::BODY..].copy_from_slice(&hash[..Self::CHECK]);
        let id = Self::id(&bytes, &hash);
        Ok((Self(bytes), id))
    }

    /// The id of a token that this key ring minted for this cookie or header; anything else is refused without
    /// a store call. So of two sessions in one application, which may not share one, neither takes the other's token.
    pub(crate) fn open(ring: &KeyRing, binding: &str, text: &[u8]) -> Result<SessionId, Rejection> {
        if text.len() != Self::TEXT_LEN {
            return Err(Rejection::Malformed);
        }
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        match URL_SAFE_NO_PAD.decode_slice(text, bytes.as_mut_slice()) {
            Ok(Self::LEN) => {}
            Ok(_) | Err(_) => return Err(Rejection::Malformed),
        }
        if bytes[0] != Self::VERSION {
            return Err(Rejection::UnknownVersion);
        }
        let key: std::sync::Arc<RingKey> = ring.find(KeyId::read(&bytes[1..])).ok_or(Rejection::UnknownKey)?;
        let hash = key.token_hash(&bytes[..Self::BODY], binding);
        if bool::from(hash[..Self::CHECK].ct_eq(&bytes[Self::BODY..])) {
            Ok(Self::id(&bytes, &hash))
        } else {
            Err(Rejection::Forged)
        }
    }

    /// The text to send to the client, once.
    pub(crate) fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(self.0.as_slice()))
    }

    fn id(bytes: &[u8; Self::LEN], hash: &[u8; 32]) -> SessionId {
        let shard = &bytes[Self::SHARD_AT..Self::SHARD_AT + SessionId::SHARD_LEN];
        SessionId::from_parts([shard[0], shard[1], shard[2], shard[3]], &hash[Self::CHECK..])
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a presented token was refused. The client is told nothing of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Rejection {
    /// Wrong length, alphabet or spelling.
    Malformed,
    /// A format version or suite that this release does not accept.
    UnknownVersion,
    /// It names a key that is not in the ring.
    UnknownKey,
    /// The check or the authentication tag does not match.
    Forged,
    /// Authentic, but its content does not decode.
    Undecodable,
    /// Authentic, but its content was written by a newer release. The session is not lost.
    NewerFormat,
    /// Authentic, but past its idle or absolute timeout.
    Expired,
    /// Authentic, but its session was ended or its token replaced.
    Ended,
    /// More than one token arrived and they cannot be told apart.
    Ambiguous,
}

impl Rejection {
    /// Whether the client should be told to drop the token. Not for keys and versions that another
    /// node may know: during a rotation or a rolling deploy that would sign people out. And not when
    /// there are several: we would remove our own, and what a sibling domain planted would stay and
    /// be believed.
    pub(crate) const fn clears_cookie(self) -> bool {
        !matches!(self, Self::UnknownKey | Self::UnknownVersion | Self::NewerFormat | Self::Ambiguous)
    }

    /// A stable name for logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownVersion => "unknown_version",
            Self::UnknownKey => "unknown_key",
            Self::Forged => "forged",
            Self::Undecodable => "undecodable",
            Self::NewerFormat => "newer_format",
            Self::Expired => "expired",
            Self::Ended => "ended",
            Self::Ambiguous => "ambiguous",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::keyring::SecretKey;

    /// Counts up, so that what is minted is known beforehand.
    #[derive(Debug, Default)]
    struct Counting(AtomicU64);

    impl Random for Counting {
        fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
            for byte in buffer {
                *byte = self.0.fetch_add(1, Ordering::Relaxed) as u8;
            }
            Ok(())
        }
    }

    fn ring() -> KeyRing {
        let hex: String = (0..32u32).map(|n| format!("{:02x}", (n * n + 7) % 256)).collect();
        KeyRing::new("shop", &[SecretKey::parse(&hex).unwrap()]).unwrap()
    }

    /// Frozen: whoever changes the derivation of keys, tokens, shards or ids signs everybody out.
    #[test]
    fn a_token_and_its_id_are_what_they_always_were() {
        let hex = |id: SessionId| id.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let mint = |principal: Option<&str>| {
            let principal = principal.map(|name| Principal::new(name).unwrap());
            let (token, id) = Token::mint(&ring(), "__Host-id", principal.as_ref(), &Counting::default()).unwrap();
            (token.expose().to_string(), hex(id))
        };
        let (anonymous, anonymous_id) = mint(None);
        let (alice, alice_id) = mint(Some("alice"));
        assert_eq!([anonymous.as_str(), &anonymous_id, &alice, &alice_id], FROZEN);
        assert_eq!(Token::open(&ring(), "__Host-id", anonymous.as_bytes()).map(hex), Ok(anonymous_id));
    }

    const FROZEN: [&str; 4] = [
        "AQRxXc4AAQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiNo24i4LTybsfuO",
        "00010203b303717ef4a69d09e87026abcd4e1abc29ad1598e427",
        "AQRxXc6XfYFmBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiNTvotM4XQnbYL8",
        "977d816653466ae2458378e918d5eba2e56beddbfde8380eb3c3",
    ];

    #[test]
    fn tokens_are_unique_and_every_bit_of_the_secret_is_even() {
        const TOKENS: u32 = 100_000;
        let (ring, random) = (ring(), OsRandom::default());
        let mut ones = [0u32; 36 * 8];
        let mut seen = HashSet::new();
        for _ in 0..TOKENS {
            let (token, id) = Token::mint(&ring, "__Host-id", None, &random).unwrap();
            assert!(seen.insert(id), "two tokens of one id");
            for (place, count) in ones.iter_mut().enumerate() {
                *count += u32::from(token.0[Token::SHARD_AT + place / 8] >> (place % 8) & 1);
            }
        }
        // The number of ones has a standard deviation of half the square root of the number of tokens.
        let deviation = f64::from(TOKENS).sqrt() / 2.0;
        for (place, count) in ones.iter().enumerate() {
            let z = (f64::from(*count) - f64::from(TOKENS) / 2.0) / deviation;
            assert!(z.abs() < 5.5, "bit {place} is set in {count} of {TOKENS}");
        }
    }
}
