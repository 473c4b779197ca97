//! What each kind of flood says, how fast, and whether it listens.

use std::time::Duration;

use tidings::clock::{Clock as _, SystemClock};

use crate::frames::{PING, TEXT, of_client};
use crate::identity::Issuer;

/// A client's frame that begins a message and does not end it.
const FIRST_PIECE: u8 = TEXT;
/// One that goes on with a message and does not end it either.
const NEXT_PIECE: u8 = 0;
/// The bit by which a frame is the last of its message.
const LAST: u8 = 0x80;

/// Messages in one go: more than a connection may send at once (`--message-burst`, 40).
const MESSAGES: usize = 50;
/// As many as a connection may send at once.
const BURST: usize = 40;
/// Pieces in one go.
const PIECES: usize = 2_000;
/// Bytes of garbage in one go.
const GARBAGE: usize = 3_000;

/// Users of a flood: as many as it has connections at most, so that the bound on those of one user stops nobody.
const USERS: usize = 2_000;

/// The tokens of those who misbehave, who are somebody all the same.
pub struct Tokens {
    users: Vec<String>,
    creator: String,
}

impl Tokens {
    /// All that a flood needs, made before it begins.
    pub fn new() -> anyhow::Result<Self> {
        let issuer = Issuer::new()?;
        Ok(Self { users: issuer.tokens("flood", USERS)?, creator: issuer.token("flood", "creator")? })
    }

    fn of(&self, number: u64) -> (usize, &str) {
        let user = usize::try_from(number).unwrap_or_default() % self.users.len();
        (user, &self.users[user])
    }
}

/// How somebody misbehaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The head of a request that never ends, a letter at a time.
    HalfOpenHeads,
    /// A body that never comes, a blank at a time.
    SlowBodies,
    /// WebSockets that read nothing.
    ReadNothing,
    /// More pings than are allowed.
    Pings,
    /// Messages of empty pieces.
    Fragments,
    /// More acknowledgements than are allowed, each connection's of a user of its own.
    Acknowledgements,
    /// As many acknowledgements as a connection may send at once, of broadcasts that do not exist, from all at one moment.
    UnknownIds,
    /// Connections that are ended as soon as they are there.
    ComeAndGo,
    /// Many WebSockets that all end and come back at one moment.
    BackAtOnce,
    /// Messages that are begun and not ended.
    Unfinished,
    /// Random bytes: instead of a request, or after a handshake.
    Garbage,
}

/// How many there are of a kind, and how fast they are. Each has its turn again and again: it connects if it is not connected
/// (any more), and says its piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Connections.
    pub connections: usize,
    /// How many of them have their turn together.
    pub together: usize,
    /// How long it is from there to the next turns.
    pub every: Duration,
}

impl Kind {
    /// All, in the order of the tables.
    pub const ALL: [Self; 11] = [
        Self::HalfOpenHeads,
        Self::SlowBodies,
        Self::ReadNothing,
        Self::Pings,
        Self::Fragments,
        Self::Acknowledgements,
        Self::UnknownIds,
        Self::ComeAndGo,
        Self::BackAtOnce,
        Self::Unfinished,
        Self::Garbage,
    ];

    /// What others do meanwhile, for the heading of a table.
    pub const fn words(self) -> &'static str {
        match self {
            Self::HalfOpenHeads => "200 send a head, a letter a second each",
            Self::SlowBodies => "200 send a body, a blank a second each",
            Self::ReadNothing => "50 read nothing of broadcasts of the most bytes",
            Self::Pings => "50 send pings, 10,000 a second",
            Self::Fragments => "50 send empty pieces of messages, 100,000 a second",
            Self::Acknowledgements => "50 send acknowledgements, 10,000 a second",
            Self::UnknownIds => {
                "500 send 40 acknowledgements of unknown ids each, at once, every two seconds"
            }
            Self::ComeAndGo => "50 connect and leave, 1,000 times a second",
            Self::BackAtOnce => "2,000 come back at once, every two seconds",
            Self::Unfinished => "100 begin a message and do not end it",
            Self::Garbage => "50 send random bytes, 300 kB a second",
        }
    }

    /// How many there are, and how fast.
    pub const fn pace(self) -> Pace {
        let (connections, together, every_ms) = match self {
            Self::HalfOpenHeads | Self::SlowBodies => (200, 2, 10),
            Self::ReadNothing | Self::Fragments => (50, 1, 20),
            Self::Pings | Self::Acknowledgements => (50, 2, 10),
            Self::ComeAndGo => (50, 10, 10),
            Self::UnknownIds => (500, 500, 2_000),
            Self::BackAtOnce => (2_000, 2_000, 2_000),
            Self::Unfinished => (100, 1, 10),
            Self::Garbage => (50, 1, 10),
        };
        Pace { connections, together, every: Duration::from_millis(every_ms) }
    }

    /// Whether it takes what it is sent.
    pub const fn reads(self) -> bool {
        !matches!(self, Self::ReadNothing)
    }

    /// Whether it ends its connection itself, when its next turn comes.
    pub const fn leaves(self) -> bool {
        matches!(self, Self::ComeAndGo | Self::BackAtOnce)
    }

    /// What the so many-th connection says first.
    pub fn opening(self, number: u64, tokens: &Tokens) -> Vec<u8> {
        let handshake = || handshake(tokens.of(number));
        match self {
            Self::HalfOpenHeads => {
                b"POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nX-Slow: ".to_vec()
            }
            Self::SlowBodies => format!(
                "POST /api/creator/broadcast HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{",
                tokens.creator
            )
            .into_bytes(),
            Self::ComeAndGo => Vec::new(),
            Self::Garbage if number.is_multiple_of(2) => Vec::new(),
            Self::Unfinished => {
                let whole = of_client(TEXT, b"never to be heard");
                // In the middle of a header, of a payload, or between two pieces.
                let begun = match number % 3 {
                    0 => whole[..3].to_vec(),
                    1 => whole[..9].to_vec(),
                    _ => piece(FIRST_PIECE, b"more to come"),
                };
                [handshake(), begun].concat()
            }
            _ => handshake(),
        }
    }

    /// What a connection says at each of its turns, of a broadcast with this id.
    pub fn says(self, broadcast: &str) -> Vec<u8> {
        match self {
            Self::HalfOpenHeads => b"o".to_vec(),
            Self::SlowBodies => b" ".to_vec(),
            Self::ReadNothing | Self::ComeAndGo | Self::BackAtOnce | Self::Unfinished => Vec::new(),
            Self::Pings => of_client(PING, b"are you there").repeat(MESSAGES),
            Self::Fragments => [piece(FIRST_PIECE, b""), piece(NEXT_PIECE, b"").repeat(PIECES)].concat(),
            Self::Acknowledgements => acknowledgement(broadcast).repeat(MESSAGES),
            Self::UnknownIds => {
                let ids = (0..BURST).map(|_| SystemClock.new_id().to_string());
                ids.flat_map(|id| acknowledgement(&id)).collect()
            }
            Self::Garbage => garbage(),
        }
    }
}

fn acknowledgement(broadcast: &str) -> Vec<u8> {
    let text = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{broadcast}"}}"#);
    of_client(TEXT, text.as_bytes())
}

fn piece(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = of_client(kind, payload);
    frame[0] &= !LAST;
    frame
}

fn handshake((user, token): (usize, &str)) -> Vec<u8> {
    format!(
        "GET /api/creator/broadcast/ws?user_id=flood-{user}&role=user HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\
         Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Authorization: Bearer {token}\r\n\r\n"
    )
    .into_bytes()
}

/// The same bytes in each run, by xorshift, so that runs can be compared.
fn garbage() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(GARBAGE);
    while bytes.len() < GARBAGE {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes
}
