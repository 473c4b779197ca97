//! Why the server ends a connection, and the code and the reason that it gives the client.

use strum::EnumIter;

/// Why the server ends a connection. Never 1000: the seed's client would not come back.
#[derive(Clone, Debug, PartialEq, Eq, EnumIter)]
pub enum Close {
    /// `1012`: the replica restarts; come back after this many milliseconds.
    Restart {
        /// A hint that spreads the reconnects.
        retry_after_ms: u64,
    },
    /// `1003`: a binary message.
    Unsupported,
    /// `1013`: the replica has as many connections as it takes.
    Full,
    /// `4008`: the client does not read fast enough. Reconnecting makes it whole.
    Slow,
    /// `4401`: the token of the connection has ended. A new one opens another.
    Expired,
    /// `4010`: no sign of life for too long.
    Silent,
    /// `4011`: a message was begun and not ended for too long.
    Unfinished,
    /// `4029`: too many messages.
    TooManyMessages,
}

impl Close {
    /// The close code (RFC 6455, section 7.4; 4000 to 4999 are the application's own).
    pub const fn code(&self) -> u16 {
        match self {
            Self::Restart { .. } => 1012,
            Self::Unsupported => 1003,
            Self::Full => 1013,
            Self::Slow => 4008,
            Self::Expired => 4401,
            Self::Silent => 4010,
            Self::Unfinished => 4011,
            Self::TooManyMessages => 4029,
        }
    }

    /// The reason, at most 123 bytes.
    pub fn reason(&self) -> String {
        match self {
            Self::Restart { retry_after_ms } => format!(r#"{{"retry_after_ms":{retry_after_ms}}}"#),
            Self::Unsupported => "text messages only".to_owned(),
            Self::Full => "full".to_owned(),
            Self::Slow => "slow".to_owned(),
            Self::Expired => "expired".to_owned(),
            Self::Silent => "silent".to_owned(),
            Self::Unfinished => "unfinished".to_owned(),
            Self::TooManyMessages => "too many messages".to_owned(),
        }
    }
}
