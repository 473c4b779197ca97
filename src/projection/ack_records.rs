//! Records of acknowledgements: those of one broadcast in one batch, in a few values of the store.
//!
//! ```text
//! record:           event*
//! event:            sequence, how many of it follow, acknowledgement*
//! acknowledgement:  length of the user's id in bytes, the id, when
//! ```
//!
//! Numbers have seven bits a byte, the lowest first, and the top bit when more follow. A sequence is less the one before it,
//! which for the first is the one in the record's key; some of that event may be in the record before. A time is in milliseconds
//! since 1970, less the one before it, the sign in the lowest bit. This takes a quarter of the bytes of JSON where ids are short,
//! and no dates have to be parsed.

use anyhow::Context as _;

use super::store::costs::FULL_RECORD;
use crate::domain::{Acknowledgement, Timestamp};

/// The position of an acknowledgement in the log: the sequence of its event, and its number in the event, from 1.
pub type AckPosition = (u64, usize);

/// A record that is being written.
pub(super) struct Record {
    /// The position of its first acknowledgement, by which it is found.
    pub(super) first: AckPosition,
    bytes: Vec<u8>,
    sequence: u64,
    ms: i64,
}

impl Record {
    /// An empty record that begins at this position.
    pub(super) const fn of(first: AckPosition) -> Self {
        Self { first, bytes: Vec::new(), sequence: first.0, ms: 0 }
    }

    /// Whether the next acknowledgement belongs into another record.
    const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL_RECORD
    }

    /// Adds the acknowledgements of an event, in its order. Each record that is full goes to `on_full`, and the next one begins.
    pub(super) fn add(
        &mut self,
        sequence: u64,
        acknowledgements: &[Acknowledgement],
        mut on_full: impl FnMut(Self),
    ) {
        let mut taken = 0;
        while taken < acknowledgements.len() {
            if self.is_full() {
                on_full(std::mem::replace(self, Self::of((sequence, taken + 1))));
            }
            taken += self.push(sequence, &acknowledgements[taken..]);
        }
    }

    /// Adds the first acknowledgements of an event until the record is full. Returns how many it added.
    fn push(&mut self, sequence: u64, acknowledgements: &[Acknowledgement]) -> usize {
        let mut room = FULL_RECORD.saturating_sub(self.bytes.len());
        let taken = acknowledgements.iter().take_while(|acknowledgement| {
            let has_room = room > 0;
            // Its length and its time, mostly.
            room = room.saturating_sub(acknowledgement.user.as_str().len() + 2);
            has_room
        });
        let taken = taken.count();
        put(&mut self.bytes, sequence - self.sequence);
        put(&mut self.bytes, taken as u64);
        self.sequence = sequence;
        for Acknowledgement { user, at } in &acknowledgements[..taken] {
            let user = user.as_str().as_bytes();
            put(&mut self.bytes, user.len() as u64);
            self.bytes.extend_from_slice(user);
            let more = at.as_unix_ms() - self.ms;
            put(&mut self.bytes, (more << 1 ^ more >> 63).cast_unsigned());
            self.ms = at.as_unix_ms();
        }
        taken
    }

    /// The stored bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// An acknowledgement of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read<'a> {
    /// Its position.
    pub(super) position: AckPosition,
    /// The user id.
    pub(super) user: &'a str,
    /// When the user acknowledged.
    pub(super) at: Timestamp,
}

impl Read<'_> {
    /// The acknowledgement, as the log has it.
    pub(super) fn acknowledgement(&self) -> anyhow::Result<Acknowledgement> {
        let user = self.user.parse().ok().context(DAMAGED)?;
        Ok(Acknowledgement { user, at: self.at })
    }
}

/// The acknowledgements of a stored record, in the order of the log. An error ends it.
pub(super) struct Reading<'a> {
    rest: &'a [u8],
    /// The position of the acknowledgement before.
    position: AckPosition,
    /// How many acknowledgements of this event are still to come.
    to_come: u64,
    ms: i64,
}

const DAMAGED: &str = "a record of acknowledgements does not decode";

impl<'a> Reading<'a> {
    /// Reads the record that begins at this position.
    pub(super) const fn of(first: AckPosition, bytes: &'a [u8]) -> Self {
        Self { rest: bytes, position: (first.0, first.1.saturating_sub(1)), to_come: 0, ms: 0 }
    }

    fn read(&mut self) -> Option<Read<'a>> {
        while self.to_come == 0 {
            let more = take(&mut self.rest)?;
            if more > 0 {
                self.position = (self.position.0.checked_add(more)?, 0);
            }
            self.to_come = take(&mut self.rest)?;
        }
        let length = usize::try_from(take(&mut self.rest)?).ok()?;
        let (user, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let more = take(&mut self.rest)?;
        self.ms = self.ms.checked_add((more >> 1).cast_signed() ^ -(more & 1).cast_signed())?;
        self.to_come -= 1;
        self.position.1 += 1;
        let user = str::from_utf8(user).ok()?;
        Some(Read { position: self.position, user, at: Timestamp::from_unix_ms(self.ms) })
    }
}

impl<'a> Iterator for Reading<'a> {
    type Item = anyhow::Result<Read<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() && self.to_come == 0 {
            return None;
        }
        let read = self.read();
        if read.is_none() {
            (self.rest, self.to_come) = (&[], 0);
        }
        Some(read.context(DAMAGED))
    }
}

fn put(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..u64::BITS).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events() -> impl Strategy<Value = Vec<(u64, Vec<Acknowledgement>)>> {
        let users = prop_oneof!["[a-z]{1,12}", "\\PC{1,42}", "x{128}"];
        let users = users.prop_filter_map("1 to 128 bytes", |user| user.parse().ok());
        let times = any::<i64>().prop_map(Timestamp::from_unix_ms);
        let acknowledgements = (users, times).prop_map(|(user, at)| Acknowledgement { user, at });
        let acknowledgements = prop_oneof![
            prop::collection::vec(acknowledgements.clone(), 1..5),
            prop::collection::vec(acknowledgements, 100..300),
        ];
        prop::collection::vec((1..1_u64 << 40, acknowledgements), 1..5).prop_map(|mut events| {
            let mut sequence = 0;
            for (more, _) in &mut events {
                sequence += *more;
                *more = sequence;
            }
            events
        })
    }

    /// Records of a log of these events, as a batch writes them.
    fn records_of(events: &[(u64, Vec<Acknowledgement>)]) -> Vec<(AckPosition, Vec<u8>)> {
        let (mut records, mut record) = (Vec::new(), Record::of((events[0].0, 1)));
        for (sequence, acknowledgements) in events {
            record.add(*sequence, acknowledgements, |full| records.push(full));
        }
        records.push(record);
        records.into_iter().map(|record| (record.first, record.into_bytes())).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in events()) {
            let records = records_of(&events);
            let read = records.iter().flat_map(|(first, bytes)| Reading::of(*first, bytes)).map(|read| {
                let read = read.unwrap();
                (read.position, read.acknowledgement().unwrap())
            });
            let expected = events.iter().flat_map(|(sequence, acknowledgements)| {
                (1..).zip(acknowledgements).map(|(number, ack)| ((*sequence, number), ack.clone()))
            });
            prop_assert!(read.eq(expected));
            for (first, bytes) in &records {
                prop_assert_eq!(Reading::of(*first, bytes).next().unwrap().unwrap().position, *first);
                // Times that are far apart take ten bytes, of which it reckons with one.
                prop_assert!(bytes.len() < 5 * FULL_RECORD, "{} bytes", bytes.len());
            }
        }

        #[test]
        fn what_is_cut_off_is_damaged_and_said_once(events in events(), at in any::<prop::sample::Index>()) {
            let (first, bytes) = records_of(&events).swap_remove(0);
            let cut = &bytes[..=at.index(bytes.len() - 1)];
            let read: Vec<_> = Reading::of(first, cut).collect();
            let whole = Reading::of(first, &bytes).take(read.len()).collect::<Result<Vec<_>, _>>().unwrap();
            let right = read.iter().zip(&whole).take_while(|(read, whole)| {
                read.as_ref().is_ok_and(|read| read == *whole)
            });
            let right = right.count();
            let last_of_each = whole.windows(2).map(|two| two[0].position.0 != two[1].position.0);
            let ends_with_an_event = last_of_each.chain([true]).nth(right.wrapping_sub(1)) == Some(true);
            prop_assert_eq!(read.len() - right, usize::from(!ends_with_an_event || read.last().is_some_and(Result::is_err)));
        }

        #[test]
        fn any_bytes_end(number in 0..1_usize << 32, bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: Vec<_> = Reading::of((7, number), &bytes).collect();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
