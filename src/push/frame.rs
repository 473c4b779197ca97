//! Frames: a WebSocket's bytes on the wire (RFC 6455, section 5), as functions of bytes and nothing else.
//!
//! The server's frames are whole and unmasked. A client's come masked, in any pieces: the parser takes bytes as they
//! come, works in the buffer that they came in, and keeps something of its own only while a frame or a message is
//! unfinished.

use std::ops::ControlFlow;

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
    const fn of(bits: u8) -> Option<Self> {
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

    const fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

const FIN: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;

/// The most that a control frame carries.
pub const MAX_CONTROL: usize = 125;

/// The header of a server's frame with a payload of this length; its bytes come first.
fn header(opcode: Opcode, length: usize) -> Vec<u8> {
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
struct Head {
    opcode: Opcode,
    last: bool,
    length: u64,
    mask: [u8; 4],
}

impl Head {
    /// Reads a header, and says how long it is; `None` while there is not enough of it. What is wrong with its first two
    /// bytes is said as soon as they are there.
    fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, Violation> {
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

/// Takes the mask off, or puts it on; it is turned by as many bytes, for those that follow.
fn unmask(mask: &mut [u8; 4], bytes: &mut [u8]) {
    let [a, b, c, d] = *mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, rest) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
    mask.rotate_left(bytes.len() % 4);
}

/// A message that has not ended.
#[derive(Debug)]
struct Message {
    is_text: bool,
    bytes: Vec<u8>,
    /// How much of a text was found to be UTF-8.
    valid: usize,
}

impl Message {
    /// Takes more in, and refuses a text as soon as nothing could make it UTF-8 any more.
    fn extend(&mut self, piece: &[u8]) -> Result<(), Violation> {
        self.bytes.extend_from_slice(piece);
        if !self.is_text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.valid..]) {
            Ok(text) => self.valid += text.len(),
            Err(error) if error.error_len().is_none() => self.valid += error.valid_up_to(),
            Err(_) => return Err(Violation::NotUtf8),
        }
        Ok(())
    }

    fn whole(&self) -> Result<Received<'_>, Violation> {
        received(self.is_text, &self.bytes)
    }
}

fn received(is_text: bool, bytes: &[u8]) -> Result<Received<'_>, Violation> {
    if !is_text {
        return Ok(Received::Binary(bytes));
    }
    std::str::from_utf8(bytes).map(Received::Text).map_err(|_| Violation::NotUtf8)
}

/// What has come and was not read yet.
struct Input<'a>(&'a mut [u8]);

impl<'a> Input<'a> {
    /// The next bytes: so many, or as many as there are.
    fn take(&mut self, most: usize) -> &'a mut [u8] {
        let length = self.0.len().min(most);
        let (taken, rest) = std::mem::take(&mut self.0).split_at_mut(length);
        self.0 = rest;
        taken
    }
}

/// What is unfinished.
#[derive(Debug, Default)]
struct Unfinished {
    /// The beginning of a header.
    header: Vec<u8>,
    /// A frame of whose payload `length` bytes are still to come.
    frame: Option<Head>,
    /// The beginning of a control frame's payload.
    control: Vec<u8>,
    message: Option<Message>,
}

/// Reads what one client sends. It has the size of a pointer while nothing is unfinished.
#[derive(Debug, Default)]
pub struct Parser {
    unfinished: Option<Box<Unfinished>>,
}

impl Parser {
    /// Whether a frame or a message has begun and not ended.
    pub const fn is_unfinished(&self) -> bool {
        self.unfinished.is_some()
    }

    /// Reads on; the bytes are unmasked where they are. `hear` gets what was received, in order, and may break off: what
    /// follows is not looked at then. No message has more than `limit` bytes, and no more than that is ever kept. After a
    /// violation there is nothing more to read.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        limit: usize,
        hear: &mut impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        let mut input = Input(input);
        while !input.0.is_empty() {
            let mut unfinished = self.unfinished.take().map(|boxed| *boxed).unwrap_or_default();
            let Some(mut frame) = unfinished.frame(&mut input, limit)? else {
                self.unfinished = Some(Box::new(unfinished));
                break;
            };
            let payload = input.take(usize::try_from(frame.length).unwrap_or(usize::MAX));
            unmask(&mut frame.mask, payload);
            frame.length -= payload.len() as u64;
            let heard = unfinished.take(frame, payload, hear)?;
            if !unfinished.is_empty() {
                self.unfinished = Some(Box::new(unfinished));
            }
            if heard.is_break() {
                return Ok(heard);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Unfinished {
    fn is_empty(&self) -> bool {
        self.header.is_empty() && self.frame.is_none() && self.control.is_empty() && self.message.is_none()
    }

    /// The frame that has begun, or the next one.
    fn frame(&mut self, input: &mut Input<'_>, limit: usize) -> Result<Option<Head>, Violation> {
        if let Some(frame) = self.frame.take() {
            return Ok(Some(frame));
        }
        self.head(input)?.map(|head| self.admit(head, limit)).transpose()
    }

    /// The next header, which may have begun earlier. Takes its bytes from the input.
    fn head(&mut self, input: &mut Input<'_>) -> Result<Option<Head>, Violation> {
        if self.header.is_empty()
            && let Some((head, length)) = Head::read(input.0)?
        {
            input.take(length);
            return Ok(Some(head));
        }
        while let [byte] = input.take(1) {
            self.header.push(*byte);
            if let Some((head, _)) = Head::read(&self.header)? {
                self.header.clear();
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Holds a frame that begins to what came before it.
    fn admit(&self, head: Head, limit: usize) -> Result<Head, Violation> {
        let wrong = |what| Err(Violation::Protocol(what));
        match (head.opcode, &self.message) {
            (Opcode::Continuation, None) => return wrong("a continuation of nothing"),
            (Opcode::Text | Opcode::Binary, Some(_)) => return wrong("a message within a message"),
            _ => {}
        }
        let before = self.message.as_ref().map_or(0, |message| message.bytes.len());
        if !head.opcode.is_control() && head.length > (limit.saturating_sub(before)) as u64 {
            return Err(Violation::TooBig);
        }
        Ok(head)
    }

    /// Takes a piece of a frame's payload, which is all of it when the frame awaits no more.
    fn take(
        &mut self,
        frame: Head,
        payload: &[u8],
        hear: &mut impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Violation> {
        let ended = frame.length == 0;
        if !ended {
            self.frame = Some(frame);
        }
        if frame.opcode.is_control() {
            if ended && self.control.is_empty() {
                return Ok(hear(control(frame.opcode, payload)?));
            }
            self.control.extend_from_slice(payload);
            if !ended {
                return Ok(ControlFlow::Continue(()));
            }
            let payload = std::mem::take(&mut self.control);
            return Ok(hear(control(frame.opcode, &payload)?));
        }
        let is_text = frame.opcode == Opcode::Text;
        if ended && frame.last && self.message.is_none() {
            return Ok(hear(received(is_text, payload)?));
        }
        let message = self.message.get_or_insert_with(|| Message { is_text, bytes: Vec::new(), valid: 0 });
        message.extend(payload)?;
        if !ended {
            return Ok(ControlFlow::Continue(()));
        }
        if !frame.last {
            return Ok(hear(Received::Piece));
        }
        let heard = hear(message.whole()?);
        self.message = None;
        Ok(heard)
    }
}

fn control(opcode: Opcode, payload: &[u8]) -> Result<Received<'_>, Violation> {
    match opcode {
        Opcode::Ping => Ok(Received::Ping(payload)),
        Opcode::Pong => Ok(Received::Pong),
        _ => Ok(Received::Close(close_code(payload)?)),
    }
}

/// The code of a client's goodbye; those that may be sent are in RFC 6455, section 7.4, and in IANA's registry.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Violation> {
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

#[cfg(test)]
mod tests;
