//! The domain: what a broadcast is and what may happen to it. Pure: no IO, no clock, no randomness.
//!
//! ```text
//! decide(View, &Command, now, id)   -> Result<Option<Event>, Rejection>     judges, changes nothing
//! evolve(&mut State, &Recorded)     -> Change                               changes, judges nothing, cannot fail
//! ```
//!
//! Time, ids and randomness are arguments. Everything that the service shows follows from folding the log with
//! [`evolve`]; the auditor's tools use the same function.

pub mod ack_map;
pub mod ack_set;
mod broadcast_state;
pub mod decide;
pub mod delays;
pub mod digest;
pub mod event;
mod hash;
mod loaded;
pub mod message;
pub mod needs;
pub mod packed_set;
mod parsed;
pub mod precondition;
mod rejection;
pub mod sent_to;
pub mod state;
pub mod timestamp;
pub mod types;
pub mod view;

#[cfg(test)]
mod tests;

pub use ack_map::AckMap;
pub use ack_set::{AckReader, AckSet};
pub use broadcast_state::{BroadcastState, EndReason, EventRef};
pub use decide::{Command, acknowledged_before, decide};
pub use delays::Delays;
pub use digest::Digest;
pub use event::{Acknowledged, Acknowledgement, Broadcast, Cleared, Event, Recorded};
pub use loaded::Loaded;
pub use message::Message;
pub use needs::Needs;
pub use packed_set::PackedSet;
pub use precondition::Precondition;
pub use rejection::Rejection;
pub use sent_to::{Audience, SentTo};
pub use state::{Change, ChannelState, State, evolve};
pub use timestamp::{InvalidTimestamp, parse_rfc3339};
pub use types::{
    BroadcastId, ByUser, Channel, Fingerprint, InvalidChannel, InvalidUserId, Severity, Timestamp, UserId,
};
pub use view::{Accepted, PENDING, Pending, View, in_log};
