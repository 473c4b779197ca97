//! As much of RFC 6455 as a client needs that counts: frames of a server in a buffer, and small frames of its own.

use std::ops::Range;

/// Kinds of frames.
pub const TEXT: u8 = 1;
/// The server closes.
pub const CLOSE: u8 = 8;
/// The server asks for a sign of life.
pub const PING: u8 = 9;
/// The answer to it.
pub const PONG: u8 = 10;

/// A whole frame of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: u8,
    /// Where its payload stands in the buffer.
    pub payload: Range<usize>,
}

/// The frame that begins at a place; `None` while it is not whole. Masked and fragmented ones are not looked for: no server here
/// sends them.
pub fn frame_at(bytes: &[u8], at: usize) -> Option<Frame> {
    let rest = bytes.get(at..)?;
    let (kind, short) = (rest.first()? & 0x0f, usize::from(rest.get(1)? & 0x7f));
    let wide = |from, to| {
        let digits = rest.get(from..to)?;
        Some(digits.iter().fold(0_usize, |length, digit| length << 8 | usize::from(*digit)))
    };
    let (head, length) = match short {
        126 => (4, wide(2, 4)?),
        127 => (10, wide(2, 10)?),
        short => (2, short),
    };
    let payload = at + head..at + head + length;
    (payload.end <= bytes.len()).then_some(Frame { kind, payload })
}

/// A server's text frame, as it is sent to every client.
pub fn of_server(text: &str) -> Vec<u8> {
    let mut frame = vec![0x80 | TEXT];
    match text.len() {
        short @ 0..126 => frame.push(u8::try_from(short).unwrap_or_default()),
        long => {
            frame.push(126);
            frame.extend(u16::try_from(long).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
    frame.extend(text.as_bytes());
    frame
}

/// A client's frame of at most 125 bytes, masked as it must be. By one mask for all: a server takes it off whatever it is.
pub fn of_client(kind: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![0x80 | kind, 0x80 | u8::try_from(payload.len() & 0x7f).unwrap_or_default()];
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// Where a word begins.
pub fn find(bytes: &[u8], word: &[u8]) -> Option<usize> {
    bytes.windows(word.len()).position(|window| window == word)
}

/// The digits that follow a word, as a number.
pub fn number_after(bytes: &[u8], word: &[u8]) -> Option<u64> {
    let digits = bytes.get(find(bytes, word)? + word.len()..)?;
    let digits = digits.iter().take_while(|byte| byte.is_ascii_digit());
    let mut number = None;
    for digit in digits {
        number = Some(number.unwrap_or(0) * 10 + u64::from(digit - b'0'));
    }
    number
}

/// The sequence in the position of a message: what stands behind the epoch.
pub fn sequence_in(bytes: &[u8]) -> Option<u64> {
    const POSITION: &[u8] = br#""position":""#;
    const EPOCH_DIGITS: usize = 16;
    number_after(bytes.get(find(bytes, POSITION)? + POSITION.len() + EPOCH_DIGITS..)?, b"-")
}
