//! Messages that differ from connection to connection: a resync, a broadcast that became active late, and notices of
//! acknowledgements. They are sent in steps, so that the shard serves everything else in between; the updates of the channel wait
//! until the last step, so that nothing is sent out of order.

use std::sync::Arc;

use super::attach::ConnectionId;
use super::wire::{Frame, Place};
use crate::projection::{Active, Changed};

/// What is sent in steps, and to which connection or user next.
pub(super) enum Individual {
    /// To each connection that was attached when it began.
    Each { what: Each, next: ConnectionId, end: ConnectionId },
    /// To the other connections of the users who acknowledged.
    Notices { changed: Arc<Changed>, notice: Frame, next: usize, sent: u64 },
}

/// What is sent to each connection, by its user.
pub(super) enum Each {
    /// The state was rebuilt: `resync`, then the state on connect.
    Resync { resync: Frame, cleared: Frame, place: Place },
    /// This broadcast is active: `open` for users who have not acknowledged it, `acknowledged` for the others.
    Active { active: Active, open: Frame, acknowledged: Frame },
}

/// The outcome of a step.
#[derive(Default)]
pub(super) struct Step {
    /// Messages that were sent.
    pub(super) sent: u64,
    /// The acknowledgements whose last notice was sent in this step, and how many notices there were.
    pub(super) finished: Option<(Arc<Changed>, u64)>,
}
