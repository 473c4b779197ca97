//! Why a command was not confirmed.

use thiserror::Error;
use uuid::Uuid;

use crate::domain::Rejection;
use crate::projection::Unavailable;
use crate::rate_limit::RateLimited;

/// Why a command was not confirmed. The text is shown to the client.
#[derive(Clone, Debug, Error)]
pub enum SubmitError {
    /// A rule of the domain forbids it. Nothing was written.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// The user has used up a rate limit. Nothing was written.
    #[error(transparent)]
    RateLimited(#[from] RateLimited),
    /// Too many commands are waiting. Nothing was written.
    #[error("Too many requests are waiting. Nothing was changed; try again shortly.")]
    Busy,
    /// Other commands won the guard each time. Nothing was written.
    #[error("Other requests kept changing this channel at the same moment. Nothing was changed; try again.")]
    Contended,
    /// The log has reached its configured size. Nothing was written.
    #[error(
        "The event log has reached its configured size. Nothing was changed; an administrator has to raise its limit."
    )]
    LogFull,
    /// The event is larger than the log accepts. Nothing was written.
    #[error("The event is larger than the event log accepts. Nothing was changed.")]
    TooLarge,
    /// This replica is still reading the log. Nothing was written.
    #[error("This replica has not read the event log up to now. Nothing was changed; try again shortly.")]
    CatchingUp,
    /// The log is unavailable, and this replica accepts nothing on its own. Nothing was written.
    #[error(
        "The event log does not answer, and this replica accepts nothing without it. Nothing was changed; try again shortly."
    )]
    Away,
    /// The log is unavailable, and the outbox is full. Nothing was written.
    #[error(
        "The event log does not answer, and this replica's outbox is full. Nothing was changed; try again when the log is back."
    )]
    OutboxFull,
    /// The log is unavailable, and writing the event to the outbox failed. Nothing was written.
    #[error(
        "The event log does not answer, and this replica could not write the request to its disk. Nothing was changed; try \
         again, or through another replica."
    )]
    OutboxFailed,
    /// The log has not answered. The event may be in the log, or may still be appended; a retry with the same key finds out.
    #[error(
        "The event log did not answer in time. Whether the request took effect is unknown; its event would have the id {id}. \
         If the request had an Idempotency-Key, repeat it with the same one: it takes effect at most once. An acknowledgement \
         can be repeated as it is."
    )]
    Unknown {
        /// The id of the event.
        id: Uuid,
    },
}

impl SubmitError {
    /// The code of this error for clients.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Rejected(rejection) => rejection.code(),
            Self::RateLimited(_) => RateLimited::CODE,
            Self::Busy => "busy",
            Self::Contended => "contended",
            Self::LogFull => "log_full",
            Self::TooLarge => "event_too_large",
            Self::CatchingUp => "catching_up",
            Self::Away => "log_away",
            Self::OutboxFull => "outbox_full",
            Self::OutboxFailed => "outbox_failed",
            Self::Unknown { .. } => "log_unavailable",
        }
    }

    /// Most errors state that nothing was written. After an append without an answer the outcome is unknown.
    pub(super) fn or_unknown_if(self, unsure: bool, id: Uuid) -> Self {
        match self {
            Self::CatchingUp
            | Self::Contended
            | Self::LogFull
            | Self::Away
            | Self::OutboxFull
            | Self::OutboxFailed
                if unsure =>
            {
                Self::Unknown { id }
            }
            error => error,
        }
    }
}

impl From<Unavailable> for SubmitError {
    fn from(_: Unavailable) -> Self {
        Self::CatchingUp
    }
}
