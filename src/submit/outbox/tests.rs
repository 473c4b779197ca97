//! Tests of the outbox on a real disk: what every start finds again, whatever happened to the file.

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::domain::{Acknowledged, Acknowledgement, BroadcastId, Event, SentTo, Timestamp};

const BOUNDS: OutboxLimits = OutboxLimits { entries: 1_000, bytes: 1 << 20 };

fn draft(id: u128) -> Draft {
    let broadcast_id = BroadcastId(Uuid::from_u128(1));
    let acknowledgements = vec![Acknowledgement {
        user: format!("user {id}\n").parse().unwrap(),
        at: Timestamp::from_unix_ms(5),
    }];
    let new = NewEvent {
        subject: Subject::Acks("creator".parse().unwrap(), broadcast_id),
        id: Uuid::from_u128(id),
        event: Event::Acknowledged(Acknowledged { broadcast_id, acknowledgements, salt: None }),
        time: Timestamp::from_unix_ms(7),
        source: "/tidings/a".to_owned(),
        expected: None,
        sent_to: Some(SentTo { users: 3, connections: 4, approximate: true }),
        trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().ok(),
    };
    Draft { base: Some(Base::Entry(3)), condition: Precondition::OneOf(vec![broadcast_id]), new }
}

fn ids(outbox: &Outbox) -> Vec<(u64, u128)> {
    outbox.waiting().iter().map(|entry| (entry.number, entry.new.id.as_u128())).collect()
}

fn open(directory: &Path) -> Outbox {
    Outbox::open(directory, BOUNDS).unwrap()
}

#[test]
fn what_was_written_is_there_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut outbox = open(directory.path());
    outbox.append(vec![draft(1), draft(2)]).unwrap();
    outbox.append(vec![draft(3)]).unwrap();
    outbox.done();
    let mut again = open(directory.path());
    assert_eq!(ids(&again), [(1, 1), (2, 2), (3, 3)], "what the log has is found there, not remembered here");
    let entry = &again.waiting()[2];
    let Draft { base, condition, new } = draft(3);
    assert_eq!((entry.base, &entry.condition), (base, &condition));
    assert_eq!((&entry.new.event, entry.new.trace), (&new.event, new.trace));
    again.append(vec![draft(4)]).unwrap();
    assert_eq!(again.waiting().back().unwrap().number, 4);
    for _ in 0..4 {
        again.done();
    }
    again.empty();
    assert_eq!((again.bytes, open(directory.path()).waiting().len()), (0, 0));
}

#[test]
fn it_is_bounded_in_entries_and_in_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let mut outbox = Outbox::open(directory.path(), OutboxLimits { entries: 2, bytes: 1 << 20 }).unwrap();
    outbox.append(vec![draft(1)]).unwrap();
    assert!(matches!(outbox.append(vec![draft(2), draft(3)]), Err(OutboxError::Full)));
    outbox.append(vec![draft(2)]).unwrap();
    let bytes = outbox.bytes;
    let mut small = Outbox::open(directory.path(), OutboxLimits { entries: 9, bytes: bytes + 10 }).unwrap();
    assert!(matches!(small.append(vec![draft(3)]), Err(OutboxError::Full)));
    assert_eq!(ids(&open(directory.path())), [(1, 1), (2, 2)]);
}

#[test]
fn a_file_that_somebody_deletes_or_cuts_off_is_written_anew_with_all_that_waits() {
    let home = tempfile::tempdir().unwrap();
    let directory = home.path().join("outbox");
    let mut outbox = open(&directory);
    outbox.append(vec![draft(1), draft(2)]).unwrap();
    outbox.done();
    fs::remove_dir_all(&directory).unwrap();
    outbox.append(vec![draft(3)]).unwrap();
    assert_eq!(ids(&open(&directory)), [(2, 2), (3, 3)]);
    let file = File::options().write(true).open(directory.join(ENTRIES)).unwrap();
    file.set_len(10).unwrap();
    outbox.append(vec![draft(4)]).unwrap();
    assert_eq!(ids(&open(&directory)), [(2, 2), (3, 3), (4, 4)]);
    assert!(!directory.join(REJECTED).exists());
}

#[test]
fn what_the_log_will_never_take_is_kept_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let mut outbox = open(directory.path());
    outbox.append(vec![draft(1), draft(2)]).unwrap();
    outbox.reject("too large").unwrap();
    assert_eq!(ids(&outbox), [(2, 2)]);
    let rejected = fs::read_to_string(directory.path().join(REJECTED)).unwrap();
    assert!(rejected.contains("too large") && rejected.contains("user 1"), "{rejected}");
}

proptest! {
    #[test]
    fn any_end_is_cut_off_and_kept(end in prop::collection::vec(any::<u8>(), 1..200)) {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).append(vec![draft(1), draft(2)]).unwrap();
        let path = directory.path().join(ENTRIES);
        let whole = fs::read(&path).unwrap();
        fs::write(&path, [whole.as_slice(), &end].concat()).unwrap();
        let mut outbox = open(directory.path());
        prop_assert_eq!(ids(&outbox), [(1, 1), (2, 2)]);
        prop_assert_eq!(fs::read(&path).unwrap(), whole);
        prop_assert!(directory.path().join(REJECTED).exists());
        outbox.append(vec![draft(3)]).unwrap();
        prop_assert_eq!(ids(&open(directory.path())), [(1, 1), (2, 2), (3, 3)]);
    }

    #[test]
    fn a_write_that_was_cut_off_anywhere_costs_only_itself(cut in 1_usize..400) {
        let directory = tempfile::tempdir().unwrap();
        let mut outbox = open(directory.path());
        outbox.append(vec![draft(1)]).unwrap();
        let first = outbox.bytes;
        outbox.append(vec![draft(2)]).unwrap();
        let path = directory.path().join(ENTRIES);
        let whole = fs::read(&path).unwrap();
        let kept = whole.len().saturating_sub(cut).max(usize::try_from(first).unwrap());
        fs::write(&path, &whole[..kept]).unwrap();
        prop_assert_eq!(ids(&open(directory.path())), [(1, 1)]);
    }

    #[test]
    fn a_damaged_byte_costs_at_most_its_own_entry(place in any::<prop::sample::Index>(), flip in 1_u8..) {
        let directory = tempfile::tempdir().unwrap();
        open(directory.path()).append((1..=5).map(draft).collect()).unwrap();
        let path = directory.path().join(ENTRIES);
        let mut bytes = fs::read(&path).unwrap();
        *place.get_mut(&mut bytes) ^= flip;
        fs::write(&path, &bytes).unwrap();
        let found = ids(&open(directory.path()));
        // A line break that is gone joins two entries into one that is damaged.
        prop_assert!(found.len() >= 3, "{:?}", found);
        prop_assert!(found.iter().all(|(number, id)| u128::from(*number) == *id));
        prop_assert_eq!(ids(&open(directory.path())), found);
    }

    #[test]
    fn any_file_opens(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(ENTRIES), bytes).unwrap();
        prop_assert!(open(directory.path()).waiting().is_empty());
    }
}
