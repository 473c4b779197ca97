//! What has to be read from the store before a command is decided, a read is answered or an event is folded.

use uuid::Uuid;

use super::types::{BroadcastId, Fingerprint};

/// What will be looked up in the log's state and may not be in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Broadcasts, without their acknowledgements.
    pub broadcasts: Vec<BroadcastId>,
    /// Ids of lifecycle events.
    pub lifecycle_events: Vec<Uuid>,
    /// Users who may have acknowledged a broadcast. The broadcast itself is not included.
    pub acknowledged: Vec<(BroadcastId, Fingerprint)>,
}

impl Needs {
    /// A broadcast, without its acknowledgements.
    pub fn broadcast(id: BroadcastId) -> Self {
        Self { broadcasts: vec![id], ..Self::default() }
    }

    /// A broadcast, and whether these users acknowledged it.
    pub fn acknowledged(id: BroadcastId, users: impl IntoIterator<Item = Fingerprint>) -> Self {
        let acknowledged = users.into_iter().map(|user| (id, user)).collect();
        Self { acknowledged, ..Self::broadcast(id) }
    }

    /// Whether nothing is needed.
    pub const fn is_empty(&self) -> bool {
        self.broadcasts.is_empty() && self.lifecycle_events.is_empty() && self.acknowledged.is_empty()
    }
}
