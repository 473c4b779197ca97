//! The keys of the store, and their order.

use anyhow::Context as _;
use uuid::Uuid;

use crate::domain::{BroadcastId, Channel, Fingerprint};
use crate::projection::ack_records::AckPosition;

/// A key of the store. The first byte says what it is; ids are 16 bytes, sequences 8 bytes big-endian and
/// numbers 4.
///
/// ```text
/// c                         the cursor
/// h {channel}               a channel's state
/// b {broadcast}             a broadcast, without its acknowledgements
/// a {broadcast} {sequence} {number}
///                           acknowledgements from this position on: see `ack_records.rs`
/// o {broadcast}             the broadcast's set of acknowledgements is not sealed: it is in memory from the start on
/// s {broadcast}             the set is sealed: see `sealed.rs`
/// f {broadcast} {bits: 1 byte} {bucket: 4 bytes}
///                           some users of a sealed set
/// u {broadcast} {fingerprint}
///                           a user who acknowledged after the set was unloaded
/// w {event}                 a lifecycle event: the broadcast that it is about, its sequence, and to how many it went
/// t {channel} 0 {sequence}  the broadcast that this event created: the channel's history
/// m {block}                 the root over a block of leaves of the Merkle tree: 32 bytes
/// ```
pub(super) enum Key<'a> {
    Cursor,
    Channel(&'a Channel),
    Broadcast(BroadcastId),
    Acks(BroadcastId, AckPosition),
    Open(BroadcastId),
    Seal(BroadcastId),
    Bucket(BroadcastId, u32, u64),
    User(BroadcastId, Fingerprint),
    LifecycleEvent(Uuid),
    Created(&'a Channel, u64),
    Block(u64),
}

impl Key<'_> {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Cursor => b"c".to_vec(),
            Self::Channel(channel) => [b"h", channel.as_str().as_bytes()].concat(),
            Self::Broadcast(id) => [b"b", id.0.as_bytes().as_slice()].concat(),
            Self::Acks(id, (sequence, number)) => {
                let number = u32::try_from(*number).unwrap_or(u32::MAX);
                let position = [sequence.to_be_bytes().as_slice(), number.to_be_bytes().as_slice()].concat();
                [b"a", id.0.as_bytes().as_slice(), position.as_slice()].concat()
            }
            Self::Open(id) => [b"o", id.0.as_bytes().as_slice()].concat(),
            Self::Seal(id) => [b"s", id.0.as_bytes().as_slice()].concat(),
            Self::Bucket(id, bits, number) => {
                let bits = u8::try_from(*bits).unwrap_or(u8::MAX);
                let number = u32::try_from(*number).unwrap_or(u32::MAX).to_be_bytes();
                [b"f", id.0.as_bytes().as_slice(), &[bits], number.as_slice()].concat()
            }
            Self::User(id, user) => [b"u", id.0.as_bytes().as_slice(), user.bytes().as_slice()].concat(),
            Self::LifecycleEvent(event) => [b"w", event.as_bytes().as_slice()].concat(),
            Self::Block(number) => [b"m", number.to_be_bytes().as_slice()].concat(),
            Self::Created(channel, sequence) => {
                [b"t", channel.as_str().as_bytes(), b"\0", sequence.to_be_bytes().as_slice()].concat()
            }
        }
    }
}

/// The position of the first acknowledgement of a record, by its key.
pub(super) fn position_of(key: &[u8]) -> anyhow::Result<AckPosition> {
    let position = key.split_last_chunk::<4>().and_then(|(before, number)| {
        let (_, sequence) = before.split_last_chunk::<8>()?;
        Some((u64::from_be_bytes(*sequence), usize::try_from(u32::from_be_bytes(*number)).ok()?))
    });
    position.context("a key does not decode")
}
