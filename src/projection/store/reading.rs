//! Reading acknowledgements in the order of the log: a page, all of a broadcast, or what came after a sequence.

use anyhow::Context as _;
use uuid::Uuid;

use super::key::{Key, position_of};
use super::{AckAt, Store, Stored};
use crate::domain::{Acknowledgement, BroadcastId, Timestamp};
use crate::projection::ack_records::{AckPosition, Read, Reading};

impl Store {
    /// Up to `limit` acknowledgements of a broadcast after a position, in log order.
    pub fn acks_after(
        &self,
        id: BroadcastId,
        after: AckPosition,
        limit: usize,
    ) -> anyhow::Result<Vec<AckAt>> {
        let mut found = Vec::new();
        for record in self.ack_records(id, Some(after))? {
            let (key, record) = record?;
            for read in Reading::of(position_of(&key)?, &record) {
                let read = read?;
                if found.len() >= limit {
                    return Ok(found);
                }
                if read.position > after {
                    found.push(AckAt { position: read.position, acknowledgement: read.acknowledgement()? });
                }
            }
        }
        Ok(found)
    }

    /// Visits the acknowledgements of a broadcast in log order, each user once.
    pub fn each_ack(
        &self,
        id: BroadcastId,
        mut visit: impl FnMut(u64, Acknowledgement) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.each_read(id, None, |read| visit(read.position.0, read.acknowledgement()?))
    }

    /// The records of a broadcast after a position, and the one that has that position.
    fn ack_records(
        &self,
        id: BroadcastId,
        after: Option<AckPosition>,
    ) -> anyhow::Result<impl Iterator<Item = Stored>> {
        let start = Key::Acks(id, (0, 0)).bytes();
        let from = match after {
            // The next acknowledgement is in the record that has that position, or behind it.
            Some(after) => {
                let first = self.db.range(start.clone()..=Key::Acks(id, after).bytes()).next_back();
                first.transpose()?.map_or(start, |(key, _)| key.to_vec())
            }
            None => start,
        };
        Ok(self.db.range(from..=Key::Acks(id, (u64::MAX, usize::MAX)).bytes()))
    }

    pub(super) fn each_read(
        &self,
        id: BroadcastId,
        after: Option<AckPosition>,
        mut visit: impl FnMut(Read<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for record in self.ack_records(id, after)? {
            let (key, record) = record?;
            Reading::of(position_of(&key)?, &record).try_for_each(|read| visit(read?))?;
        }
        Ok(())
    }

    /// Visits every acknowledgement after a sequence that is not older than `since`, by broadcast. Of each broadcast it reads what
    /// comes after that sequence, and one record before it at most.
    pub fn each_ack_after(
        &self,
        sequence: u64,
        since: Timestamp,
        mut visit: impl FnMut(BroadcastId, u64, Acknowledgement) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let after = (sequence, usize::MAX);
        for entry in self.db.scan_prefix(b"b") {
            let id = BroadcastId(Uuid::from_slice(&entry?.0[1..]).context("a key does not decode")?);
            self.each_read(id, Some(after), |read| {
                let is_wanted = read.position > after && read.at >= since;
                if is_wanted { visit(id, read.position.0, read.acknowledgement()?) } else { Ok(()) }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{Acknowledged, Broadcast, Event, Recorded, Severity, State, evolve};
    use crate::projection::store::Batch;

    fn id(n: u128) -> BroadcastId {
        BroadcastId(Uuid::from_u128(n))
    }

    /// Two broadcasts. Each event brings one of them three users, and each batch has ten events.
    fn stored(events: u64) -> (tempfile::TempDir, Store, Vec<(BroadcastId, u64, String)>) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_scratch(folder.path(), Duration::from_mins(1)).unwrap();
        let (mut state, mut batch, mut expected) = (State::default(), Batch::default(), Vec::new());
        for sequence in 1..=events {
            let about = id(u128::from(sequence % 2));
            let at = Timestamp::from_unix_ms(i64::try_from(sequence).unwrap());
            let event = if sequence <= 2 {
                let (message, created_by) = ("hi".to_owned().try_into().unwrap(), "ann".parse().unwrap());
                Event::Created(Broadcast {
                    id: about,
                    message,
                    severity: Severity::Info,
                    created_by,
                    created_at: at,
                })
            } else {
                let users = (0..3).map(|n| format!("user-{sequence}-{n}"));
                let acknowledgements = users.map(|user| {
                    expected.push((about, sequence, user.clone()));
                    Acknowledgement { user: user.parse().unwrap(), at }
                });
                let acknowledgements = acknowledgements.collect();
                Event::Acknowledged(Acknowledged { broadcast_id: about, acknowledgements, salt: None })
            };
            let (channel, event_id) = ("creator".parse().unwrap(), about.0);
            let recorded = Recorded {
                sequence,
                recorded_at: at,
                channel,
                id: event_id,
                late: false,
                relayed: false,
                sent_to: None,
                event,
            };
            let change = evolve(&mut state, &recorded);
            batch.change(&state, sequence, &change);
            if sequence % 10 == 0 || sequence == events {
                batch.touched(&state).unwrap();
                store.apply(std::mem::take(&mut batch)).unwrap();
            }
        }
        (folder, store, expected)
    }

    #[test]
    fn what_came_after_a_sequence_is_visited_and_nothing_before_it_is_read() {
        let (_folder, store, all) = stored(400);
        for after in [0, 1, 2, 3, 199, 200, 201, 399, 400] {
            for since in [0, 150, 399] {
                let mut found = Vec::new();
                let since_at = Timestamp::from_unix_ms(since);
                let visit = |about, sequence, ack: Acknowledgement| {
                    found.push((about, sequence, ack.user.as_str().to_owned()));
                    Ok(())
                };
                store.each_ack_after(after, since_at, visit).unwrap();
                let wanted = |(_, sequence, _): &&(BroadcastId, u64, String)| {
                    *sequence > after && i64::try_from(*sequence).unwrap() >= since
                };
                let mut expected: Vec<_> = all.iter().filter(wanted).cloned().collect();
                expected.sort_by_key(|(about, sequence, _)| (*about, *sequence));
                assert_eq!(found, expected, "after {after}, since {since}");
            }
        }
        // Records that end before the sequence are not even visited: those of all but the last batch.
        let records = |after| store.ack_records(id(0), after).unwrap().count();
        assert!(records(None) > 10, "{}", records(None));
        assert_eq!(records(Some((400, usize::MAX))), 1);
    }
}
