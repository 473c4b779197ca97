//! The socket under hyper. It tracks where its connection is in the exchange of requests and responses, so that a slow client
//! can be timed out. hyper's own `header_read_timeout` also runs while a connection is idle, which is allowed to take longer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::limits::{Timeouts, WRITE_TIMEOUT};

/// Where a connection is in the exchange.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// No byte of the next request has arrived.
    Idle { until: Instant },
    /// A part of a request's head has arrived.
    Head { until: Instant },
    /// A handler has the request, or the response is being produced.
    Handling,
    /// The whole response is produced, and not sent yet.
    Sending,
}

/// What a client is too slow for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TimedOut {
    /// To send a request.
    Idle,
    /// To send the rest of a request's head.
    Head,
    /// To receive the response.
    Write,
}

/// The state of a connection, shared by its socket and the task that serves it.
#[derive(Debug)]
pub(super) struct ConnState {
    timeouts: Timeouts,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    phase: Phase,
    /// Since when the socket accepts no more bytes.
    write_blocked: Option<Instant>,
}

impl ConnState {
    /// A new connection.
    pub(super) fn new(timeouts: Timeouts) -> Self {
        let phase = Phase::Idle { until: Instant::now() + timeouts.head };
        Self { timeouts, inner: Mutex::new(Inner { phase, write_blocked: None }) }
    }

    /// When the client is too slow, in the present state, and for what.
    pub(super) fn deadline(&self) -> Option<(Instant, TimedOut)> {
        let inner = self.lock();
        let read = match inner.phase {
            Phase::Idle { until } => Some((until, TimedOut::Idle)),
            Phase::Head { until } => Some((until, TimedOut::Head)),
            Phase::Handling | Phase::Sending => None,
        };
        let write = inner.write_blocked.map(|since| (since + WRITE_TIMEOUT, TimedOut::Write));
        read.into_iter().chain(write).min_by_key(|(at, _)| *at)
    }

    /// A request goes to its handler; its response is produced when what this returns is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.lock().phase = Phase::Handling;
        InFlight(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on_read(&self) {
        let mut inner = self.lock();
        if matches!(inner.phase, Phase::Idle { .. }) {
            inner.phase = Phase::Head { until: Instant::now() + self.timeouts.head };
        }
    }

    fn on_flushed(&self) {
        let mut inner = self.lock();
        if matches!(inner.phase, Phase::Sending) {
            inner.phase = Phase::Idle { until: Instant::now() + self.timeouts.idle };
        }
    }

    fn on_write(&self, written: &Poll<io::Result<usize>>) {
        let mut inner = self.lock();
        match written {
            Poll::Pending => _ = inner.write_blocked.get_or_insert_with(Instant::now),
            Poll::Ready(_) => inner.write_blocked = None,
        }
    }

    /// Whether no request is waiting for its response.
    pub(super) fn is_between_requests(&self) -> bool {
        matches!(self.lock().phase, Phase::Idle { .. } | Phase::Head { .. })
    }
}

/// A request whose response is not produced yet.
#[derive(Debug)]
pub(super) struct InFlight(Arc<ConnState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        let mut inner = self.0.lock();
        if matches!(inner.phase, Phase::Handling) {
            inner.phase = Phase::Sending;
        }
    }
}

/// The socket.
pub struct Socket {
    stream: TcpStream,
    state: Arc<ConnState>,
}

impl Socket {
    pub(super) const fn new(stream: TcpStream, state: Arc<ConnState>) -> Self {
        Self { stream, state }
    }

    /// The TCP connection, after HTTP.
    pub fn into_stream(self) -> TcpStream {
        self.stream
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
            self.state.on_read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.state.on_write(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.state.on_write(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.state.on_flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
