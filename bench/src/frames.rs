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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_length_are_found_once_they_are_whole() {
        for length in [0, 1, 125, 126, 300, 65_535] {
            let text = "x".repeat(length);
            let mut bytes = of_server("before");
            let at = bytes.len();
            bytes.extend(of_server(&text));
            for cut in at..bytes.len() {
                assert_eq!(frame_at(&bytes[..cut], at), None, "{length} cut at {cut}");
            }
            let frame = frame_at(&bytes, at).unwrap();
            assert_eq!((frame.kind, &bytes[frame.payload.clone()]), (TEXT, text.as_bytes()));
            assert_eq!(frame.payload.end, bytes.len());
        }
    }

    #[test]
    fn a_client_masks_what_it_says() {
        let frame = of_client(TEXT, b"hello, world");
        assert_eq!((frame[0], frame[1], frame.len()), (0x81, 0x8c, 6 + 12));
        let unmasked: Vec<_> =
            frame[6..].iter().zip(frame[2..6].iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(unmasked, b"hello, world");
        assert!(find(&frame, b"hello").is_none());
        assert_eq!(of_client(PONG, b"")[..2], [0x8a, 0x80]);
    }

    #[test]
    fn numbers_are_read_behind_their_word() {
        assert_eq!(number_after(br##"{"message":"#000042 x"}"##, b"\"message\":\"#"), Some(42));
        assert_eq!(number_after(b"sequence:x", b"sequence:"), None);
        assert_eq!(number_after(b"nothing", b"sequence:"), None);
    }
}
