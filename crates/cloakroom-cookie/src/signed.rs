//! Sessions that the client holds and can read.

use cloakroom_core::{Envelope, KeyRing, Record, Rejection, Seal, SealError, Suite};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::{MAX_LEN, PURPOSE, check_size, decode_verified, parse};

/// Signs the record, so that the client cannot change it, and **hides nothing**: whoever holds the
/// cookie reads every value, who is signed in, since when, with which browser and from where.
///
/// For data that is public to its owner and to whoever sees their requests, where something other
/// than this service must read it. In every other case take
/// [`EncryptedSeal`](crate::EncryptedSeal), which costs a microsecond more.
///
/// Authenticates with the full 32 bytes of HMAC-SHA-256. Signs with the ring's primary key and
/// opens what any key of the ring signed; a reload of the ring takes effect at once. Neither kind
/// of seal opens what the other made.
///
/// ```
/// use std::time::{Duration, SystemTime};
/// use cloakroom_cookie::SignedSeal;
/// use cloakroom_core::{Handle, KeyRing, OsRandom, Record, Seal, SecretKey};
///
/// let ring = KeyRing::new("shop", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap();
/// let seal = SignedSeal::danger_readable_by_client(ring);
/// assert!(seal.is_readable_by_client());
///
/// let hour = Duration::from_secs(3600);
/// let record = Record::new(Handle::from_bytes([7; 10]), SystemTime::UNIX_EPOCH, hour, hour);
/// let cookie = seal.seal("__Host-id", &record).unwrap();
/// assert_eq!(seal.open("__Host-id", cookie.as_bytes()).unwrap(), record);
/// ```
#[derive(Debug)]
pub struct SignedSeal {
    ring: KeyRing,
}

impl SignedSeal {
    const SUITE: Suite = Suite::HmacSha256;

    /// Signs with HMAC-SHA-256. The name is the warning: what is stored in such a session is no
    /// secret to the client, nor to anything that sees or keeps its cookies.
    #[must_use]
    pub const fn danger_readable_by_client(ring: KeyRing) -> Self {
        Self { ring }
    }
}

impl Seal for SignedSeal {
    fn seal(&self, cookie_name: &str, record: &Record) -> Result<String, SealError> {
        check_size(cookie_name, Self::SUITE, record)?;
        let key = self.ring.primary();
        let mut envelope = Envelope::start(Self::SUITE, key.id(), &[], record.encoded_len());
        record.encode_into(envelope.body_mut());
        let bound = envelope.bound(PURPOSE, self.ring.audience(), cookie_name);
        let (_, body) = envelope.unsealed_mut();
        let mac = mac(key.seal_key(Self::SUITE), &bound, body).ok_or(SealError::Cipher)?;
        Ok(envelope.finish(&mac.finalize().into_bytes()))
    }

    fn open(&self, cookie_name: &str, text: &[u8]) -> Result<Record, Rejection> {
        let mut envelope = parse(cookie_name, text, &[Self::SUITE])?;
        let key = self.ring.find(envelope.key_id()).ok_or(Rejection::UnknownKey)?;
        let bound = envelope.bound(PURPOSE, self.ring.audience(), cookie_name);
        let (_, body, tag) = envelope.sealed_mut();
        let mac = mac(key.seal_key(Self::SUITE), &bound, body).ok_or(Rejection::Forged)?;
        mac.verify_slice(tag).map_err(|_| Rejection::Forged)?;
        decode_verified(envelope)
    }

    fn max_len(&self) -> usize {
        MAX_LEN
    }

    fn is_readable_by_client(&self) -> bool {
        true
    }
}

/// HMAC over what is bound, then the body with its length in front. `None` never happens:
/// HMAC takes keys of any length.
pub(crate) fn mac(key: &[u8; 32], bound: &[u8], body: &[u8]) -> Option<Hmac<Sha256>> {
    let len = u32::try_from(body.len()).ok()?;
    let mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    Some(mac.chain_update(bound).chain_update(len.to_be_bytes()).chain_update(body))
}
