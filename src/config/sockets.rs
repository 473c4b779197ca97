//! How a WebSocket is limited: by default, and by the options of `serve`.

use std::time::Duration;

use super::Serve;
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

impl Serve {
    /// The limits by these options.
    pub fn socket_limits(&self) -> Limits {
        Limits {
            session: session::Limits {
                heartbeat: Duration::from_secs(self.heartbeat_seconds),
                liveness: Duration::from_secs(self.liveness_seconds),
                messages_per_second: self.messages_per_second,
                message_burst: self.message_burst,
            },
            message_bytes: self.max_message_bytes,
            message_time: Duration::from_secs(self.message_seconds),
            unsent_bytes: self.max_unsent_bytes,
            unsent_time: Duration::from_secs(self.unsent_seconds),
        }
    }
}
