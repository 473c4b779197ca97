//! Why something cannot be proven.

use thiserror::Error;

use crate::domain::{BroadcastId, UserId};

/// Why there is no proof of something.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The log has no such broadcast.
    #[error("the log has no broadcast {0}")]
    UnknownBroadcast(BroadcastId),
    /// This user has not acknowledged it.
    #[error("user {:?} has not acknowledged broadcast {}", .1.as_str(), .0)]
    NotAcknowledged(BroadcastId, UserId),
    /// It was accepted into an outbox, and is not in the log yet.
    #[error("it was accepted while the log was unavailable, and is not in the log yet")]
    NotInLog,
    /// The event was written before events had salts.
    #[error(
        "event {0} was written without a salt, so the acknowledgement of one user cannot be shown without all others; \
         `tidings audit replay --from-seq {0}` shows the whole event"
    )]
    NoSalt(u64),
    /// The log has lost the event, or has another one at its sequence.
    #[error("the log has lost the event at sequence {0}")]
    Lost(u64),
    /// No trusted key has signed a checkpoint of this log.
    #[error(
        "no checkpoint signed by a trusted key exists for this log; a replica signs with `--checkpoint-key`"
    )]
    NoCheckpoint,
    /// The event at the first sequence is newer than the newest checkpoint, whose size is the second.
    #[error(
        "event {0} is not signed yet: the newest checkpoint ends at event {1}. Unless replicas are configured otherwise, the \
         next one is signed within a minute"
    )]
    NotSigned(u64, u64),
    /// The log ends at the first sequence, although it was signed up to the second.
    #[error("the log ends at event {0}, but was signed up to event {1}: run `tidings audit verify`")]
    Shorter(u64, u64),
    /// The log differs from the checkpoint of this size.
    #[error("the log differs from what was signed up to event {0}: run `tidings audit verify`")]
    Differs(u64),
}
