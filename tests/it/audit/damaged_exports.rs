//! Exported files that are not as they were written: whatever was done to one is named, and what is left can be read.

mod any;

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;
use tidings::audit::export::{ExportFile, ExportWriter};
use tidings::audit::log_head::LogHead;
use tidings::domain::Timestamp;
use tidings::log::envelope::{Decoded, decode};
use tidings::log::reader::LogEntry;
use tidings::log::{Epoch, RawMessage};
use tidings::notary::stream::StoredCheckpoint;

use crate::support::checkpoints::of_file;
use crate::support::contract::schemas::Schemas;

const EPOCH: Epoch = Epoch::from_bits(0x00c0_ffee_0000_0007);

fn message(sequence: u64, time_ns: i64, body: &str) -> LogEntry {
    let headers = vec![("x".to_owned(), sequence.to_string())];
    LogEntry::Message(RawMessage {
        sequence,
        time_ns,
        subject: "broadcasts.creator.other".to_owned(),
        headers,
        body: body.to_owned().into(),
    })
}

fn noted(number: u64) -> StoredCheckpoint {
    StoredCheckpoint { number, time_ns: 7, text: format!("note {number}") }
}

fn written(entries: &[LogEntry], checkpoints: &[StoredCheckpoint]) -> Vec<u8> {
    let mut file = Vec::new();
    let head = LogHead { epoch: EPOCH, last_sequence: entries.len() as u64 };
    let mut writer = ExportWriter::begin(&mut file, head, Timestamp::from_unix_ms(1)).unwrap();
    for noted in checkpoints {
        writer.checkpoint(noted).unwrap();
    }
    for entry in entries {
        writer.entry(entry).unwrap();
    }
    writer.end().unwrap();
    file
}

/// Eight places, the fifth a hole: line 1 is the header, 2 and 3 are checkpoints, a place is on the line of its sequence
/// and 3, line 12 is the end.
fn eight() -> Vec<LogEntry> {
    let place =
        |n| if n == 5 { LogEntry::Hole(5) } else { message(n, i64::try_from(n).unwrap() * 10, "body") };
    (1..=8).map(place).collect()
}

struct File {
    folder: TempDir,
}

impl File {
    fn of(bytes: &[u8]) -> Self {
        let file = Self { folder: tempfile::tempdir().unwrap() };
        fs::write(file.path(), bytes).unwrap();
        file
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("log.ndjson")
    }

    fn open(&self) -> anyhow::Result<ExportFile> {
        ExportFile::open(&self.path(), |_| {})
    }
}

fn entries(export: &ExportFile) -> Vec<LogEntry> {
    let mut all = Vec::new();
    let keep = |entry| {
        all.push(entry);
        Ok(())
    };
    export.each(1, u64::MAX, keep).unwrap();
    all
}

fn places_lost(export: &ExportFile) -> Vec<u64> {
    let holes = entries(export).into_iter().filter(|entry| matches!(entry, LogEntry::Hole(_)));
    holes.map(|entry| entry.sequence()).filter(|sequence| *sequence != 5).collect()
}

/// What happens to the lines of the file.
type Change = fn(&mut Vec<String>);

/// A fault: its line, its sequence and words of it.
type Said = (u64, Option<u64>, &'static str);

fn set(lines: &mut [String], number: usize, text: &str) {
    lines[number - 1] = format!("{text}\n");
}

fn replace(lines: &mut [String], number: usize, from: &str, to: &str) {
    assert!(lines[number - 1].contains(from), "{}", lines[number - 1]);
    lines[number - 1] = lines[number - 1].replace(from, to);
}

/// A file that was changed, opened.
fn changed(change: Change) -> ExportFile {
    let text = String::from_utf8(written(&eight(), &[noted(1), noted(4)])).unwrap();
    let mut lines: Vec<_> = text.split_inclusive('\n').map(str::to_owned).collect();
    change(&mut lines);
    File::of(lines.concat().as_bytes()).open().unwrap()
}

/// Changes a file and looks at what is said, at which places are holes now, and at where it ends.
#[track_caller]
fn check(what: &str, change: Change, said: &[Said], lost: &[u64], head: u64) {
    let export = changed(change);
    said_of(what, &export, said);
    assert_eq!(places_lost(&export), lost, "{what}");
    assert_eq!(export.head().last_sequence, head, "{what}");
    let whole = entries(&export);
    assert_eq!(
        whole.iter().map(LogEntry::sequence).collect::<Vec<_>>(),
        (1..=head).collect::<Vec<_>>(),
        "{what}"
    );
    for entry in &whole {
        let known = eight().into_iter().find(|known| known.sequence() == entry.sequence());
        assert!(known.as_ref() == Some(entry) || matches!(entry, LogEntry::Hole(_)), "{what}: {entry:?}");
    }
}

#[track_caller]
fn said_of(what: &str, export: &ExportFile, said: &[Said]) {
    let faults = export.faults();
    assert_eq!(faults.len(), said.len(), "{what}: {faults:#?}");
    for (fault, (line, sequence, words)) in faults.iter().zip(said) {
        assert_eq!((fault.line, fault.sequence), (*line, *sequence), "{what}: {fault:?}");
        assert!(fault.what.contains(words), "{what}: {fault:?}");
    }
}

const ROOT: Said = (12, None, "the end line has the root");
const MISSING: Said = (8, Some(4), "sequence 4 is missing");

#[test]
fn a_file_as_it_was_written_has_no_faults() {
    check("nothing", |_| {}, &[], &[], 8);
    check("no end of the last line", |l| l[11] = l[11].trim_end().to_owned(), &[], &[], 8);
    check("other ends of lines", |l| *l = l.iter().map(|l| l.replace('\n', "\r\n")).collect(), &[], &[], 8);
    let export = File::of(&written(&eight(), &[noted(1), noted(4)])).open().unwrap();
    assert_eq!((export.head().epoch, of_file(&export)), (EPOCH, vec![noted(1), noted(4)]));
    assert_eq!(entries(&export), eight());
}

#[test]
fn lines_that_cannot_be_read_are_named() {
    let of_place = |what, change, words| check(what, change, &[(7, Some(4), words), MISSING, ROOT], &[4], 8);
    let of_line = |what, change, words| check(what, change, &[(7, None, words), MISSING, ROOT], &[4], 8);
    of_line("no JSON", |l| set(l, 7, "{"), "it cannot be read: EOF");
    of_line("too long", |l| set(l, 7, &"x".repeat(9 << 20)), "it has more than 8388608 bytes");
    of_line("a long field", |l| set(l, 7, &format!("{{\"end\":1,\"{}\":2}}", "x".repeat(9_000))), "xxx…");
    of_line("nothing of ours", |l| set(l, 7, "{\"a\":1}"), "it is not one of a header, a checkpoint");
    of_line("two at once", |l| set(l, 7, "{\"end\":1,\"checkpoint\":2}"), "it is not one of");
    of_line("a field twice", |l| replace(l, 7, "{", "{\"sequence\":4,"), "duplicate field");
    of_place("an unknown field", |l| replace(l, 7, "}", ",\"more\":1}"), "unknown field `more`");
    of_place("a wrong type", |l| replace(l, 7, "\"body\":\"body\"", "\"body\":1"), "invalid type: integer");
    of_place("null", |l| replace(l, 7, "}", ",\"hole\":null}"), "invalid type: null");
    of_place("no time", |l| replace(l, 7, "1970", "once"), "its time cannot be read");
    of_place("no body", |l| replace(l, 7, ",\"body\":\"body\"", ""), "neither a hole nor a message");
    of_place("two bodies", |l| replace(l, 7, "}", ",\"body_base64\":\"\"}"), "neither a hole nor a message");
    of_place("a hole with a body", |l| set(l, 7, "{\"sequence\":4,\"hole\":true,\"body\":\"\"}"), "neither");
    of_place("no hole", |l| set(l, 7, "{\"sequence\":4,\"hole\":false}"), "neither a hole nor a message");
    of_place("no base64", |l| replace(l, 7, "\"body\":\"body\"", "\"body_base64\":\"?\""), "is not base64");
    of_place("half a header", |l| replace(l, 7, "[\"x\",\"4\"]", "[\"x\"]"), "invalid length 1");
    let zero: Said = (7, Some(0), "sequences count from 1");
    check(
        "sequence 0",
        |l| replace(l, 7, "\"sequence\":4", "\"sequence\":0"),
        &[zero, MISSING, ROOT],
        &[4],
        8,
    );
    check("an empty line", |l| l.insert(6, "\n".to_owned()), &[(7, None, "cannot be read: EOF")], &[], 8);
    check("a checkpoint", |l| set(l, 3, "{\"checkpoint\":4}"), &[(3, None, "missing field `time`")], &[], 8);
}

#[test]
fn places_that_are_not_where_they_should_be_are_named() {
    let missing: Said = (7, Some(4), "sequence 4 is missing");
    let root: Said = (11, None, "the end line has the root");
    check("one is missing", |l| drop(l.remove(6)), &[missing, root], &[4], 8);
    let several: Said = (7, Some(4), "sequences 4 to 6 are missing");
    check("three are", |l| drop(l.drain(6..9)), &[several, (9, None, "the root")], &[4, 6], 8);
    let twice: Said = (8, Some(4), "sequence 4 is there twice");
    check("one is doubled", |l| l.insert(7, l[6].clone()), &[twice], &[], 8);
    let changed: Said = (9, Some(4), "sequence 4 is there twice");
    let double = |l: &mut Vec<String>| l.insert(8, l[6].replace("\"body\":\"body\"", "\"body\":\"x\""));
    check("another one of a sequence", double, &[changed], &[], 8);
    let order: Said = (8, Some(4), "sequence 4 is out of order: it comes after 5");
    check("two are swapped", |l| l.swap(6, 7), &[missing, order, ROOT], &[4], 8);
    let far: Said = (7, Some(4_000_000_000), "cannot be: it comes after 3");
    let leap: Change = |l| replace(l, 7, "\"sequence\":4", "\"sequence\":4000000000");
    check("a leap", leap, &[far, MISSING, ROOT], &[4], 8);
    check("a message that is a hole", |l| set(l, 7, "{\"sequence\":4,\"hole\":true}"), &[ROOT], &[4], 8);
}

#[test]
fn a_changed_message_is_noticed_by_the_root_but_for_headers_of_nats() {
    let body: Change = |l| replace(l, 7, "body\"}", "bodY\"}");
    said_of("a body", &changed(body), &[ROOT]);
    let header: Change = |l| replace(l, 7, "[[\"x\",", "[[\"y\",");
    said_of("a header", &changed(header), &[ROOT]);
    let time: Change = |l| replace(l, 7, "1970", "1971");
    said_of("a time", &changed(time), &[ROOT]);
    // They say how a message came, and are no part of its leaf.
    let of_nats: Change = |l| replace(l, 7, "[[", "[[\"Nats-Time-Stamp\",\"\"],[");
    said_of("a header of NATS", &changed(of_nats), &[]);
}

#[test]
fn the_example_is_read_for_ever() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/examples/export.ndjson");
    let export = ExportFile::open(&path, |_| {}).unwrap();
    said_of("the example", &export, &[]);
    assert_eq!((export.head().last_sequence, of_file(&export).is_empty()), (9, false));
    let all = entries(&export);
    let events = all.iter().filter_map(|entry| match entry {
        LogEntry::Message(raw) => Some(decode(raw)),
        LogEntry::Hole(_) => None,
    });
    let events: Vec<_> = events.collect();
    let is_late = |known: &&Decoded| matches!(known, Decoded::Event(recorded) if recorded.late);
    assert_eq!((events.len(), events.iter().filter(is_late).count()), (8, 1));
    assert_eq!(events.iter().filter(|known| matches!(known, Decoded::Skipped(_))).count(), 1);
    let schemas = Schemas::load();
    for line in fs::read_to_string(path).unwrap().lines() {
        schemas.hold("export", &serde_json::from_str(line).unwrap());
    }
}

#[test]
fn heads_and_ends_that_do_not_fit_are_named() {
    let cut: Said = (11, None, "the end line is missing");
    check("no end", |l| l.truncate(11), &[cut], &[], 8);
    let tail: Said = (9, Some(7), "sequences 7 to 8 are missing");
    check("a cut tail", |l| l.truncate(9), &[tail, (9, None, "the end line is missing")], &[7, 8], 8);
    let half = |l: &mut Vec<String>| {
        l.truncate(11);
        l[10].truncate(20);
    };
    let last: Said = (11, Some(8), "sequence 8 is missing");
    check("half a line", half, &[(11, None, "cannot be read: EOF"), last, cut], &[8], 8);
    let more: Said = (13, None, "it stands after the end line");
    check("more after it", |l| l.push(l[10].clone()), &[more], &[], 8);
    let far: Said = (12, None, "the end line says that the last sequence is 9; it is 8");
    check("another end", |l| replace(l, 12, "\"end\":8", "\"end\":9"), &[far], &[], 8);
    check(
        "another root",
        |l| replace(l, 12, "\"root\":\"", "\"root\":\"A"),
        &[(12, None, "cannot be read"), (12, None, "the end line is missing")],
        &[],
        8,
    );

    let header: Said = (1, None, "the header is missing");
    check("no header", |l| set(l, 1, "x"), &[(1, None, "cannot be read"), header], &[], 8);
    check(
        "a second header",
        |l| l.insert(1, l[0].clone()),
        &[(2, None, "a header that is not the first line")],
        &[],
        8,
    );
    let unknown: Said = (1, None, "not as it was written: unknown field `more`");
    check("more in the header", |l| replace(l, 1, "}", ",\"more\":1}"), &[unknown], &[], 8);
    let typed: Said = (1, None, "not as it was written: invalid type");
    check("no number", |l| replace(l, 1, ":8", ":\"8\""), &[typed], &[], 8);
    for (claim, change) in [
        ("9", (|l| replace(l, 1, ":8", ":9")) as Change),
        ("7", |l| replace(l, 1, ":8", ":7")),
        ("40000000000000000", |l| replace(l, 1, ":8", ":40000000000000000")),
    ] {
        check(claim, change, &[(1, None, "the header says that the last sequence is ")], &[], 8);
    }
    let cut_and_false: Change = |l| {
        replace(l, 1, ":8", ":40000000000000000");
        l.truncate(11);
    };
    check("a false header without an end", cut_and_false, &[(1, None, "the header says"), cut], &[], 8);

    let among: Said = (7, None, "checkpoint 5 stands among the places");
    check("a late checkpoint", |l| l.insert(6, l[2].replace(":4,", ":5,")), &[among], &[], 8);
    check(
        "a checkpoint again",
        |l| l.insert(3, l[2].clone()),
        &[(4, None, "checkpoint 4 is there twice")],
        &[],
        8,
    );
}

#[test]
fn without_a_header_a_checkpoint_says_which_log_it_is() {
    let text = format!("example.com/tidings/{EPOCH}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n");
    let key = tidings::notary::note::SecretKey::new("example.com/tidings".parse().unwrap(), &[7; 32]);
    let signed = StoredCheckpoint {
        number: 1,
        time_ns: 0,
        text: tidings::notary::note::Note::sign(text, &[key]).to_string(),
    };
    let bytes = written(&eight(), &[signed, noted(2)]);
    let after = bytes.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let export = File::of(&bytes[after..]).open().unwrap();
    assert_eq!((export.head().epoch, export.head().last_sequence, export.faults().len()), (EPOCH, 8, 1));
}

#[test]
fn what_is_no_export_is_refused() {
    for (bytes, words) in [
        (&b""[..], "it is no export of a log"),
        (b"\xff\x00 nothing of this\n{}\n[1]\n\n", "it is no export of a log"),
        (
            b"\x1f\x8b\x08\0\n",
            "the file is compressed (gzip): decompress it first, for example with `gunzip`",
        ),
        (
            b"\x28\xb5\x2f\xfd",
            "the file is compressed (zstd): decompress it first, for example with `unzstd`",
        ),
        (b"{\"tidings_export\":2}\n", "it is an export of version 2, and this build reads version 1"),
    ] {
        let refused = format!("{:#}", File::of(bytes).open().unwrap_err());
        assert!(refused.contains(words) && refused.contains("log.ndjson"), "{refused}");
    }
    for (path, words) in
        [("/dev/null", "is no regular file"), ("/", "is no regular file"), ("/nowhere", "opening")]
    {
        let refused = format!("{:#}", ExportFile::open(Path::new(path), |_| {}).unwrap_err());
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn of_many_faults_the_first_are_kept_and_all_are_counted() {
    let mut bytes = written(&eight(), &[]);
    bytes.extend(b"x\n".repeat(2_500));
    let file = File::of(&bytes);
    let export = file.open().unwrap();
    assert_eq!((export.faults().len(), export.more_faults()), (1_000, 1_500));
    let path = file.path();
    let run = |command| {
        let audit = ["audit", command, "--file", path.to_str().unwrap()];
        Command::new(env!("CARGO_BIN_EXE_tidings")).args(audit).output().unwrap()
    };
    let state = run("state");
    let said = String::from_utf8(state.stderr).unwrap();
    assert_eq!((state.status.code(), said.lines().count()), (Some(0), 11), "{said}");
    assert!(
        said.lines().last().unwrap().contains("2490 faults more; `tidings audit verify --file`"),
        "{said}"
    );
    let verify = run("verify");
    let said = String::from_utf8(verify.stdout).unwrap();
    assert_eq!(verify.status.code(), Some(1), "{said}");
    assert_eq!(said.matches("{\"finding\":\"file\"").count(), 1_001, "{said}");
    assert!(said.contains("line 11: it stands after the end line"), "{said}");
}

#[test]
fn a_file_that_changes_while_it_is_read_is_an_error() {
    let file = File::of(&written(&eight(), &[]));
    let export = file.open().unwrap();
    fs::write(file.path(), b"another one").unwrap();
    let failed = export.each(1, 8, |_| Ok(())).unwrap_err();
    assert!(failed.to_string().contains("was changed while it was read"), "{failed}");
    assert!(export.last_before(7).is_err());
}
