//! A corpus of tampered logs: whatever is done to an exported log is found and named, also by whoever makes the file whole
//! again afterwards; and the untouched one passes.
//!
//! Each tampering is done twice where that makes a difference: to the bytes of the file, and by an attacker who writes a file
//! that is whole in itself, with places renumbered and the root at its end computed anew.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tempfile::TempDir;
use tidings::audit::export::{ExportFile, ExportWriter};
use tidings::audit::log_head::LogHead;
use tidings::audit::source::Source;
use tidings::domain::{Acknowledged, Event, Timestamp};
use tidings::log::facts::root_of;
use tidings::log::merkle::Frontier;
use tidings::log::names::header::FACTS_ROOT;
use tidings::log::reader::LogEntry;
use tidings::log::{EventLog as _, RawMessage};
use tidings::notary::checkpoint::Checkpoint;
use tidings::notary::note::{Note, SecretKey};
use tidings::notary::stream::StoredCheckpoint;

use crate::support::checkpoints::{KeyFile, of_file};
use crate::support::{Nats, Replica, Spec, eventually};

/// What an exported file holds.
#[derive(Clone)]
struct Held {
    head: LogHead,
    checkpoints: Vec<StoredCheckpoint>,
    messages: Vec<RawMessage>,
}

/// A log of which all but the end is signed, exported; and what an auditor has kept of it.
struct Corpus {
    folder: TempDir,
    held: Held,
    key: KeyFile,
}

/// What a verification found: kinds, places, words.
#[derive(Debug)]
struct Found {
    code: Option<i32>,
    findings: Vec<(String, Option<u64>, String)>,
}

impl Found {
    #[track_caller]
    fn names(&self, kind: &str, words: &str) {
        let named = self.findings.iter().any(|(found, _, what)| found == kind && what.contains(words));
        assert!(named && self.code == Some(1), "{kind}, {words:?}: {self:#?}");
    }

    #[track_caller]
    fn names_at(&self, sequence: u64, kind: &str, words: &str) {
        let named = self
            .findings
            .iter()
            .any(|(found, at, what)| found == kind && *at == Some(sequence) && what.contains(words));
        assert!(named && self.code == Some(1), "{sequence}, {kind}, {words:?}: {self:#?}");
    }
}

impl Corpus {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyFile::of("example.com/log", 3);
        let nats = Nats::start().await;
        let path = key.path().to_str().unwrap().to_owned();
        let signing =
            ["--checkpoint-key", &path, "--checkpoint-every-events", "6", "--channels", "creator,forum"];
        let replica = Replica::start_with(Spec::joining(nats.url()).with(&signing)).await;
        for n in 0..4 {
            let id = replica.post_broadcast(&format!("number {n}")).await["id"].as_str().unwrap().to_owned();
            for user in ["ann", "bob"] {
                replica.acknowledge(&id, user).await;
            }
            if n % 2 == 1 {
                replica.clear().await;
            }
            // The first one at once, and the last one before the end.
            let head = nats.log().await.info().await.unwrap().last_sequence;
            let signed = async || replica.count("tidings_checkpoint_size").await;
            eventually("what is due is signed", || async { signed().await.max(1) + 6 > head }).await;
            eventually("the first is signed", || async { signed().await > 0 }).await;
        }
        let file = folder.path().join("whole.ndjson");
        let exported = replica.tidings(&["audit", "export", file.to_str().unwrap()]).await;
        assert!(exported.status.success(), "{exported:?}");
        let held = read(&file).await;
        let corpus = Self { folder, held, key };
        corpus.keep();
        corpus
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Verifies the whole file, and keeps what an auditor keeps.
    fn keep(&self) {
        let found = self.verify("whole.ndjson", true);
        assert_eq!((found.code, &found.findings), (Some(0), &vec![]), "the untouched one passes");
    }

    fn verify(&self, name: &str, known: bool) -> Found {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(["audit", "verify", "--format", "ndjson", "--file"]).arg(self.path(name));
        command.args(["--key", &self.key.public().to_string()]);
        if known {
            command.arg("--known").arg(self.path("known.json"));
        }
        let output = command.output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        let lines = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let findings = lines.filter_map(|line| {
            let kind = line["finding"].as_str()?.to_owned();
            Some((kind, line["sequence"].as_u64(), line["message"].as_str().unwrap().to_owned()))
        });
        Found { code: output.status.code(), findings: findings.collect() }
    }

    /// Verifies the file with its bytes changed.
    fn with_text(&self, edit: impl FnOnce(&mut Vec<String>)) -> Found {
        let text = fs::read_to_string(self.path("whole.ndjson")).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let before = lines.clone();
        edit(&mut lines);
        assert_ne!(lines, before, "something was changed");
        fs::write(self.path("changed.ndjson"), lines.join("\n") + "\n").unwrap();
        self.verify("changed.ndjson", false)
    }

    /// Verifies a file that is whole in itself, after what it holds was changed; with what the auditor kept, or without.
    fn resealed(&self, known: bool, edit: impl FnOnce(&mut Held)) -> Found {
        let mut held = self.held.clone();
        edit(&mut held);
        for (message, sequence) in held.messages.iter_mut().zip(1..) {
            message.sequence = sequence;
        }
        held.head.last_sequence = held.messages.len() as u64;
        let file = fs::File::create(self.path("resealed.ndjson")).unwrap();
        let mut writer = ExportWriter::begin(file, held.head, Timestamp::from_unix_ms(0)).unwrap();
        held.checkpoints.iter().for_each(|noted| writer.checkpoint(noted).unwrap());
        held.messages.into_iter().for_each(|message| writer.entry(&LogEntry::Message(message)).unwrap());
        writer.end().unwrap();
        let found = self.verify("resealed.ndjson", known);
        assert!(found.findings.iter().all(|(kind, ..)| kind != "file"), "it is whole in itself: {found:#?}");
        found
    }

    /// The place of the first message of a type, and the last place that is signed.
    fn first(&self, kind: &str) -> usize {
        self.held.messages.iter().position(|message| message.header("ce-type") == Some(kind)).unwrap()
    }
}

async fn read(file: &std::path::Path) -> Held {
    let export = Arc::new(ExportFile::open(file, |_| {}).unwrap());
    let checkpoints = of_file(&export);
    let source = Source::File(export);
    let head = source.head().await.unwrap();
    let mut messages = Vec::new();
    let take = |entry| {
        let LogEntry::Message(message) = entry else { panic!("a hole") };
        messages.push(message);
        Ok(())
    };
    source.each_entry(1, head.last_sequence, take).await.unwrap();
    Held { head, checkpoints, messages }
}

/// Changes a body as text.
fn reword(message: &mut RawMessage, from: &str, to: &str) {
    let body = String::from_utf8(message.body.to_vec()).unwrap();
    assert!(body.contains(from), "{body}");
    message.body = Bytes::from(body.replacen(from, to, 1));
}

fn set(message: &mut RawMessage, name: &str, value: &str) {
    let header = message.headers.iter_mut().find(|(known, _)| known == name).unwrap();
    assert_ne!(header.1, value);
    value.clone_into(&mut header.1);
}

/// Changes acknowledgements, and the root over them, as somebody would who knows how it is made.
fn rewrite_acks(message: &mut RawMessage, change: impl FnOnce(&mut Acknowledged)) {
    let event = Event::from_json("broadcast.acknowledged", 1, &message.body).unwrap();
    let Event::Acknowledged(mut acknowledged) = event else { panic!("{event:?}") };
    change(&mut acknowledged);
    set(message, FACTS_ROOT, &root_of(&acknowledged).unwrap().to_string());
    message.body = Event::Acknowledged(acknowledged).to_json().unwrap().into();
}

#[tokio::test]
async fn one_byte_anywhere_is_found() {
    let corpus = Corpus::new().await;
    let (created, acked) = (corpus.first("broadcast.created"), corpus.first("broadcast.acknowledged"));
    let place = |at: usize| at as u64 + 1;

    let body = |lines: &mut Vec<String>| {
        let line = lines.iter_mut().find(|line| line.contains("number 0")).unwrap();
        *line = line.replace("number 0", "number 8");
    };
    corpus.with_text(body).names("file", "root");
    corpus
        .resealed(false, |held| reword(&mut held.messages[created], "number 0", "number 8"))
        .names("checkpoint", "was changed");
    let source = |held: &mut Held| set(&mut held.messages[created], "ce-source", "/tidings/another");
    corpus.resealed(false, source).names("checkpoint", "was changed");
    let id =
        |held: &mut Held| set(&mut held.messages[acked], "ce-id", "019bc0e3-03b6-715b-847b-325a580b2f88");
    let found = corpus.resealed(false, id);
    found.names_at(place(acked), "envelope", "Nats-Msg-Id is");
    found.names("checkpoint", "was changed");
    let subject = |held: &mut Held| held.messages[created].subject = "broadcasts.forum.lifecycle".to_owned();
    let found = corpus.resealed(false, subject);
    found.names_at(place(created), "envelope", "ce-subject is");
    found.names("order", "which was not created before it");
    found.names("checkpoint", "was changed");
    for at in 0..corpus.held.messages.len() {
        let found = corpus.resealed(true, |held| {
            held.messages[at].body = [&held.messages[at].body[..], b" "].concat().into();
        });
        assert_eq!(found.code, Some(1), "a space more in {at}, by what was kept: {found:#?}");
    }
}

#[tokio::test]
async fn an_event_dropped_doubled_or_swapped_is_found() {
    let corpus = Corpus::new().await;
    let first = corpus.held.checkpoints.len() + 1;
    let dropped = |lines: &mut Vec<String>| drop(lines.remove(first + 1));
    corpus.with_text(dropped).names_at(2, "file", "missing");
    corpus.resealed(false, |held| drop(held.messages.remove(1))).names("checkpoint", "was changed");
    let doubled = |lines: &mut Vec<String>| lines.insert(first + 1, lines[first + 1].clone());
    corpus.with_text(doubled).names_at(2, "file", "");
    let doubled = |held: &mut Held| held.messages.insert(1, held.messages[1].clone());
    corpus.resealed(false, doubled).names("checkpoint", "was changed");
    corpus.with_text(|lines| lines.swap(first + 1, first + 2)).names("file", "");
    corpus.resealed(false, |held| held.messages.swap(1, 2)).names("checkpoint", "was changed");
    let found = corpus.resealed(false, |held| drop(held.messages.remove(0)));
    found.names("order", "which was not created before it");
    found.names("guard", "the last before it on its subject is");
}

#[tokio::test]
async fn a_tail_that_was_cut_off_is_found() {
    let corpus = Corpus::new().await;
    let places = corpus.held.messages.len();
    corpus.with_text(|lines| lines.truncate(lines.len() - 2)).names("file", "");
    let short = |held: &mut Held| held.messages.truncate(8);
    corpus.resealed(false, short).names("checkpoint", "the tail is missing");
    corpus.resealed(true, |held| held.messages.truncate(places - 1)).names("known", "the tail is missing");
    let with_its_checkpoints = |held: &mut Held| {
        held.messages.truncate(8);
        held.checkpoints.truncate(1);
    };
    corpus.resealed(true, with_its_checkpoints).names("known", "the tail is missing");
    let without_any = corpus.resealed(true, |held| held.checkpoints.clear());
    assert_eq!(without_any.findings, vec![], "the log is as it was");
    assert_eq!(without_any.code, Some(4), "nothing of it is signed: {without_any:#?}");
}

#[tokio::test]
async fn a_history_that_was_rewritten_and_signed_by_another_key_is_found() {
    let corpus = Corpus::new().await;
    let rewrite = |held: &mut Held| {
        reword(&mut held.messages[0], "number 0", "number 8");
        let thief = SecretKey::new(corpus.key.public().name().clone(), &[9; 32]);
        let mut tree = Frontier::default();
        tree.extend(held.messages.iter().map(RawMessage::leaf));
        let checkpoint = Checkpoint {
            log: thief.public().name().clone(),
            epoch: held.head.epoch,
            size: tree.size(),
            root: tree.root(),
        };
        let text = Note::sign(checkpoint.to_string(), &[thief]).to_string();
        held.checkpoints = vec![StoredCheckpoint { number: 1, time_ns: 0, text }];
    };
    let found = corpus.resealed(true, rewrite);
    found.names("checkpoint", "signed by none of the keys given");
    found.names("known", "was changed");
}

#[tokio::test]
async fn acknowledgements_that_were_forged_removed_or_moved_are_found() {
    let corpus = Corpus::new().await;
    let at = corpus.first("broadcast.acknowledged");
    let place = at as u64 + 1;
    let moved = |held: &mut Held| reword(&mut held.messages[at], "\"ann\"", "\"eve\"");
    corpus.resealed(false, moved).names_at(place, "facts", "who acknowledged, or when, was changed");
    let forged = |held: &mut Held| {
        rewrite_acks(&mut held.messages[at], |acked| {
            let mut more = acked.acknowledgements[0].clone();
            more.user = "eve".parse().unwrap();
            acked.acknowledgements.push(more);
        });
    };
    corpus.resealed(false, forged).names("checkpoint", "was changed");
    let removed = |held: &mut Held| drop(held.messages.remove(at));
    corpus.resealed(false, removed).names("checkpoint", "was changed");
    let of_another = |held: &mut Held| {
        rewrite_acks(&mut held.messages[at], |acked| acked.acknowledgements[0].user = "eve".parse().unwrap());
    };
    corpus.resealed(false, of_another).names("checkpoint", "was changed");
}

#[tokio::test]
async fn times_that_were_altered_are_found() {
    let corpus = Corpus::new().await;
    let (created, acked) = (corpus.first("broadcast.created"), corpus.first("broadcast.acknowledged"));
    let recorded = |held: &mut Held| held.messages[acked].time_ns += 1;
    corpus.resealed(false, recorded).names("checkpoint", "was changed");
    let accepted = |held: &mut Held| set(&mut held.messages[created], "ce-time", "2026-01-01T00:00:00.000Z");
    corpus.resealed(false, accepted).names_at(created as u64 + 1, "time", "its body says");
    let later = |held: &mut Held| set(&mut held.messages[acked], "ce-time", "2126-01-01T00:00:00.000Z");
    corpus.resealed(false, later).names_at(acked as u64 + 1, "time", "recorded before that");
    let acknowledged = |held: &mut Held| reword(&mut held.messages[acked], "\"at\":\"20", "\"at\":\"19");
    corpus.resealed(false, acknowledged).names_at(acked as u64 + 1, "facts", "was changed");
}
