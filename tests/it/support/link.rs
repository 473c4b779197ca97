//! A link to NATS that a test can break: a TCP proxy that ends connections, holds them up, or loses one direction.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// How a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Everything passes.
    Whole,
    /// Everything passes, so much later.
    Slow(Duration),
    /// Connections are ended, and new ones at once.
    Cut,
    /// Nothing passes, and nobody is told; what is on its way arrives later.
    HalfOpen,
    /// What is said towards NATS arrives there, and nothing comes back.
    AnswersLost,
    /// What NATS says arrives, and nothing that is said to it.
    RequestsLost,
    /// The same for connections that were made before; those that are made from now on are whole.
    OldRequestsLost,
}

/// A proxy in front of one server. It ends with this value.
pub struct Link {
    address: SocketAddr,
    condition: watch::Sender<Condition>,
    accepting: JoinHandle<()>,
}

impl Link {
    /// Towards a server on this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let condition = watch::Sender::new(Condition::Whole);
        let watched = condition.subscribe();
        let accepting = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                tokio::spawn(join(near, port, watched.clone()));
            }
        });
        Self { address, condition, accepting }
    }

    /// Where the proxy listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn become_(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.accepting.abort();
        self.become_(Condition::Cut);
    }
}

async fn join(mut near: TcpStream, port: u16, condition: watch::Receiver<Condition>) {
    let born = *condition.borrow();
    if born == Condition::Cut {
        return;
    }
    let is_old = move |now| now != Condition::OldRequestsLost || now != born;
    let loses_requests =
        move |now| now == Condition::RequestsLost || now == Condition::OldRequestsLost && is_old(now);
    let loses_answers = |now| now == Condition::AnswersLost;
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let _ = (near.set_nodelay(true), far.set_nodelay(true));
    let (from_near, to_near) = near.split();
    let (from_far, to_far) = far.split();
    // When one direction ends the other does: what was lost of a stream is not made up for.
    let _ = tokio::select! {
        ended = pump(from_near, to_far, loses_requests, condition.clone()) => ended,
        ended = pump(from_far, to_near, loses_answers, condition) => ended,
    };
}

/// One direction of a connection, until it ends or has lost something.
async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    loses: impl Fn(Condition) -> bool,
    mut condition: watch::Receiver<Condition>,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut lost = false;
    loop {
        let now = *condition.borrow_and_update();
        if now == Condition::Cut || lost && !loses(now) {
            return Ok(());
        }
        let read = tokio::select! {
            _ = condition.changed() => continue,
            read = from.read(&mut buffer), if now != Condition::HalfOpen => read?,
        };
        if read == 0 {
            return Ok(());
        }
        if loses(now) {
            lost = true;
            continue;
        }
        if let Condition::Slow(by) = now {
            sleep(by).await;
        }
        to.write_all(&buffer[..read]).await?;
    }
}
