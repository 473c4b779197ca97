//! What the parser has to read, what it has to refuse, and that it does not matter how bytes are cut.

use std::ops::ControlFlow;

use proptest::prelude::*;

use super::format::*;
use super::parser::unmask;
use super::*;

const LIMIT: usize = 4_096;

/// What was heard, in values that outlive it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Heard {
    Text(String),
    Binary(Vec<u8>),
    Piece,
    Ping(Vec<u8>),
    Pong,
    Close(Option<u16>),
}

impl From<Received<'_>> for Heard {
    fn from(received: Received<'_>) -> Self {
        match received {
            Received::Text(text) => Self::Text(text.to_owned()),
            Received::Binary(bytes) => Self::Binary(bytes.to_vec()),
            Received::Piece => Self::Piece,
            Received::Ping(payload) => Self::Ping(payload.to_vec()),
            Received::Pong => Self::Pong,
            Received::Close(code) => Self::Close(code),
        }
    }
}

type Outcome = (Vec<Heard>, Result<bool, Violation>);

/// Feeds bytes in pieces of these lengths, over and over. Says what was heard, and whether something is unfinished.
fn fed(bytes: &[u8], pieces: &[usize]) -> Outcome {
    let (mut parser, mut heard) = (Parser::default(), Vec::new());
    let mut rest = bytes.to_vec();
    let mut rest = rest.as_mut_slice();
    for piece in pieces.iter().cycle() {
        let length = rest.len().min(*piece);
        let (now, later) = std::mem::take(&mut rest).split_at_mut(length);
        rest = later;
        let mut hear = |received: Received<'_>| {
            heard.push(received.into());
            ControlFlow::Continue(())
        };
        if let Err(violation) = parser.feed(now, LIMIT, &mut hear) {
            return (heard, Err(violation));
        }
        if rest.is_empty() {
            break;
        }
    }
    (heard, Ok(parser.is_unfinished()))
}

/// A client's frame.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let opcode = Opcode::of(first & 0x0f).unwrap();
    let mut bytes = header(opcode, payload.len());
    bytes[0] = first;
    bytes[1] |= MASKED;
    let mut mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend(mask);
    let begin = bytes.len();
    bytes.extend(payload);
    unmask(&mut mask, &mut bytes[begin..]);
    bytes
}

#[test]
fn the_examples_of_the_rfc_are_read_and_written() {
    // RFC 6455, section 5.7.
    let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(fed(&masked, &[99]), (vec![Heard::Text("Hello".to_owned())], Ok(false)));
    assert_eq!(frame(0x81, b"Hello"), masked);
    assert_eq!(encode(Opcode::Text, b"Hello")[..], [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
    assert_eq!(encode(Opcode::Ping, b"Hello")[..2], [0x89, 0x05]);
    assert_eq!(encode(Opcode::Binary, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
    assert_eq!(encode(Opcode::Binary, &vec![0; 65_536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(fed(&pong, &[1]), (vec![Heard::Pong], Ok(false)));
}

#[test]
fn a_message_comes_in_pieces_with_a_ping_between_them() {
    let bytes = [frame(0x01, "gr".as_bytes()), frame(0x89, b"?"), frame(0x80, "üße".as_bytes())].concat();
    let heard = vec![Heard::Piece, Heard::Ping(b"?".to_vec()), Heard::Text("grüße".to_owned())];
    for piece in 1..=bytes.len() {
        assert_eq!(fed(&bytes, &[piece]), (heard.clone(), Ok(false)), "in pieces of {piece}");
    }
    assert_eq!(fed(&bytes[..5], &[2]).1, Ok(true));
}

#[test]
fn what_is_not_allowed_is_refused() {
    let protocol = |bytes: &[u8]| matches!(fed(bytes, &[1]).1, Err(Violation::Protocol(_)));
    let short = |first, second: u8| [&[first, second | MASKED][..], &[0; 12]].concat();
    assert!(protocol(&short(0xc1, 0)), "a reserved bit");
    assert!(protocol(&short(0x83, 0)), "a reserved opcode");
    assert!(protocol(&[0x81, 0x00]), "no mask");
    assert!(protocol(&short(0x09, 0)), "a ping in pieces");
    assert!(protocol(&short(0x89, 126)), "a long ping");
    assert!(protocol(&short(0x80, 0)), "a continuation of nothing");
    assert!(protocol(&[frame(0x01, b"a"), frame(0x81, b"b")].concat()), "a message within a message");
    assert!(protocol(&[0x82, 0xfe, 0, 125, 0, 0, 0, 0]), "a length that is longer than it has to be");
    assert!(protocol(&[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]));
    assert!(protocol(&[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, u16::MAX] {
        assert!(protocol(&frame(0x88, &code.to_be_bytes())), "{code}");
    }
    assert!(protocol(&frame(0x88, b"x")), "half a code");
    assert_eq!(fed(&frame(0x88, b"\x03\xe8\xff"), &[9]).1, Err(Violation::NotUtf8));
    assert_eq!(fed(&frame(0x88, b""), &[9]).0, [Heard::Close(None)]);
    assert_eq!(fed(&frame(0x88, b"\x03\xe8bye"), &[9]).0, [Heard::Close(Some(1000))]);
}

#[test]
fn a_message_has_its_bound_however_it_comes() {
    assert_eq!(fed(&frame(0x82, &[7; LIMIT]), &[1_000]).0, [Heard::Binary(vec![7; LIMIT])]);
    let too_big = frame(0x82, &[7; LIMIT + 1]);
    assert_eq!(fed(&too_big[..8], &[3]).1, Err(Violation::TooBig), "before its payload came");
    let pieces = [frame(0x02, &[7; LIMIT]), frame(0x00, b""), frame(0x80, b"x")].concat();
    assert_eq!(fed(&pieces, &[999]), (vec![Heard::Piece, Heard::Piece], Err(Violation::TooBig)));
}

#[test]
fn a_text_that_cannot_become_utf8_is_refused_at_once() {
    let bytes = frame(0x01, b"\xce\xba\xed\xa0\x80 and much more");
    let heard = fed(&bytes[..6 + 4], &[1]);
    assert_eq!(heard, (vec![], Err(Violation::NotUtf8)), "at the byte that makes it hopeless");
    assert_eq!(fed(&bytes[..6 + 3], &[1]).1, Ok(true));
    let half = [frame(0x01, b"\xce"), frame(0x80, b"\xba")].concat();
    assert_eq!(fed(&half, &[3]).0, [Heard::Piece, Heard::Text("κ".to_owned())]);
    assert_eq!(fed(&frame(0x81, b"\xce"), &[3]).1, Err(Violation::NotUtf8));
}

#[test]
fn who_listens_may_break_off() {
    let mut bytes = [frame(0x81, b"a"), frame(0x81, b"b")].concat();
    let (mut parser, mut heard) = (Parser::default(), 0);
    let mut hear = |_: Received<'_>| {
        heard += 1;
        ControlFlow::Break(())
    };
    assert_eq!(parser.feed(&mut bytes, LIMIT, &mut hear), Ok(ControlFlow::Break(())));
    assert_eq!(heard, 1);
}

#[test]
fn a_close_frame_keeps_within_its_bound() {
    let frame = close(4008, &"ü".repeat(100));
    assert_eq!(frame[..4], [0x88, 124, 0x0f, 0xa8]);
    assert_eq!(frame.len(), 126);
}

/// Frames of a client who keeps to the protocol, but for what a proptest chooses.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let first = prop::sample::select(vec![0x81, 0x01, 0x82, 0x02, 0x80, 0x00, 0x89, 0x8a, 0x88]);
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..130),
        "\\PC{0,40}".prop_map(String::into_bytes),
        prop::collection::vec(any::<u8>(), 0..3_000),
    ];
    prop::collection::vec((first, payload), 0..12)
        .prop_map(|frames| frames.iter().flat_map(|(first, payload)| frame(*first, payload)).collect())
}

proptest! {
    #[test]
    fn it_does_not_matter_how_bytes_are_cut(
        frames in frames(),
        pieces in prop::collection::vec(1..200_usize, 1..8),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes = frames;
        if let Some((at, byte)) = damage && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        prop_assert_eq!(fed(&bytes, &pieces), fed(&bytes, &[usize::MAX]));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), pieces in prop::collection::vec(1..20_usize, 1..5)) {
        prop_assert_eq!(fed(&bytes, &pieces), fed(&bytes, &[usize::MAX]));
    }

    #[test]
    fn a_text_arrives_as_it_was_sent(text in "\\PC{0,300}", cuts in prop::collection::vec(0..300_usize, 0..4), pieces in prop::collection::vec(1..50_usize, 1..5)) {
        let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([text.len()]).collect();
        ends.sort_unstable();
        let (mut bytes, mut begin) = (Vec::new(), 0);
        for (n, end) in ends.iter().enumerate() {
            let opcode = u8::from(n == 0);
            let last = if n + 1 == ends.len() { FIN } else { 0 };
            bytes.extend(frame(last | opcode, &text.as_bytes()[begin..*end]));
            begin = *end;
        }
        let (heard, end) = fed(&bytes, &pieces);
        prop_assert_eq!(heard.last(), Some(&Heard::Text(text)));
        prop_assert_eq!(end, Ok(false));
    }
}
