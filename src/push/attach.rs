//! What is handed over when a client connects.

use std::time::Duration;

use bytes::Bytes;
use mio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use super::client::Permits;
use super::wire::{Close, Frame};
use crate::domain::{Channel, UserId};

/// Messages that may wait for one event stream. A client that reads slower is disconnected.
pub const STREAM_QUEUE: usize = 64;

/// The id of a connection on this replica. Ids of a shard grow in the order of attachment.
pub type ConnectionId = u64;

/// A client that connects.
#[derive(Clone, Debug)]
pub struct Connecting {
    /// The channel that it follows.
    pub channel: Channel,
    /// The user.
    pub user: UserId,
    /// Whether it receives what creators and team receive.
    pub staff: bool,
    /// The heartbeat that is announced to the client.
    pub heartbeat_seconds: u64,
}

/// An attached event stream, as its response body sees it.
#[derive(Debug)]
pub struct Attached {
    /// The id of the connection.
    pub id: ConnectionId,
    /// The messages to send, beginning with the state on connect.
    pub outgoing: mpsc::Receiver<Frame>,
    /// Why to close, once the server wants to.
    pub close: oneshot::Receiver<Close>,
}

/// A WebSocket after its handshake. The hub owns it from then on.
pub struct Upgraded {
    /// The connection, in non-blocking mode.
    pub stream: TcpStream,
    /// What was read of it already.
    pub read: Bytes,
    /// How long its token lasts; `None`: it has no end.
    pub lasts: Option<Duration>,
    /// The permits of the connection, released when it ends.
    pub permits: Permits,
}
