//! What the view decides about requests before they are queued: most rejections and repetitions need no append.

use super::batch::{AckReply, AckRequest};
use crate::domain::{View, acknowledged_before};
use crate::projection::Snapshot;

/// Requests by what the view knows of them.
#[derive(Default)]
pub(super) struct Judged {
    /// The replies to those that were acknowledged before.
    pub(super) known: Vec<AckReply>,
    /// Those that are new.
    pub(super) new: Vec<AckRequest>,
    /// Those whose broadcast the view does not have.
    pub(super) unknown: Vec<AckRequest>,
}

/// Judges requests for active broadcasts, which are nearly all. The others have to be looked up.
pub(super) fn judge_active(snapshot: &Snapshot, requests: Vec<AckRequest>) -> Judged {
    let mut judged = Judged::default();
    for request in requests {
        let active = snapshot.active(&request.channel);
        match active.filter(|active| active.broadcast.id == request.broadcast) {
            Some(active) => match active.acknowledged_by(request.fingerprint) {
                Some(first) => judged.known.push(request.acknowledged_before(first)),
                None => judged.new.push(request),
            },
            None => judged.unknown.push(request),
        }
    }
    judged
}

/// Judges each request by the view.
pub(super) fn judge(view: View<'_>, requests: Vec<AckRequest>) -> Judged {
    let mut judged = Judged::default();
    for request in requests {
        match acknowledged_before(view, &request.channel, request.broadcast, request.fingerprint) {
            Ok(None) => judged.new.push(request),
            Ok(Some(first)) => judged.known.push(request.acknowledged_before(first)),
            Err(_) => judged.unknown.push(request),
        }
    }
    judged
}
