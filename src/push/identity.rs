//! The identity of this process among the replicas.

use uuid::Uuid;

use crate::domain::Timestamp;

/// The identity of this process.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The name of the replica: a key of the heartbeats' bucket, other than the mirror's.
    pub replica: String,
    /// The process: a new id for each start.
    pub instance: Uuid,
    /// When the process started.
    pub started_at: Timestamp,
}
