//! The readiness loop of a shard: which of its sockets can be read or written, from the kernel, with no task for any of
//! them.
//!
//! Why this is not a task a socket: `docs/architecture.md`, "What is written by hand".
//!
//! The sockets are in a set of their own, whose descriptor the runtime watches in turn: so a shard waits for them beside
//! everything else, and asks the kernel directly while it is busy.

use std::io;
use std::time::Duration;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use tokio::io::unix::AsyncFd;

use super::attach::ConnectionId;
use super::websocket::Extent;

/// Sockets that are told of at once.
const EVENTS_AT_ONCE: usize = 256;

pub(super) struct Readiness {
    poll: AsyncFd<Poll>,
    events: Events,
    /// Whether more sockets may be ready than were told of at once. Nothing else would say so: the runtime hears of this set
    /// when something is added to what is ready, and not when something is left of it.
    more: bool,
}

impl Readiness {
    /// Within a runtime.
    #[expect(unsafe_code, reason = "the runtime has no other way to watch a set of descriptors")]
    pub(super) fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        // SAFETY: a `Poll` has one descriptor, opened when it is made and closed when it is dropped, and it is not taken
        // out of the `AsyncFd` or replaced.
        let poll = unsafe { AsyncFd::register_with_interest(poll, tokio::io::Interest::READABLE) }?;
        Ok(Self { poll, events: Events::with_capacity(EVENTS_AT_ONCE), more: false })
    }

    /// Tells of this socket from now on, under this id, each time that it becomes ready; until it is closed.
    pub(super) fn watch(&self, stream: &mut TcpStream, id: ConnectionId) -> io::Result<()> {
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.get_ref().registry().register(stream, Token(usize::try_from(id).unwrap_or_default()), both)
    }

    /// Waits until a socket may be ready.
    pub(super) async fn wait(&self) {
        if self.more {
            return;
        }
        match self.poll.readable().await {
            // Before the set is asked: whatever becomes ready after that wakes this again.
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        }
    }

    /// Those that are ready, without waiting: the id of each, how far it is to be read, and whether it can be written. When more are,
    /// they come with the next call.
    pub(super) fn take(&mut self) -> Vec<(ConnectionId, Option<Extent>, bool)> {
        let polled = self.poll.get_mut().poll(&mut self.events, Some(Duration::ZERO));
        if polled.is_err() {
            self.events.clear();
        }
        self.more = may_have_more(&polled, self.events.iter().count());
        let readable = |event: &Event| {
            let has_ended = event.is_read_closed() || event.is_error();
            if has_ended { Some(Extent::End) } else { event.is_readable().then_some(Extent::Come) }
        };
        let ready =
            self.events.iter().map(|event| (event.token().0 as u64, readable(event), event.is_writable()));
        ready.collect()
    }
}

/// Whether the set has to be asked again. After an error it has to: the runtime's readiness is cleared already, and nothing else
/// would wake the shard for those that are ready.
const fn may_have_more(polled: &io::Result<()>, told: usize) -> bool {
    polled.is_err() || told == EVENTS_AT_ONCE
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::ops::ControlFlow;

    use super::*;
    use crate::push::frame::Received;
    use crate::push::websocket::{Read, Stage, WebSocket};

    #[tokio::test]
    async fn a_socket_is_told_of_each_time_that_it_becomes_ready_and_not_in_between() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let mut socket = TcpStream::from_std(accepted);
        let mut readiness = Readiness::new().unwrap();
        readiness.watch(&mut socket, 7).unwrap();
        readiness.wait().await;
        assert_eq!(readiness.take(), [(7, None, true)], "it can be written from the start");
        assert_eq!(readiness.take(), []);

        for _ in 0..2 {
            client.write_all(b"x").unwrap();
            readiness.wait().await;
            let ready = readiness.take();
            assert!(matches!(ready[..], [(7, Some(Extent::Come), _)]), "{ready:?}");
            assert_eq!(socket.read(&mut [0; 9]).unwrap(), 1);
            assert_eq!(readiness.take(), [], "told once");
        }
        drop(client);
        readiness.wait().await;
        assert!(matches!(readiness.take()[..], [(7, Some(Extent::End), _)]), "its end is something to read");
        drop(socket);
        assert_eq!(readiness.take(), []);
    }

    #[test]
    fn a_set_that_could_not_be_asked_is_asked_again() {
        assert!(may_have_more(&Err(io::ErrorKind::Interrupted.into()), 0));
        assert!(may_have_more(&Ok(()), EVENTS_AT_ONCE));
        assert!(!may_have_more(&Ok(()), EVENTS_AT_ONCE - 1));
    }

    #[tokio::test]
    async fn an_end_is_read_whether_it_comes_with_the_last_bytes_or_after_them() {
        const TEXT: &[u8] = b"\x81\x81\0\0\0\0x";
        for comes_after in [false, true] {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, _) = listener.accept().unwrap();
            accepted.set_nonblocking(true).unwrap();
            let mut socket = WebSocket::new(TcpStream::from_std(accepted));
            let mut readiness = Readiness::new().unwrap();
            readiness.watch(socket.stream(), 7).unwrap();
            client.write_all(TEXT).unwrap();
            let mut client = Some(client);
            let mut heard = 0;
            let mut read = |socket: &mut WebSocket, extent| {
                let mut hear = |_: Received<'_>| {
                    heard += 1;
                    ControlFlow::Continue(())
                };
                assert_eq!(socket.read((&mut [0; 64], extent), 64, &mut hear), Read::Later);
                heard
            };
            if comes_after {
                assert_eq!(told(&mut readiness).await, Extent::Come);
                drop(client.take());
                assert_eq!(read(&mut socket, Extent::Come), 1);
                assert_eq!(socket.stage(), Stage::Open, "one read is enough for what has come");
            }
            drop(client.take());
            while told(&mut readiness).await != Extent::End {}
            assert_eq!(read(&mut socket, Extent::End), 1);
            assert_eq!(socket.stage(), Stage::Over);
        }
    }

    /// How far the one socket is to be read, once it is.
    async fn told(readiness: &mut Readiness) -> Extent {
        loop {
            let soon = tokio::time::timeout(Duration::from_secs(20), readiness.wait());
            soon.await.expect("it is told of");
            if let Some(extent) = readiness.take().into_iter().find_map(|(_, extent, _)| extent) {
                return extent;
            }
        }
    }

    #[tokio::test]
    async fn of_more_sockets_than_are_told_of_at_once_none_is_forgotten() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let mut readiness = Readiness::new().unwrap();
        let mut sockets = Vec::new();
        // Every end of a connection can be written from the start, and nothing happens to it after that.
        while sockets.len() < 2 * EVENTS_AT_ONCE + 2 {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            for end in [client, listener.accept().unwrap().0] {
                end.set_nonblocking(true).unwrap();
                let mut socket = TcpStream::from_std(end);
                readiness.watch(&mut socket, sockets.len() as u64).unwrap();
                sockets.push(socket);
            }
        }
        let mut told = std::collections::HashSet::new();
        while told.len() < sockets.len() {
            let soon = tokio::time::timeout(Duration::from_secs(20), readiness.wait());
            soon.await.expect("those that are left are told of");
            told.extend(readiness.take().into_iter().map(|(name, ..)| name));
        }
    }
}
