//! The end of a connection: a response that no request asked for, and a close that does not destroy it.

use std::time::Duration;

use axum::body::{Bytes, to_bytes};
use axum::http::HeaderValue;
use axum::http::header::{CONNECTION, CONTENT_LENGTH};
use axum::response::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The client has this long to receive the last bytes.
pub const LAST_WRITE_TIMEOUT: Duration = Duration::from_secs(1);

/// After the last bytes, what the client still sends is read and dropped for so long, and up to so many bytes: a connection
/// that is closed with unread data is reset, and the client may lose what it was sent.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 256 * 1024;

/// The most bytes of an error response's body.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// The bytes of a response that no request of HTTP asked for, after which the connection is closed.
pub async fn unsolicited(response: Response) -> Bytes {
    let (mut head, body) = response.into_parts();
    let body = to_bytes(body, MAX_BODY_BYTES).await.unwrap_or_default();
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

/// Sends the last bytes, and closes the connection.
pub async fn send_and_close(mut stream: TcpStream, bytes: &[u8]) {
    if let Ok(Ok(())) = timeout(LAST_WRITE_TIMEOUT, stream.write_all(bytes)).await {
        close(stream).await;
    }
}

/// Closes a connection so that the client receives what was sent.
pub async fn close(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        let mut buffer = [0; 4 * 1024];
        let mut allowed = LINGER_BYTES;
        while let read @ 1.. = stream.read(&mut buffer).await?
            && read < allowed
        {
            allowed -= read;
        }
        std::io::Result::Ok(())
    };
    let _ = timeout(LINGER_TIMEOUT, drain).await;
}
