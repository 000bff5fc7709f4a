//! Self-contained sessions: the record itself, sealed into the cookie, and nothing on the server.
//!
//! | seal | the client can | suite |
//! |---|---|---|
//! | [`EncryptedSeal`] | neither read nor change it | XChaCha20-Poly1305, or AES-256-GCM-SIV |
//! | [`SignedSeal`] | read all of it, not change it | HMAC-SHA-256 |
//!
//! Both refuse whatever was not sealed as a session, for this audience and this cookie name, with a
//! key of the ring: before a byte of it is decoded, after one check with the one key it names, and
//! without telling the client why. Nothing falls back to another key, suite or format.
//!
//! ```
//! use std::sync::Arc;
//! use cloakroom_cookie::EncryptedSeal;
//! use cloakroom_core::{KeyRing, OsRandom, SecretKey};
//!
//! let random = Arc::new(OsRandom::default());
//! let ring = KeyRing::new("shop", &[SecretKey::generate(random.as_ref()).unwrap()]).unwrap();
//! let seal = EncryptedSeal::new(ring, random);
//! ```
//!
//! # What a sealed session does not do
//!
//! * It cannot be taken back: a copy of the cookie is good until the deadlines inside, unless a
//!   revocation list is kept. Nor can the sessions of somebody be listed.
//! * Two requests that change it at once both answer with a cookie, and the browser keeps one.
//! * It holds what fits: name and value together at most [`MAX_LEN`] bytes, which leaves a little
//!   under 3 KiB for the record. More is an error before anything is sent.
//! * Its length shows: nothing is padded, so a client can tell a long session from a short one.

mod encrypted;
mod signed;
#[cfg(test)]
mod tests;

use cloakroom_core::{DecodeError, Envelope, Record, Rejection, SealError, Suite};

pub use encrypted::{Cipher, EncryptedSeal};
pub use signed::SignedSeal;

/// The most bytes that a cookie's name and value may have together: browsers drop what is longer
/// (RFC 6265bis, section 5.6).
pub const MAX_LEN: usize = 4096;

/// What the tags of this crate are good for. The token of another purpose does not open.
const PURPOSE: &str = "session";

/// Refuses a record whose cookie would be too long, before anything is encrypted.
fn check_size(cookie_name: &str, suite: Suite, record: &Record) -> Result<(), SealError> {
    let size = cookie_name.len().saturating_add(Envelope::text_len(suite, record.encoded_len()));
    if size > MAX_LEN { Err(SealError::TooLarge { size, limit: MAX_LEN }) } else { Ok(()) }
}

/// Takes a text apart, unless it is longer than anything that was ever sealed.
fn parse(cookie_name: &str, text: &[u8], accepted: &[Suite]) -> Result<Envelope, Rejection> {
    if cookie_name.len().saturating_add(text.len()) > MAX_LEN {
        return Err(Rejection::Malformed);
    }
    Envelope::parse(text, accepted)
}

/// The record in an envelope whose tag was verified. The values share its buffer, which is wiped
/// when the last of them is dropped.
fn decode_verified(envelope: Envelope) -> Result<Record, Rejection> {
    #[cfg(test)]
    tests::DECODED.with(|count| count.set(count.get() + 1));
    Record::decode(&envelope.into_body()).map_err(|error| match error {
        DecodeError::NewerFormat(_) => Rejection::NewerFormat,
        DecodeError::Malformed | _ => Rejection::Undecodable,
    })
}
