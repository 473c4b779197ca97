//! What clients heard, held to what the log says.

use serde_json::Value;
use tidings::domain::Timestamp;

use super::people::Session;
use super::rules::Evidence;
use crate::judge::Model;
use crate::judge::clients::{self, sequence_in};

/// Where everybody is.
const CHANNEL: &str = "creator";

/// A client got every event after its snapshot, in order, once; or, over a degraded time or another log, each
/// Broadcast once at most, and the final state; or was closed with a code.
pub fn told_everything_once(evidence: &Evidence, model: &Model) -> Vec<String> {
    let alone: Vec<_> = evidence.diagnostics.iter().map(|said| times_alone(said)).collect();
    let mut findings = Vec::new();
    for session in &evidence.sessions {
        let overlaps = |(from, to): &(Timestamp, Option<Timestamp>)| {
            *from <= session.ended && to.is_none_or(|to| to >= session.begun)
        };
        let disturbed = alone[session.replica].iter().any(overlaps)
            || session.heard.iter().any(|message| message["type"] == "resync");
        let told = if disturbed { told_the_end(session, model) } else { told_all(session, model) };
        if let Err(finding) = told {
            findings.push(format!("replica {}: {finding}", session.replica));
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

fn told_all(session: &Session, model: &Model) -> Result<(), String> {
    let [connected, snapshot, ..] = session.heard.as_slice() else {
        return session.closed.is_some().then_some(()).ok_or_else(|| "it was told nothing".to_owned());
    };
    let begun = sequence_in(connected).ok_or("no position on connect")?;
    let active = model.active(CHANNEL, begun);
    if snapshot["broadcast"]["id"].as_str() != active {
        return Err(format!("at {begun} {active:?} was active, and it was told {snapshot}"));
    }
    clients::every_change(&session.heard, CHANNEL, begun, session.closed.is_none(), model)
}

fn told_the_end(session: &Session, model: &Model) -> Result<(), String> {
    clients::once_at_most(&session.heard)?;
    if session.closed.is_some() {
        return Ok(());
    }
    let active = model.active(CHANNEL, u64::MAX);
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
