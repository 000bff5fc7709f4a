//! The persisted form of a session, and its wire format.
//!
//! ```text
//! record = format 1 | head length 2 | head | values
//! head   = handle 10 | generation 4 | flags 1 | assurance 1 | created 8 | authenticated 8
//!        | last seen 8 | idle deadline 8 | absolute deadline 8 | idle timeout 8 | epoch 8
//!        | part of the id it is filed under 8, if flagged
//!        | principal 2+n | user agent 2+n | address 2+n | what a newer release added
//! value  = key 1+n | flags 1 | expiry 8, if flagged | value 4+n
//! ```
//!
//! Numbers are big-endian, times milliseconds since 1970. Values stay encoded until they are read,
//! and go back byte for byte. What a newer release appends to the head is carried along unread;
//! a change that older releases must not touch raises the format number instead.

use std::fmt;
use std::net::IpAddr;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BufMut, Bytes};

use crate::clock::{from_unix_millis, millis, unix_millis};
use crate::id::{Handle, Principal, SessionId};

/// A session as stores keep it: who, since when, until when, and the values, still encoded.
///
/// Cheap to clone and to move: clones share everything until one of them is changed. `Debug` shows
/// no value and no principal.
///
/// Stores keep a record whole, as the bytes of [`encode`](Self::encode) or as it is, and overlay
/// what they keep in columns of their own with [`seen`](Self::seen).
#[derive(Clone, PartialEq, Eq)]
pub struct Record(Arc<Fields>);

/// What a record holds, behind the pointer that clones share.
#[doc(hidden)]
#[derive(Clone, PartialEq, Eq)]
#[expect(missing_debug_implementations, reason = "a record has one; this type cannot be named outside")]
pub struct Fields {
    pub(crate) handle: Handle,
    pub(crate) generation: u32,
    pub(crate) persistent: bool,
    pub(crate) assurance: Assurance,
    pub(crate) created: u64,
    /// Zero while nobody is signed in.
    pub(crate) authenticated: u64,
    pub(crate) last_seen: u64,
    pub(crate) idle_deadline: u64,
    pub(crate) absolute_deadline: u64,
    pub(crate) idle_timeout: u64,
    pub(crate) epoch: u64,
    /// So that a record that is delivered under another id is noticed (I2).
    pub(crate) stamp: Option<[u8; 8]>,
    pub(crate) principal: Option<Principal>,
    pub(crate) client: Client,
    pub(crate) newer: Bytes,
    pub(crate) values: Bytes,
}

/// How surely somebody was authenticated, in the order of NIST SP 800-63B-4's assurance levels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Assurance {
    /// Nobody is signed in, or the session was recognised only.
    #[default]
    None,
    /// AAL1: one factor.
    One,
    /// AAL2: two factors.
    Two,
    /// AAL3: a hardware authenticator.
    Three,
}

impl Assurance {
    const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::None),
            1 => Some(Self::One),
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            _ => None,
        }
    }
}

/// What the session knows of the client, for the list of devices. Never used to decide anything.
///
/// The user agent loses its control characters and is cut at 256 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Client {
    user_agent: Option<Arc<str>>,
    address: Option<IpAddr>,
}

impl Client {
    /// The most bytes of a user agent that are kept.
    pub const MAX_USER_AGENT: usize = 256;

    /// What the request said of itself, and where it came from. Take the address from the
    /// connection or from a proxy that you configured, never from a header that anybody can send.
    #[must_use]
    pub fn new(user_agent: Option<&str>, address: Option<IpAddr>) -> Self {
        let user_agent = user_agent.map(|text| {
            let mut end = text.len().min(Self::MAX_USER_AGENT);
            while !text.is_char_boundary(end) {
                end -= 1;
            }
            text[..end].chars().filter(|char| !char.is_control()).collect::<String>().into()
        });
        Self { user_agent, address }
    }

    /// For adapters: of a request with this `User-Agent` header, over a connection from this address.
    #[must_use]
    pub fn of_request(user_agent: Option<&[u8]>, peer: Option<IpAddr>) -> Self {
        Self::new(user_agent.and_then(|text| std::str::from_utf8(text).ok()), peer.map(|peer| peer.to_canonical()))
    }

    /// What the browser calls itself.
    #[must_use]
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }

    /// Where the session was started from.
    #[must_use]
    pub const fn address(&self) -> Option<IpAddr> {
        self.address
    }
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// Written by a newer release in a format this one does not know. Must not be touched.
    #[error("the record has format {0}, written by a newer release")]
    NewerFormat(u8),
    /// Anything else.
    #[error("the bytes are not a session record")]
    Malformed,
}

#[doc(hidden)]
impl Deref for Record {
    type Target = Fields;

    fn deref(&self) -> &Fields {
        &self.0
    }
}

#[doc(hidden)]
impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Fields {
        Arc::make_mut(&mut self.0)
    }
}

impl Record {
    /// The format that this release writes, and the newest that it reads.
    pub const FORMAT: u8 = 1;
    const PERSISTENT: u8 = 1;
    const STAMPED: u8 = 2;
    /// The longest head that is read; this release writes at most 605 bytes of its own.
    const MAX_HEAD: usize = 32 * 1024;

    /// A record without values of a session that starts `now`. The engine makes its own; this is for
    /// tests and tools of store authors.
    #[must_use]
    pub fn new(handle: Handle, now: SystemTime, idle: Duration, absolute: Duration) -> Self {
        let now = unix_millis(now);
        let absolute_deadline = now.saturating_add(millis(absolute));
        Self(Arc::new(Fields {
            handle,
            generation: 0,
            persistent: false,
            assurance: Assurance::None,
            created: now,
            authenticated: 0,
            last_seen: now,
            idle_deadline: now.saturating_add(millis(idle)).min(absolute_deadline),
            absolute_deadline,
            idle_timeout: millis(idle),
            epoch: 0,
            stamp: None,
            principal: None,
            client: Client::default(),
            newer: Bytes::new(),
            values: Bytes::new(),
        }))
    }

    /// The same record, owned by this principal, who was authenticated when it was created.
    #[must_use]
    pub fn owned_by(mut self, principal: Principal) -> Self {
        self.principal = Some(principal);
        self.authenticated = self.created;
        self.assurance = Assurance::One;
        self
    }

    /// The same record with these values in place of its own. Keys longer than 255 bytes are cut.
    #[must_use]
    pub fn with_values<'a>(mut self, values: impl IntoIterator<Item = Value<'a>>) -> Self {
        let mut out = Vec::new();
        for value in values {
            value.encode(&mut out);
        }
        self.values = out.into();
        self
    }

    /// The same record of this client.
    #[must_use]
    pub fn with_client(mut self, client: Client) -> Self {
        self.client = client;
        self
    }

    /// The same record after a touch: what a store that keeps these two in columns puts back.
    /// The idle deadline never passes the absolute one.
    #[must_use]
    pub fn seen(mut self, last_seen: SystemTime, idle_deadline: SystemTime) -> Self {
        self.last_seen = unix_millis(last_seen);
        self.idle_deadline = unix_millis(idle_deadline).min(self.absolute_deadline);
        self
    }

    /// The same record, to be filed under this id.
    pub(crate) fn filed_under(mut self, id: &SessionId) -> Self {
        self.stamp = Some(id.stamp());
        self
    }

    /// Whether it is the record that was filed under this id, and not one that was swapped or misdelivered.
    pub(crate) fn is_filed_under(&self, id: &SessionId) -> bool {
        self.stamp == Some(id.stamp())
    }

    /// The public name of the session.
    #[must_use]
    pub fn handle(&self) -> Handle {
        self.handle
    }

    /// Whose session it is.
    #[must_use]
    pub fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    /// How surely.
    #[must_use]
    pub fn assurance(&self) -> Assurance {
        self.assurance
    }

    /// When it began; a sign-in begins it anew.
    #[must_use]
    pub fn created(&self) -> SystemTime {
        from_unix_millis(self.created)
    }

    /// When its owner last proved who they are.
    #[must_use]
    pub fn authenticated(&self) -> Option<SystemTime> {
        (self.authenticated != 0).then(|| from_unix_millis(self.authenticated))
    }

    /// The last request that counted as activity, at most a touch interval ago.
    #[must_use]
    pub fn last_seen(&self) -> SystemTime {
        from_unix_millis(self.last_seen)
    }

    /// When it ends if nothing happens.
    #[must_use]
    pub fn idle_deadline(&self) -> SystemTime {
        from_unix_millis(self.idle_deadline)
    }

    /// When it ends whatever happens.
    #[must_use]
    pub fn absolute_deadline(&self) -> SystemTime {
        from_unix_millis(self.absolute_deadline)
    }

    /// The earlier of the two deadlines.
    #[must_use]
    pub fn deadline(&self) -> SystemTime {
        from_unix_millis(self.idle_deadline.min(self.absolute_deadline))
    }

    /// Whether either deadline has come. At the deadline itself the session is over.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        unix_millis(now) >= self.idle_deadline.min(self.absolute_deadline)
    }

    /// Whether the cookie outlives the browser ("remember me").
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// What is known of the client.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The values, still encoded, in the order in which they were first set.
    pub fn values(&self) -> impl Iterator<Item = Value<'_>> {
        Values { rest: &self.values }
    }

    pub(crate) fn value(&self, key: &str) -> Option<Value<'_>> {
        self.values().find(|value| value.key == key)
    }

    /// The size of the encoded record in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        3 + self.head_len() + self.values.len()
    }

    /// The same once it is filed under an id.
    pub(crate) fn filed_len(&self) -> usize {
        self.encoded_len() + if self.stamp.is_none() { size_of::<[u8; 8]>() } else { 0 }
    }

    fn head_len(&self) -> usize {
        let principal = self.principal.as_ref().map_or(0, |principal| principal.as_str().len());
        let user_agent = self.client.user_agent().map_or(0, str::len);
        let address = self.client.address.map_or(0, |address| if address.is_ipv4() { 4 } else { 16 });
        let stamp = self.stamp.map_or(0, |stamp| stamp.len());
        Handle::LEN + 4 + 2 + 7 * 8 + stamp + 6 + principal + user_agent + address + self.newer.len()
    }

    /// The record's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.encoded_len());
        self.encode_into(&mut out);
        out
    }

    /// Appends the record's bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.put_u8(Self::FORMAT);
        out.put_u16(u16::try_from(self.head_len()).unwrap_or(u16::MAX));
        out.put_slice(self.handle.as_bytes());
        out.put_u32(self.generation);
        let persistent = if self.persistent { Self::PERSISTENT } else { 0 };
        out.put_u8(persistent | if self.stamp.is_some() { Self::STAMPED } else { 0 });
        out.put_u8(self.assurance as u8);
        for number in [
            self.created,
            self.authenticated,
            self.last_seen,
            self.idle_deadline,
            self.absolute_deadline,
            self.idle_timeout,
            self.epoch,
        ] {
            out.put_u64(number);
        }
        if let Some(stamp) = self.stamp {
            out.put_slice(&stamp);
        }
        let mut field = |bytes: &[u8]| {
            out.put_u16(bytes.len() as u16);
            out.put_slice(bytes);
        };
        field(self.principal.as_ref().map_or("", Principal::as_str).as_bytes());
        field(self.client.user_agent().unwrap_or("").as_bytes());
        match self.client.address {
            None => field(&[]),
            Some(IpAddr::V4(address)) => field(&address.octets()),
            Some(IpAddr::V6(address)) => field(&address.octets()),
        }
        out.put_slice(&self.newer);
        out.put_slice(&self.values);
    }

    /// The record in these bytes; the values share them.
    ///
    /// # Errors
    /// [`DecodeError::NewerFormat`] for a format of a newer release, else [`DecodeError::Malformed`].
    /// No input panics, and none allocates more than its own length.
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        match bytes.first() {
            Some(&Self::FORMAT) => {}
            Some(&newer) if newer > Self::FORMAT => return Err(DecodeError::NewerFormat(newer)),
            Some(_) | None => return Err(DecodeError::Malformed),
        }
        Self::decode_format_1(bytes.slice(1..)).ok_or(DecodeError::Malformed)
    }

    fn decode_format_1(mut rest: Bytes) -> Option<Self> {
        let head_len = usize::from(rest.try_get_u16().ok()?);
        // Over this, the head could not be written again with a longer principal or user agent.
        if head_len > Self::MAX_HEAD || rest.len() < head_len {
            return None;
        }
        let mut head = rest.split_to(head_len);
        let mut handle = [0; Handle::LEN];
        head.try_copy_to_slice(&mut handle).ok()?;
        let generation = head.try_get_u32().ok()?;
        let flags = head.try_get_u8().ok()?;
        let assurance = Assurance::from_byte(head.try_get_u8().ok()?)?;
        let mut number = || head.try_get_u64().ok();
        let (created, authenticated, last_seen) = (number()?, number()?, number()?);
        let (idle_deadline, absolute_deadline) = (number()?, number()?);
        let (idle_timeout, epoch) = (number()?, number()?);
        let stamp = if flags & Self::STAMPED == 0 { None } else { Some(head.try_get_u64().ok()?.to_be_bytes()) };
        let principal = text(&field(&mut head)?)?.map(Principal::new).transpose().ok()?;
        // A session without owner has no assurance and no time of authentication.
        if principal.is_none() && (assurance != Assurance::None || authenticated != 0) {
            return None;
        }
        let user_agent = text(&field(&mut head)?)?.map(Arc::from);
        let address = match field(&mut head)?.as_ref() {
            [] => None,
            bytes => Some(match <[u8; 4]>::try_from(bytes) {
                Ok(octets) => IpAddr::from(octets),
                Err(_) => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
            }),
        };
        let mut values = rest.as_ref();
        while !values.is_empty() {
            Value::split_from(&mut values)?;
        }
        Some(Self(Arc::new(Fields {
            handle: Handle::from_bytes(handle),
            generation,
            persistent: flags & Self::PERSISTENT != 0,
            assurance,
            created,
            authenticated,
            last_seen,
            idle_deadline,
            absolute_deadline,
            idle_timeout,
            epoch,
            stamp,
            principal,
            client: Client { user_agent, address },
            newer: head,
            values: rest,
        })))
    }
}

fn field(head: &mut Bytes) -> Option<Bytes> {
    let len = usize::from(head.try_get_u16().ok()?);
    (head.len() >= len).then(|| head.split_to(len))
}

/// `None` for what is no text, `Some(None)` for an empty one.
fn text(field: &[u8]) -> Option<Option<&str>> {
    std::str::from_utf8(field).ok().map(|text| (!text.is_empty()).then_some(text))
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("handle", &self.handle)
            .field("signed_in", &self.principal.is_some())
            .field("generation", &self.generation)
            .field("created", &self.created)
            .field("last_seen", &self.last_seen)
            .field("idle_deadline", &self.idle_deadline)
            .field("absolute_deadline", &self.absolute_deadline)
            .field("values", &format_args!("{} bytes", self.values.len()))
            .finish()
    }
}

/// One value of a record, still encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// The key it was set under.
    pub key: &'a str,
    /// JSON.
    pub encoded: &'a [u8],
    /// When the value ends by itself, in milliseconds since 1970; 0 for never.
    pub expires: u64,
}

impl<'a> Value<'a> {
    const EXPIRES: u8 = 1;

    pub(crate) fn is_live(&self, now: u64) -> bool {
        self.expires == 0 || now < self.expires
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let key = &self.key[..self.key.floor_char_boundary(255)];
        out.put_u8(key.len() as u8);
        out.put_slice(key.as_bytes());
        if self.expires == 0 {
            out.put_u8(0);
        } else {
            out.put_u8(Self::EXPIRES);
            out.put_u64(self.expires);
        }
        out.put_u32(u32::try_from(self.encoded.len()).unwrap_or(u32::MAX));
        out.put_slice(self.encoded);
    }

    fn split_from(rest: &mut &'a [u8]) -> Option<Self> {
        let key_len = usize::from(rest.try_get_u8().ok()?);
        let key = std::str::from_utf8(rest.split_off(..key_len)?).ok()?;
        let expires = match rest.try_get_u8().ok()? {
            0 => 0,
            Self::EXPIRES => rest.try_get_u64().ok()?,
            _ => return None,
        };
        let len = usize::try_from(rest.try_get_u32().ok()?).ok()?;
        let encoded = rest.split_off(..len)?;
        Some(Self { key, encoded, expires })
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({}: {} bytes)", self.key, self.encoded.len())
    }
}

struct Values<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.rest.is_empty() { None } else { Value::split_from(&mut self.rest) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HANDLE: Handle = Handle::from_bytes([7; Handle::LEN]);

    fn sample() -> Record {
        let now = from_unix_millis(1_800_000_000_000);
        Record::new(HANDLE, now, Duration::from_secs(60), Duration::from_secs(600))
            .owned_by(Principal::new("alice").unwrap())
            .with_client(Client::new(Some("Browser/1.0"), Some(IpAddr::from([127, 0, 0, 1]))))
            .with_values([
                Value { key: "a", encoded: b"1", expires: 0 },
                Value { key: "b", encoded: b"\"two\"", expires: 1_800_000_001_000 },
            ])
    }

    /// A frozen answer: records in the field must stay readable.
    #[test]
    fn format_1_is_frozen() {
        let hex: String = sample().encode().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, FORMAT_1);
    }

    const FORMAT_1: &str = concat!(
        "01006207070707070707070707000000000001000001a3185c5000000001a3185c5000000001a3185c5000000001a3185d3a60",
        "000001a3186577c0000000000000ea6000000000000000000005616c696365000b42726f777365722f312e3000047f000001",
        "0161000000000131016201000001a3185c53e8000000052274776f22",
    );

    #[test]
    fn what_a_newer_release_appended_to_the_head_survives_a_rewrite() {
        let mut bytes = sample().encode();
        let head_len = u16::from_be_bytes([bytes[1], bytes[2]]);
        let at = 3 + usize::from(head_len);
        bytes.splice(at..at, *b"new");
        bytes[1..3].copy_from_slice(&(head_len + 3).to_be_bytes());
        let record = Record::decode(&bytes.clone().into()).unwrap();
        assert_eq!(record.encode(), bytes);
        assert_eq!(record.values().count(), 2);
    }

    #[test]
    fn a_head_that_could_not_be_written_again_is_refused() {
        let mut record = sample();
        record.newer = vec![0; 65_400].into();
        assert_eq!(Record::decode(&record.encode().into()), Err(DecodeError::Malformed));
        record.newer = vec![0; 30_000].into();
        let mut read = Record::decode(&record.encode().into()).unwrap();
        read.principal = Some(Principal::new("x".repeat(Principal::MAX_LEN)).unwrap());
        assert_eq!(Record::decode(&read.encode().into()).unwrap(), read);
    }

    #[test]
    fn a_newer_format_is_told_apart_from_garbage() {
        let mut bytes = sample().encode();
        bytes[0] = 2;
        assert_eq!(Record::decode(&bytes.into()), Err(DecodeError::NewerFormat(2)));
        assert_eq!(Record::decode(&Bytes::new()), Err(DecodeError::Malformed));
        assert_eq!(Record::decode(&Bytes::from_static(&[0])), Err(DecodeError::Malformed));
    }

    #[test]
    fn every_truncation_is_refused_or_ends_between_two_values() {
        let bytes = sample().encode();
        let whole: Vec<_> = sample().values().map(|value| value.key.to_owned()).collect();
        for len in 0..bytes.len() {
            if let Ok(record) = Record::decode(&Bytes::copy_from_slice(&bytes[..len])) {
                let keys: Vec<_> = record.values().map(|value| value.key.to_owned()).collect();
                assert!(keys.len() < whole.len() && whole.starts_with(&keys));
            }
        }
    }

    #[test]
    fn debug_shows_no_value_and_no_principal() {
        let text = format!("{:?}", sample());
        assert!(!text.contains("alice") && !text.contains("two"), "{text}");
    }

    proptest! {
        #[test]
        fn a_record_survives_its_wire_format(
            generation: u32, persistent: bool, created: u64, absolute: u64, idle: u64,
            owner in proptest::option::of("[a-zé]{1,40}"), agent in proptest::option::of(".{0,300}"), v6: bool,
            values in proptest::collection::vec(("[a-zé]{1,40}", proptest::collection::vec(any::<u8>(), 0..50), any::<u64>()), 0..8),
        ) {
            let mut record = sample();
            (record.generation, record.persistent) = (generation, persistent);
            (record.created, record.absolute_deadline, record.idle_deadline) = (created, absolute, idle);
            record.principal = owner.map(|name| Principal::new(name).unwrap());
            if record.principal.is_none() {
                (record.assurance, record.authenticated) = (Assurance::None, 0);
            }
            let address = if v6 { IpAddr::from([1u16; 8]) } else { IpAddr::from([10, 0, 0, 1]) };
            record.client = Client::new(agent.as_deref().filter(|text| text.chars().any(|char| !char.is_control())), Some(address));
            let record = record.with_values(values.iter().map(|(key, encoded, expires)| Value { key, encoded, expires: *expires }));
            let bytes = record.encode();
            prop_assert_eq!(bytes.len(), record.encoded_len());
            prop_assert_eq!(Record::decode(&bytes.into()).unwrap(), record);
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..300), valid_start: bool) {
            if valid_start {
                let mut real = sample().encode();
                for (place, byte) in bytes.iter().enumerate() {
                    let at = (place * 31) % real.len();
                    real[at] ^= byte;
                }
                bytes = real;
                bytes[0] = 1;
            }
            if let Ok(record) = Record::decode(&bytes.clone().into()) {
                prop_assert_eq!(record.encode().len(), bytes.len());
            }
        }
    }
}
