//! One TCP connection of HTTP/1.1: served by hyper, timed out when its client is too slow, and closed so that the client
//! receives the reason.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::closing::{LAST_WRITE_TIMEOUT, close, unsolicited};
use super::limits::{HeadLimits, Timeouts};
use super::socket_limit::SocketPermit;
use super::tracked_socket::{ConnState, InFlight, Socket, TimedOut};
use crate::http::error::ApiError;
use crate::metrics::{ByRequest, Metrics};
use crate::shutdown::signalled;

/// The most bytes that hyper buffers for a connection besides the head of a request: it reads bodies through this.
const BUFFER_BYTES: usize = 64 * 1024;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) head: HeadLimits,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Arc<Metrics>,
}

impl Serving {
    /// Serves a connection until it is closed or leaves HTTP. At a shutdown it is closed after the request that is under way.
    pub(super) async fn serve(
        self,
        stream: TcpStream,
        permit: Arc<SocketPermit>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let state = Arc::new(ConnState::new(self.timeouts));
        let router = TowerToHyperService::new(self.router.clone());
        let (request_permit, request_state) = (permit.clone(), state.clone());
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(request_permit.clone());
            let in_flight = request_state.begin();
            let writes = !request.method().is_safe();
            let responding = router.call(request);
            // When the client disconnects, hyper drops the future of its request. A request that writes is carried out all the
            // same, once it has arrived.
            let responding = if writes {
                let writing = tokio::spawn(responding);
                async move { writing.await.unwrap_or_else(|_| Ok(ApiError::internal().into_response())) }
                    .left_future()
            } else {
                responding.right_future()
            };
            async move {
                let response = responding.await?;
                Ok::<_, Infallible>(response.map(|body| TrackedBody { body, _in_flight: in_flight }))
            }
        });
        let socket = TokioIo::new(Socket::new(stream, state.clone()));
        let mut connection = self.http1().serve_connection(socket, service).with_upgrades();
        let mut shutdown = pin!(signalled(&mut shutdown));
        let mut is_stopping = false;
        let end = loop {
            tokio::select! {
                biased;
                served = &mut connection => break End::of(served, &state),
                () = &mut shutdown, if !is_stopping => {
                    is_stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                timed_out = timed_out(&state) => break End::TimedOut(timed_out),
            }
        };
        // The parts of a connection that left HTTP went to the handler that upgraded it.
        if let Some(http1::Parts { io, service, .. }) = connection.into_parts() {
            drop(service);
            self.close(io.into_inner().into_stream(), end).await;
        }
        drop(permit);
    }

    fn http1(&self) -> http1::Builder {
        let mut http1 = http1::Builder::new();
        // hyper's own timeout does not distinguish a slow head from an idle connection; `timed_out` does.
        http1.header_read_timeout(None);
        http1.max_headers(self.head.fields).max_header_size(self.head.bytes);
        http1.max_buf_size(BUFFER_BYTES.saturating_add(self.head.bytes));
        http1
    }

    /// Closes the connection, after the reason where hyper has not sent one.
    async fn close(&self, mut stream: TcpStream, end: End) {
        let error = match end {
            // The client receives nothing any more.
            End::TimedOut(TimedOut::Write) => return,
            End::TimedOut(TimedOut::Head) => ApiError::head_too_slow(),
            End::Http2 => ApiError::not_http1(),
            End::Unparsable(status) => {
                count_unrouted(&self.metrics, status);
                return close(stream).await;
            }
            End::TimedOut(TimedOut::Idle) | End::Closed => return close(stream).await,
        };
        count_unrouted(&self.metrics, error.status());
        let response = unsolicited(error.into_response()).await;
        let _ = timeout(LAST_WRITE_TIMEOUT, stream.write_all(&response)).await;
        close(stream).await;
    }
}

/// Counts a response to what was no request that a route could have matched.
pub(super) fn count_unrouted(metrics: &Metrics, status: StatusCode) {
    let labels = ByRequest { method: "other", route: String::new(), status: status.as_u16().into() };
    metrics.http_requests.get_or_create(&labels).inc();
}

/// How the serving of a connection ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// The client or hyper closed it, or it broke.
    Closed,
    /// hyper could not parse the head of a request, and has sent this status without a body.
    Unparsable(StatusCode),
    /// The client speaks HTTP/2, to which hyper sends nothing.
    Http2,
    /// The client was too slow.
    TimedOut(TimedOut),
}

impl End {
    fn of(served: hyper::Result<()>, state: &ConnState) -> Self {
        match served {
            Err(error) if error.is_parse_version_h2() => Self::Http2,
            Err(error) if error.is_parse_too_large() => {
                Self::Unparsable(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
            }
            // Within a request, its handler answers: the body cannot be read.
            Err(error) if error.is_parse() && state.is_between_requests() => {
                Self::Unparsable(StatusCode::BAD_REQUEST)
            }
            Ok(()) | Err(_) => Self::Closed,
        }
    }
}

/// Waits until the client is too slow for what it has to do in the present state. Every change of the state happens in the
/// task that waits here, so that the deadline is looked at again after it.
async fn timed_out(state: &ConnState) -> TimedOut {
    let mut timer = pin!(sleep(Duration::ZERO));
    std::future::poll_fn(|cx| {
        let Some((at, timed_out)) = state.deadline() else { return Poll::Pending };
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(cx).map(|()| timed_out)
    })
    .await
}

/// The body of a response, whose request is in flight until it is produced.
struct TrackedBody {
    body: Body,
    _in_flight: InFlight,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::server::limits::WRITE_TIMEOUT;
    use crate::http::server::socket_limit::SocketLimit;
    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    const ASK: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A client, and the task that serves its connection by a router whose responses have so many bytes.
    async fn connected(bytes: usize, shutdown: watch::Receiver<bool>) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let metrics = Arc::new(Metrics::default());
        let permit = SocketLimit::new(1, None, metrics.sockets.clone()).acquire(peer).unwrap();
        let serving = Serving {
            router: Router::new().fallback(move || async move { "x".repeat(bytes) }),
            head: HeadLimits { bytes: 4_096, fields: 100 },
            timeouts: Timeouts { head: Duration::from_secs(5), idle: Duration::from_secs(75) },
            metrics,
        };
        (client, tokio::spawn(serving.serve(stream, permit, shutdown)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_receives_nothing_of_a_response_is_disconnected() {
        let (_go_on, stopped) = watch::channel(false);
        let (mut client, served) = connected(64 << 20, stopped).await;
        client.write_all(ASK).await.unwrap();
        let began = Instant::now();
        served.await.unwrap();
        assert_eq!(began.elapsed().as_secs(), WRITE_TIMEOUT.as_secs());
        let mut taken = Vec::new();
        assert!(client.read_to_end(&mut taken).await.is_err() || taken.len() < 64 << 20, "it is not whole");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_longer_after_a_response_than_before() {
        let (_go_on, stopped) = watch::channel(false);
        let (mut silent, served) = connected(1, stopped.clone()).await;
        let began = Instant::now();
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        assert_eq!(began.elapsed().as_secs(), 5);
        drop(silent);
        served.await.unwrap();

        let (mut client, served) = connected(1, stopped).await;
        let began = Instant::now();
        client.write_all(ASK).await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 ") && answer.ends_with(b"\r\n\r\nx"));
        assert_eq!(began.elapsed().as_secs(), 75);
        drop(client);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn a_shutdown_closes_an_idle_connection_at_once() {
        let (stop, stopped) = watch::channel(false);
        let (mut silent, served) = connected(1, stopped).await;
        stop.send_replace(true);
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        drop(silent);
        served.await.unwrap();
    }
}
