//! The public contract of seals, on each of ours.

use std::sync::Arc;

use cloakroom_cookie::{Cipher, EncryptedSeal, SignedSeal};
use cloakroom_core::{KeyRing, OsRandom, Seal, Suite};
use cloakroom_testkit::seal::Fixture;

struct Encrypted;

impl Fixture for Encrypted {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv]
    }

    fn seal(&self, ring: KeyRing, suite: Suite) -> Arc<dyn Seal> {
        let cipher = if suite == Suite::Aes256GcmSiv { Cipher::Aes256GcmSiv } else { Cipher::XChaCha20Poly1305 };
        Arc::new(EncryptedSeal::new(ring, Arc::new(OsRandom::default())).sealing_with(cipher))
    }
}

struct Signed;

impl Fixture for Signed {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::HmacSha256]
    }

    fn seal(&self, ring: KeyRing, _suite: Suite) -> Arc<dyn Seal> {
        Arc::new(SignedSeal::danger_readable_by_client(ring))
    }
}

cloakroom_testkit::seal_suite!(encrypted, Encrypted);
cloakroom_testkit::seal_suite!(signed, Signed);
