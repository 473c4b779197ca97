//! Sealed sets: who acknowledged a broadcast that is no longer in memory, so that one user is found by a point look-up.
//!
//! A set is sealed once, when it is unloaded: everybody in it is written into buckets by the first bits of the
//! fingerprint, some fifty users each. A user who acknowledges later has a record of his or her own. The records of
//! `ack_records.rs` stay what the history is read from; a seal adds to them and is never read to show anything.
//!
//! ```text
//! seal:    the number of bits by which the buckets are told apart: one byte
//! bucket:  (fingerprint, sequence)*, 16 bytes and 8 bytes, big-endian
//! user:    sequence, 8 bytes, big-endian
//! ```

use anyhow::Context as _;

use super::costs::{BUCKET, BUCKETS_TOGETHER};
use super::key::Key;
use super::pace::Pace;
use super::{Store, Writes};
use crate::domain::packed_set::PackedEntry;
use crate::domain::{AckMap, BroadcastId, Fingerprint, PackedSet};

/// Users who are held a second time in memory while a set is sealed and not packed, on average: 1.5 MiB.
const HELD: usize = 1 << 16;

/// Bytes of a user in a bucket.
const ENTRY: usize = 24;

const DAMAGED: &str = "a record of sealed acknowledgements does not decode";

impl Store {
    /// Seals the set of a broadcast, and returns it packed if that is wanted. Everything in it has to be written already. It
    /// reads nothing from the disk, and may run beside anything else. Until it has ended without an error, the store goes on
    /// as if it had not begun.
    pub fn seal(
        &self,
        id: BroadcastId,
        set: &AckMap,
        pace: Pace,
        is_packed: bool,
    ) -> anyhow::Result<Option<PackedSet>> {
        let bits = set.len().div_ceil(BUCKET).next_power_of_two().trailing_zeros().min(24);
        // One part of the buckets at a time, so that the copy stays small.
        let part_bits = set.len().div_ceil(HELD).next_power_of_two().trailing_zeros().min(bits);
        let mut packed = is_packed.then(|| PackedSet::with_capacity(set.len()));
        for part in 0..1_u64 << part_bits {
            let users = pace.step(|| {
                let mut users = set.filtered(|user| first_bits(user, part_bits) == part);
                users.sort_unstable();
                users
            });
            let bucket_of = |(user, _): &PackedEntry| first_bits(*user, bits);
            let mut buckets = users.chunk_by(|one, next| bucket_of(one) == bucket_of(next)).peekable();
            while buckets.peek().is_some() {
                pace.step(|| {
                    let mut batch = Writes::default();
                    for users in buckets.by_ref().take(BUCKETS_TOGETHER) {
                        let number = users.first().map_or(0, bucket_of);
                        batch.insert(Key::Bucket(id, bits, number).bytes(), bucket(users));
                    }
                    self.write(batch)
                })?;
            }
            if let Some(packed) = &mut packed {
                packed.append(&users);
            }
        }
        let mut batch = Writes::default();
        batch.insert(Key::Seal(id).bytes(), vec![u8::try_from(bits)?]);
        batch.remove(Key::Open(id).bytes());
        self.write(batch)?;
        Ok(packed)
    }

    /// The sequence at which a user first acknowledged a broadcast whose set is sealed. Most have done so before it was.
    pub(super) fn sealed_ack(&self, id: BroadcastId, user: Fingerprint) -> anyhow::Result<Option<u64>> {
        if let Some(sequence) = self.in_bucket(id, user)? {
            return Ok(Some(sequence));
        }
        let Some(sequence) = self.db.get(Key::User(id, user).bytes())? else { return Ok(None) };
        Ok(Some(u64::from_be_bytes(sequence.as_ref().try_into().context(DAMAGED)?)))
    }

    fn in_bucket(&self, id: BroadcastId, user: Fingerprint) -> anyhow::Result<Option<u64>> {
        let Some(seal) = self.db.get(Key::Seal(id).bytes())? else { return Ok(None) };
        let bits = seal.first().copied().filter(|bits| *bits <= 24).context(DAMAGED)?.into();
        let key = Key::Bucket(id, bits, first_bits(user, bits)).bytes();
        let Some(bucket) = self.db.get(key)? else { return Ok(None) };
        let (entries, rest) = bucket.as_chunks::<ENTRY>();
        anyhow::ensure!(rest.is_empty(), DAMAGED);
        let wanted = user.bytes();
        let found = entries.iter().find_map(|entry| entry.strip_prefix(&wanted[..]));
        found.map(|sequence| Ok(u64::from_be_bytes(sequence.try_into().context(DAMAGED)?))).transpose()
    }
}

/// A bucket of these users.
fn bucket(users: &[PackedEntry]) -> Vec<u8> {
    users.iter().flat_map(|(user, sequence)| user.bytes().into_iter().chain(sequence.to_be_bytes())).collect()
}

/// The first bits of a fingerprint, as a number.
const fn first_bits(user: Fingerprint, bits: u32) -> u64 {
    // A shift by all 64 bits is none.
    if bits == 0 { 0 } else { user.high >> (64 - bits) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::UserId;

    #[test]
    fn everybody_in_a_sealed_set_is_found_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_scratch(folder.path(), Duration::from_mins(1)).unwrap();
        for (n, size) in [0_u64, 1, 64, 65, 1_000, 140_000].into_iter().enumerate() {
            let id = BroadcastId(Uuid::from_u128(n as u128));
            let user = |n: u64| UserId::fingerprint_of(&format!("user-{n}"));
            let set: AckMap = (0..size).map(|n| (user(n), 7 + n)).collect();
            let packed = store.seal(id, &set, Pace::Full, true).unwrap().unwrap();
            let mut users = set.filtered(|_| true);
            users.sort_unstable();
            assert_eq!(packed.iter().collect::<Vec<_>>(), users);
            for n in (0..size).step_by(97).chain(size.checked_sub(1)) {
                assert_eq!(store.sealed_ack(id, user(n)).unwrap(), Some(7 + n), "{n} of {size}");
            }
            for n in size..size + 100 {
                assert_eq!(store.sealed_ack(id, user(n)).unwrap(), None, "{n} of {size}");
            }
            // What was cut off is begun again, maybe with more users and other buckets.
            let set: AckMap = (0..=2 * size).map(|n| (user(n), 7 + n)).collect();
            assert_eq!(store.seal(id, &set, Pace::Full, false).unwrap(), None);
            for n in (0..=2 * size).step_by(101) {
                assert_eq!(store.sealed_ack(id, user(n)).unwrap(), Some(7 + n), "{n} of {size} and more");
            }
        }
    }
}
