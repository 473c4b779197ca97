//! The format of frames (RFC 6455, section 5.2): encoding those of the server, and the headers of those of clients.

use bytes::Bytes;

/// What a frame carries (RFC 6455, section 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// More of a message that came in pieces.
    Continuation = 0x0,
    /// A message in UTF-8.
    Text = 0x1,
    /// A message of any bytes.
    Binary = 0x2,
    /// The end, with a code and a reason.
    Close = 0x8,
    /// A question whether the other side lives.
    Ping = 0x9,
    /// The answer to it.
    Pong = 0xa,
}

impl Opcode {
    pub(super) const fn of(bits: u8) -> Option<Self> {
        match bits {
            0x0 => Some(Self::Continuation),
            0x1 => Some(Self::Text),
            0x2 => Some(Self::Binary),
            0x8 => Some(Self::Close),
            0x9 => Some(Self::Ping),
            0xa => Some(Self::Pong),
            _ => None,
        }
    }

    pub(super) const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

pub(super) const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
pub(super) const MASKED: u8 = 0x80;

/// The most that a control frame carries.
pub const MAX_CONTROL: usize = 125;

/// The header of a server's frame with a payload of this length; its bytes come first.
pub(super) fn header(opcode: Opcode, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 10);
    bytes.push(FIN | opcode as u8);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => bytes.push(short),
        (_, Ok(medium)) => {
            bytes.push(126);
            bytes.extend(medium.to_be_bytes());
        }
        _ => {
            bytes.push(127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes
}

/// A whole frame of the server.
pub fn encode(opcode: Opcode, payload: &[u8]) -> Bytes {
    let mut bytes = header(opcode, payload.len());
    bytes.extend(payload);
    bytes.into()
}

/// A close frame. A reason that is too long is cut at a character.
pub fn close(code: u16, reason: &str) -> Bytes {
    let mut payload = code.to_be_bytes().to_vec();
    payload.extend(&reason.as_bytes()[..reason.floor_char_boundary(MAX_CONTROL - 2)]);
    encode(Opcode::Close, &payload)
}

/// What was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A piece of a message that has not ended.
    Piece,
    /// A ping, whose payload goes back.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// The client says goodbye, perhaps with a code.
    Close(Option<u16>),
}

/// Why a client cannot be listened to any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A message has more bytes than it may have.
    TooBig,
    /// A text is not UTF-8.
    NotUtf8,
    /// Something that RFC 6455 does not allow.
    Protocol(&'static str),
}

impl Violation {
    /// The close code (RFC 6455, section 7.4.1).
    pub const fn code(self) -> u16 {
        match self {
            Self::TooBig => 1009,
            Self::NotUtf8 => 1007,
            Self::Protocol(_) => 1002,
        }
    }

    /// What the client is told.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::TooBig => "message too big",
            Self::NotUtf8 => "invalid UTF-8",
            Self::Protocol(what) => what,
        }
    }
}

/// What a frame says of itself before its payload.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) opcode: Opcode,
    pub(super) last: bool,
    pub(super) length: u64,
    pub(super) mask: [u8; 4],
}

impl Head {
    /// Reads a header, and says how long it is; `None` while there is not enough of it. What is wrong with its first two
    /// bytes is said as soon as they are there.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let wrong = |what| Err(Violation::Protocol(what));
        if first & RESERVED != 0 {
            return wrong("a reserved bit is set");
        }
        let Some(opcode) = Opcode::of(first & 0x0f) else { return wrong("a reserved opcode") };
        if second & MASKED == 0 {
            return wrong("a client's frame is masked");
        }
        let (last, short) = (first & FIN != 0, second & !MASKED);
        if opcode.is_control() && (!last || short > 125) {
            return wrong("a control frame is whole and has 125 bytes at most");
        }
        let (length, rest) = match short {
            126 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from(u16::from_be_bytes(*bytes)), rest),
                None => return Ok(None),
            },
            127 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Ok(None),
            },
            short => (u64::from(short), rest),
        };
        let shortest = [0, 126, 1 << 16][usize::from(short.saturating_sub(125))];
        if length < shortest || length > u64::MAX >> 1 {
            return wrong("a length in more bytes than it takes");
        }
        let Some((mask, rest)) = rest.split_first_chunk() else { return Ok(None) };
        Ok(Some((Self { opcode, last, length, mask: *mask }, bytes.len() - rest.len())))
    }
}

/// The code of a client's goodbye; those that may be sent are in RFC 6455, section 7.4, and in IANA's registry.
pub(super) fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() { Ok(None) } else { Err(Violation::Protocol("half a close code")) };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Violation::Protocol("a close code that is not to be sent"));
    }
    std::str::from_utf8(reason).map_err(|_| Violation::NotUtf8)?;
    Ok(Some(code))
}
