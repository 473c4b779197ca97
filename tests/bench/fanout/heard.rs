//! What all clients together have heard, judged while it comes: each broadcast once, in order, nothing left out.

use std::collections::HashSet;
use std::time::Instant;

use super::frames::{CLOSE, Frame, PING, TEXT, number_after, sequence_in};

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
