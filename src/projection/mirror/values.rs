//! The values of the two buckets.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::domain::{Broadcast, Timestamp};
use crate::log::Epoch;

/// The value of a position key: the last event that the bucket reflects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PositionValue {
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
}

/// The value of an acknowledgement key.
#[derive(Serialize)]
pub(super) struct AckValue {
    pub(super) at: Timestamp,
    pub(super) sequence: u64,
}

/// The value of a channel's key while a broadcast is active: the broadcast as its event has it, and the sequence of the event.
pub(super) fn value_of(active: &Broadcast, sequence: u64) -> anyhow::Result<Bytes> {
    let mut value = serde_json::to_value(active)?;
    value["sequence"] = sequence.into();
    Ok(serde_json::to_vec(&value)?.into())
}
