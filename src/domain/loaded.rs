//! What was read from the store for one decision, read or fold.

use std::collections::HashMap;

use uuid::Uuid;

use super::broadcast_state::{BroadcastState, EventRef};
use super::types::{BroadcastId, ByUser, Fingerprint};

/// What was read from the store. What the log does not have is absent.
#[derive(Debug, Default)]
pub struct Loaded {
    /// Broadcasts, without their acknowledgements.
    pub broadcasts: HashMap<BroadcastId, BroadcastState>,
    /// Lifecycle events, by their ids.
    pub lifecycle_events: HashMap<Uuid, EventRef>,
    /// Users who acknowledged a broadcast, with the sequence of their first acknowledgement.
    pub acknowledged: HashMap<BroadcastId, ByUser<u64>>,
}

impl Loaded {
    /// The sequence at which this user first acknowledged the broadcast, if that was read.
    pub fn acknowledged_by(&self, id: BroadcastId, user: Fingerprint) -> Option<u64> {
        self.acknowledged.get(&id)?.get(&user).copied()
    }
}
