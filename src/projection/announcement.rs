//! What subscribers of the projection are sent, in log order.

use std::sync::Arc;

use super::snapshot::Active;
use crate::domain::{Change, Channel, View};
use crate::log::{Epoch, TraceParent};

/// What subscribers of the projection are told, in log order.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// This is the state now; whatever was announced before counts no more.
    Snapshot {
        /// The log, and the sequence of the state.
        epoch: Epoch,
        /// The last event in the state.
        sequence: u64,
        /// What is active, by channel.
        active: Arc<Vec<(Channel, Active)>>,
    },
    /// One event took effect.
    Changed(Arc<Changed>),
    /// What was accepted here is in the log, or overruled: what the log says is what is shown again. Announced after
    /// the changes that were held back meanwhile, and instead of them.
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
    /// Its place in the log; from `PENDING` (2^63) on when it is not there yet.
    pub sequence: u64,
    /// Where.
    pub channel: Channel,
    /// What it did.
    pub change: Change,
    /// What became active, when something did.
    pub activated: Option<Active>,
    /// The trace of the request that it came of.
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
