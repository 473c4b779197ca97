//! Those who misbehave: a thread of its own with connections of one kind, at a rate that is bounded and known.

pub mod kinds;

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use rustix::process::nice;

use crate::measure::own_cpu;
use kinds::{Kind, Pace, Tokens};

/// The kernel refuses nobody a connection on loopback for longer, unless the server's queue is full.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What the kernel keeps for somebody who reads nothing: next to nothing.
const NARROW: usize = 2_048;

/// What is read of a connection at each of its turns, at most so many times the buffer.
const READS: usize = 4;
const BUFFER: usize = 16 * 1024;

/// Healthy clients go first on the core that the load shares with a flood.
const LEAST_URGENT: i32 = 19;

/// What a flood did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// How long it went on.
    pub took: Duration,
    /// Turns that connections had.
    pub turns: usize,
    /// Turns that they would have had at their pace.
    pub planned: usize,
    /// Connections that were made.
    pub opened: usize,
    /// Connections that could not be made.
    pub failed: usize,
    /// Connections that the other side ended.
    pub cut_off: usize,
    /// Bytes that were sent.
    pub bytes: usize,
    /// Its processor time.
    pub cpu: Duration,
}

/// A flood that goes on, until this value ends.
pub struct Flood {
    /// Its thread ends when nobody holds this any more.
    goes_on: SyncSender<()>,
    thread: JoinHandle<anyhow::Result<Done>>,
}

impl Flood {
    /// Begins one, from an address of its own. Where connections stay, all are made before this returns.
    pub fn begin(
        kind: Kind,
        pace: Pace,
        server: SocketAddrV4,
        from: Ipv4Addr,
        broadcast: &str,
    ) -> anyhow::Result<Self> {
        let (goes_on, ends) = sync_channel(0);
        let (ready, is_ready) = sync_channel(1);
        let says = kind.says(broadcast);
        let tokens = Tokens::new()?;
        let slots = (0..pace.connections).map(|_| None).collect();
        let mut crowd =
            Crowd { kind, pace, server, from, says, tokens, slots, made: 0, done: Done::default() };
        let thread = std::thread::Builder::new().name("flood".to_owned()).spawn(move || {
            nice(LEAST_URGENT).context("being least urgent")?;
            if !kind.leaves() {
                for slot in 0..pace.connections {
                    crowd.turn(slot);
                }
            }
            crowd.done = Done::default();
            // Whoever began it may have gone.
            let _ = ready.send(());
            Ok(crowd.go_on(&ends))
        })?;
        // If the thread fails, its end says why.
        let _ = is_ready.recv();
        Ok(Self { goes_on, thread })
    }

    /// Ends it and all its connections.
    pub fn end(self) -> anyhow::Result<Done> {
        drop(self.goes_on);
        self.thread.join().map_err(|_| anyhow!("the flood's thread panicked"))?
    }
}

/// Connections that misbehave alike.
struct Crowd {
    kind: Kind,
    pace: Pace,
    server: SocketAddrV4,
    from: Ipv4Addr,
    says: Vec<u8>,
    tokens: Tokens,
    slots: Vec<Option<TcpStream>>,
    /// Connections so far, which is the number of the next.
    made: u64,
    done: Done,
}

impl Crowd {
    /// Turn after turn. Who is behind does not hurry afterwards: it is never faster than its pace.
    fn go_on(mut self, ends: &Receiver<()>) -> Done {
        let (begun, cpu) = (Instant::now(), own_cpu());
        let (mut slot, mut due) = (0, begun);
        loop {
            for _ in 0..self.pace.together {
                self.turn(slot);
                slot = (slot + 1) % self.slots.len();
            }
            self.done.turns += self.pace.together;
            due = (due + self.pace.every).max(Instant::now());
            match ends.recv_timeout(due.saturating_duration_since(Instant::now())) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(()) | Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let took = begun.elapsed();
        let times = took.as_nanos() / self.pace.every.as_nanos().max(1);
        let planned = usize::try_from(times).unwrap_or(usize::MAX).saturating_add(1);
        let planned = planned.saturating_mul(self.pace.together);
        Done { took, planned, cpu: own_cpu().saturating_sub(cpu), ..self.done }
    }

    /// One connection's turn.
    fn turn(&mut self, slot: usize) {
        if self.kind.leaves() {
            if let Some(stream) = self.slots[slot].take() {
                leave(stream, slot.is_multiple_of(2));
            }
        } else if self.slots[slot].as_mut().is_some_and(|stream| is_over(stream, self.kind.reads())) {
            self.slots[slot] = None;
            self.done.cut_off += 1;
        }
        if self.slots[slot].is_none() {
            match self.connect() {
                Ok(stream) => self.slots[slot] = Some(stream),
                Err(_) => return self.done.failed += 1,
            }
            self.done.opened += 1;
            let opening = self.kind.opening(self.made, &self.tokens);
            self.made += 1;
            self.say(slot, &opening);
        }
        let says = std::mem::take(&mut self.says);
        self.say(slot, &says);
        self.says = says;
    }

    /// What the kernel does not take at once is not said.
    fn say(&mut self, slot: usize, bytes: &[u8]) {
        if let Some(stream) = &mut self.slots[slot] {
            // A connection that was ended is noticed at its next turn.
            self.done.bytes += stream.write(bytes).unwrap_or_default();
        }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        if !self.kind.reads() {
            sockopt::set_socket_recv_buffer_size(&socket, NARROW)?;
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(CONNECT_TIMEOUT))?;
        bind(&socket, &SocketAddrV4::new(self.from, 0))?;
        connect(&socket, &self.server)?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(stream)
    }
}

/// Whether the other side ended it. What came until then is read and forgotten, or nothing is read at all.
fn is_over(stream: &mut TcpStream, reads: bool) -> bool {
    if !reads {
        return !matches!(stream.take_error(), Ok(None));
    }
    let mut buffer = [0; BUFFER];
    for _ in 0..READS {
        match stream.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
    false
}

/// With a reset, or as one does.
fn leave(stream: TcpStream, with_reset: bool) {
    if with_reset {
        // Without it, the end is the usual one.
        let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
    }
    drop(stream);
}
