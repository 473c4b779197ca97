//! One WebSocket's bytes: what came is heard, what is said goes out or waits, and both sides say goodbye.
//!
//! It does nothing by itself: whoever owns it calls it when the socket is ready. Pings are answered here, and so are a
//! client's goodbye and whatever it sends that RFC 6455 does not allow.

use std::collections::VecDeque;
use std::io::{ErrorKind, IoSlice, Read as _, Write as _};
use std::net::Shutdown;
use std::ops::ControlFlow;

use bytes::Bytes;
use mio::net::TcpStream;

use super::frame::{self, Opcode, Parser, Received, Violation};

/// Reads of one socket before others have their turn.
const READS_AT_ONCE: usize = 4;

/// Waiting frames that go out in one write.
const WRITTEN_AT_ONCE: usize = 64;

/// How far the two sides are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// They talk.
    Open,
    /// This side has said goodbye, or is saying it. What comes is not listened to any more.
    Closing,
    /// Nothing comes and nothing goes.
    Over,
}

/// How far a socket is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// What has come. A read that leaves room in the buffer had all of it, and the readiness loop tells of what comes
    /// after that, its end too: another read would only be told that there is nothing.
    Come,
    /// Until there is nothing. Its end may be there already, behind the bytes, and then nothing tells of it any more.
    End,
}

/// What reading came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the end has to be answered"]
pub enum Read {
    /// The readiness loop says when there is more.
    Later,
    /// It was read for long enough; others have their turn first.
    Again,
    /// There is nothing more to hear. What was heard before is answered first, then [`WebSocket::part`] is called.
    Ended(Parting),
}

/// Why there is nothing more to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parting {
    /// The client says goodbye, perhaps with a code.
    Goodbye(Option<u16>),
    /// The client does what RFC 6455 does not allow.
    Violation(Violation),
}

/// The client does not read: what waits for it would be more than may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow;

/// What waits because the kernel takes no more. It exists only while that is so.
#[derive(Debug, Default)]
struct Unsent {
    frames: VecDeque<Bytes>,
    /// Of all of them.
    bytes: usize,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct WebSocket {
    stream: TcpStream,
    parser: Parser,
    unsent: Option<Box<Unsent>>,
    stage: Stage,
}

impl WebSocket {
    /// Over a stream that does not block.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, parser: Parser::default(), unsent: None, stage: Stage::Open }
    }

    /// The stream, to watch it.
    pub const fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// How far the two sides are.
    pub const fn stage(&self) -> Stage {
        self.stage
    }

    /// Whether the client has begun a message and not ended it.
    pub const fn is_unfinished(&self) -> bool {
        self.parser.is_unfinished()
    }

    /// Frames that wait, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        self.unsent.as_ref().map_or((0, 0), |unsent| (unsent.frames.len(), unsent.bytes))
    }

    /// Reads what has come, through a buffer that sockets share, so far. `hear` gets everything but goodbyes, in order, and may
    /// break off: the rest of what was read is dropped then. No message has more than `limit` bytes.
    pub fn read(
        &mut self,
        (buffer, extent): (&mut [u8], Extent),
        limit: usize,
        hear: &mut impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Read {
        for _ in 0..READS_AT_ONCE {
            match self.stream.read(buffer) {
                Ok(0) => self.stage = Stage::Over,
                Ok(read) => match self.take(&mut buffer[..read], limit, hear) {
                    Read::Later | Read::Again if extent == Extent::Come && read < buffer.len() => {}
                    Read::Later | Read::Again => continue,
                    ended @ Read::Ended(_) => return ended,
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.stage = Stage::Over,
            }
            return Read::Later;
        }
        Read::Again
    }

    /// Hears what has been read already.
    pub fn take(
        &mut self,
        bytes: &mut [u8],
        limit: usize,
        hear: &mut impl FnMut(Received<'_>) -> ControlFlow<()>,
    ) -> Read {
        if self.stage != Stage::Open {
            return Read::Later;
        }
        let mut pongs = Vec::new();
        let mut goodbye = None;
        let fed = self.parser.feed(bytes, limit, &mut |received| {
            if let Received::Close(code) = received {
                goodbye = Some(code);
                return ControlFlow::Break(());
            }
            let heard = hear(received);
            if let Received::Ping(payload) = received
                && heard.is_continue()
            {
                pongs.push(frame::encode(Opcode::Pong, payload));
            }
            heard
        });
        for pong in pongs {
            // A pong is small, and how many there are is bounded by whoever hears the pings.
            let _ = self.send(pong, usize::MAX);
        }
        match (goodbye, fed) {
            (Some(code), _) => Read::Ended(Parting::Goodbye(code)),
            (None, Err(violation)) => Read::Ended(Parting::Violation(violation)),
            (None, Ok(_)) => Read::Later,
        }
    }

    /// Answers the end of what was heard.
    pub fn part(&mut self, parting: Parting) {
        match parting {
            // The same code goes back (RFC 6455, section 5.5.1).
            Parting::Goodbye(code) => {
                let answer =
                    code.map_or_else(|| frame::encode(Opcode::Close, b""), |code| frame::close(code, ""));
                self.close(answer);
            }
            Parting::Violation(violation) => self.refuse(violation.code(), violation.reason()),
        }
    }

    /// Says goodbye, with a code and a reason.
    pub fn refuse(&mut self, code: u16, reason: &str) {
        self.close(frame::close(code, reason));
    }

    /// Sends whole frames, or lets them wait behind those that do, as long as no more than `most` bytes wait.
    pub fn send(&mut self, frames: Bytes, most: usize) -> Result<(), Slow> {
        if self.stage != Stage::Open {
            return Ok(());
        }
        if let Some(unsent) = &mut self.unsent {
            if unsent.bytes + frames.len() > most {
                return Err(Slow);
            }
            unsent.push(frames);
            return Ok(());
        }
        self.write(&frames, most)
    }

    fn write(&mut self, frames: &Bytes, most: usize) -> Result<(), Slow> {
        let written = loop {
            match self.stream.write(frames) {
                Ok(written) => break written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break 0,
                Err(_) => {
                    self.stage = Stage::Over;
                    return Ok(());
                }
            }
        };
        if written == frames.len() {
            return Ok(());
        }
        let rest = frames.slice(written..);
        let fits = rest.len() <= most;
        // A frame that has begun is kept in any case: a goodbye comes only after it.
        if fits || written > 0 {
            self.unsent.get_or_insert_default().push(rest);
        }
        if fits { Ok(()) } else { Err(Slow) }
    }

    /// Sends on what waits.
    pub fn flush(&mut self) {
        while let Some(unsent) = &mut self.unsent {
            let slices: Vec<_> =
                unsent.frames.iter().take(WRITTEN_AT_ONCE).map(|frame| IoSlice::new(frame)).collect();
            match self.stream.write_vectored(&slices) {
                Ok(written) => {
                    if unsent.forget(written) {
                        self.unsent = None;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stage = Stage::Over;
                    return;
                }
            }
        }
        self.end_saying();
    }

    /// After what waits comes this frame, and then nothing more.
    fn close(&mut self, goodbye: Bytes) {
        if self.stage != Stage::Open {
            return;
        }
        let _ = self.send(goodbye, usize::MAX);
        if self.stage == Stage::Open {
            self.stage = Stage::Closing;
            self.parser = Parser::default();
            self.end_saying();
        }
    }

    /// When the goodbye is out nothing follows it, so the client sees the end behind it.
    fn end_saying(&mut self) {
        let said = self.stage == Stage::Closing && self.unsent.is_none();
        if said && self.stream.shutdown(Shutdown::Write).is_err() {
            self.stage = Stage::Over;
        }
    }
}

impl Unsent {
    fn push(&mut self, frames: Bytes) {
        self.bytes += frames.len();
        self.frames.push_back(frames);
    }

    /// Forgets what was written, from the front. Whether nothing is left.
    fn forget(&mut self, mut written: usize) -> bool {
        self.bytes -= written;
        while let Some(first) = self.frames.front_mut() {
            if written < first.len() {
                drop(first.split_to(written));
                return false;
            }
            written -= first.len();
            self.frames.pop_front();
        }
        true
    }
}
