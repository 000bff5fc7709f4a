//! What must not open, byte by byte; and frozen texts, so that what is in the field stays readable.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use cloakroom_core::{
    Client, Envelope, Handle, KeyRing, OsRandom, Principal, Random, RandomError, Record, Rejection, Seal, SealError,
    SecretKey, Suite, Value,
};

use hmac::Mac as _;

use crate::{Cipher, EncryptedSeal, MAX_LEN, SignedSeal};

thread_local! {
    /// How often a decoder saw bytes in this test's thread.
    pub(crate) static DECODED: Cell<usize> = const { Cell::new(0) };
}

const NAME: &str = "__Host-id";
const CANARY: &str = "canary-in-the-record";

/// 0, 1, 2, …: for frozen texts.
#[derive(Debug)]
struct Counting;

impl Random for Counting {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        for (place, byte) in buffer.iter_mut().enumerate() {
            *byte = place as u8;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Failing;

impl Random for Failing {
    fn fill(&self, _: &mut [u8]) -> Result<(), RandomError> {
        Err(RandomError::Unavailable)
    }
}

fn key(seed: u8) -> SecretKey {
    let bytes: Vec<u8> = (0..32u8).map(|n| n.wrapping_mul(n).wrapping_add(seed)).collect();
    SecretKey::parse(&STANDARD.encode(bytes)).unwrap()
}

fn ring(audience: &str, seeds: &[u8]) -> KeyRing {
    KeyRing::new(audience, &seeds.iter().copied().map(key).collect::<Vec<_>>()).unwrap()
}

fn random() -> Arc<dyn Random> {
    Arc::new(OsRandom::default())
}

fn record() -> Record {
    let (created, hour) = (SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000), Duration::from_secs(3600));
    Record::new(Handle::from_bytes([7; Handle::LEN]), created, hour, 24 * hour)
        .owned_by(Principal::new("account-42").unwrap())
        .with_client(Client::new(Some("Browser/1.0"), None))
        .with_values([Value { key: "note", encoded: CANARY.as_bytes(), expires: 0 }])
}

/// Every kind of seal over one ring.
fn seals(ring: &KeyRing) -> [Box<dyn Seal>; 3] {
    [
        Box::new(EncryptedSeal::new(ring.clone(), random())),
        Box::new(EncryptedSeal::new(ring.clone(), random()).sealing_with(Cipher::Aes256GcmSiv)),
        Box::new(SignedSeal::danger_readable_by_client(ring.clone())),
    ]
}

/// The rejection, and the certainty that no decoder saw a byte.
#[track_caller]
fn refused(seal: &dyn Seal, name: &str, text: impl AsRef<[u8]>) -> Rejection {
    let before = DECODED.get();
    let rejection = seal.open(name, text.as_ref()).expect_err("must not open");
    assert_eq!(DECODED.get(), before, "a decoder saw bytes that were refused with {rejection:?}");
    rejection
}

/// A text with this body, made with the right key by the same means as the seals.
fn authentic(ring: &KeyRing, suite: Suite, purpose: &str, body: &[u8]) -> String {
    let nonce = [9; 24];
    let key = ring.primary();
    let mut envelope = Envelope::start(suite, key.id(), &nonce[..suite.nonce_len()], body.len());
    envelope.body_mut().extend_from_slice(body);
    let bound = envelope.bound(purpose, ring.audience(), NAME);
    let (nonce, body) = envelope.unsealed_mut();
    let tag = match suite {
        Suite::XChaCha20Poly1305 => {
            Cipher::XChaCha20Poly1305.encrypt(key.seal_key(suite), nonce, &bound, body).unwrap().to_vec()
        }
        Suite::Aes256GcmSiv => Cipher::Aes256GcmSiv.encrypt(key.seal_key(suite), nonce, &bound, body).unwrap().to_vec(),
        Suite::HmacSha256 | _ => {
            crate::signed::mac(key.seal_key(suite), &bound, body).unwrap().finalize().into_bytes().to_vec()
        }
    };
    envelope.finish(&tag)
}

/// Texts in the field must stay readable, and the same record must give the same text. The texts
/// were computed a second time by another implementation of the primitives.
#[test]
fn texts_are_frozen() {
    let ring = ring("shop", &[1]);
    let counting: Arc<dyn Random> = Arc::new(Counting);
    let encrypted = EncryptedSeal::new(ring.clone(), Arc::clone(&counting));
    let frozen: [(Box<dyn Seal>, &str); 3] = [
        (Box::new(SignedSeal::danger_readable_by_client(ring.clone())), FROZEN_SIGNED),
        (Box::new(encrypted), FROZEN_XCHACHA),
        (Box::new(EncryptedSeal::new(ring, counting).sealing_with(Cipher::Aes256GcmSiv)), FROZEN_GCM_SIV),
    ];
    for (seal, text) in frozen {
        assert_eq!(seal.seal(NAME, &record()).unwrap(), text);
        assert_eq!(seal.open(NAME, text.as_bytes()).unwrap(), record());
    }
}

const FROZEN_SIGNED: &str = "\
    AQFULrNwAQBjBwcHBwcHBwcHBwAAAAAAAQAAAaMYXFAAAAABoxhcUAAAAAGjGFxQAAAAAaMYkz6AAAABox2CrAAAAAAAADbugAAAAAAAAAAAAA\
    phY2NvdW50LTQyAAtCcm93c2VyLzEuMAAABG5vdGUAAAAAFGNhbmFyeS1pbi10aGUtcmVjb3JkQr-tkpL4dvdsrHFblbSOGvw-cMXsIK3iNSkG\
    LKxD2W8";
const FROZEN_XCHACHA: &str = "\
    AQJULrNwAAECAwQFBgcICQoLDA0ODxAREhMUFRYX_3SHlDYJpauNoc8TyfsE6X2e2tH6WgXtLZhRrxeZTb0FVgI81U__45GXZL_4--AcKgzrv8\
    oiF2qYPdFzCV616NTJ_9U7-S2BQ1U_0o6PkSwszMpB0eQiodyOAG7TtuPOvRFgzrKQAEojfFiMW0EpNvCZMYtlrm9DCgXGahkBM0xR7PBNZtpN\
    YoMXGEojZhP2G-jm0Q";
const FROZEN_GCM_SIV: &str = "\
    AQNULrNwAAECAwQFBgcICQoLlXpugzlA55GlKVf5O9UVJc-7B0hbIM6AMre_GX5cX3ZJgqIzYxs8aL_KAxjAeQy-wmjuKh9NZm_iiriTgjMmZD\
    OtC9Org9YwPMAtznrbb-rtkI9cSl1jAPwFxYB_ZCJgxj81GGtBtbO0EAsXkWR5mf13_7C3X4smWzwncs9OIVm9c-kKZwZtyBRm-_vwYiGoWjQr\
    qQ";

#[test]
fn what_was_sealed_opens_to_the_same_record_and_no_two_encrypted_texts_are_equal() {
    for seal in seals(&ring("shop", &[1])) {
        let (one, other) = (seal.seal(NAME, &record()).unwrap(), seal.seal(NAME, &record()).unwrap());
        assert_eq!(seal.open(NAME, one.as_bytes()).unwrap(), record());
        assert_eq!(one == other, seal.is_readable_by_client());
    }
}

#[test]
fn only_the_signed_seal_shows_the_record() {
    for seal in seals(&ring("shop", &[1])) {
        let bytes = URL_SAFE_NO_PAD.decode(seal.seal(NAME, &record()).unwrap()).unwrap();
        let shows = bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes());
        assert_eq!(shows, seal.is_readable_by_client());
    }
}

#[test]
fn every_single_bit_flip_is_refused_undecoded() {
    for seal in seals(&ring("shop", &[1])) {
        let text = seal.seal(NAME, &record()).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(seal.as_ref(), NAME, URL_SAFE_NO_PAD.encode(flipped));
        }
        for bit in 0..text.len() * 8 {
            let mut flipped = text.clone().into_bytes();
            flipped[bit / 8] ^= 1 << (bit % 8);
            refused(seal.as_ref(), NAME, flipped);
        }
    }
}

#[test]
fn every_truncation_extension_and_other_spelling_is_refused_undecoded() {
    for seal in seals(&ring("shop", &[1])) {
        let text = seal.seal(NAME, &record()).unwrap();
        let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
        for len in 0..text.len() {
            refused(seal.as_ref(), NAME, &text[..len]);
            refused(seal.as_ref(), NAME, &text[text.len() - len..]);
        }
        for len in 0..bytes.len() {
            refused(seal.as_ref(), NAME, URL_SAFE_NO_PAD.encode(&bytes[..len]));
            refused(seal.as_ref(), NAME, URL_SAFE_NO_PAD.encode([&bytes[..len], &bytes[len + 1..]].concat()));
        }
        for byte in 0..=255 {
            refused(seal.as_ref(), NAME, [text.as_bytes(), &[byte]].concat());
            refused(seal.as_ref(), NAME, [&[byte], text.as_bytes()].concat());
            refused(seal.as_ref(), NAME, URL_SAFE_NO_PAD.encode([bytes.as_slice(), &[byte]].concat()));
        }
        refused(seal.as_ref(), NAME, STANDARD.encode(&bytes) + "=");
        refused(seal.as_ref(), NAME, format!("\"{text}\""));
    }
}

#[test]
fn spare_bits_of_the_last_character_are_no_second_spelling() {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for seal in seals(&ring("shop", &[1])) {
        for pad in 0..3 {
            let note = "x".repeat(pad);
            let record = record().with_values([Value { key: "note", encoded: note.as_bytes(), expires: 0 }]);
            let text = seal.seal(NAME, &record).unwrap();
            for last in ALPHABET.iter().filter(|last| Some(*last) != text.as_bytes().last()) {
                refused(seal.as_ref(), NAME, [&text.as_bytes()[..text.len() - 1], &[*last]].concat());
            }
        }
    }
}

#[test]
fn tags_of_every_other_length_are_refused_undecoded() {
    let ring = ring("shop", &[1]);
    for (seal, tag_len) in seals(&ring).iter().zip([16, 16, 32]) {
        let bytes = URL_SAFE_NO_PAD.decode(seal.seal(NAME, &record()).unwrap()).unwrap();
        let (sealed, tag) = bytes.split_at(bytes.len() - tag_len);
        for len in (0..=64).filter(|len| *len != tag_len) {
            let tag: Vec<u8> = tag.iter().copied().cycle().take(len).collect();
            refused(seal.as_ref(), NAME, URL_SAFE_NO_PAD.encode([sealed, &tag].concat()));
        }
        for guess in [vec![0; tag_len], vec![0xff; tag_len]] {
            let text = URL_SAFE_NO_PAD.encode([sealed, &guess].concat());
            assert_eq!(refused(seal.as_ref(), NAME, text), Rejection::Forged);
        }
    }
}

#[test]
fn a_text_opens_under_its_own_cookie_name_audience_and_key_only() {
    let (here, elsewhere) = (ring("shop", &[1]), ring("shop.example", &[1]));
    for ((seal, other_audience), other_key) in
        seals(&here).iter().zip(seals(&elsewhere)).zip(seals(&ring("shop", &[2])))
    {
        let text = seal.seal(NAME, &record()).unwrap();
        for name in ["", "id", "__Host-i", "__Host-idd", "__host-id", "__Secure-id"] {
            assert_eq!(refused(seal.as_ref(), name, &text), Rejection::Forged);
        }
        assert_eq!(refused(other_audience.as_ref(), NAME, &text), Rejection::Forged);
        assert_eq!(refused(other_key.as_ref(), NAME, &text), Rejection::UnknownKey);
    }
}

#[test]
fn one_key_is_never_tried_for_another() {
    for (seal, both) in seals(&ring("shop", &[1])).iter().zip(seals(&ring("shop", &[2, 1]))) {
        let mut bytes = URL_SAFE_NO_PAD.decode(seal.seal(NAME, &record()).unwrap()).unwrap();
        assert!(both.open(NAME, URL_SAFE_NO_PAD.encode(&bytes).as_bytes()).is_ok());
        bytes[2..6].copy_from_slice(ring("shop", &[2]).ids()[0].as_bytes());
        assert_eq!(refused(both.as_ref(), NAME, URL_SAFE_NO_PAD.encode(&bytes)), Rejection::Forged);
        bytes[2..6].copy_from_slice(&[0; 4]);
        assert_eq!(refused(both.as_ref(), NAME, URL_SAFE_NO_PAD.encode(&bytes)), Rejection::UnknownKey);
    }
}

#[test]
fn what_was_sealed_for_another_purpose_is_no_session() {
    let ring = ring("shop", &[1]);
    for (seal, suite) in seals(&ring).iter().zip([Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv, Suite::HmacSha256]) {
        let body = record().encode();
        assert_eq!(seal.open(NAME, authentic(&ring, suite, "session", &body).as_bytes()).unwrap(), record());
        for purpose in ["", "csrf", "flash", "oauth-state", "remember", "Session", "session ", "sessio"] {
            let text = authentic(&ring, suite, purpose, &body);
            assert_eq!(refused(seal.as_ref(), NAME, text), Rejection::Forged);
        }
    }
}

#[test]
fn no_seal_opens_what_another_suite_sealed_or_a_renamed_suite() {
    let ring = ring("shop", &[1]);
    let [xchacha, gcm_siv, signed] = seals(&ring);
    let only = |cipher| EncryptedSeal::new(ring.clone(), random()).opening_only(&[]).sealing_with(cipher);
    let (xchacha_only, gcm_siv_only) = (only(Cipher::XChaCha20Poly1305), only(Cipher::Aes256GcmSiv));
    let texts = [&xchacha, &gcm_siv, &signed].map(|seal| seal.seal(NAME, &record()).unwrap());

    assert_eq!(refused(signed.as_ref(), NAME, &texts[0]), Rejection::UnknownVersion);
    assert_eq!(refused(signed.as_ref(), NAME, &texts[1]), Rejection::UnknownVersion);
    assert_eq!(refused(xchacha.as_ref(), NAME, &texts[2]), Rejection::UnknownVersion);
    assert_eq!(refused(&gcm_siv_only, NAME, &texts[0]), Rejection::UnknownVersion);
    assert_eq!(refused(&xchacha_only, NAME, &texts[1]), Rejection::UnknownVersion);
    assert!(xchacha_only.open(NAME, texts[0].as_bytes()).is_ok(), "what it seals, it opens");
    assert!(gcm_siv_only.open(NAME, texts[1].as_bytes()).is_ok(), "what it seals, it opens");
    for text in &texts {
        let bytes = URL_SAFE_NO_PAD.decode(text).unwrap();
        for byte in (0..=255).filter(|byte| *byte != bytes[1]) {
            let renamed = URL_SAFE_NO_PAD.encode([&bytes[..1], &[byte], &bytes[2..]].concat());
            for seal in [&xchacha, &gcm_siv, &signed] {
                refused(seal.as_ref(), NAME, &renamed);
            }
        }
        for version in (0..=255).filter(|version| *version != Envelope::VERSION) {
            let other = URL_SAFE_NO_PAD.encode([&[version], &bytes[1..]].concat());
            for seal in [&xchacha, &gcm_siv, &signed] {
                assert_eq!(refused(seal.as_ref(), NAME, &other), Rejection::UnknownVersion);
            }
        }
    }
}

#[test]
fn the_cipher_and_the_keys_can_change_while_everybody_stays_signed_in() {
    let ring = ring("shop", &[1]);
    let before = EncryptedSeal::new(ring.clone(), random());
    let after = EncryptedSeal::new(ring.clone(), random()).sealing_with(Cipher::Aes256GcmSiv);
    let (old, new) = (before.seal(NAME, &record()).unwrap(), after.seal(NAME, &record()).unwrap());
    assert_eq!(after.open(NAME, old.as_bytes()).unwrap(), record());
    assert_eq!(before.open(NAME, new.as_bytes()).unwrap(), record());

    for seal in seals(&ring) {
        ring.reload(&[key(1)]).unwrap();
        let old = seal.seal(NAME, &record()).unwrap();
        ring.reload(&[key(2), key(1)]).unwrap();
        assert_eq!(seal.open(NAME, old.as_bytes()).unwrap(), record());
        let new = URL_SAFE_NO_PAD.decode(seal.seal(NAME, &record()).unwrap()).unwrap();
        assert_eq!(new[2..6], *ring.ids()[0].as_bytes(), "the primary seals");
        ring.reload(&[key(2)]).unwrap();
        assert_eq!(refused(seal.as_ref(), NAME, &old), Rejection::UnknownKey);
    }
}

#[test]
fn the_order_in_which_ciphers_are_chosen_does_not_matter() {
    let ring = ring("shop", &[1]);
    let old = EncryptedSeal::new(ring.clone(), random()).seal(NAME, &record()).unwrap();
    let only = [Cipher::Aes256GcmSiv];
    let one = EncryptedSeal::new(ring.clone(), random()).opening_only(&only).sealing_with(only[0]);
    let other = EncryptedSeal::new(ring, random()).sealing_with(only[0]).opening_only(&only);
    for seal in [one, other] {
        assert_eq!(refused(&seal, NAME, &old), Rejection::UnknownVersion);
        assert_eq!(seal.open(NAME, seal.seal(NAME, &record()).unwrap().as_bytes()).unwrap(), record());
    }
}

/// The fallback to an unencrypted coder that let anybody forge a session elsewhere.
#[test]
fn plain_and_foreign_formats_are_refused_undecoded() {
    let json = r#"{"principal":"account-42","values":{"note":"1"}}"#;
    let plain = record().encode();
    let foreign = [
        String::new(),
        json.to_owned(),
        STANDARD.encode(json),
        URL_SAFE_NO_PAD.encode(json),
        URL_SAFE_NO_PAD.encode(&plain),
        STANDARD.encode(&plain),
        plain.iter().map(|byte| format!("{byte:02x}")).collect(),
        format!("{}.{}", URL_SAFE_NO_PAD.encode(json), URL_SAFE_NO_PAD.encode([0; 32])),
        format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), URL_SAFE_NO_PAD.encode(json)),
        format!("s:{}.{}", URL_SAFE_NO_PAD.encode([1; 24]), STANDARD.encode([0; 32])),
        format!("{}--{}", STANDARD.encode(json), "0".repeat(40)),
        "BAh7BkkiD3Nlc3Npb25faWQGOgZFVA".to_owned(),
        "A".repeat(400),
        "A".repeat(100_000),
    ];
    for seal in seals(&ring("shop", &[1])) {
        for text in &foreign {
            refused(seal.as_ref(), NAME, text);
        }
        refused(seal.as_ref(), NAME, &plain);
        refused(seal.as_ref(), NAME, [0; 64]);
        refused(seal.as_ref(), NAME, [0xff; 64]);
    }
}

#[test]
fn authentic_bytes_that_are_no_record_are_told_apart_from_those_of_a_newer_release() {
    let ring = ring("shop", &[1]);
    for (seal, suite) in seals(&ring).iter().zip([Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv, Suite::HmacSha256]) {
        let open = |body: &[u8]| seal.open(NAME, authentic(&ring, suite, "session", body).as_bytes()).unwrap_err();
        assert_eq!(open(b""), Rejection::Undecodable);
        assert_eq!(open(b"\x01no record"), Rejection::Undecodable);
        assert_eq!(open(b"\x02of tomorrow"), Rejection::NewerFormat);
    }
}

#[test]
fn nothing_of_the_plaintext_is_left_where_a_tag_was_wrong() {
    for cipher in Cipher::ALL {
        let (key, nonce, bound) = ([3; 32], &[5; 24][..cipher.suite().nonce_len()], b"bound");
        let mut body = CANARY.as_bytes().to_vec();
        let mut tag = cipher.encrypt(&key, nonce, bound, &mut body).unwrap();
        let mut good = body.clone();
        cipher.decrypt(&key, nonce, bound, &mut good, &tag).unwrap();
        assert_eq!(good, CANARY.as_bytes());
        tag[0] ^= 1;
        assert!(cipher.decrypt(&key, nonce, bound, &mut body, &tag).is_err());
        assert_eq!(body, [0; CANARY.len()]);
    }
}

#[test]
fn a_cookie_may_fill_the_limit_and_not_pass_it() {
    for seal in seals(&ring("shop", &[1])) {
        let sized = |len: usize| {
            let note = "x".repeat(len);
            record().with_values([Value { key: "note", encoded: note.as_bytes(), expires: 0 }])
        };
        let fits = |len: &usize| seal.seal(NAME, &sized(*len)).is_ok();
        let largest = (2_500..3_100).rev().find(fits).unwrap();
        let text = seal.seal(NAME, &sized(largest)).unwrap();
        assert_eq!(NAME.len() + text.len(), MAX_LEN);
        assert_eq!(seal.open(NAME, text.as_bytes()).unwrap(), sized(largest));

        let too_large = SealError::TooLarge { size: MAX_LEN + 1, limit: MAX_LEN };
        assert_eq!(seal.seal(NAME, &sized(largest + 1)), Err(too_large));
        assert!(matches!(seal.seal(&format!("{NAME}x"), &sized(largest)), Err(SealError::TooLarge { .. })));
        assert_eq!(seal.max_len(), MAX_LEN);
    }
}

#[test]
fn a_text_over_the_limit_is_refused_undecoded_even_if_it_is_authentic() {
    let ring = ring("shop", &[1]);
    let note = "x".repeat(MAX_LEN);
    let body = record().with_values([Value { key: "note", encoded: note.as_bytes(), expires: 0 }]).encode();
    for (seal, suite) in seals(&ring).iter().zip([Suite::XChaCha20Poly1305, Suite::Aes256GcmSiv, Suite::HmacSha256]) {
        assert_eq!(refused(seal.as_ref(), NAME, authentic(&ring, suite, "session", &body)), Rejection::Malformed);
    }
}

#[test]
fn a_record_that_is_too_large_or_a_failing_generator_seals_nothing() {
    let seal = EncryptedSeal::new(ring("shop", &[1]), Arc::new(Failing));
    assert_eq!(seal.seal(NAME, &record()), Err(SealError::Random(RandomError::Unavailable)));
    let note = "x".repeat(MAX_LEN);
    let large = record().with_values([Value { key: "note", encoded: note.as_bytes(), expires: 0 }]);
    // Refused before a nonce is drawn, so before anything is encrypted.
    assert!(matches!(seal.seal(NAME, &large), Err(SealError::TooLarge { limit: MAX_LEN, .. })));
}

#[test]
fn debug_shows_key_ids_and_no_key() {
    let ring = ring("shop", &[1]);
    for seal in seals(&ring) {
        let text = format!("{seal:?}");
        assert!(text.contains(&format!("{:?}", ring.ids()[0])), "{text}");
        for suite in Suite::ALL {
            let secret = format!("{:?}", ring.primary().seal_key(suite));
            assert!(!text.contains(secret.trim_matches(['[', ']'])), "{text}");
        }
    }
}
