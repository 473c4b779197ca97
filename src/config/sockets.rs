//! The default limits of a WebSocket.

use std::time::Duration;

use crate::push::client::Limits;
use crate::push::session;

/// The limits without any option, which are the defaults of `serve`.
pub const SOCKET_LIMITS: Limits = Limits {
    session: session::Limits {
        heartbeat: Duration::from_secs(30),
        liveness: Duration::from_secs(75),
        messages_per_second: 20,
        message_burst: 40,
    },
    message_bytes: 4 * 1024,
    message_time: Duration::from_secs(10),
    unsent_bytes: 256 * 1024,
    unsent_time: Duration::from_secs(10),
};
