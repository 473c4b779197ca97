//! The parser: what one client sends, read in any pieces, in the buffer that it came in.

use std::ops::ControlFlow;

use super::format::{Head, Opcode, Received, Violation, close_code};

/// Takes the mask off, or puts it on; it is turned by as many bytes, for those that follow.
pub(super) fn unmask(mask: &mut [u8; 4], bytes: &mut [u8]) {
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
