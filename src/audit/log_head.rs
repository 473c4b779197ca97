//! Which log an auditor reads, and where it ends.

use crate::log::Epoch;

/// Which log a source is, and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The epoch of the log.
    pub epoch: Epoch,
    /// The last sequence; 0 when empty.
    pub last_sequence: u64,
}
