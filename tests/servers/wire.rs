//! Where one message ends and the next begins, in the three protocols.

/// What a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Resp,
    Postgres,
    MySql,
}

/// One way of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Reply,
}

/// Cuts a stream into messages.
pub(crate) struct Framer {
    protocol: Protocol,
    /// PostgreSQL's first request has no type.
    first: bool,
    buffer: Vec<u8>,
}

impl Framer {
    pub(crate) fn new(protocol: Protocol, way: Way) -> Self {
        Self { protocol, first: protocol == Protocol::Postgres && way == Way::Request, buffer: Vec::new() }
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message.
    pub(crate) fn next(&mut self) -> Option<Vec<u8>> {
        let length = match self.protocol {
            Protocol::Resp => resp(&self.buffer, 0)?,
            Protocol::Postgres if self.first => number(&self.buffer, 0..4)?,
            Protocol::Postgres => 1 + number(&self.buffer, 1..5)?,
            Protocol::MySql => 4 + little_endian(self.buffer.get(..3)?),
        };
        if self.buffer.len() < length {
            return None;
        }
        self.first = false;
        Some(self.buffer.drain(..length).collect())
    }
}

fn number(bytes: &[u8], range: std::ops::Range<usize>) -> Option<usize> {
    Some(bytes.get(range)?.iter().fold(0, |number, byte| number << 8 | usize::from(*byte)))
}

fn little_endian(bytes: &[u8]) -> usize {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
}

/// Where the RESP value that begins here ends.
fn resp(bytes: &[u8], start: usize) -> Option<usize> {
    let rest = bytes.get(start..)?;
    let line = rest.windows(2).position(|two| two == b"\r\n")?;
    let end = start + line + 2;
    let count = || std::str::from_utf8(&rest[1..line]).ok()?.parse::<i64>().ok();
    let values = |count: usize| (0..count).try_fold(end, |end, _| resp(bytes, end));
    match rest[0] {
        b'$' | b'=' | b'!' => match usize::try_from(count()?) {
            Ok(length) => (bytes.len() >= end + length + 2).then_some(end + length + 2),
            Err(_) => Some(end),
        },
        b'*' | b'~' | b'>' => values(usize::try_from(count()?).unwrap_or(0)),
        b'%' => values(2 * usize::try_from(count()?).unwrap_or(0)),
        _ => Some(end),
    }
}

impl Protocol {
    /// Whether this message is one that the server answers.
    pub(crate) fn asks(self, request: &[u8]) -> bool {
        match self {
            Self::Resp => true,
            // At each Sync or simple Query.
            Self::Postgres => matches!(request[0], b'S' | b'Q'),
            // A command begins its own sequence of packets.
            Self::MySql => request[3] == 0,
        }
    }

    /// Whether each answer is one message.
    pub(crate) fn answers_once(self) -> bool {
        self == Self::Resp
    }

    /// Whether this message makes the server work, and does not only ask whether it is there.
    pub(crate) fn works(self, request: &[u8]) -> bool {
        match self {
            Self::Resp => !request.windows(6).any(|part| part == b"PING\r\n"),
            Self::Postgres => matches!(request[0], b'E' | b'Q'),
            Self::MySql => self.asks(request),
        }
    }
}

/// Messages that no honest server sends here: of a wrong type, or of an absurd length.
pub(crate) fn lies(protocol: Protocol) -> Vec<Vec<u8>> {
    let lies: &[&[u8]] = match protocol {
        Protocol::Resp => &[
            b"+OK\r\n",
            b":7\r\n",
            b":-9223372036854775808\r\n",
            b",3.14\r\n",
            b"#t\r\n",
            b"*0\r\n",
            b"%1\r\n+a\r\n+b\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n:0\r\n",
            b"$3\r\nabc\r\n",
            b"-ERR no\r\n",
            b"-\r\n",
            b"*2\r\n:0\r\n$3\r\nabc\r\n",
            b"*2\r\n:99\r\n:99\r\n",
            b"*2\r\n:2\r\n$0\r\n\r\n",
            b">2\r\n+message\r\n+x\r\n",
            b"$999999999999\r\n",
            b"*999999999999\r\n",
            b"%999999999999\r\n",
            b"$-7\r\n",
            b"*-7\r\n",
            b"$99999999999999999999999999\r\n",
            b"\x00\xff\xfe\r\n",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ],
        Protocol::Postgres => &[
            b"D\x00\x00\x00\x06\x00\x00",
            b"E\x00\x00\x00\x12SERROR\x00CX\x00Mm\x00\x00",
            b"D\x00\x00\x00\x0a\x00\x01\xff\xff\xff\xff",
            b"D\x00\x00\x00\x0a\x00\x01\x7f\xff\xff\xff",
            b"D\x00\x00\x00\x0c\x00\x01\x00\x00\x00\x02zz",
            b"D\x00\x00\x00\x06\xff\xff",
            b"D\x7f\xff\xff\xff",
            b"T\x7f\xff\xff\xff",
            b"D\x00\x00\x00\x00",
            b"C\x00\x00\x00\x03",
            b"Z\x00\x00\x00\x05I",
            b"2\x00\x00\x00\x04",
            b"E\x00\x00\x00\x05\x00",
            b"\x00\x00\x00\x00\x04",
            b"\xff\xff\xff\xff\xff",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ],
        Protocol::MySql => &[
            b"\x00\x00\x00\x01",
            b"\x01\x00\x00\x01\x00",
            b"\x01\x00\x00\x01\xff",
            b"\x01\x00\x00\x01\xfb",
            b"\x07\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00",
            b"\x07\x00\x00\x01\x00\xfc\xff\xff\x02\x00\x00",
            b"\x09\x00\x00\x01\xfe\xff\xff\xff\xff\xff\xff\xff\x7f",
            b"\x05\x00\x00\x01\xfe\x00\x00\x02\x00",
            b"\x09\x00\x00\x01\xff\x48\x04#HY000",
            b"\xff\xff\xff\x01\x00",
            b"\xff\xff\xff\x01",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
        ],
    };
    lies.iter().map(|lie| lie.to_vec()).collect()
}
