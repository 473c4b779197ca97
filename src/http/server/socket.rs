//! A socket under HTTP: it knows where its connection is in the exchange, so that somebody can tell when a client takes
//! too long, and it keeps from the client what others say better: hyper's own refusals, which have no body, and the answer to
//! the handshake of a WebSocket, which goes out together with the first message.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::limits::{Timeouts, WRITE_TIMEOUT};
use super::socket_limit::SocketPermit;

/// Where a connection is in the exchange.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Nothing has come of the next request.
    Silent { until: Instant },
    /// Some of its head has.
    Head { until: Instant },
    /// A handler has it, or its answer is being made.
    Busy,
    /// The answer is made and on its way.
    Sending,
    /// It is no HTTP any more.
    Upgraded,
}

/// What a client takes too long for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    /// To ask anything.
    Silent,
    /// To send the head of a request.
    Head,
    /// To take an answer.
    Stalled,
}

/// What is known of a connection, by its socket and whoever serves it.
#[derive(Debug)]
pub(super) struct Standing {
    timeouts: Timeouts,
    now: Mutex<Now>,
}

#[derive(Debug)]
struct Now {
    phase: Phase,
    /// Since when the client has taken nothing.
    stalled: Option<Instant>,
}

impl Standing {
    /// A connection that has just begun.
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let phase = Phase::Silent { until: Instant::now() + timeouts.head };
        Self { timeouts, now: Mutex::new(Now { phase, stalled: None }) }
    }

    /// When the client is late, as it stands, and for what.
    pub(super) fn deadline(&self) -> Option<(Instant, Late)> {
        let now = self.now();
        let asking = match now.phase {
            Phase::Silent { until } => Some((until, Late::Silent)),
            Phase::Head { until } => Some((until, Late::Head)),
            Phase::Busy | Phase::Sending | Phase::Upgraded => None,
        };
        let taking = now.stalled.map(|since| (since + WRITE_TIMEOUT, Late::Stalled));
        asking.into_iter().chain(taking).min_by_key(|(at, _)| *at)
    }

    /// A request is handed to its handler, until what this returns is dropped.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        self.now().phase = Phase::Busy;
        Busy(self.clone())
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        let mut now = self.now();
        if matches!(now.phase, Phase::Silent { .. }) {
            now.phase = Phase::Head { until: Instant::now() + self.timeouts.head };
        }
    }

    fn flushed(&self) {
        let mut now = self.now();
        if matches!(now.phase, Phase::Sending) {
            now.phase = Phase::Silent { until: Instant::now() + self.timeouts.idle };
        }
    }

    /// Whether it is no HTTP any more.
    pub(super) fn is_upgraded(&self) -> bool {
        matches!(self.now().phase, Phase::Upgraded)
    }

    /// Whether there is nothing that an answer could be to.
    fn owes_nothing(&self) -> bool {
        matches!(self.now().phase, Phase::Silent { .. } | Phase::Head { .. })
    }

    fn taken(&self, written: &Poll<io::Result<usize>>) {
        let mut now = self.now();
        match written {
            Poll::Pending => _ = now.stalled.get_or_insert_with(Instant::now),
            Poll::Ready(_) => now.stalled = None,
        }
    }
}

/// While a request is with its handler or its answer is being made.
#[derive(Debug)]
pub(super) struct Busy(Arc<Standing>);

impl Busy {
    /// What comes after the head of this answer is no HTTP.
    pub(super) fn upgrades(&self) {
        self.0.now().phase = Phase::Upgraded;
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut now = self.0.now();
        if matches!(now.phase, Phase::Busy) {
            now.phase = Phase::Sending;
        }
    }
}

/// The socket.
pub struct Socket {
    stream: TcpStream,
    permit: Arc<SocketPermit>,
    standing: Arc<Standing>,
    refusal: Option<u16>,
    /// What was said since it was upgraded.
    last: Vec<u8>,
}

/// What is needed to go on without HTTP.
pub(super) struct Rest {
    /// The TCP connection.
    pub(super) stream: TcpStream,
    /// Its place among those of the replica.
    pub(super) permit: Arc<SocketPermit>,
    /// The answer to the handshake, which the client has not been sent.
    pub(super) answer: Vec<u8>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, permit: Arc<SocketPermit>, standing: Arc<Standing>) -> Self {
        Self { stream, permit, standing, refusal: None, last: Vec::new() }
    }

    /// What is left of it.
    pub(super) fn into_rest(self) -> Rest {
        Rest { stream: self.stream, permit: self.permit, answer: self.last }
    }

    /// The status with which hyper refused what it could not read. The client has not been told.
    pub(super) const fn refusal(&self) -> Option<u16> {
        self.refusal
    }

    /// Whether there is nothing that an answer could be to.
    pub(super) fn owes_nothing(&self) -> bool {
        self.standing.owes_nothing()
    }

    /// Notes what hyper says by itself, without a request that it could be the answer to.
    fn keep_refusal(&mut self, bytes: &[u8]) -> bool {
        if self.refusal.is_some() {
            return true;
        }
        if !self.standing.owes_nothing() {
            return false;
        }
        let status = bytes.get(9..12).and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
        self.refusal = Some(status.unwrap_or(400));
        true
    }
}

impl Socket {
    /// Keeps what is said after an upgrade: that is the rest of what HTTP has to say, whole.
    fn keep_last(&mut self, slices: &[IoSlice<'_>]) -> bool {
        let keeps = self.standing.is_upgraded();
        if keeps {
            for slice in slices {
                self.last.extend_from_slice(slice);
            }
        }
        keeps
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.standing.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.keep_refusal(bytes) || self.keep_last(&[IoSlice::new(bytes)]) {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.standing.taken(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.keep_refusal(slices.first().map_or(&[][..], |slice| slice)) || self.keep_last(slices) {
            return Poll::Ready(Ok(slices.iter().map(|slice| slice.len()).sum()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.standing.taken(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.standing.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.refusal.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
