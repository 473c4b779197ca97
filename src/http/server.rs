//! The HTTP server: accepts TCP connections up to its limits, and serves each of them to its end.

pub mod closing;
mod connection;
pub mod limits;
pub mod socket_limit;
pub mod tracked_socket;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::response::IntoResponse as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::error::ApiError;
use crate::metrics::{ByReason, Metrics};
use crate::shutdown::signalled;
use closing::{send_and_close, unsolicited};
use connection::{Serving, count_unrouted};
use limits::{HeadLimits, Timeouts};
use socket_limit::{Refused, SocketLimit};

/// Connections over the limit that are sent a `503` at one time; further ones are closed without a response.
pub const MAX_REJECTING: usize = 64;

/// When the system cannot accept a connection (because no file descriptors are left, for one), it is tried again after this.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A peer whose system acknowledges nothing of what was sent for so long is gone. By default, Linux finds that out after a
/// quarter of an hour, and a phone that changes its network leaves an event stream behind every time.
#[cfg(target_os = "linux")]
const TCP_USER_TIMEOUT_MS: u32 = 75_000;

/// What goes wrong for many clients at once is logged this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The configuration of a server.
pub struct Options {
    /// TCP connections in all.
    pub max_sockets: usize,
    /// TCP connections from one address; `None` for any number.
    pub max_sockets_per_address: Option<usize>,
    /// How large the head of a request may be.
    pub head: HeadLimits,
    /// How long clients may take.
    pub timeouts: Timeouts,
    /// The metrics to count in.
    pub metrics: Arc<Metrics>,
}

/// Serves HTTP/1.1 until shutdown; then accepts no more connections, and returns when the last one is closed, each after the
/// request that is under way.
///
/// Each request has an `Arc<`[`SocketPermit`](socket_limit::SocketPermit)`>` among its extensions.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: Options,
    mut shutdown: watch::Receiver<bool>,
) {
    let mut acceptor = Acceptor::new(router, options, shutdown.clone()).await;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => acceptor.accept(&mut connections, stream, peer),
                Err(error) => acceptor.back_off(&error).await,
            },
            Some(_) = connections.join_next() => {}
            () = signalled(&mut shutdown) => break,
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Accepts or rejects connections.
struct Acceptor {
    serving: Serving,
    limit: SocketLimit,
    shutdown: watch::Receiver<bool>,
    rejecting: Arc<Semaphore>,
    full: Bytes,
    address_full: Bytes,
    rejected_log: LogThrottle,
    failed_log: LogThrottle,
}

impl Acceptor {
    async fn new(router: Router, options: Options, shutdown: watch::Receiver<bool>) -> Self {
        let Options { max_sockets, max_sockets_per_address, head, timeouts, metrics } = options;
        // The series exist from the start, so that `rate()` sees the first increment.
        for refused in [Refused::Full, Refused::AddressFull] {
            drop(metrics.sockets_refused.get_or_create(&label(refused)));
        }
        let response = |refused| unsolicited(ApiError::from(refused).into_response());
        Self {
            limit: SocketLimit::new(max_sockets, max_sockets_per_address, metrics.sockets.clone()),
            serving: Serving { router, head, timeouts, metrics },
            shutdown,
            rejecting: Arc::new(Semaphore::new(MAX_REJECTING)),
            full: response(Refused::Full).await,
            address_full: response(Refused::AddressFull).await,
            rejected_log: LogThrottle::default(),
            failed_log: LogThrottle::default(),
        }
    }

    fn accept(&mut self, connections: &mut JoinSet<()>, stream: TcpStream, peer: SocketAddr) {
        match self.limit.acquire(peer) {
            Ok(permit) => {
                if let Err(error) = set_options(&stream) {
                    warn!("the options of a TCP connection cannot be set: {error}");
                }
                connections.spawn(self.serving.clone().serve(stream, permit, self.shutdown.clone()));
            }
            Err(refused) => self.reject(connections, stream, peer, refused),
        }
    }

    /// Sends a `503`. That needs a file descriptor for a moment, so it is done for a bounded number at once.
    fn reject(
        &mut self,
        connections: &mut JoinSet<()>,
        stream: TcpStream,
        peer: SocketAddr,
        refused: Refused,
    ) {
        count_unrouted(&self.serving.metrics, ApiError::from(refused).status());
        self.serving.metrics.sockets_refused.get_or_create(&label(refused)).inc();
        if let Some(suppressed) = self.rejected_log.due() {
            log_rejected(peer, refused, suppressed);
        }
        let Ok(permit) = self.rejecting.clone().try_acquire_owned() else { return };
        let response = match refused {
            Refused::Full => self.full.clone(),
            Refused::AddressFull => self.address_full.clone(),
        };
        connections.spawn(async move {
            let _permit = permit;
            send_and_close(stream, &response).await;
        });
    }

    /// After a failed `accept`. A connection that the client gave up while it was queued is no reason to wait; otherwise the
    /// next attempt would fail at once, and this loop would take the whole processor.
    async fn back_off(&mut self, error: &io::Error) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        if let Some(suppressed) = self.failed_log.due() {
            warn!(suppressed, "cannot accept connections, retrying: {error}");
        }
        sleep(ACCEPT_BACKOFF).await;
    }
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    // A broadcast is one small packet, which Nagle's algorithm would only delay.
    stream.set_nodelay(true)?;
    #[cfg(target_os = "linux")]
    rustix::net::sockopt::set_tcp_user_timeout(stream, TCP_USER_TIMEOUT_MS)?;
    Ok(())
}

/// The metric label of a rejected connection: the code of its error.
fn label(refused: Refused) -> ByReason {
    ByReason::error(ApiError::from(refused).into_parts().0)
}

fn log_rejected(peer: SocketAddr, refused: Refused, suppressed: u64) {
    match refused {
        Refused::Full => {
            warn!(suppressed, "rejected a TCP connection: the replica has reached --max-sockets");
        }
        Refused::AddressFull => warn!(
            suppressed,
            "rejected a TCP connection from {}: this address has reached --max-sockets-per-address. If it is a load \
             balancer, 0 removes that limit",
            peer.ip()
        ),
    }
}

/// Limits how often something is logged, and counts how often it was not.
#[derive(Default)]
struct LogThrottle {
    last: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// How many lines were suppressed since the last one; `None` when it is too early for another.
    fn due(&mut self) -> Option<u64> {
        if self.last.is_some_and(|last| last.elapsed() < LOG_EVERY) {
            self.suppressed += 1;
            return None;
        }
        self.last = Some(Instant::now());
        Some(std::mem::take(&mut self.suppressed))
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
        set_options(&stream).unwrap();
        assert!(stream.nodelay().unwrap());
        #[cfg(target_os = "linux")]
        assert_eq!(rustix::net::sockopt::tcp_user_timeout(&stream).unwrap(), TCP_USER_TIMEOUT_MS);
    }
}
