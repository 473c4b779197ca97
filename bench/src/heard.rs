//! What all clients together have heard, judged while it comes: each broadcast once, in order, nothing left out.

use std::collections::HashSet;
use std::time::Instant;

use crate::frames::{CLOSE, Frame, PING, TEXT, number_after, sequence_in};

/// How a message begins, by its type.
const NEW_BROADCAST: &[u8] = br#"{"type":"new_broadcast""#;
const STATE_ON_CONNECT: &[u8] = br#"{"type":"active_broadcast""#;
const ACKNOWLEDGED: &[u8] = br#"{"type":"acknowledged""#;
const ERROR: &[u8] = br#"{"type":"error""#;

/// What stands before the number that a broadcast's message begins with, see [`message`].
const MARK: &[u8] = b"\"message\":\"#";

/// How many characters a broadcast has: as many as `GET /limits` recommends.
pub const CHARACTERS: usize = 120;

/// How many it may have at most; one character takes four bytes at most.
pub const MOST_CHARACTERS: usize = 280;

/// The message of the so many-th broadcast.
pub fn message(number: u64) -> String {
    filled(number, "The quick brown fox jumps over the lazy dog. ", CHARACTERS)
}

/// The same with as many bytes as a message can have, which fill the buffers of who does not read.
pub fn long_message(number: u64) -> String {
    filled(number, "🦊", MOST_CHARACTERS)
}

fn filled(number: u64, with: &str, characters: usize) -> String {
    let mut message = format!("#{number:06} ");
    message.extend(with.chars().cycle().take(characters - message.len()));
    message
}

/// What was heard so far.
#[derive(Default)]
pub struct Heard {
    /// Clients that have the state on connect.
    pub greeted: usize,
    /// Broadcasts that were delivered, over all clients.
    pub deliveries: u64,
    /// Bytes of the last one, with its frame's head.
    pub delivered_bytes: usize,
    /// Of each broadcast by its number, how many clients have it.
    pub by_number: Vec<usize>,
    /// Each broadcast that everybody has, and when the last client got it.
    pub completed: Vec<(u64, Instant)>,
    /// Broadcasts that a client was passed over with.
    pub missed: u64,
    /// Broadcasts that a client got twice, or after a later one.
    pub out_of_order: u64,
    /// Acknowledgements that were confirmed.
    pub confirmed: usize,
    /// The events of the log that carry them.
    pub confirmed_in: HashSet<u64>,
    /// Pings.
    pub pings: usize,
    /// What went wrong first, in words.
    pub trouble: Option<String>,
}

/// What a client has to do about what it heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing.
    None,
    /// To show a sign of life.
    Pong,
    /// To go.
    Close,
}

impl Heard {
    /// Takes one frame that a client got, which has had all broadcasts before `next`. `everybody` is how many clients get one.
    pub fn hear(&mut self, bytes: &[u8], frame: &Frame, next: &mut u64, everybody: usize) -> Reaction {
        let payload = &bytes[frame.payload.clone()];
        match frame.kind {
            PING => {
                self.pings += 1;
                return Reaction::Pong;
            }
            CLOSE => {
                let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
                self.note(format!("a client was closed with {code:?}"));
                return Reaction::Close;
            }
            TEXT if payload.starts_with(NEW_BROADCAST) => self.delivered(payload, next, everybody),
            TEXT if payload.starts_with(ACKNOWLEDGED) => {
                self.confirmed += 1;
                self.confirmed_in.extend(sequence_in(payload));
            }
            TEXT if payload.starts_with(STATE_ON_CONNECT) => self.greeted += 1,
            TEXT if payload.starts_with(ERROR) => {
                self.note(format!("a client was told {}", String::from_utf8_lossy(payload)));
            }
            _ => {}
        }
        Reaction::None
    }

    fn delivered(&mut self, payload: &[u8], next: &mut u64, everybody: usize) {
        let Some(number) = number_after(payload, MARK) else { return };
        match number.checked_sub(*next) {
            Some(missed) => {
                self.missed += missed;
                *next = number + 1;
            }
            None => self.out_of_order += 1,
        }
        self.deliveries += 1;
        self.delivered_bytes = payload.len() + if payload.len() < 126 { 2 } else { 4 };
        let index = usize::try_from(number).unwrap_or_default();
        if self.by_number.len() <= index {
            self.by_number.resize(index + 1, 0);
        }
        self.by_number[index] += 1;
        if self.by_number[index] == everybody {
            self.completed.push((number, Instant::now()));
        }
    }

    /// When the last client got a broadcast, if everybody has it.
    pub fn completed_at(&self, number: u64) -> Option<Instant> {
        self.completed.iter().rev().find(|(completed, _)| *completed == number).map(|(_, at)| *at)
    }

    /// Keeps the first trouble.
    pub fn note(&mut self, trouble: String) {
        self.trouble.get_or_insert(trouble);
    }

    /// Broadcasts that did not come as they must: each once, in order.
    pub const fn wrong(&self) -> u64 {
        self.missed + self.out_of_order
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frames::{CLOSE, PING, frame_at, of_server};

    fn told(heard: &mut Heard, next: &mut u64, text: &str) -> Reaction {
        let bytes = of_server(text);
        heard.hear(&bytes, &frame_at(&bytes, 0).unwrap(), next, 2)
    }

    fn broadcast(number: u64) -> String {
        format!(r#"{{"type":"new_broadcast","broadcast":{{"id":"x","message":"{}"}}}}"#, message(number))
    }

    #[test]
    fn a_broadcast_is_complete_once_everybody_has_it() {
        let mut heard = Heard::default();
        let (mut ann, mut bob) = (0, 0);
        told(&mut heard, &mut ann, &broadcast(0));
        assert!(heard.completed_at(0).is_none());
        told(&mut heard, &mut bob, &broadcast(0));
        assert!(heard.completed_at(0).is_some());
        assert_eq!(
            (heard.deliveries, heard.wrong(), heard.delivered_bytes),
            (2, 0, of_server(&broadcast(0)).len())
        );
    }

    #[test]
    fn what_is_missed_doubled_or_late_counts() {
        let (mut heard, mut next) = (Heard::default(), 0);
        for number in [0, 1, 1, 4, 3] {
            told(&mut heard, &mut next, &broadcast(number));
        }
        assert_eq!((heard.missed, heard.out_of_order, heard.wrong()), (2, 2, 4));
    }

    #[test]
    fn the_rest_is_told_apart() {
        let (mut heard, mut next) = (Heard::default(), 0);
        told(&mut heard, &mut next, &broadcast(7).replace("new_broadcast", "active_broadcast"));
        for sequence in [8, 8, 9] {
            let text = format!(
                r#"{{"type":"acknowledged","broadcast_id":"x","position":"9f2c41d07be3a865-{sequence}"}}"#
            );
            told(&mut heard, &mut next, &text);
        }
        assert_eq!(
            (heard.greeted, heard.deliveries, heard.confirmed, heard.confirmed_in.len()),
            (1, 0, 3, 2)
        );
        let mut frame = |kind, payload: &[u8]| {
            let bytes = [&[0x80 | kind, u8::try_from(payload.len()).unwrap()], payload].concat();
            heard.hear(&bytes, &frame_at(&bytes, 0).unwrap(), &mut next, 1)
        };
        assert_eq!(
            (frame(PING, b""), frame(CLOSE, &4008_u16.to_be_bytes())),
            (Reaction::Pong, Reaction::Close)
        );
        assert_eq!(heard.trouble.as_deref(), Some("a client was closed with Some(4008)"));
    }

    #[test]
    fn messages_have_the_recommended_length() {
        assert_eq!((message(0).len(), message(999_999).len()), (CHARACTERS, CHARACTERS));
        let long = long_message(7);
        assert_eq!((long.chars().count(), long.len()), (MOST_CHARACTERS, 8 + 4 * (MOST_CHARACTERS - 8)));
    }
}
