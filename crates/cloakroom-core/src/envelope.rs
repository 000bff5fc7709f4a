//! The one form of everything that is sealed, and what its tag covers.
//!
//! ```text
//! wire  = base64url( version 1 | suite 1 | key id 4 | nonce | body | tag )      canonical only
//! bound = each of purpose, audience, cookie name, version|suite|key id, prefixed with its length
//! ```
//!
//! `bound` is the associated data of the encrypting suites and the head of what the signing suite
//! authenticates. A value sealed for another purpose, audience, cookie or key does not open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;

use crate::keyring::{KeyId, push_length_prefixed};
use crate::token::Rejection;

/// How an envelope is authenticated. One byte names it; there is no negotiation and no "none".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Suite {
    /// HMAC-SHA-256 (RFC 2104) over a readable body: for data that is no secret.
    HmacSha256,
    /// XChaCha20-Poly1305: the default. 192-bit random nonces never run out.
    XChaCha20Poly1305,
    /// AES-256-GCM-SIV (RFC 8452): survives a repeated nonce, and faster where the CPU has AES.
    Aes256GcmSiv,
}

impl Suite {
    /// All suites, in the order of their bytes.
    pub const ALL: [Self; 3] = [Self::HmacSha256, Self::XChaCha20Poly1305, Self::Aes256GcmSiv];

    /// The byte that names the suite on the wire.
    #[must_use]
    pub const fn byte(self) -> u8 {
        match self {
            Self::HmacSha256 => 1,
            Self::XChaCha20Poly1305 => 2,
            Self::Aes256GcmSiv => 3,
        }
    }

    /// The length of its nonce in bytes.
    #[must_use]
    pub const fn nonce_len(self) -> usize {
        match self {
            Self::HmacSha256 => 0,
            Self::XChaCha20Poly1305 => 24,
            Self::Aes256GcmSiv => 12,
        }
    }

    /// The length of its tag in bytes; never taken from the input.
    #[must_use]
    pub const fn tag_len(self) -> usize {
        match self {
            Self::HmacSha256 => 32,
            Self::XChaCha20Poly1305 | Self::Aes256GcmSiv => 16,
        }
    }

    /// Whether the body is unreadable without the key.
    #[must_use]
    pub const fn encrypts(self) -> bool {
        !matches!(self, Self::HmacSha256)
    }
}

/// What is sealed, while it is put together or taken apart: one buffer, encrypted and decrypted in
/// place, and wiped from memory when dropped.
///
/// To seal: [`start`](Self::start), append to [`body_mut`](Self::body_mut), encrypt what
/// [`unsealed_mut`](Self::unsealed_mut) gives, [`finish`](Self::finish) with the tag.
/// To open: [`parse`](Self::parse), find the key, decrypt and verify what
/// [`sealed_mut`](Self::sealed_mut) gives, and only then take [`into_body`](Self::into_body).
pub struct Envelope {
    suite: Suite,
    key_id: KeyId,
    bytes: Wiped,
}

impl Envelope {
    /// The version that this release writes.
    pub const VERSION: u8 = 1;
    const HEAD: usize = 2 + KeyId::LEN;

    /// Takes the text apart. Nothing is decrypted or verified, and nothing may be used yet.
    ///
    /// # Errors
    /// A text with another spelling than the canonical one, too short for its suite, of an unknown
    /// version, or of a suite that is not `accepted`.
    pub fn parse(text: &[u8], accepted: &[Suite]) -> Result<Self, Rejection> {
        let bytes = Wiped(URL_SAFE_NO_PAD.decode(text).map_err(|_| Rejection::Malformed)?);
        if bytes.0.len() < Self::HEAD {
            return Err(Rejection::Malformed);
        }
        if bytes.0[0] != Self::VERSION {
            return Err(Rejection::UnknownVersion);
        }
        let suite = accepted.iter().copied().find(|suite| suite.byte() == bytes.0[1]);
        let suite = suite.ok_or(Rejection::UnknownVersion)?;
        if bytes.0.len() < Self::HEAD + suite.nonce_len() + suite.tag_len() {
            return Err(Rejection::Malformed);
        }
        Ok(Self { suite, key_id: KeyId::read(&bytes.0[2..]), bytes })
    }

    /// An envelope to be filled: head and nonce, then room for a body of `body_len` and the tag, so
    /// that nothing moves, and leaves a copy behind, while it is filled.
    #[must_use]
    pub fn start(suite: Suite, key_id: KeyId, nonce: &[u8], body_len: usize) -> Self {
        debug_assert_eq!(nonce.len(), suite.nonce_len());
        let mut bytes = Vec::with_capacity(Self::HEAD + nonce.len() + body_len + suite.tag_len());
        bytes.extend_from_slice(&[Self::VERSION, suite.byte()]);
        bytes.extend_from_slice(key_id.as_bytes());
        bytes.extend_from_slice(nonce);
        Self { suite, key_id, bytes: Wiped(bytes) }
    }

    /// The length in characters of an envelope with a body of this many bytes.
    #[must_use]
    pub const fn text_len(suite: Suite, body_len: usize) -> usize {
        (Self::HEAD + suite.nonce_len() + body_len + suite.tag_len()).saturating_mul(4).div_ceil(3)
    }

    /// The suite it names.
    #[must_use]
    pub const fn suite(&self) -> Suite {
        self.suite
    }

    /// The key it names.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The buffer of a started envelope, to append the body to. What it holds already is not the
    /// caller's to change.
    #[must_use]
    pub fn body_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes.0
    }

    /// Nonce and body of a started envelope, for the body to be encrypted in place.
    #[must_use]
    pub fn unsealed_mut(&mut self) -> (&[u8], &mut [u8]) {
        let (head, body) = self.bytes.0.split_at_mut(Self::HEAD + self.suite.nonce_len());
        (&head[Self::HEAD..], body)
    }

    /// The canonical text of a started envelope, with the tag that now seals it.
    #[must_use]
    pub fn finish(mut self, tag: &[u8]) -> String {
        debug_assert_eq!(tag.len(), self.suite.tag_len());
        self.bytes.0.extend_from_slice(tag);
        self.encode()
    }

    /// Nonce, body and tag of a parsed envelope, for the body to be verified and decrypted in place.
    #[must_use]
    pub fn sealed_mut(&mut self) -> (&[u8], &mut [u8], &[u8]) {
        let tag_at = self.bytes.0.len() - self.suite.tag_len();
        let (head, tag) = self.bytes.0.split_at_mut(tag_at);
        let (head, body) = head.split_at_mut(Self::HEAD + self.suite.nonce_len());
        (&head[Self::HEAD..], body, tag)
    }

    /// The body of a parsed envelope, to be called **after its tag was verified** only. The bytes
    /// are wiped when the last that shares them is dropped.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        let (start, end) = (Self::HEAD + self.suite.nonce_len(), self.bytes.0.len() - self.suite.tag_len());
        Bytes::from_owner(self.bytes).slice(start..end)
    }

    /// What the tag covers besides the body.
    #[must_use]
    pub fn bound(&self, purpose: &str, audience: &str, cookie_name: &str) -> Vec<u8> {
        let parts = [purpose.as_bytes(), audience.as_bytes(), cookie_name.as_bytes(), &self.bytes.0[..Self::HEAD]];
        let mut bound = Vec::with_capacity(parts.iter().map(|part| 4 + part.len()).sum());
        for part in parts {
            push_length_prefixed(&mut bound, part);
        }
        bound
    }

    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes.0.as_slice())
    }
}

/// Neither body nor tag: the body may be in clear.
impl fmt::Debug for Envelope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Envelope").field("suite", &self.suite).field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// Zeroes its bytes when dropped. `Zeroizing` would too, but byte by byte, which costs a full cookie
/// half a microsecond, and through the spare capacity, where nothing secret ever is.
struct Wiped(Vec<u8>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.fill(0);
        zeroize::optimization_barrier(self.0.as_slice());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn moving_a_byte_across_a_field_boundary_changes_what_the_tag_covers(
            a in "[a-z]{0,8}", b in "[a-z]{0,8}", c in "[a-z]{0,8}", x in "[a-z]{0,8}", y in "[a-z]{0,8}", z in "[a-z]{0,8}",
        ) {
            let envelope = Envelope::start(Suite::HmacSha256, KeyId::read(&[1, 2, 3, 4]), &[], 0);
            let equal = (&a, &b, &c) == (&x, &y, &z);
            prop_assert_eq!(envelope.bound(&a, &b, &c) == envelope.bound(&x, &y, &z), equal);
        }

        #[test]
        fn no_text_makes_the_parser_panic_and_what_parses_has_one_spelling(text in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(envelope) = Envelope::parse(&text, &Suite::ALL) {
                prop_assert_eq!(envelope.encode().into_bytes(), text);
            }
        }
    }

    #[test]
    fn a_suite_that_is_not_accepted_is_refused_before_anything_else() {
        let text = Envelope::start(Suite::Aes256GcmSiv, KeyId::read(&[0; 4]), &[0; 12], 0).finish(&[0; 16]);
        assert!(Envelope::parse(text.as_bytes(), &Suite::ALL).is_ok());
        let refused = Envelope::parse(text.as_bytes(), &[Suite::XChaCha20Poly1305]);
        assert_eq!(refused.unwrap_err(), Rejection::UnknownVersion);
    }

    #[test]
    fn the_announced_length_is_the_length_and_the_buffer_never_moves() {
        for suite in Suite::ALL {
            for body_len in 0..10 {
                let nonce = [7; 24];
                let mut envelope = Envelope::start(suite, KeyId::read(&[0; 4]), &nonce[..suite.nonce_len()], body_len);
                let (place, capacity) = (envelope.bytes.0.as_ptr(), envelope.bytes.0.capacity());
                envelope.body_mut().extend(std::iter::repeat_n(b'x', body_len));
                envelope.bytes.0.reserve_exact(suite.tag_len());
                assert_eq!((envelope.bytes.0.as_ptr(), envelope.bytes.0.capacity()), (place, capacity));
                let text = envelope.finish(&[9; 32][..suite.tag_len()]);
                assert_eq!(text.len(), Envelope::text_len(suite, body_len));

                let mut parsed = Envelope::parse(text.as_bytes(), &Suite::ALL).unwrap();
                let (read_nonce, body, tag) = parsed.sealed_mut();
                assert_eq!(read_nonce, &nonce[..suite.nonce_len()]);
                assert_eq!(body, vec![b'x'; body_len]);
                assert_eq!(tag, vec![9; suite.tag_len()]);
                assert_eq!(parsed.into_body(), vec![b'x'; body_len]);
            }
        }
    }

    #[test]
    fn debug_shows_no_body() {
        let mut envelope = Envelope::start(Suite::HmacSha256, KeyId::read(&[0; 4]), &[], 6);
        envelope.body_mut().extend_from_slice(&[213; 6]);
        assert!(!format!("{envelope:?}").contains("213"));
    }
}
