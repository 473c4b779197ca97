//! Why something cannot be proven, and why a text proves nothing.

use thiserror::Error;

use crate::domain::{BroadcastId, UserId};
use crate::log::merkle::InvalidHash;
use crate::notary::checkpoint::CheckpointError;

/// The first line.
pub(super) const FORMAT_LINE: &str = "c2sp.org/tlog-proof@v1";

/// Bytes of a proof at most. The log takes messages of 256 KiB; one of ours makes a proof of some 3 KB.
pub const MAX_BYTES: usize = 2 << 20;

/// Hashes at most: a tree with more levels has more leaves than a log can have.
pub(super) const MAX_PATH: usize = 64;

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

/// A text is not a proof, or proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidProof {
    /// It exceeds [`MAX_BYTES`].
    #[error("a proof has at most {MAX_BYTES} bytes")]
    TooLong,
    /// The first line does not name the format.
    #[error("its first line is not {FORMAT_LINE}")]
    FirstLine,
    /// No empty line with a checkpoint below it.
    #[error("it has no checkpoint")]
    NoCheckpoint,
    /// No line with the extra data.
    #[error("it shows no event: its second line does not begin with `extra`")]
    NoEvent,
    /// The extra data is not base64.
    #[error("the file is damaged: its extra data is not base64")]
    ExtraBase64,
    /// The extra data is not as `schemas/proof.json` describes it.
    #[error("the file is damaged: its extra data cannot be read ({0})")]
    Extra(String),
    /// No line with the index.
    #[error("its third line is not an index")]
    NoIndex,
    /// A line after the index is no hash.
    #[error("a line after the index is invalid: {0}")]
    Hash(#[from] InvalidHash),
    /// More hashes than the largest possible tree needs.
    #[error("a proof has at most {MAX_PATH} hashes")]
    TooManyHashes,
    /// The checkpoint is invalid, or not signed by a trusted key.
    #[error("its checkpoint: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// What the extra data shows is no event of a log.
    #[error("{0}")]
    Event(String),
    /// The index is not the event's sequence minus one.
    #[error("its index is not the one of the event that it shows")]
    Index,
    /// The hashes do not lead from the event to the signed root.
    #[error("the event that it shows is not in the log that was signed")]
    NotIncluded,
}
