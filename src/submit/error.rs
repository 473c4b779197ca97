//! Why a command was not confirmed, and what that says of the log.

use std::fmt;

use uuid::Uuid;

use crate::domain::Rejection;
use crate::projection::Unavailable;

/// Why a command was not confirmed.
#[derive(Clone, Debug)]
pub enum SubmitError {
    /// A rule said no. Nothing was written.
    Rejected(Rejection),
    /// Too many commands are waiting. Nothing was written.
    Busy,
    /// Others were faster for too long. Nothing was written.
    Contended,
    /// The log has reached its size. Nothing was written.
    LogFull,
    /// The event is larger than the log takes. Nothing was written.
    TooLarge,
    /// This replica is still reading the log. Nothing was written.
    CatchingUp,
    /// The log is away, and this replica accepts nothing on its own. Nothing was written.
    Away,
    /// The log is away, and the outbox has as much as it takes. Nothing was written.
    OutboxFull,
    /// The log is away, and the disk did not take the event. Nothing was written.
    OutboxFailed,
    /// The log has not answered. The event may be there, or get there; a retry with the same key finds out.
    Unknown {
        /// The id under which it would be there.
        id: Uuid,
    },
}

impl SubmitError {
    /// Most errors say that nothing was written. After a try without an answer nobody can say that.
    pub(super) fn honest(self, unsure: bool, id: Uuid) -> Self {
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

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(rejection) => rejection.fmt(f),
            Self::Busy => f.write_str("Too many requests are waiting. Nothing was changed; try again shortly."),
            Self::Contended => f.write_str(
                "Others kept changing this channel at the same moment. Nothing was changed; try again.",
            ),
            Self::LogFull => f.write_str(
                "The event log has reached its configured size and takes nothing new. Nothing was changed; an \
                 administrator has to raise its limit.",
            ),
            Self::TooLarge => f.write_str("The event is larger than the log takes. Nothing was changed."),
            Self::CatchingUp => {
                f.write_str("This replica does not have the event log up to now. Nothing was changed; try again shortly.")
            }
            Self::Away => f.write_str(
                "The event log does not answer, and this replica accepts nothing without it. This request changed \
                 nothing; try again shortly.",
            ),
            Self::OutboxFull => f.write_str(
                "The event log does not answer, and this replica keeps as much for it as it may. Nothing was changed; \
                 try again when the log is back.",
            ),
            Self::OutboxFailed => f.write_str(
                "The event log does not answer, and this replica's disk did not take the request either. Nothing was \
                 changed; try again, or through another replica.",
            ),
            Self::Unknown { id } => write!(
                f,
                "The event log did not answer in time. Whether the request took effect is unknown; its event would \
                 have the id {id}. If the request had an Idempotency-Key, repeat it with the same one: it takes \
                 effect at most once. An acknowledgement can be repeated as it is."
            ),
        }
    }
}
