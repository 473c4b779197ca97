//! `audit replay --follow`: the log as it grows, over everything that happens to NATS, until somebody has enough.

use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tidings::log::EventLog;
use tidings::log::names::LOG_STREAM;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout};
use tokio::time::timeout;

use crate::support::log::created;
use crate::support::nats::provision;
use crate::support::{Nats, PATIENCE, Replica, Spec};

/// An auditor's command at work.
struct Follower {
    child: Child,
    out: Option<Lines<BufReader<ChildStdout>>>,
    notes: Lines<BufReader<ChildStderr>>,
}

impl Follower {
    fn start(nats: &Nats, options: &[&str]) -> Self {
        let auditor = Replica::prepared(Spec::joining(nats.url()));
        let mut command = auditor.command(&[&["audit", "replay", "--follow"], options].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        let notes = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, out: Some(out), notes }
    }

    async fn line(&mut self) -> String {
        let next = timeout(PATIENCE, self.out.as_mut().unwrap().next_line()).await;
        next.expect("a line in time").unwrap().expect("it goes on")
    }

    /// The sequence and the message of the next event.
    async fn event(&mut self) -> (u64, String) {
        let event: Value = serde_json::from_str(&self.line().await).unwrap();
        let sequence = event["sequence"].as_str().unwrap().parse().unwrap();
        (sequence, event["data"]["message"].as_str().unwrap().to_owned())
    }

    /// The next events are those with these sequences, and nothing between them.
    async fn expect(&mut self, sequences: std::ops::RangeInclusive<u64>) {
        for sequence in sequences {
            assert_eq!(self.event().await.0, sequence);
        }
    }

    async fn note(&mut self) -> String {
        let next = timeout(PATIENCE, self.notes.next_line()).await;
        next.expect("a note in time").unwrap().expect("it goes on")
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// The exit status, and what it printed and said before its end that nobody has read yet.
    async fn ended(mut self) -> (ExitStatus, Vec<String>, Vec<String>) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap();
        let (mut unread, mut notes) = (Vec::new(), Vec::new());
        if let Some(out) = &mut self.out {
            while let Some(line) = out.next_line().await.unwrap() {
                unread.push(line);
            }
        }
        while let Some(note) = self.notes.next_line().await.unwrap() {
            notes.push(note);
        }
        (status, unread, notes)
    }

    /// It ends well, and has nothing more to say.
    async fn ends_quietly(self) {
        let (status, unread, notes) = self.ended().await;
        assert_eq!((status.code(), unread.len(), notes), (Some(0), 0, vec![]));
    }
}

async fn append(log: &impl EventLog, numbers: std::ops::RangeInclusive<u64>) {
    for n in numbers {
        assert_eq!(log.append(created(&format!("number {n}"))).await.unwrap().sequence, n);
    }
}

#[tokio::test]
async fn what_is_there_is_printed_and_then_what_comes_until_a_signal() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    append(&log, 1..=300).await;
    for signal in [Signal::INT, Signal::TERM] {
        let mut follower = Follower::start(&nats, &[]);
        let head = log.info().await.unwrap().last_sequence;
        follower.expect(1..=head).await;
        // Each line comes at once.
        append(&log, head + 1..=head + 1).await;
        follower.expect(head + 1..=head + 1).await;
        follower.signal(signal);
        follower.ends_quietly().await;
    }
}

#[tokio::test]
async fn it_begins_where_it_is_told_also_behind_the_end() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    let mut empty = Follower::start(&nats, &["--from-seq", "2"]);
    let mut to_come = Follower::start(&nats, &["--since", "2200-01-01T00:00:00Z", "--format", "table"]);
    append(&log, 1..=4).await;
    empty.expect(2..=4).await;
    let mut behind =
        Follower::start(&nats, &["--from-seq", "6", "--since", "1h", "--type", "broadcast.created"]);
    append(&log, 5..=7).await;
    behind.expect(6..=7).await;
    empty.expect(5..=7).await;
    for follower in [empty, behind] {
        follower.signal(Signal::INT);
        follower.ends_quietly().await;
    }
    // Nothing was for it but the heading.
    assert!(to_come.line().await.contains("RECORDED"));
    assert!(timeout(std::time::Duration::from_millis(50), to_come.line()).await.is_err());
    to_come.signal(Signal::TERM);
    to_come.ends_quietly().await;
}

#[tokio::test]
async fn every_event_comes_once_while_nats_goes_and_comes() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut follower = Follower::start(&nats, &[]);
    // It is at work before anything goes wrong.
    replica.post_broadcast("before").await;
    assert_eq!(follower.event().await, (1, "before".to_owned()));
    let mut expected = Vec::new();
    for round in 0..3 {
        for n in 0..20 {
            let message = format!("round {round}, number {n}");
            if n == 10 {
                nats.restart().await;
            }
            replica.post_until_taken(&message).await;
            expected.push(message);
        }
    }
    for (sequence, message) in (2..).zip(expected) {
        assert_eq!(follower.event().await, (sequence, message));
    }
    follower.signal(Signal::INT);
    let (status, unread, notes) = follower.ended().await;
    assert_eq!((status.code(), unread.len()), (Some(0), 0));
    assert!(notes.iter().all(|note| note.contains("NATS is")), "{notes:?}");
}

#[tokio::test]
async fn it_says_when_nats_is_away_and_when_it_is_back() {
    let mut nats = Nats::start().await;
    let log = nats.log().await;
    append(&log, 1..=2).await;
    let mut follower = Follower::start(&nats, &["--format", "table"]);
    assert!(follower.line().await.trim_start().starts_with("SEQUENCE"));
    for sequence in ["1", "2"] {
        assert_eq!(follower.line().await.split_whitespace().next(), Some(sequence));
    }
    nats.stop();
    assert!(follower.note().await.contains("NATS is away"));
    nats.start_again().await;
    assert!(follower.note().await.contains("NATS is back"));
    append(&nats.log().await, 3..=3).await;
    assert!(follower.line().await.ends_with("number 3"));
    // A signal ends it also while NATS is away.
    nats.stop();
    assert!(follower.note().await.contains("NATS is away"));
    follower.signal(Signal::INT);
    follower.ends_quietly().await;
}

#[tokio::test]
async fn another_log_is_said_and_read_from_its_start_and_nothing_is_created() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    append(&log, 1..=5).await;
    let mut follower = Follower::start(&nats, &["--from-seq", "4"]);
    follower.expect(4..=5).await;
    let jetstream = nats.jetstream().await;
    jetstream.delete_stream(LOG_STREAM).await.unwrap();
    assert!(follower.note().await.contains("or has no log"));
    assert!(jetstream.get_stream(LOG_STREAM).await.is_err(), "who looks creates nothing");
    provision(1).stream(&jetstream, LOG_STREAM).await.unwrap();
    append(&log, 1..=3).await;
    follower.expect(1..=3).await;
    let notes = [follower.note().await, follower.note().await];
    assert!(notes.iter().any(|note| note.contains("another one now")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("is back")), "{notes:?}");
    follower.signal(Signal::INT);
    follower.ends_quietly().await;
}

#[tokio::test]
async fn it_ends_when_nobody_reads_any_more_also_in_silence() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    append(&log, 1..=3).await;
    let mut silent = Follower::start(&nats, &[]);
    silent.expect(1..=3).await;
    silent.out = None;
    silent.ends_quietly().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_does_not_keep_it_from_ending() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    // More than a pipe holds.
    for _ in 0..300 {
        log.append(created(&"🦀".repeat(280))).await.unwrap();
    }
    let mut stuck = Follower::start(&nats, &[]);
    stuck.line().await;
    stuck.signal(Signal::INT);
    let status = timeout(PATIENCE, stuck.child.wait()).await.expect("it ends in time").unwrap();
    assert_eq!(status.code(), Some(0));
}
