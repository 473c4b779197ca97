//! Records of acknowledgements: what one batch of the log brought to a broadcast, in one value of the store.
//!
//! ```text
//! record:           event*
//! event:            sequence, how many it brought, acknowledgement*
//! acknowledgement:  length of the user's id in bytes, the id, when
//! ```
//!
//! Numbers have seven bits a byte, the lowest first, and the top bit when more follow. A sequence is less the one before it
//! in the record; a time is in milliseconds since 1970, less the one before it, the sign in the lowest bit. A quarter
//! of the bytes of JSON where ids are short, and no dates to parse.

use anyhow::Context as _;

use crate::domain::{Acknowledgement, Timestamp};

/// A record of this many bytes takes no further event. Who reads a page of acknowledgements reads a record or two.
const FULL: usize = 8 << 10;

/// A record that is being written.
#[derive(Default)]
pub(super) struct Record {
    /// The first event in it, by which it is found.
    pub(super) first: u64,
    bytes: Vec<u8>,
    sequence: u64,
    ms: i64,
}

impl Record {
    /// One that begins with this event.
    pub(super) fn of(sequence: u64) -> Self {
        Self { first: sequence, ..Self::default() }
    }

    /// Whether the next event belongs into another one.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes.len() >= FULL
    }

    /// Those whom an event brought, in its order.
    pub(super) fn push(&mut self, sequence: u64, brought: &[Acknowledgement]) {
        put(&mut self.bytes, sequence - self.sequence);
        put(&mut self.bytes, brought.len() as u64);
        self.sequence = sequence;
        for Acknowledgement { user, at } in brought {
            let user = user.as_str().as_bytes();
            put(&mut self.bytes, user.len() as u64);
            self.bytes.extend_from_slice(user);
            let more = at.as_unix_ms() - self.ms;
            put(&mut self.bytes, (more << 1 ^ more >> 63).cast_unsigned());
            self.ms = at.as_unix_ms();
        }
    }

    /// As it is stored.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// An acknowledgement of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read<'a> {
    /// The event that brought it, and its number among those, from 1.
    pub(super) place: (u64, usize),
    /// Who.
    pub(super) user: &'a str,
    /// When.
    pub(super) at: Timestamp,
}

impl Read<'_> {
    /// As the log has it.
    pub(super) fn acknowledgement(&self) -> anyhow::Result<Acknowledgement> {
        let user = self.user.parse().ok().context(DAMAGED)?;
        Ok(Acknowledgement { user, at: self.at })
    }
}

/// The acknowledgements of a stored record, in the order of the log. An error ends it.
pub(super) struct Reading<'a> {
    rest: &'a [u8],
    place: (u64, usize),
    /// How many of the event at this place are still to come.
    to_come: u64,
    ms: i64,
}

const DAMAGED: &str = "a record of acknowledgements does not decode";

impl<'a> Reading<'a> {
    pub(super) const fn of(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, place: (0, 0), to_come: 0, ms: 0 }
    }

    fn read(&mut self) -> Option<Read<'a>> {
        while self.to_come == 0 {
            self.place = (self.place.0.checked_add(take(&mut self.rest)?)?, 0);
            self.to_come = take(&mut self.rest)?;
        }
        let length = usize::try_from(take(&mut self.rest)?).ok()?;
        let (user, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        let more = take(&mut self.rest)?;
        self.ms = self.ms.checked_add((more >> 1).cast_signed() ^ -(more & 1).cast_signed())?;
        self.to_come -= 1;
        self.place.1 += 1;
        let user = str::from_utf8(user).ok()?;
        Some(Read { place: self.place, user, at: Timestamp::from_unix_ms(self.ms) })
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
        let brought = prop::collection::vec(acknowledgements, 1..5);
        prop::collection::vec((1..1_u64 << 40, brought), 1..5).prop_map(|mut events| {
            let mut sequence = 0;
            for (more, _) in &mut events {
                sequence += *more;
                *more = sequence;
            }
            events
        })
    }

    fn record_of(events: &[(u64, Vec<Acknowledgement>)]) -> Record {
        let mut record = Record::of(events[0].0);
        for (sequence, brought) in events {
            record.push(*sequence, brought);
        }
        record
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(events in events()) {
            let record = record_of(&events);
            prop_assert_eq!(record.first, events[0].0);
            let bytes = record.into_bytes();
            let read = Reading::of(&bytes).map(|read| {
                let read = read.unwrap();
                (read.place, read.acknowledgement().unwrap())
            });
            let expected = events.iter().flat_map(|(sequence, brought)| {
                (1..).zip(brought).map(|(number, ack)| ((*sequence, number), ack.clone()))
            });
            prop_assert!(read.eq(expected));
        }

        #[test]
        fn what_is_cut_off_is_damaged_and_said_once(events in events(), at in any::<prop::sample::Index>()) {
            let bytes = record_of(&events).into_bytes();
            let cut = &bytes[..=at.index(bytes.len() - 1)];
            let read: Vec<_> = Reading::of(cut).collect();
            let whole = Reading::of(&bytes).take(read.len()).collect::<Result<Vec<_>, _>>().unwrap();
            let right = read.iter().zip(&whole).take_while(|(read, whole)| {
                read.as_ref().is_ok_and(|read| read == *whole)
            });
            let right = right.count();
            let ends_with_an_event = events.iter().scan(0, |count, (_, brought)| {
                *count += brought.len();
                Some(*count)
            }).any(|count| count == right);
            prop_assert_eq!(read.len() - right, usize::from(!ends_with_an_event || read.last().is_some_and(Result::is_err)));
        }

        #[test]
        fn any_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let read: Vec<_> = Reading::of(&bytes).collect();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok));
        }
    }
}
