//! What is said of what was pushed: in the trace of the request that it came of, so that one search finds that request on
//! its replica and what came of it on all of them.

use tracing::{debug, info};

use crate::domain::{Change, in_log};
use crate::log::TraceParent;
use crate::projection::Changed;

/// Says that an event was pushed to so many connections.
pub(super) fn report(changed: &Changed, connections: u64) {
    let _of_its_trace = TraceParent::span(changed.trace).entered();
    let (sequence, channel) = (changed.sequence, &changed.channel);
    match &changed.change {
        Change::Activated { id, .. } => {
            info!(broadcast.id = %id, log.sequence = in_log(sequence), connections, "pushed a new broadcast on {channel}");
        }
        Change::Ended { id, reason } => {
            let reason = reason.as_str();
            info!(broadcast.id = %id, log.sequence = in_log(sequence), connections, reason, "pushed the end of a broadcast on {channel}");
        }
        Change::Acknowledged { id, new } => {
            let users = new.len();
            debug!(broadcast.id = %id, log.sequence = in_log(sequence), connections, users, "pushed acknowledgements on {channel}");
        }
        Change::RecordedLate { .. } | Change::Nothing => {}
    }
}
