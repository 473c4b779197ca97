//! How large the head of a request may be, and how long clients may take.

use std::time::Duration;

/// How large the head of a request may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of the request line and the header fields.
    pub bytes: usize,
    /// Header fields.
    pub fields: usize,
}

/// How long a client may take before its connection is closed.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// To send the head of a request, from its first byte on; and to send that byte, on a new connection.
    pub head: Duration,
    /// To send the next request after a response.
    pub idle: Duration,
}

/// A client that receives nothing of its response for so long is gone.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
