//! One TCP connection of HTTP/1.1, from the first byte to the last: served by hyper, watched by the clock, and ended so
//! that the client hears why.

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
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::closing::{LAST_WRITE_TIMEOUT, close, unsolicited};
use super::limits::{HeadLimits, Timeouts};
use super::socket::{Busy, Late, Rest, Socket, Standing};
use super::socket_limit::SocketPermit;
use crate::http::error::ApiError;
use crate::http::handshake::{Handover, Opened, Then};
use crate::metrics::{ByRequest, Metrics};
use crate::shutdown::signalled;

/// What hyper keeps for a connection at most, besides the head of a request: it reads bodies through it.
const BUFFER: usize = 64 * 1024;

/// What all connections share.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) head: HeadLimits,
    pub(super) timeouts: Timeouts,
    pub(super) metrics: Arc<Metrics>,
}

impl Serving {
    /// Serves a connection until it ends, or has been upgraded. When the replica stops it ends with what is under way.
    pub(super) async fn serve(
        self,
        stream: TcpStream,
        permit: Arc<SocketPermit>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let standing = Arc::new(Standing::new(self.timeouts));
        let router = TowerToHyperService::new(self.router.clone());
        let (place, whose) = (permit.clone(), standing.clone());
        let handover = Arc::new(Handover::default());
        let handed_over = handover.clone();
        let service = service_fn(move |mut request: hyper::Request<Incoming>| {
            request.extensions_mut().insert(place.clone());
            request.extensions_mut().insert(handover.clone());
            let busy = whose.busy();
            let writes = !request.method().is_safe();
            let answering = router.call(request);
            // A client that hangs up ends what serves its connection. What it asked for is carried out all the same, if the
            // request had arrived whole.
            let answering = if writes {
                let writing = tokio::spawn(answering);
                async move { writing.await.unwrap_or_else(|_| Ok(ApiError::internal().into_response())) }
                    .left_future()
            } else {
                answering.right_future()
            };
            async move {
                let answer = answering.await?;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    busy.upgrades();
                }
                Ok::<_, Infallible>(answer.map(|body| Answer { body, _busy: busy }))
            }
        });
        let socket = TokioIo::new(Socket::new(stream, permit, standing.clone()));
        let mut connection = self.http1().serve_connection(socket, service);
        let mut stop = pin!(signalled(&mut stopped));
        let mut stopping = false;
        let end = loop {
            tokio::select! {
                biased;
                served = &mut connection => break End::of(served),
                () = &mut stop, if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
                late = late(&standing) => break End::Late(late),
            }
        };
        let Parts { io, read_buf, service, .. } = connection.into_parts();
        drop(service);
        match handed_over.take() {
            Some(then) if matches!(end, End::Served) && standing.is_upgraded() => {
                hand_over(io.into_inner(), read_buf, then).await;
            }
            _ => self.end(io.into_inner(), end).await,
        }
    }

    fn http1(&self) -> http1::Builder {
        let mut http1 = http1::Builder::new();
        // The clock is `late`, which tells a slow head from a silent connection.
        http1.header_read_timeout(None);
        http1.max_headers(self.head.fields).max_header_size(self.head.bytes);
        http1.max_buf_size(BUFFER.saturating_add(self.head.bytes));
        http1
    }

    /// Says why, where nobody has, and closes.
    async fn end(&self, socket: Socket, end: End) {
        let unreadable = |status| Some(ApiError::unreadable_head(status, self.head.bytes, self.head.fields));
        let why = match (end, socket.refusal()) {
            // Nothing gets to this client any more.
            (End::Late(Late::Stalled), _) => return,
            (End::Late(Late::Head), _) => Some(ApiError::head_too_slow()),
            (End::Served | End::NoHttp, Some(status)) => unreadable(status),
            (End::NoHttp, None) if socket.owes_nothing() => unreadable(400),
            (End::Late(Late::Silent), _) | (End::Served | End::NoHttp, None) => None,
        };
        let Rest { mut stream, permit: _permit, .. } = socket.into_rest();
        if let Some(error) = why {
            count_unrouted(&self.metrics, &error);
            let response = unsolicited(error.into_response()).await;
            let _ = timeout(LAST_WRITE_TIMEOUT, stream.write_all(&response)).await;
        }
        close(stream).await;
    }
}

/// Counts a response to what was no request that a route could have matched.
pub(super) fn count_unrouted(metrics: &Metrics, error: &ApiError) {
    let labels = ByRequest { method: "other", route: String::new(), status: error.status().as_u16().into() };
    metrics.http_requests.get_or_create(&labels).inc();
}

/// After a handshake a connection is none of HTTP any more.
async fn hand_over(socket: Socket, read: Bytes, then: Then) {
    let Rest { stream, permit, answer } = socket.into_rest();
    match stream.into_std() {
        Ok(stream) => {
            let stream = mio::net::TcpStream::from_std(stream);
            then(Opened { stream, answer: answer.into(), read, place: permit }).await;
        }
        Err(error) => debug!("a WebSocket ended in its handshake: {error}"),
    }
}

/// How the serving of a connection ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// One of the two closed it, or it broke off.
    Served,
    /// With what hyper could not read. It says so to some clients, and to others, such as those of HTTP/2, nothing.
    NoHttp,
    /// The client took too long.
    Late(Late),
}

impl End {
    fn of(served: hyper::Result<()>) -> Self {
        if served.is_err_and(|error| error.is_parse()) { Self::NoHttp } else { Self::Served }
    }
}

/// Waits until the client takes too long for what it has to do now. Everything that changes what that is happens in
/// the task that waits here, so that this is polled after it.
async fn late(standing: &Standing) -> Late {
    let mut alarm = pin!(sleep(Duration::ZERO));
    std::future::poll_fn(|cx| {
        let Some((at, late)) = standing.deadline() else { return Poll::Pending };
        if alarm.deadline() != at {
            alarm.as_mut().reset(at);
        }
        alarm.as_mut().poll(cx).map(|()| late)
    })
    .await
}

/// The body of an answer, which keeps its connection busy until it is made.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
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

    /// A client of one connection, and the serving of it, by a router that answers with so many bytes.
    async fn connected(answer: usize, stopped: watch::Receiver<bool>) -> (TcpStream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, peer) = listener.accept().await.unwrap();
        let metrics = Arc::new(Metrics::default());
        let permit = SocketLimit::new(1, None, metrics.sockets.clone()).acquire(peer).unwrap();
        let serving = Serving {
            router: Router::new().fallback(move || async move { "x".repeat(answer) }),
            head: HeadLimits { bytes: 4_096, fields: 100 },
            timeouts: Timeouts { head: Duration::from_secs(5), idle: Duration::from_secs(75) },
            metrics,
        };
        (client, tokio::spawn(serving.serve(stream, permit, stopped)))
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_of_an_answer_is_cut_off() {
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
    async fn silence_is_borne_for_longer_after_an_answer_than_before() {
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
    async fn a_stop_ends_a_silent_connection_at_once() {
        let (stop, stopped) = watch::channel(false);
        let (mut silent, served) = connected(1, stopped).await;
        stop.send_replace(true);
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0);
        drop(silent);
        served.await.unwrap();
    }
}
