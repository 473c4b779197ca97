//! What has to be read from the store before something is decided, shown or folded, and what was read.

use std::collections::HashMap;

use uuid::Uuid;

use super::state::{BroadcastState, EventRef};
use super::types::{BroadcastId, ByUser, Fingerprint};

/// What is looked up of the log's state, and may not be in memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Broadcasts, without their acknowledgements.
    pub broadcasts: Vec<BroadcastId>,
    /// Ids of lifecycle events.
    pub lifecycle_events: Vec<Uuid>,
    /// Users who may have acknowledged a broadcast. It does not bring the broadcast itself.
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
