//! Files of any content and of any length: what was written comes back, and whatever else is in one is survived.

use std::fs;
use std::io::BufWriter;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tidings::audit::export::ExportWriter;
use tidings::audit::log_head::LogHead;
use tidings::domain::Timestamp;
use tidings::log::RawMessage;
use tidings::log::reader::LogEntry;
use tidings::notary::stream::StoredCheckpoint;

use super::{EPOCH, File, eight, entries, message, noted, written};
use crate::support::checkpoints::of_file;
use crate::support::memory::peak_kib;
use crate::support::terminal::Terminal;

#[test]
fn any_part_of_a_long_file_is_found_by_its_place_and_by_its_time() {
    let all: Vec<_> = (1..=5_000)
        .map(|n| if n % 7 == 0 { LogEntry::Hole(n) } else { message(n, i64::try_from(n).unwrap() * 10, "") })
        .collect();
    let file = File::of(&written(&all, &[noted(1)]));
    let export = file.open().unwrap();
    for (from, to) in [(1, 1), (1_023, 1_026), (2_048, 2_048), (4_999, 5_000), (5_000, 6_000), (6_000, 7_000)]
    {
        let mut found = Vec::new();
        let keep = |entry: LogEntry| {
            found.push(entry);
            Ok(())
        };
        export.each(from, to, keep).unwrap();
        let wanted = all.iter().filter(|entry| (from..=to).contains(&entry.sequence()));
        assert_eq!(found, wanted.cloned().collect::<Vec<_>>(), "{from} to {to}");
    }
    for sequence in [1, 2, 7, 8, 1_022, 1_025, 2_049, 4_999, 5_000] {
        let there = |n: &u64| !n.is_multiple_of(7);
        let moment = i64::try_from(sequence).unwrap() * 10;
        let before = (1..sequence).rev().find(there).unwrap_or(0);
        assert_eq!(export.last_before(moment).unwrap(), before, "before {sequence}");
        let with = (1..=sequence).rev().find(there).unwrap_or(0);
        assert_eq!(export.last_before(moment + 1).unwrap(), with, "with {sequence}");
    }
    assert_eq!((export.last_before(i64::MIN).unwrap(), export.last_before(i64::MAX).unwrap()), (0, 5_000));
}

/// A file of so many places.
fn long(folder: &Path, places: u64) -> std::path::PathBuf {
    let path = folder.join(format!("{places}.ndjson"));
    let out = BufWriter::new(fs::File::create(&path).unwrap());
    let head = LogHead { epoch: EPOCH, last_sequence: places };
    let mut writer = ExportWriter::begin(out, head, Timestamp::from_unix_ms(1)).unwrap();
    for n in 1..=places {
        writer.entry(&message(n, i64::try_from(n).unwrap(), &"body ".repeat(16))).unwrap();
    }
    writer.end().unwrap();
    path
}

#[test]
fn a_long_file_takes_no_more_memory_than_a_short_one_and_shows_how_far_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (short, long) = (long(folder.path(), 2_000), long(folder.path(), 100_000));
    assert!(fs::metadata(&long).unwrap().len() > 16 << 20);
    let audit = |arguments: &[&str], file: &Path, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.arg("audit").args(arguments).arg("--file").arg(file).env("TERM", "xterm");
        peak_kib(command.stdout(Stdio::null()).stderr(stderr))
    };
    let flat = |few: u64, many: u64| {
        assert!(few > 1_000 && many < few + 8 * 1_024, "{few} KiB for 2,000 places, {many} KiB for 100,000");
    };

    let terminal = Terminal::open();
    flat(audit(&["state"], &short, Stdio::null()), audit(&["state"], &long, terminal.stdio()));
    let shown = terminal.shown();
    assert!(shown.contains(" of 100,000"), "{shown:?}");

    let notes = folder.path().join("notes");
    let replay = ["replay", "--from-seq", "1999"];
    let file = || fs::File::create(&notes).unwrap().into();
    flat(audit(&replay, &short, Stdio::null()), audit(&["replay", "--from-seq", "99999"], &long, file()));
    let said = fs::read_to_string(&notes).unwrap();
    assert!(!said.contains(" of 100,000") && said.lines().count() == 3, "no terminal, no bar: {said:?}");
}

fn any_entry() -> impl Strategy<Value = Option<RawMessage>> {
    let header = (any::<String>(), any::<String>());
    let headers = prop::collection::vec(header, 0..4);
    let body =
        prop_oneof![prop::collection::vec(any::<u8>(), 0..60), any::<String>().prop_map(String::into_bytes)];
    let message =
        (any::<i64>(), any::<String>(), headers, body).prop_map(|(time_ns, subject, headers, body)| {
            RawMessage { sequence: 0, time_ns, subject, headers, body: body.into() }
        });
    prop::option::weighted(0.8, message)
}

fn placed(messages: Vec<Option<RawMessage>>) -> Vec<LogEntry> {
    let numbered = (1..).zip(messages);
    let place = |(sequence, message): (u64, Option<RawMessage>)| match message {
        Some(raw) => LogEntry::Message(RawMessage { sequence, ..raw }),
        None => LogEntry::Hole(sequence),
    };
    numbered.map(place).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_log_comes_back_as_it_was(
        messages in prop::collection::vec(any_entry(), 0..12),
        notes in prop::collection::vec((any::<i64>(), any::<String>()), 0..4),
    ) {
        let all = placed(messages);
        let noted = |(number, (time_ns, text))| StoredCheckpoint { number, time_ns, text };
        let checkpoints: Vec<_> = (1..).zip(notes).map(noted).collect();
        let export = File::of(&written(&all, &checkpoints)).open().unwrap();
        prop_assert_eq!(export.faults(), &[][..]);
        prop_assert_eq!(of_file(&export), checkpoints);
        prop_assert_eq!(entries(&export), all);
    }

    #[test]
    fn whatever_happens_to_the_bytes_of_a_file_is_noticed_or_says_the_same(
        places in prop::collection::vec((0..4_u8, any::<usize>(), any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = written(&eight(), &[noted(1), noted(4)]);
        let before = File::of(&bytes).open().unwrap();
        for (how, at, other, byte) in places {
            let (at, other) = (at % bytes.len(), other % bytes.len());
            match how {
                0 => bytes[at] = byte,
                1 => drop(bytes.drain(at.min(other)..at.max(other))),
                2 => bytes.insert(at, byte),
                _ => bytes.extend_from_within(at.min(other)..at.max(other)),
            }
            bytes.push(b'\n');
        }
        let Ok(after) = File::of(&bytes).open() else { return Ok(()) };
        let all = entries(&after);
        let sequences: Vec<_> = all.iter().map(LogEntry::sequence).collect();
        prop_assert_eq!(sequences, (1..=after.head().last_sequence).collect::<Vec<_>>());
        prop_assert!(after.last_before(50).unwrap() <= after.head().last_sequence);
        if after.faults().is_empty() {
            prop_assert_eq!((after.head().last_sequence, after.root()), (8, before.root()));
        }
    }
}
