//! One TCP connection of HTTP/1.1, from the first byte to the last: served by hyper, watched by the clock, and ended so
//! that the client hears why.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody, to_bytes};
use axum::http::header::{CONNECTION, CONTENT_LENGTH};
use axum::http::{HeaderValue, StatusCode};
use axum::response::IntoResponse as _;
use futures_util::FutureExt as _;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1::{self, Parts};
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::debug;

use super::error::ApiError;
use super::handshake::{Handover, Opened, Then};
use super::limits::{HeadLimits, Patience};
use super::observe;
use super::server::is_told;
use super::socket::{Busy, Late, Rest, Socket, Standing};
use super::sockets::SocketPermit;
use crate::metrics::Metrics;

/// What hyper keeps for a connection at most, besides the head of a request: it reads bodies through it.
const BUFFER: usize = 64 * 1024;

/// After the last answer a client may go on sending for so long, and so much, before the connection is reset over it:
/// a reset can take the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// A client takes an answer that nothing was asked for within this, or not at all.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Clone)]
pub(super) struct Serving {
    pub(super) router: Router,
    pub(super) head: HeadLimits,
    pub(super) patience: Patience,
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
        let standing = Arc::new(Standing::new(self.patience));
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
        let mut stop = pin!(is_told(&mut stopped));
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
            observe::count_refused(&self.metrics, &error);
            let _ = timeout(LAST_WORD, stream.write_all(&unasked(error).await)).await;
        }
        close(stream).await;
    }
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

/// The bytes of an answer that hyper does not give, after which the connection ends.
pub(super) async fn unasked(error: ApiError) -> Bytes {
    let (mut head, body) = error.into_response().into_parts();
    let body = to_bytes(body, BUFFER).await.unwrap_or_default();
    head.headers.insert(CONTENT_LENGTH, body.len().into());
    head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut bytes = format!("HTTP/1.1 {}\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(&body);
    bytes.into()
}

/// Closes so that what was sent gets there.
pub(super) async fn close(mut stream: TcpStream) {
    let lingering = async {
        stream.shutdown().await?;
        let mut rest = [0; 4 * 1024];
        let mut room = LINGER_BYTES;
        while let read @ 1.. = stream.read(&mut rest).await?
            && read < room
        {
            room -= read;
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(LINGER, lingering).await;
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
    use crate::http::limits::STALLED;
    use crate::http::sockets::Sockets;
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
        let permit = Sockets::new(1, None, metrics.sockets.clone()).enter(peer).unwrap();
        let serving = Serving {
            router: Router::new().fallback(move || async move { "x".repeat(answer) }),
            head: HeadLimits { bytes: 4_096, fields: 100 },
            patience: Patience { head: Duration::from_secs(5), idle: Duration::from_secs(75) },
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
        assert_eq!(began.elapsed().as_secs(), STALLED.as_secs());
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
