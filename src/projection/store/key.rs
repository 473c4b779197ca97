//! The keys of the store: what stands where, and in which order.

use uuid::Uuid;

use crate::domain::{BroadcastId, Channel};

/// A key of the store. The first byte says what it is; ids are 16 bytes, sequences 8 bytes big-endian.
///
/// ```text
/// c                         the cursor
/// h {channel}               a channel's state
/// b {broadcast}             a broadcast, without its acknowledgements
/// a {broadcast} {sequence}  the acknowledgements that events of one batch brought, from this one on: see `acks.rs`
/// w {event}                 a lifecycle event: the broadcast that it is about, and its sequence
/// t {channel} 0 {sequence}  the broadcast that this event created: the channel's history
/// m {block}                 the root over a block of leaves of the Merkle tree: 32 bytes
/// ```
pub(super) enum Key<'a> {
    Cursor,
    Channel(&'a Channel),
    Broadcast(BroadcastId),
    Acks(BroadcastId, u64),
    Written(Uuid),
    Created(&'a Channel, u64),
    Block(u64),
}

impl Key<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Cursor => b"c".to_vec(),
            Self::Channel(channel) => [b"h", channel.as_str().as_bytes()].concat(),
            Self::Broadcast(id) => [b"b", id.0.as_bytes().as_slice()].concat(),
            Self::Acks(id, sequence) => {
                [b"a", id.0.as_bytes().as_slice(), sequence.to_be_bytes().as_slice()].concat()
            }
            Self::Written(event) => [b"w", event.as_bytes().as_slice()].concat(),
            Self::Block(number) => [b"m", number.to_be_bytes().as_slice()].concat(),
            Self::Created(channel, sequence) => {
                [b"t", channel.as_str().as_bytes(), b"\0", sequence.to_be_bytes().as_slice()].concat()
            }
        }
    }
}
