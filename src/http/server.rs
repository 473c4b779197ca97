//! The server: takes TCP connections, as many as it may and not one more, and sees each of them to its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::connection::{Serving, close, unasked};
use super::error::ApiError;
use super::limits::{HeadLimits, Patience};
use super::observe;
use super::sockets::{Refused, Sockets};
use crate::metrics::{ByReason, Metrics};

/// Sockets that are told at one time that there is no place for them; further ones are closed without a word.
pub const TURNING_AWAY: usize = 64;

/// Who is turned away takes the answer within this.
const LAST_WORD: Duration = Duration::from_secs(1);

/// When the system gives no connection (no descriptors are left, for one), it is asked again after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A peer whose system confirms nothing of what was sent for so long is gone. Left alone, Linux finds that out after a
/// quarter of an hour, and a phone that changes its network leaves an event stream in its place every time.
#[cfg(target_os = "linux")]
const GONE_MS: u32 = 75_000;

/// What goes wrong for many clients at once is said this often.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// What a server is made of.
pub struct Options {
    /// TCP connections in all.
    pub max_sockets: usize,
    /// TCP connections from one address; `None` for any number.
    pub max_sockets_per_address: Option<usize>,
    /// How large the head of a request may be.
    pub head: HeadLimits,
    /// How long clients may take.
    pub patience: Patience,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// Serves HTTP/1.1 until it is stopped; then takes nobody any more, and ends with the last connection, each of which ends
/// with the request that is under way.
///
/// A handler finds an `Arc<`[`SocketPermit`](super::sockets::SocketPermit)`>` among the extensions of its request.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    mut stopped: watch::Receiver<bool>,
) {
    let mut door = Door::new(router, options, stopped.clone()).await;
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => door.meet(&mut open, stream, peer),
                Err(error) => door.wait_out(&error).await,
            },
            Some(_) = open.join_next() => {}
            () = is_told(&mut stopped) => break,
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}

/// Waits until it is to stop.
pub(super) async fn is_told(stopped: &mut watch::Receiver<bool>) {
    drop(stopped.wait_for(|stopped| *stopped).await);
}

/// Where connections come in.
struct Door {
    serving: Serving,
    sockets: Sockets,
    stopped: watch::Receiver<bool>,
    turning_away: Arc<Semaphore>,
    full: Bytes,
    address_full: Bytes,
    said_refused: Seldom,
    said_failed: Seldom,
}

impl Door {
    async fn new(router: Router, options: Options, stopped: watch::Receiver<bool>) -> Self {
        let Options { max_sockets, max_sockets_per_address, head, patience, metrics } = options;
        // Known from the start, so that a rate sees the first one.
        for refused in [Refused::Full, Refused::AddressFull] {
            drop(metrics.sockets_refused.get_or_create(&reason(refused)));
        }
        let sockets = Sockets::new(max_sockets, max_sockets_per_address, metrics.sockets.clone());
        Self {
            serving: Serving { router, head, patience, metrics },
            sockets,
            stopped,
            turning_away: Arc::new(Semaphore::new(TURNING_AWAY)),
            full: unasked(ApiError::from(Refused::Full)).await,
            address_full: unasked(ApiError::from(Refused::AddressFull)).await,
            said_refused: Seldom::default(),
            said_failed: Seldom::default(),
        }
    }

    fn meet(&mut self, open: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
        match self.sockets.enter(peer) {
            Ok(permit) => {
                if let Err(error) = prepare(&stream) {
                    warn!("the options of a TCP connection cannot be set: {error}");
                }
                open.spawn(self.serving.clone().serve(stream, permit, self.stopped.clone()));
            }
            Err(refused) => self.turn_away(open, stream, peer, refused),
        }
    }

    /// Says that there is no place, in the form of errors. That takes a descriptor for a moment, so not for many at once.
    fn turn_away(&mut self, open: &mut JoinSet<()>, mut stream: TcpStream, peer: SocketAddr, why: Refused) {
        observe::count_refused(&self.serving.metrics, &why.into());
        self.serving.metrics.sockets_refused.get_or_create(&reason(why)).inc();
        if let Some(unsaid) = self.said_refused.now() {
            say_turned_away(peer, why, unsaid);
        }
        let Ok(turning_away) = self.turning_away.clone().try_acquire_owned() else { return };
        let answer = match why {
            Refused::Full => self.full.clone(),
            Refused::AddressFull => self.address_full.clone(),
        };
        open.spawn(async move {
            let _turning_away = turning_away;
            if let Ok(Ok(())) = timeout(LAST_WORD, stream.write_all(&answer)).await {
                close(stream).await;
            }
        });
    }

    /// The system gave no connection. One that broke off while it waited is nobody's loss; else asking on at once would
    /// be all that this process does.
    async fn wait_out(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        if let Some(unsaid) = self.said_failed.now() {
            warn!(unsaid, "cannot take connections now, trying again: {error}");
        }
        sleep(ACCEPT_AGAIN).await;
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // A broadcast is one small packet; waiting to fill it would only delay it.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(stream, GONE_MS)?;
    Ok(())
}

/// The label of a refusal: the code of the error that says so.
fn reason(refused: Refused) -> ByReason {
    ByReason::error(ApiError::from(refused).into_parts().0)
}

fn say_turned_away(peer: SocketAddr, why: Refused, unsaid: u64) {
    match why {
        Refused::Full => warn!(unsaid, "turned away a connection: there are as many as --max-sockets allows"),
        Refused::AddressFull => warn!(
            unsaid,
            "turned away a connection from {}: it has as many as --max-sockets-per-address allows. If that is a \
             balancer, 0 lifts it",
            peer.ip()
        ),
    }
}

/// Lets something be said now and then, and counts how often it was not.
#[derive(Default)]
struct Seldom {
    last: Option<Instant>,
    unsaid: u64,
}

impl Seldom {
    /// How often it has not been said since it was; `None` when it is too early.
    fn now(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < SAY_EVERY) {
            self.unsaid += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_waits_for_no_packet_to_fill_and_for_no_peer_that_is_gone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), GONE_MS);
    }
}
