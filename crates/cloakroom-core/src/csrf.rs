//! Proof that a request comes from our own pages: where it says it comes from, and a token bound to
//! the session.
//!
//! ```text
//! secret = HMAC-SHA-256(key of the key id, handle | generation | action)
//! token  = base64url( key id 4 | mask 32 | mask xor secret 32 )
//! ```
//!
//! The token changes with each rendering, so that compression cannot leak it (BREACH); with each
//! renewal, so that one from before a sign-in is dead; and with the action, so that a token for one form is
//! none for another.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac as _;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::id::Handle;
use crate::keyring::{KeyId, KeyRing, RingKey};
use crate::token::{Random, RandomError};

const LEN: usize = KeyId::LEN + 64;

/// What a token is good for: one session, since its last renewal, and one action.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'a> {
    pub(crate) handle: Handle,
    pub(crate) generation: u32,
    pub(crate) action: &'a str,
}

pub(crate) fn mint(ring: &KeyRing, binding: Binding<'_>, random: &dyn Random) -> Result<String, RandomError> {
    let key = ring.primary();
    let mut bytes = Zeroizing::new([0; LEN]);
    bytes[..KeyId::LEN].copy_from_slice(key.id().as_bytes());
    random.fill(&mut bytes[KeyId::LEN..KeyId::LEN + 32])?;
    let secret = secret(&key, binding);
    for (place, byte) in secret.iter().enumerate() {
        bytes[KeyId::LEN + 32 + place] = bytes[KeyId::LEN + place] ^ byte;
    }
    Ok(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
}

pub(crate) fn verify(ring: &KeyRing, binding: Binding<'_>, token: &[u8]) -> bool {
    let mut bytes = Zeroizing::new([0; LEN]);
    if token.len() != (LEN * 4).div_ceil(3) || URL_SAFE_NO_PAD.decode_slice(token, bytes.as_mut_slice()) != Ok(LEN) {
        return false;
    }
    let Some(key) = ring.find(KeyId::read(bytes.as_slice())) else { return false };
    let mut presented = Zeroizing::new([0; 32]);
    for (place, byte) in presented.iter_mut().enumerate() {
        *byte = bytes[KeyId::LEN + place] ^ bytes[KeyId::LEN + 32 + place];
    }
    presented.ct_eq(secret(&key, binding).as_slice()).into()
}

fn secret(key: &RingKey, binding: Binding<'_>) -> Zeroizing<[u8; 32]> {
    let mac = key.csrf_mac();
    // Handle and generation have fixed lengths, so the action needs no length of its own.
    let mac = mac.chain_update(binding.handle.as_bytes()).chain_update(binding.generation.to_be_bytes());
    Zeroizing::new(mac.chain_update(binding.action.as_bytes()).finalize().into_bytes().into())
}

/// What the browser says about where an unsafe request comes from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Provenance<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The `Sec-Fetch-Site` header; `None` also when it occurs more than once.
    pub fetch_site: Option<&'a [u8]>,
    /// The `Origin` header; `None` also when it occurs more than once.
    pub origin: Option<&'a [u8]>,
}

impl Provenance<'_> {
    /// Whether the request may have come from our own pages. The first of two checks; the token is the second.
    ///
    /// Safe methods always may. Of the others: `Sec-Fetch-Site` of `same-origin` or `none` may, and
    /// any other known value may not; without it, an `Origin` that equals one of ours exactly
    /// (scheme, host and port) may; without either, it may not.
    ///
    /// ```
    /// use cloakroom_core::Provenance;
    ///
    /// let ours = ["https://shop.example"];
    /// let post = Provenance { method: "POST", ..Provenance::default() };
    /// assert!(!post.is_ours(&ours), "absent headers deny");
    /// assert!(Provenance { fetch_site: Some(b"same-origin"), ..post }.is_ours(&ours));
    /// assert!(!Provenance { origin: Some(b"https://shop.example.evil"), ..post }.is_ours(&ours));
    /// ```
    #[must_use]
    pub fn is_ours(&self, origins: &[&str]) -> bool {
        matches!(self.method, "GET" | "HEAD" | "OPTIONS") || self.names_one_of(origins)
    }

    /// The same of a request whose method says nothing, such as a WebSocket's handshake.
    pub(crate) fn names_one_of(&self, origins: &[&str]) -> bool {
        let ours = |origin: &[u8]| origins.iter().any(|known| known.as_bytes() == origin);
        match self.fetch_site {
            Some(b"same-origin" | b"none") => true,
            Some(b"same-site" | b"cross-site") => false,
            // Unknown values are ignored, as the specification asks.
            Some(_) | None => self.origin.is_some_and(ours),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keyring::SecretKey;
    use crate::token::OsRandom;

    const HANDLE: Handle = Handle::from_bytes([1; Handle::LEN]);
    const BINDING: Binding<'static> = Binding { handle: HANDLE, generation: 3, action: "" };

    fn ring() -> KeyRing {
        KeyRing::new("a", &[SecretKey::generate(&OsRandom::default()).unwrap()]).unwrap()
    }

    /// Frozen: a form that was rendered before a deploy must be good after it.
    #[test]
    fn a_token_is_what_it_always_was() {
        #[derive(Debug)]
        struct Zero;
        impl Random for Zero {
            fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
                buffer.fill(0);
                Ok(())
            }
        }
        let hex: String = (0..32u32).map(|n| format!("{:02x}", (n * n + 7) % 256)).collect();
        let ring = KeyRing::new("shop", &[SecretKey::parse(&hex).unwrap()]).unwrap();
        let token = mint(&ring, Binding { action: "pay", ..BINDING }, &Zero).unwrap();
        assert_eq!(
            token,
            "BHFdzgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAntDyve9rlRabe0BOG5kfWE6Xq6BWUlMJ6G5-qQwMf1o"
        );
    }

    #[test]
    fn two_renderings_differ_and_both_verify() {
        let ring = ring();
        let random = OsRandom::default();
        let (one, two) = (mint(&ring, BINDING, &random).unwrap(), mint(&ring, BINDING, &random).unwrap());
        assert_ne!(one, two);
        assert!(verify(&ring, BINDING, one.as_bytes()) && verify(&ring, BINDING, two.as_bytes()));
    }

    #[test]
    fn a_token_of_another_session_generation_action_or_key_does_not_verify() {
        let (ring, other) = (ring(), ring());
        let token = mint(&ring, BINDING, &OsRandom::default()).unwrap();
        let bindings = [
            Binding { handle: Handle::from_bytes([2; Handle::LEN]), ..BINDING },
            Binding { generation: 4, ..BINDING },
            Binding { action: "delete-account", ..BINDING },
        ];
        for binding in bindings {
            assert!(!verify(&ring, binding, token.as_bytes()), "{binding:?}");
        }
        assert!(!verify(&other, BINDING, token.as_bytes()));
    }

    #[test]
    fn no_flipped_bit_no_truncation_and_no_extension_verifies() {
        let ring = ring();
        let token = mint(&ring, BINDING, &OsRandom::default()).unwrap().into_bytes();
        for place in 0..token.len() {
            for bit in 0..8 {
                let mut changed = token.clone();
                changed[place] ^= 1 << bit;
                assert!(!verify(&ring, BINDING, &changed));
            }
            assert!(!verify(&ring, BINDING, &token[..place]));
        }
        assert!(!verify(&ring, BINDING, &[token.as_slice(), b"A"].concat()));
        assert!(!verify(&ring, BINDING, &[b'A'; 91]), "an unmasked zero token");
    }

    #[test]
    fn provenance_follows_the_table() {
        const OURS: &[&str] = &["https://a.example"];
        type Row = (&'static str, Option<&'static [u8]>, Option<&'static [u8]>, bool);
        let table: &[Row] = &[
            ("GET", Some(b"cross-site"), None, true),
            ("HEAD", None, None, true),
            ("POST", None, None, false),
            ("post", None, None, false),
            ("get", None, None, false),
            ("DELETE", None, None, false),
            ("POST", Some(b"same-origin"), None, true),
            ("POST", Some(b"same-origin"), Some(b"https://a.example"), true),
            ("POST", Some(b"none"), None, true),
            ("POST", Some(b"same-site"), Some(b"https://a.example"), false),
            ("POST", Some(b"cross-site"), Some(b"https://a.example"), false),
            ("POST", Some(b"garbage"), None, false),
            ("POST", Some(b"garbage"), Some(b"https://a.example"), true),
            ("POST", None, Some(b"https://a.example"), true),
            ("POST", None, Some(b"null"), false),
            ("POST", None, Some(b"http://a.example"), false),
            ("POST", None, Some(b"https://a.example:8443"), false),
            ("POST", None, Some(b"https://a.example.evil"), false),
            ("POST", None, Some(b"https://evila.example"), false),
            ("POST", None, Some(b"https://A.example"), false),
            ("POST", None, Some(b"https://a.example/path"), false),
        ];
        for (method, fetch_site, origin, ours) in table {
            let provenance = Provenance { method, fetch_site: *fetch_site, origin: *origin };
            assert_eq!(provenance.is_ours(OURS), *ours, "{method} {fetch_site:?} {origin:?}");
        }
    }
}
