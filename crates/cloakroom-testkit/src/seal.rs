//! Every guarantee of the [`Seal`] contract, one check each.
//!
//! [`seal_suite!`](crate::seal_suite) makes a test of each check; [`CHECKS`] lists them for other
//! harnesses. The tokens have to be [`Envelope`](cloakroom_core::Envelope)s: the checks change their
//! version, suite, key and every bit.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use cloakroom_core::{
    Client, Clock as _, Handle, KeyId, KeyRing, Principal, Record, Rejection, Seal, SealError, SecretKey, Suite, Value,
};

use crate::ManualClock;
use crate::random::{SeededRandom, expand, mix};

/// How the suite gets at seals.
pub trait Fixture {
    /// The suites that it can be set up to seal with. Every check runs with each.
    fn suites(&self) -> Vec<Suite>;

    /// A seal with this ring, which the suite may reload, that seals with this suite.
    fn seal(&self, ring: KeyRing, suite: Suite) -> Arc<dyn Seal>;
}

/// A check with its name.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct Check {
    /// The name of its function.
    pub name: &'static str,
    function: fn(&dyn Fixture),
}

impl Check {
    /// Runs the check.
    ///
    /// # Panics
    /// When the seal breaks the guarantee.
    pub fn run(&self, fixture: &dyn Fixture) {
        assert!(!fixture.suites().is_empty(), "the fixture names no suite, so that nothing would be tested");
        (self.function)(fixture);
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Check").field(&self.name).finish()
    }
}

/// Expands to a module with one `#[test]` for each check of the seal contract.
///
/// Takes the name of the module and an expression of a [`seal::Fixture`](crate::seal::Fixture).
///
/// ```
/// use std::sync::Arc;
///
/// use cloakroom_core::{KeyRing, Seal, Suite};
/// use cloakroom_testkit::seal::Fixture;
///
/// struct Mine;
///
/// impl Fixture for Mine {
///     fn suites(&self) -> Vec<Suite> {
///         vec![Suite::XChaCha20Poly1305]
///     }
///
///     fn seal(&self, ring: KeyRing, suite: Suite) -> Arc<dyn Seal> {
///         my_seal(ring, suite)
///     }
/// }
///
/// cloakroom_testkit::seal_suite!(mine, Mine);
/// # fn my_seal(_: KeyRing, _: Suite) -> Arc<dyn Seal> { unreachable!() }
/// # fn main() { let _ = Mine; }
/// ```
#[macro_export]
macro_rules! seal_suite {
    ($module:ident, $fixture:expr) => {
        mod $module {
            #[allow(unused_imports)]
            use super::*;

            $crate::__seal_checks! { [$crate::__seal_tests] $fixture }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __seal_tests {
    ($fixture:expr; $($check:ident)+) => {
        $(
            #[test]
            fn $check() {
                $crate::seal::run(stringify!($check), &$fixture);
            }
        )+
    };
}

macro_rules! define_checks {
    ($fixture:expr; $($check:ident)+) => {
        /// All checks.
        pub const CHECKS: &[Check] = &[$(Check { name: stringify!($check), function: $check }),+];
    };
}

/// Runs the check of this name, for [`seal_suite!`](crate::seal_suite).
#[doc(hidden)]
pub fn run(name: &str, fixture: &dyn Fixture) {
    match CHECKS.iter().find(|check| check.name == name) {
        Some(check) => check.run(fixture),
        None => unreachable!("the suite's macro and its list of checks have one source"),
    }
}

/// The one list of checks.
#[doc(hidden)]
#[macro_export]
macro_rules! __seal_checks {
    ([$($with:tt)+] $fixture:expr) => {
        $($with)+! { $fixture;
            what_was_sealed_opens_to_the_same_record
            an_expired_record_opens_for_its_deadlines_are_the_callers_to_check
            every_flipped_bit_is_refused
            every_truncation_is_refused
            every_extension_is_refused
            every_other_spelling_is_refused
            garbage_is_refused
            another_cookie_name_is_refused
            another_audience_is_refused
            another_key_is_refused_as_unknown
            another_key_under_the_same_name_is_refused
            another_suite_is_refused
            an_unknown_version_or_suite_is_refused_as_unknown
            parts_of_two_tokens_do_not_make_a_third
            a_verify_only_key_opens_and_the_primary_seals
            an_encrypting_seal_never_seals_the_same_text_twice
            what_the_client_can_read_is_as_stated
            a_cookie_of_exactly_the_limit_is_sealed_and_one_more_byte_is_an_error
        }
    };
}

__seal_checks! { [define_checks] () }

const COOKIE: &str = "__Host-id";

/// Where an envelope names its version, its suite and its key.
const VERSION_AT: usize = 0;
const SUITE_AT: usize = 1;
const KEY_AT: std::ops::Range<usize> = 2..2 + KeyId::LEN;

/// A key as text, so that two rings can hold the same.
fn key(number: u64) -> String {
    match SecretKey::generate(&SeededRandom::new(mix(number))) {
        Ok(key) => key.expose_base64().to_string(),
        Err(error) => panic!("the check's own key: {error}"),
    }
}

fn keys(texts: &[&str]) -> Vec<SecretKey> {
    let keys = texts.iter().map(|text| SecretKey::parse(text));
    keys.map(|key| key.unwrap_or_else(|error| panic!("the check's own key: {error}"))).collect()
}

fn ring(audience: &str, texts: &[&str]) -> KeyRing {
    KeyRing::new(audience, &keys(texts)).unwrap_or_else(|error| panic!("the check's own ring: {error}"))
}

/// What a check needs of one suite: a seal with one key, and that key.
struct Scene {
    seal: Arc<dyn Seal>,
    key: String,
    suite: Suite,
}

fn scenes(fixture: &dyn Fixture) -> Vec<Scene> {
    let scene = |suite| {
        let key = key(1);
        Scene { seal: fixture.seal(ring("shop", &[&key]), suite), key, suite }
    };
    fixture.suites().into_iter().map(scene).collect()
}

fn record_of(body: &[u8]) -> Record {
    let hour = Duration::from_secs(60 * 60);
    let now: SystemTime = ManualClock::new().now();
    let record = Record::new(Handle::from_bytes([7; Handle::LEN]), now, hour, 8 * hour);
    record.with_values([Value { key: "n", encoded: body, expires: 0 }])
}

/// Small, with everything, and with bytes that need every letter of the alphabet.
fn records() -> Vec<Record> {
    let alice = Principal::new("alice").unwrap_or_else(|error| panic!("the check's own principal: {error}"));
    let mut noise = [0; 200];
    expand(3, &mut noise);
    let plain = record_of(b"1");
    let full = record_of(b"\"two\"")
        .owned_by(alice)
        .with_client(Client::new(Some("Browser/1.0"), Some([192, 0, 2, 1].into())));
    vec![plain.clone().with_values([]), plain, full, record_of(&noise)]
}

fn seal(seal: &dyn Seal, record: &Record) -> String {
    seal.seal(COOKIE, record).unwrap_or_else(|error| panic!("seal: a small record must be sealed: {error}"))
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = URL_SAFE_NO_PAD.decode(text);
    bytes.unwrap_or_else(|error| panic!("seal: the token is not base64url without padding: {error}"))
}

fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[track_caller]
fn assert_refused(seal: &dyn Seal, text: &[u8], what: &str) {
    assert!(seal.open(COOKIE, text).is_err(), "open: accepted {what}");
}

/// The record comes back whole, from a token that any cookie can carry.
pub fn what_was_sealed_opens_to_the_same_record(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        for record in records() {
            let text = seal(&*scene.seal, &record);
            let allowed = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
            assert!(allowed, "seal: the token holds characters that are not base64url");
            assert_eq!(
                scene.seal.open(COOKIE, text.as_bytes()).as_ref(),
                Ok(&record),
                "open: another record than was sealed"
            );
            assert_eq!(scene.seal.open(COOKIE, text.as_bytes()).as_ref(), Ok(&record), "open: works once only");
            assert_eq!(decode(&text)[SUITE_AT], scene.suite.byte(), "seal: the token names another suite");
        }
    }
}

/// A seal keeps no time: an authentic record opens, however old it is.
pub fn an_expired_record_opens_for_its_deadlines_are_the_callers_to_check(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let second = Duration::from_secs(1);
        let record = Record::new(Handle::from_bytes([7; Handle::LEN]), SystemTime::UNIX_EPOCH, second, second);
        let text = seal(&*scene.seal, &record);
        assert_eq!(
            scene.seal.open(COOKIE, text.as_bytes()),
            Ok(record),
            "open: refused an authentic record for its deadline"
        );
    }
}

/// Each bit of each token, in its bytes and in its text.
pub fn every_flipped_bit_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        for record in records() {
            let text = seal(&*scene.seal, &record);
            let bytes = decode(&text);
            for bit in 0..bytes.len() * 8 {
                let mut changed = bytes.clone();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_refused(&*scene.seal, encode(&changed).as_bytes(), &format!("a token with bit {bit} flipped"));
            }
            for bit in 0..text.len() * 8 {
                let mut changed = text.clone().into_bytes();
                changed[bit / 8] ^= 1 << (bit % 8);
                assert_refused(&*scene.seal, &changed, &format!("a text with bit {bit} flipped"));
            }
        }
    }
}

/// Every shorter token, cut in its bytes and in its text, at either end.
pub fn every_truncation_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        for record in records() {
            let text = seal(&*scene.seal, &record);
            let bytes = decode(&text);
            for len in 0..bytes.len() {
                assert_refused(&*scene.seal, encode(&bytes[..len]).as_bytes(), &format!("a token cut to {len} bytes"));
                assert_refused(
                    &*scene.seal,
                    encode(&bytes[bytes.len() - len..]).as_bytes(),
                    &format!("the last {len} bytes of a token"),
                );
            }
            for len in 0..text.len() {
                assert_refused(&*scene.seal, &text.as_bytes()[..len], &format!("a text cut to {len} characters"));
            }
        }
    }
}

/// Whatever is put before, behind or into a token.
pub fn every_extension_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let text = seal(&*scene.seal, &records()[1]);
        let bytes = decode(&text);
        for byte in 0..=255 {
            for at in [0, 1, 2, 6, bytes.len() / 2, bytes.len() - 16, bytes.len() - 1, bytes.len()] {
                let mut longer = bytes.clone();
                longer.insert(at, byte);
                assert_refused(&*scene.seal, encode(&longer).as_bytes(), &format!("a token with a byte added at {at}"));
            }
        }
        assert_refused(&*scene.seal, text.repeat(2).as_bytes(), "a token twice over");
        assert_refused(&*scene.seal, encode(&bytes.repeat(2)).as_bytes(), "the bytes of a token twice over");
    }
}

/// One text opens to one record: no padding, no other alphabet, no spare bits, no white space.
pub fn every_other_spelling_is_refused(fixture: &dyn Fixture) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    for scene in scenes(fixture) {
        let mut spare = [false; 3];
        // Bodies of three successive lengths end on each number of spare bits.
        for len in 60..66 {
            let mut body = vec![0xff; len];
            expand(len as u64, &mut body[8..]);
            let text = seal(&*scene.seal, &record_of(&body));
            spare[(text.len() % 4).saturating_sub(1)] = true;
            for padding in ["=", "==", "===", "====", "%3D", "."] {
                assert_refused(&*scene.seal, format!("{text}{padding}").as_bytes(), "a token with padding");
            }
            for space in [" ", "\t", "\n", "\r\n", "\0", "\"", "\u{a0}"] {
                for at in [0, 1, text.len() / 2, text.len()] {
                    let (head, tail) = text.split_at(at);
                    assert_refused(
                        &*scene.seal,
                        format!("{head}{space}{tail}").as_bytes(),
                        "a token with white space in it",
                    );
                }
            }
            for (letter, other) in [("-", "+"), ("_", "/"), ("-", "%2B"), ("_", "%2F")] {
                if text.contains(letter) {
                    assert_refused(
                        &*scene.seal,
                        text.replace(letter, other).as_bytes(),
                        "a token in the standard alphabet",
                    );
                    assert_refused(
                        &*scene.seal,
                        text.replacen(letter, other, 1).as_bytes(),
                        "a token in two alphabets",
                    );
                }
            }
            // All last letters but the right one: some of them differ in bits that decode to nothing.
            let (head, last) = text.as_bytes().split_at(text.len() - 1);
            for letter in ALPHABET.iter().filter(|letter| **letter != last[0]) {
                assert_refused(&*scene.seal, &[head, &[*letter]].concat(), "a token with another last letter");
            }
        }
        assert_eq!(spare, [true; 3], "the check must see tokens with every number of spare bits");
    }
}

/// No bytes of any length are taken for a token, and none make it panic.
pub fn garbage_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        assert_refused(&*scene.seal, b"", "nothing");
        for len in (0..300).chain([4_095, 4_096, 4_097, 1_000_000]) {
            let mut bytes = vec![0; len];
            for seed in 0..4 {
                expand(mix(len as u64) ^ seed, &mut bytes);
                assert_refused(&*scene.seal, &bytes, "random bytes");
                if let Some(head) = bytes.first_chunk_mut::<2>() {
                    *head = [1, scene.suite.byte()];
                }
                assert_refused(&*scene.seal, encode(&bytes).as_bytes(), "random bytes with the head of a token");
            }
            bytes.fill(0);
            assert_refused(&*scene.seal, &bytes, "zeros");
            assert_refused(&*scene.seal, encode(&bytes).as_bytes(), "encoded zeros");
        }
    }
}

/// A token is good in the cookie it was sealed for and in no other.
pub fn another_cookie_name_is_refused(fixture: &dyn Fixture) {
    let names = ["__Host-id", "__Host-i", "__Host-id2", "__host-id", "id", "__Host-id ", "", "shop"];
    for scene in scenes(fixture) {
        for sealed_for in names {
            let text = scene.seal.seal(sealed_for, &records()[1]);
            let text = text.unwrap_or_else(|error| panic!("seal: a small record must be sealed: {error}"));
            for opened_as in names {
                let opened = scene.seal.open(opened_as, text.as_bytes()).is_ok();
                assert_eq!(
                    opened,
                    sealed_for == opened_as,
                    "open: sealed for cookie {sealed_for:?}, opened as {opened_as:?}"
                );
            }
        }
    }
}

/// Applications that share a key do not accept each other's tokens, whichever way name and audience are cut.
pub fn another_audience_is_refused(fixture: &dyn Fixture) {
    let places = [("shop", "id"), ("sho", "pid"), ("shopi", "d"), ("Shop", "id"), ("admin", "id"), ("shop ", "id")];
    for suite in fixture.suites() {
        let key = key(1);
        let seals = places.map(|(audience, name)| (fixture.seal(ring(audience, &[&key]), suite), name));
        for (at, (from, name)) in seals.iter().enumerate() {
            let text = from.seal(name, &records()[1]);
            let text = text.unwrap_or_else(|error| panic!("seal: a small record must be sealed: {error}"));
            for (other, (to, name)) in seals.iter().enumerate() {
                let opened = to.open(name, text.as_bytes()).is_ok();
                assert_eq!(opened, at == other, "open: sealed for {:?}, opened for {:?}", places[at], places[other]);
            }
        }
    }
}

/// A token that names a key outside the ring may be another node's: that is told apart.
pub fn another_key_is_refused_as_unknown(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let other = fixture.seal(ring("shop", &[&key(2), &key(3)]), scene.suite);
        let text = seal(&*other, &records()[1]);
        let opened = scene.seal.open(COOKIE, text.as_bytes());
        assert_eq!(opened, Err(Rejection::UnknownKey), "open: a token of a key that is not in the ring");
    }
}

/// Writing another key's name into a token does not make it that key's: there is one check with the
/// one key that is named, and none with any other.
pub fn another_key_under_the_same_name_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let foreign = fixture.seal(ring("shop", &[&key(2)]), scene.suite);
        let own = decode(&seal(&*scene.seal, &records()[1]));
        let mut forged = decode(&seal(&*foreign, &records()[1]));
        forged[KEY_AT].copy_from_slice(&own[KEY_AT]);
        let opened = scene.seal.open(COOKIE, encode(&forged).as_bytes());
        assert_eq!(opened, Err(Rejection::Forged), "open: a token of another key under a known name");
        // The ring knows both keys; the one that sealed it is not the one that is named.
        let both = fixture.seal(ring("shop", &[&scene.key, &key(2)]), scene.suite);
        let opened = both.open(COOKIE, encode(&forged).as_bytes());
        assert_eq!(opened, Err(Rejection::Forged), "open: tried other keys than the one that is named");
    }
}

/// A token under another suite's name is refused, and one of another seal is not read as one's own.
pub fn another_suite_is_refused(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let bytes = decode(&seal(&*scene.seal, &records()[3]));
        for suite in Suite::ALL.into_iter().filter(|suite| *suite != scene.suite) {
            let mut changed = bytes.clone();
            changed[SUITE_AT] = suite.byte();
            assert_refused(&*scene.seal, encode(&changed).as_bytes(), &format!("a token renamed to {suite:?}"));
        }
        for suite in fixture.suites() {
            let other = fixture.seal(ring("shop", &[&scene.key]), suite);
            let text = seal(&*other, &records()[1]);
            if let Ok(opened) = scene.seal.open(COOKIE, text.as_bytes()) {
                assert_eq!(opened, records()[1], "open: read a token of {suite:?} as another record");
            }
        }
    }
}

/// What a newer release may have written is told apart from what is forged.
pub fn an_unknown_version_or_suite_is_refused_as_unknown(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let bytes = decode(&seal(&*scene.seal, &records()[1]));
        let known = Suite::ALL.map(Suite::byte);
        let versions = (0..=255).filter(|version| *version != bytes[VERSION_AT]).map(|version| (VERSION_AT, version));
        let suites = (0..=255).filter(|suite| !known.contains(suite)).map(|suite| (SUITE_AT, suite));
        for (at, value) in versions.chain(suites) {
            let mut changed = bytes.clone();
            changed[at] = value;
            let opened = scene.seal.open(COOKIE, encode(&changed).as_bytes());
            assert_eq!(opened, Err(Rejection::UnknownVersion), "open: a token whose byte {at} is {value}");
        }
    }
}

/// The head of one token and the tail of another are not a token.
pub fn parts_of_two_tokens_do_not_make_a_third(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let first = decode(&seal(&*scene.seal, &record_of(b"\"first\"")));
        let second = decode(&seal(&*scene.seal, &record_of(b"\"other\"")));
        assert_eq!(first.len(), second.len(), "the check needs two tokens of one length");
        for at in 1..first.len() {
            let spliced = [&first[..at], &second[at..]].concat();
            if spliced != first && spliced != second {
                assert_refused(&*scene.seal, encode(&spliced).as_bytes(), &format!("two tokens joined at byte {at}"));
            }
        }
    }
}

/// A rotation loses nobody, and what is dropped from the ring is out.
pub fn a_verify_only_key_opens_and_the_primary_seals(fixture: &dyn Fixture) {
    for suite in fixture.suites() {
        let (old, new) = (key(1), key(2));
        let ring = ring("shop", &[&old]);
        let rotated = fixture.seal(ring.clone(), suite);
        let record = &records()[2];
        let before = seal(&*rotated, record);
        let reload = |texts: &[&str]| {
            if let Err(error) = ring.reload(&keys(texts)) {
                panic!("the check's own ring: {error}");
            }
        };
        for texts in [[old.as_str(), &new], [&new, &old]] {
            reload(&texts);
            assert_eq!(
                rotated.open(COOKIE, before.as_bytes()).as_ref(),
                Ok(record),
                "open: lost a session in a rotation"
            );
            let named = &decode(&seal(&*rotated, record))[KEY_AT];
            assert_eq!(named, ring.primary().id().as_bytes(), "seal: must seal with the ring's primary key");
        }
        let after = seal(&*rotated, record);
        reload(&[&new]);
        assert_eq!(rotated.open(COOKIE, after.as_bytes()).as_ref(), Ok(record), "open: refused a token of the new key");
        let opened = rotated.open(COOKIE, before.as_bytes());
        assert_eq!(opened, Err(Rejection::UnknownKey), "open: accepted a token of a key that was dropped");
    }
}

/// Equal records do not show as equal tokens, and no nonce comes twice.
pub fn an_encrypting_seal_never_seals_the_same_text_twice(fixture: &dyn Fixture) {
    for scene in scenes(fixture).into_iter().filter(|scene| scene.suite.encrypts()) {
        let mut nonces = std::collections::BTreeSet::new();
        for _ in 0..100 {
            let bytes = decode(&seal(&*scene.seal, &records()[1]));
            let nonce = &bytes[KEY_AT.end..KEY_AT.end + scene.suite.nonce_len()];
            assert!(nonces.insert(nonce.to_vec()), "seal: used a nonce twice");
        }
    }
}

/// A seal that says that the client cannot read it shows nothing; one that says it can does.
pub fn what_the_client_can_read_is_as_stated(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let secret = b"\"a value that must be looked for\"";
        let owner = "a principal that must be looked for";
        let principal = Principal::new(owner).unwrap_or_else(|error| panic!("the check's own principal: {error}"));
        let bytes = decode(&seal(&*scene.seal, &record_of(secret).owned_by(principal)));
        for plain in [secret.as_slice(), owner.as_bytes()] {
            // A part is as telling as the whole.
            let shown = plain.windows(8).any(|part| bytes.windows(8).any(|window| window == part));
            let stated = scene.seal.is_readable_by_client();
            assert_eq!(shown, stated, "is_readable_by_client: says {stated}, but the record shows: {shown}");
        }
        assert_eq!(
            scene.seal.is_readable_by_client(),
            !scene.suite.encrypts(),
            "is_readable_by_client: does not fit the suite"
        );
    }
}

/// The limit is for name and value together, to the byte, and over it nothing is sealed.
pub fn a_cookie_of_exactly_the_limit_is_sealed_and_one_more_byte_is_an_error(fixture: &dyn Fixture) {
    for scene in scenes(fixture) {
        let limit = scene.seal.max_len();
        let (mut exact, mut over) = (0, 0);
        // Base64 skips every fourth length, so names of several lengths are needed to meet the limit.
        for name_len in 1..=8 {
            let name = "n".repeat(name_len);
            for body_len in (limit / 4 * 3).saturating_sub(300)..=limit / 4 * 3 {
                let mut body = vec![0; body_len];
                expand(body_len as u64, &mut body);
                let record = record_of(&body);
                match scene.seal.seal(&name, &record) {
                    Ok(text) => {
                        let size = name_len + text.len();
                        assert!(size <= limit, "seal: made a cookie of {size} bytes with a limit of {limit}");
                        if size == limit {
                            exact += 1;
                            assert_eq!(
                                scene.seal.open(&name, text.as_bytes()),
                                Ok(record),
                                "open: a cookie of exactly the limit"
                            );
                            let longer = format!("{name}n");
                            let sealed = scene.seal.seal(&longer, &record_of(&body));
                            assert_eq!(
                                sealed,
                                Err(SealError::TooLarge { size: size + 1, limit }),
                                "seal: one byte over the limit"
                            );
                        }
                    }
                    Err(SealError::TooLarge { size, limit: stated }) => {
                        over += 1;
                        assert_eq!(stated, limit, "seal: states another limit");
                        assert!(size > limit, "seal: refused a cookie of {size} bytes with a limit of {limit}");
                    }
                    Err(error) => panic!("seal: {error}"),
                }
            }
        }
        assert!(exact > 0, "seal: never makes a cookie of exactly the limit of {limit} bytes");
        assert!(over > 0, "seal: never says that a record is too large");
    }
}
