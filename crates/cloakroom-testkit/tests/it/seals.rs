//! The seal suite passes on a seal that is right and catches those that are not.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chacha20poly1305::aead::AeadInOut as _;
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305};
use cloakroom_core::{Envelope, KeyRing, Random, Record, Rejection, Seal, SealError, Suite};
use cloakroom_testkit::seal::{CHECKS, Fixture};
use cloakroom_testkit::{SeededRandom, seal_suite};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

/// One way in which seals go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Defect {
    /// The tag does not cover the cookie's name.
    NameNotBound,
    /// The tag does not cover the audience, and one key serves all.
    FieldsRunTogether,
    /// Takes padding, white space and the standard alphabet.
    LenientBase64,
    /// Compares the first bytes of the tag only.
    ShortTag,
    /// The tag is not compared at all.
    NoTag,
    /// Tries every key of the ring.
    TriesEveryKey,
    /// The same nonce always.
    FixedNonce,
    /// Says that the client cannot read what it can.
    SaysItIsSecret,
    /// Counts the value without the cookie's name.
    LimitWithoutName,
    /// Seals with the last key of the ring.
    SealsWithTheLastKey,
    /// Refuses by the deadlines, of which it cannot know.
    ChecksDeadlines,
}

#[derive(Debug)]
struct Sealer {
    ring: KeyRing,
    suite: Suite,
    random: SeededRandom,
    defect: Option<Defect>,
}

const LIMIT: usize = 4096;

impl Sealer {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn bound(&self, envelope: &Envelope, cookie_name: &str) -> Vec<u8> {
        if self.has(Defect::FieldsRunTogether) {
            return envelope.bound("test", "", &format!("{}{cookie_name}", self.ring.audience()));
        }
        if self.has(Defect::TriesEveryKey) {
            // Whoever tries every key has no use for the name of one.
            return [self.ring.audience(), "/", cookie_name].concat().into_bytes();
        }
        let name = if self.has(Defect::NameNotBound) { "" } else { cookie_name };
        envelope.bound("test", self.ring.audience(), name)
    }

    fn tag(key: &[u8; 32], bound: &[u8], body: &[u8]) -> [u8; 32] {
        let mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
        mac.chain_update(bound).chain_update(body).finalize().into_bytes().into()
    }

    fn seal_key(&self, ring: &KeyRing, id: cloakroom_core::KeyId) -> Option<[u8; 32]> {
        // A key that was not derived for the audience.
        let found = ring.find(id)?;
        Some(if self.has(Defect::FieldsRunTogether) { [9; 32] } else { *found.seal_key(self.suite) })
    }
}

impl Seal for Sealer {
    fn seal(&self, cookie_name: &str, record: &Record) -> Result<String, SealError> {
        let name_len = if self.has(Defect::LimitWithoutName) { 0 } else { cookie_name.len() };
        let size = name_len + Envelope::text_len(self.suite, record.encoded_len());
        if size > LIMIT {
            return Err(SealError::TooLarge { size, limit: LIMIT });
        }
        let last = self.ring.ids()[self.ring.ids().len() - 1];
        let id = if self.has(Defect::SealsWithTheLastKey) { last } else { self.ring.primary().id() };
        let key = self.seal_key(&self.ring, id).unwrap();
        let mut nonce = vec![0; self.suite.nonce_len()];
        if !self.has(Defect::FixedNonce) {
            self.random.fill(&mut nonce)?;
        }
        let mut envelope = Envelope::start(self.suite, id, &nonce, record.encoded_len());
        record.encode_into(envelope.body_mut());
        let bound = self.bound(&envelope, cookie_name);
        let (nonce, body) = envelope.unsealed_mut();
        Ok(if self.suite == Suite::HmacSha256 {
            let tag = Self::tag(&key, &bound, body);
            envelope.finish(&tag)
        } else {
            let cipher = XChaCha20Poly1305::new_from_slice(&key).unwrap();
            let tag = cipher.encrypt_inout_detached(nonce.try_into().unwrap(), &bound, body.into()).unwrap();
            envelope.finish(&tag)
        })
    }

    fn open(&self, cookie_name: &str, text: &[u8]) -> Result<Record, Rejection> {
        let lenient: Vec<u8>;
        let mut text = text;
        if self.has(Defect::LenientBase64) {
            let kept = text.iter().filter(|byte| !byte.is_ascii_whitespace() && **byte != b'=');
            lenient = kept
                .map(|byte| match byte {
                    b'+' => b'-',
                    b'/' => b'_',
                    other => *other,
                })
                .collect();
            text = &lenient;
        }
        let envelope = Envelope::parse(text, &[self.suite])?;
        let mut candidates = vec![self.seal_key(&self.ring, envelope.key_id()).ok_or(Rejection::UnknownKey)?];
        if self.has(Defect::TriesEveryKey) {
            candidates.extend(self.ring.ids().into_iter().filter_map(|id| self.seal_key(&self.ring, id)));
        }
        for key in candidates {
            let mut envelope = Envelope::parse(text, &[self.suite])?;
            let bound = self.bound(&envelope, cookie_name);
            let (nonce, body, tag) = envelope.sealed_mut();
            let opened = if self.suite == Suite::HmacSha256 {
                let compared = match self.defect {
                    Some(Defect::ShortTag) => 8,
                    Some(Defect::NoTag) => 0,
                    Some(_) | None => 32,
                };
                Self::tag(&key, &bound, body)[..compared] == tag[..compared]
            } else {
                let cipher = XChaCha20Poly1305::new_from_slice(&key).unwrap();
                let (nonce, tag) = (nonce.try_into().unwrap(), tag.try_into().unwrap());
                cipher.decrypt_inout_detached(nonce, &bound, body.into(), tag).is_ok()
            };
            if opened {
                let record = Record::decode(&envelope.into_body()).map_err(|_| Rejection::Undecodable)?;
                let over = self.has(Defect::ChecksDeadlines)
                    && record.deadline() < std::time::UNIX_EPOCH + std::time::Duration::from_secs(9);
                return if over { Err(Rejection::Expired) } else { Ok(record) };
            }
        }
        Err(Rejection::Forged)
    }

    fn max_len(&self) -> usize {
        LIMIT
    }

    fn is_readable_by_client(&self) -> bool {
        !self.suite.encrypts() && !self.has(Defect::SaysItIsSecret)
    }
}

struct Sealers(Option<Defect>);

impl Fixture for Sealers {
    fn suites(&self) -> Vec<Suite> {
        vec![Suite::HmacSha256, Suite::XChaCha20Poly1305]
    }

    fn seal(&self, ring: KeyRing, suite: Suite) -> Arc<dyn Seal> {
        Arc::new(Sealer { ring, suite, random: SeededRandom::new(1), defect: self.0 })
    }
}

seal_suite!(without_defect, Sealers(None));

#[test]
fn every_defect_is_caught_by_the_check_that_is_there_for_it() {
    let caught_by = [
        (Defect::NameNotBound, "another_cookie_name_is_refused"),
        (Defect::FieldsRunTogether, "another_audience_is_refused"),
        (Defect::LenientBase64, "every_other_spelling_is_refused"),
        (Defect::ShortTag, "every_flipped_bit_is_refused"),
        (Defect::NoTag, "parts_of_two_tokens_do_not_make_a_third"),
        (Defect::TriesEveryKey, "another_key_under_the_same_name_is_refused"),
        (Defect::FixedNonce, "an_encrypting_seal_never_seals_the_same_text_twice"),
        (Defect::SaysItIsSecret, "what_the_client_can_read_is_as_stated"),
        (Defect::LimitWithoutName, "a_cookie_of_exactly_the_limit_is_sealed_and_one_more_byte_is_an_error"),
        (Defect::SealsWithTheLastKey, "a_verify_only_key_opens_and_the_primary_seals"),
        (Defect::ChecksDeadlines, "an_expired_record_opens_for_its_deadlines_are_the_callers_to_check"),
    ];
    for (defect, name) in caught_by {
        let check = CHECKS.iter().find(|check| check.name == name).unwrap();
        let caught = catch_unwind(AssertUnwindSafe(|| check.run(&Sealers(Some(defect))))).is_err();
        assert!(caught, "{defect:?} slipped through");
    }
}
