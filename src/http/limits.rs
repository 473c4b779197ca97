//! How much a client may send before its request is one, and how long it may take.

use std::time::Duration;

/// How large the head of a request may be.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Bytes of its first line and its fields.
    pub bytes: usize,
    /// Fields.
    pub fields: usize,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For the head of a request, from its first byte on; and for that byte, on a new connection.
    pub head: Duration,
    /// Between an answer and the next request.
    pub idle: Duration,
}

/// A client that takes nothing of its answer for so long is gone.
pub const STALLED: Duration = Duration::from_secs(30);
