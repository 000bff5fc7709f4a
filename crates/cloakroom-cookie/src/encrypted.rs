//! Sessions that the client holds and cannot read.

use std::fmt;
use std::sync::Arc;

use aes_gcm_siv::Aes256GcmSiv;
use aes_gcm_siv::aead::{self, AeadInOut, KeyInit, Nonce, Tag};
use chacha20poly1305::XChaCha20Poly1305;
use cloakroom_core::{Envelope, KeyRing, Random, Record, Rejection, Seal, SealError, Suite};
use zeroize::Zeroize as _;

use crate::{MAX_LEN, PURPOSE, check_size, decode_verified, parse};

/// Encrypts and authenticates the record: the client can neither read nor change it.
///
/// Seals with the ring's primary key and one [`Cipher`], and opens what any key of the ring sealed
/// with any cipher it [accepts](Self::opening_only), by default all: so keys and cipher can be
/// changed while everybody stays signed in. A reload of the ring takes effect at once.
///
/// What fails to open leaves no plaintext behind, and what opened is wiped from memory with the
/// last [`Record`] that shares it.
///
/// ```
/// use std::{sync::Arc, time::{Duration, SystemTime}};
/// use cloakroom_cookie::{Cipher, EncryptedSeal};
/// use cloakroom_core::{Handle, KeyRing, OsRandom, Record, Rejection, Seal, SecretKey};
///
/// let random = Arc::new(OsRandom::default());
/// let ring = KeyRing::new("shop", &[SecretKey::generate(random.as_ref()).unwrap()]).unwrap();
/// let before = EncryptedSeal::new(ring.clone(), random.clone());
/// let after = EncryptedSeal::new(ring, random).sealing_with(Cipher::Aes256GcmSiv);
///
/// let hour = Duration::from_secs(3600);
/// let record = Record::new(Handle::from_bytes([7; 10]), SystemTime::UNIX_EPOCH, hour, hour);
/// let cookie = before.seal("__Host-id", &record).unwrap();
///
/// assert_eq!(after.open("__Host-id", cookie.as_bytes()).unwrap(), record);
/// assert_eq!(after.open("__Host-other", cookie.as_bytes()).unwrap_err(), Rejection::Forged);
/// ```
pub struct EncryptedSeal {
    ring: KeyRing,
    random: Arc<dyn Random>,
    cipher: Cipher,
    opened: Vec<Cipher>,
    /// Of `opened` and `cipher`.
    accepted: Vec<Suite>,
}

/// What an [`EncryptedSeal`] encrypts with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cipher {
    /// XChaCha20-Poly1305: fast and constant-time on every CPU; its 192-bit random nonces do not
    /// repeat however many cookies one key seals.
    #[default]
    XChaCha20Poly1305,
    /// AES-256-GCM-SIV (RFC 8452): faster where the CPU has AES instructions. A repeated nonce, as
    /// after a virtual machine was restored from a snapshot, shows only whether two records were
    /// equal. Not on the lists of OWASP ASVS 5.0 appendix C or FIPS 140-3.
    Aes256GcmSiv,
}

impl EncryptedSeal {
    /// Seals with XChaCha20-Poly1305, opens with every [`Cipher`].
    #[must_use]
    pub fn new(ring: KeyRing, random: Arc<dyn Random>) -> Self {
        Self { ring, random, cipher: Cipher::default(), opened: Cipher::ALL.to_vec(), accepted: Vec::new() }.accepting()
    }

    /// Seals with this cipher, and opens with it too.
    #[must_use]
    pub fn sealing_with(self, cipher: Cipher) -> Self {
        Self { cipher, ..self }.accepting()
    }

    /// Opens with these ciphers and with the one it seals with, and refuses what another sealed even
    /// if it is authentic: everybody who still holds such a cookie is signed out.
    #[must_use]
    pub fn opening_only(self, ciphers: &[Cipher]) -> Self {
        Self { opened: ciphers.to_vec(), ..self }.accepting()
    }

    fn accepting(self) -> Self {
        let accepted = Cipher::ALL.into_iter().filter(|cipher| *cipher == self.cipher || self.opened.contains(cipher));
        Self { accepted: accepted.map(Cipher::suite).collect(), ..self }
    }
}

impl Seal for EncryptedSeal {
    fn seal(&self, cookie_name: &str, record: &Record) -> Result<String, SealError> {
        let suite = self.cipher.suite();
        check_size(cookie_name, suite, record)?;
        let key = self.ring.primary();
        let mut nonce = [0; 24];
        let nonce = &mut nonce[..suite.nonce_len()];
        self.random.fill(nonce)?;

        let mut envelope = Envelope::start(suite, key.id(), nonce, record.encoded_len());
        record.encode_into(envelope.body_mut());
        let bound = envelope.bound(PURPOSE, self.ring.audience(), cookie_name);
        let (nonce, body) = envelope.unsealed_mut();
        let tag = self.cipher.encrypt(key.seal_key(suite), nonce, &bound, body).map_err(|_| SealError::Cipher)?;
        Ok(envelope.finish(&tag))
    }

    fn open(&self, cookie_name: &str, text: &[u8]) -> Result<Record, Rejection> {
        let mut envelope = parse(cookie_name, text, &self.accepted)?;
        let cipher = Cipher::of(envelope.suite()).ok_or(Rejection::UnknownVersion)?;
        let key = self.ring.find(envelope.key_id()).ok_or(Rejection::UnknownKey)?;
        let key = key.seal_key(envelope.suite());
        let bound = envelope.bound(PURPOSE, self.ring.audience(), cookie_name);
        let (nonce, body, tag) = envelope.sealed_mut();
        cipher.decrypt(key, nonce, &bound, body, tag).map_err(|_| Rejection::Forged)?;
        decode_verified(envelope)
    }

    fn max_len(&self) -> usize {
        MAX_LEN
    }

    fn is_readable_by_client(&self) -> bool {
        false
    }
}

impl fmt::Debug for EncryptedSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedSeal")
            .field("ring", &self.ring)
            .field("cipher", &self.cipher)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}

impl Cipher {
    pub(crate) const ALL: [Self; 2] = [Self::XChaCha20Poly1305, Self::Aes256GcmSiv];

    fn of(suite: Suite) -> Option<Self> {
        Self::ALL.into_iter().find(|cipher| cipher.suite() == suite)
    }

    pub(crate) const fn suite(self) -> Suite {
        match self {
            Self::XChaCha20Poly1305 => Suite::XChaCha20Poly1305,
            Self::Aes256GcmSiv => Suite::Aes256GcmSiv,
        }
    }

    pub(crate) fn encrypt(
        self,
        key: &[u8; 32],
        nonce: &[u8],
        bound: &[u8],
        body: &mut [u8],
    ) -> Result<[u8; 16], aead::Error> {
        match self {
            Self::XChaCha20Poly1305 => encrypt::<XChaCha20Poly1305>(key, nonce, bound, body).map(Into::into),
            Self::Aes256GcmSiv => encrypt::<Aes256GcmSiv>(key, nonce, bound, body).map(Into::into),
        }
    }

    /// Wipes the body unless the tag is right.
    pub(crate) fn decrypt(
        self,
        key: &[u8; 32],
        nonce: &[u8],
        bound: &[u8],
        body: &mut [u8],
        tag: &[u8],
    ) -> Result<(), aead::Error> {
        let opened = match self {
            Self::XChaCha20Poly1305 => decrypt::<XChaCha20Poly1305>(key, nonce, bound, body, tag),
            Self::Aes256GcmSiv => decrypt::<Aes256GcmSiv>(key, nonce, bound, body, tag),
        };
        if opened.is_err() {
            body.zeroize();
        }
        opened
    }
}

fn encrypt<A: AeadInOut + KeyInit>(
    key: &[u8; 32],
    nonce: &[u8],
    bound: &[u8],
    body: &mut [u8],
) -> Result<Tag<A>, aead::Error> {
    let cipher = A::new_from_slice(key).map_err(|_| aead::Error)?;
    let nonce = Nonce::<A>::try_from(nonce).map_err(|_| aead::Error)?;
    cipher.encrypt_inout_detached(&nonce, bound, body.into())
}

fn decrypt<A: AeadInOut + KeyInit>(
    key: &[u8; 32],
    nonce: &[u8],
    bound: &[u8],
    body: &mut [u8],
    tag: &[u8],
) -> Result<(), aead::Error> {
    let cipher = A::new_from_slice(key).map_err(|_| aead::Error)?;
    let nonce = Nonce::<A>::try_from(nonce).map_err(|_| aead::Error)?;
    // The tag has its one length by the envelope's suite; any other is an error, never a prefix.
    let tag = Tag::<A>::try_from(tag).map_err(|_| aead::Error)?;
    cipher.decrypt_inout_detached(&nonce, bound, body.into(), &tag)
}
