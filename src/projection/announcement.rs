//! What subscribers of the projection are sent, in log order.

use std::sync::Arc;

use super::snapshot::Active;
use crate::domain::{Change, Channel, View};
use crate::log::{Epoch, TraceParent};

/// What subscribers of the projection receive, in log order.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// The whole state, which replaces everything that was announced before.
    Snapshot {
        /// The log that the state is of.
        epoch: Epoch,
        /// The last event in the state.
        sequence: u64,
        /// What is active, by channel.
        active: Arc<Vec<(Channel, Active)>>,
    },
    /// One event took effect.
    Changed(Arc<Changed>),
    /// Everything that was accepted while the log was away is in the log, or overruled: from now on clients see the state of
    /// the log alone. Sent in place of the changes that were held back meanwhile.
    Settled {
        /// The last event in the state.
        sequence: u64,
        /// What is active, by channel.
        active: Arc<Vec<(Channel, Active)>>,
    },
}

/// An event that took effect.
#[derive(Debug)]
pub struct Changed {
    /// Its sequence in the log; from `PENDING` (2^63) on while the log does not have it.
    pub sequence: u64,
    /// Its channel.
    pub channel: Channel,
    /// What it changed.
    pub change: Change,
    /// The broadcast that it made active, if it did.
    pub activated: Option<Active>,
    /// The trace of the request that caused it.
    pub trace: Option<TraceParent>,
}

impl Changed {
    /// A change, and what it activated as the view behind it has it.
    pub(super) fn of(
        view: View<'_>,
        channel: Channel,
        sequence: u64,
        change: Change,
        trace: Option<TraceParent>,
    ) -> Self {
        let activated = match &change {
            Change::Activated { id, .. } => view.broadcast(*id).map(|known| Active::of(view, known, None)),
            _ => None,
        };
        Self { sequence, channel, change, activated, trace }
    }
}
