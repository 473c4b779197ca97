//! What clients heard, held to what the log says.

use std::collections::HashSet;

use serde_json::Value;
use tidings::domain::Timestamp;

use super::judge::{Evidence, Logged};
use super::people::Session;
use crate::support::sequence_in;

/// I5: a client got every event after its snapshot, in order, once; or, over a degraded time or another log, each
/// broadcast once at most, and the final state; or was closed with a code.
pub fn told_everything_once(evidence: &Evidence, log: &[Logged]) -> Vec<String> {
    let alone: Vec<_> = evidence.diagnostics.iter().map(|said| times_alone(said)).collect();
    let lifecycle: Vec<_> = log.iter().filter(|event| event.is_effective()).collect();
    let mut findings = Vec::new();
    for session in &evidence.sessions {
        let overlaps = |(from, to): &(Timestamp, Option<Timestamp>)| {
            *from <= session.ended && to.is_none_or(|to| to >= session.begun)
        };
        let disturbed = alone[session.replica].iter().any(overlaps)
            || session.heard.iter().any(|message| message["type"] == "resync");
        let told = if disturbed { told_the_end(session, &lifecycle) } else { told_all(session, &lifecycle) };
        if let Err(finding) = told {
            findings.push(format!("I5: replica {}: {finding}", session.replica));
        }
    }
    findings
}

/// When a replica was on its own or had yet to relay, by what it said on stderr.
fn times_alone(said: &str) -> Vec<(Timestamp, Option<Timestamp>)> {
    let mut times = Vec::new();
    let mut since = None;
    for line in said.lines() {
        let Some(at) = line.split(' ').next().and_then(|first| first.parse::<Timestamp>().ok()) else {
            continue;
        };
        let begins =
            ["this replica goes on alone", "it gets what waits in the outbox", "an earlier run accepted"];
        if begins.iter().any(|words| line.contains(words)) {
            since = since.or(Some(at));
        } else if ["working with the event log again", "starting tidings"]
            .iter()
            .any(|words| line.contains(words))
        {
            times.extend(since.take().map(|since| (since, Some(at))));
        }
    }
    times.extend(since.map(|since| (since, None)));
    times
}

/// What a client was told of what is active, in order: the sequence, and the broadcast.
fn news(session: &Session) -> Vec<(Option<u64>, Option<&str>)> {
    let news = session.heard.iter().filter_map(|message| match message["type"].as_str()? {
        "new_broadcast" => Some((sequence_in(message), message["broadcast"]["id"].as_str())),
        "broadcast_cleared" => Some((sequence_in(message), None)),
        _ => None,
    });
    news.collect()
}

fn told_all(session: &Session, lifecycle: &[&Logged]) -> Result<(), String> {
    let [connected, snapshot, ..] = session.heard.as_slice() else {
        return session.closed.is_some().then_some(()).ok_or_else(|| "it was told nothing".to_owned());
    };
    let begun = sequence_in(connected).ok_or("no position on connect")?;
    let before = lifecycle.iter().take_while(|event| event.sequence <= begun);
    let active = before.last().and_then(|event| event.active_after());
    if snapshot["broadcast"]["id"].as_str() != active {
        return Err(format!("at {begun} {active:?} was active, and it was told {snapshot}"));
    }
    let told = news(session);
    let last = match session.closed {
        Some(_) => told.last().map_or(Some(begun), |(sequence, _)| *sequence),
        None => Some(u64::MAX),
    };
    let expected = lifecycle.iter().filter(|event| event.sequence > begun && Some(event.sequence) <= last);
    let expected: Vec<_> = expected.map(|event| (Some(event.sequence), event.active_after())).collect();
    if told != expected {
        let differs = told.iter().zip(&expected).position(|(told, expected)| told != expected);
        let at = differs.unwrap_or_else(|| told.len().min(expected.len()));
        return Err(format!(
            "after {begun} it was told {} of {} events; the first that differs: {:?} for {:?}",
            told.len(),
            expected.len(),
            told.get(at),
            expected.get(at)
        ));
    }
    Ok(())
}

fn told_the_end(session: &Session, lifecycle: &[&Logged]) -> Result<(), String> {
    let told = news(session);
    let mut new = HashSet::new();
    if let Some((sequence, twice)) = told.iter().find(|(_, id)| id.is_some_and(|id| !new.insert(id))) {
        let heard: Vec<_> = session.heard.iter().map(Value::to_string).collect();
        return Err(format!("it was told of {twice:?} as new again at {sequence:?}:\n{}", heard.join("\n")));
    }
    if session.closed.is_some() {
        return Ok(());
    }
    let active = lifecycle.last().and_then(|event| event.active_after());
    let shown = |message: &&Value| {
        ["new_broadcast", "active_broadcast", "broadcast_cleared"].map(Value::from).contains(&message["type"])
    };
    // The last message answers the question; what it was told unasked comes before.
    let unasked = session.heard.iter().rev().skip(1).find(shown);
    let unasked = unasked.and_then(|message| message["broadcast"]["id"].as_str());
    if unasked != active {
        return Err(format!("{active:?} is active in the end, and it shows {unasked:?}"));
    }
    Ok(())
}
