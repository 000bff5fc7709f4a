//! The contract of a self-contained token: the record itself, sealed into what the client holds.

use std::fmt;

use crate::record::Record;
use crate::token::{RandomError, Rejection};

/// Turns a record into a token and back.
///
/// The cookie name is that of the cookie, or of the header with its colon: no cookie is called so.
///
/// * What was not sealed with a key of the ring, for this purpose, audience and cookie, does not
///   open: [`Rejection`] before a byte of it is decoded.
/// * A seal keeps no state: whether the session was ended is the
///   [revocation list](crate::Revocations)'s to say, and its deadlines are the caller's to check.
/// * One text opens to one record, and no other text opens to it.
pub trait Seal: fmt::Debug + Send + Sync + 'static {
    /// The token that carries this record.
    ///
    /// # Errors
    /// When the random generator fails, or the token would be over [`max_len`](Self::max_len).
    fn seal(&self, cookie_name: &str, record: &Record) -> Result<String, SealError>;

    /// The record that this token carries.
    ///
    /// # Errors
    /// One [`Rejection`] for whatever is wrong; the client cannot tell them apart.
    fn open(&self, cookie_name: &str, text: &[u8]) -> Result<Record, Rejection>;

    /// The longest cookie name and value together, in bytes; the same for what travels in a header, which proxies cut
    /// at twice as much and more. What is longer is refused without being opened.
    fn max_len(&self) -> usize;

    /// Whether the client can read what the token carries.
    fn is_readable_by_client(&self) -> bool;
}

/// A record could not be sealed. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// Name and value together would be over what browsers keep (RFC 6265bis: 4096 bytes).
    #[error(
        "the sealed session takes {size} bytes with its name, and browsers drop a cookie over {limit}: store less, or keep sessions on the server"
    )]
    TooLarge {
        /// What it would take.
        size: usize,
        /// What is allowed.
        limit: usize,
    },
    /// No nonce could be had.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// The cipher refused the input, which its limits do not allow for a record.
    #[error("the record could not be encrypted")]
    Cipher,
}
