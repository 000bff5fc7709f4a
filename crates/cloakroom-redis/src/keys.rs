//! The names of keys. Everything of one principal has one hash tag, so that a cluster keeps it in
//! one slot:
//!
//! ```text
//! PREFIX{shard}rest          a session: shard and rest of its id, base64url
//! PREFIX{shard}rest~         beside a session that is being moved here from another slot
//! PREFIX{shard}@principal    the index of a principal's sessions
//! PREFIX{shard}~             written for replicas to acknowledge, and gone in a millisecond
//! ```
//!
//! Ends are told on the channel `PREFIXends`.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use cloakroom_core::{Handle, Principal, SessionId};

/// Makes keys of one prefix.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

impl Keys {
    /// The prefix has no braces, so the shard is the hash tag.
    pub(crate) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// What the keys of all sessions of a shard begin with.
    pub(crate) fn base(&self, shard: &[u8]) -> Vec<u8> {
        format!("{}{{{}}}", self.prefix, Base64UrlUnpadded::encode_string(shard)).into_bytes()
    }

    pub(crate) fn session(&self, id: &SessionId) -> Vec<u8> {
        [self.base(id.shard()), rest(id)].concat()
    }

    pub(crate) fn marker(&self, id: &SessionId) -> Vec<u8> {
        [self.session(id), b"~".to_vec()].concat()
    }

    pub(crate) fn index(&self, principal: &Principal) -> Vec<u8> {
        [self.base(&principal.shard()), b"@".to_vec(), principal.as_str().as_bytes().to_vec()].concat()
    }

    /// The channel on which ends are told, by their handles.
    pub(crate) fn channel(&self) -> String {
        format!("{}ends", self.prefix)
    }

    /// A glob for all keys; what is special in one is escaped.
    pub(crate) fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 2);
        for char in self.prefix.chars() {
            if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(char);
        }
        pattern + "{*"
    }

    /// The id of the session that this key is of, if it is of one.
    pub(crate) fn id_of(&self, key: &[u8]) -> Option<SessionId> {
        let tagged = key.strip_prefix(self.prefix.as_bytes())?.strip_prefix(b"{")?;
        let (shard, rest) = tagged.split_at_checked(SHARD_TEXT)?;
        let mut id = [0; SessionId::LEN];
        let (shard_out, rest_out) = id.split_at_mut(SessionId::SHARD_LEN);
        let rest = rest.strip_prefix(b"}")?;
        let exact = |text: &[u8], out: &mut [u8]| {
            let wanted = out.len();
            let text = std::str::from_utf8(text).ok()?;
            (Base64UrlUnpadded::decode(text, out).ok()?.len() == wanted).then_some(())
        };
        exact(shard, shard_out)?;
        (rest.len() == REST_TEXT).then_some(())?;
        exact(rest, rest_out)?;
        Some(SessionId::from_bytes(id))
    }
}

const SHARD_TEXT: usize = 6;
const REST_TEXT: usize = 30;

/// The part of a session's key behind the hash tag.
fn rest(id: &SessionId) -> Vec<u8> {
    Base64UrlUnpadded::encode_string(&id.as_bytes()[SessionId::SHARD_LEN..]).into_bytes()
}

/// The name of a session in an index: its handle, and the rest of its key.
pub(crate) fn name(handle: Handle, id: &SessionId) -> Vec<u8> {
    [handle.as_bytes().to_vec(), rest(id)].concat()
}

/// The id of a name in an index of this shard.
pub(crate) fn id_of_name(shard: &[u8], name: &[u8]) -> Option<SessionId> {
    let mut id = [0; SessionId::LEN];
    let (shard_out, rest_out) = id.split_at_mut(SessionId::SHARD_LEN);
    shard_out.copy_from_slice(shard.get(..SessionId::SHARD_LEN)?);
    let text = std::str::from_utf8(name.get(Handle::LEN..)?).ok()?;
    let whole = Base64UrlUnpadded::decode(text, rest_out).ok()?.len() == SessionId::LEN - SessionId::SHARD_LEN;
    whole.then(|| SessionId::from_bytes(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_leads_back_to_its_id_and_nothing_else_does() {
        let keys = Keys::new("app:s:");
        let id = SessionId::from_bytes(std::array::from_fn(|byte| byte as u8 * 9));
        let key = keys.session(&id);
        assert_eq!(keys.id_of(&key), Some(id));
        assert_eq!(keys.id_of(&keys.marker(&id)), None);
        let ada = Principal::new("ada}{").unwrap();
        assert_eq!(keys.id_of(&keys.index(&ada)), None);
        assert_eq!(Keys::new("app:").id_of(&key), None);
        for cut in 0..key.len() {
            assert_eq!(keys.id_of(&key[..cut]), None);
        }
        let handle = Handle::from_bytes([7; Handle::LEN]);
        assert_eq!(id_of_name(id.shard(), &name(handle, &id)), Some(id));
        assert_eq!(id_of_name(id.shard(), b"short"), None);
    }

    #[test]
    fn the_glob_of_a_prefix_matches_it_literally() {
        assert_eq!(Keys::new("a*[b]:").pattern(), r"a\*\[b\]:{*");
    }
}
