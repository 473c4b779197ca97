//! The hearing: what clients must have heard on each of their visits.

use std::collections::BTreeSet;

use serde_json::Value;
use tidings::submit::mode::Mode;
use tokio::time::Instant;

use crate::client::{End, Visit};
use crate::evidence::Evidence;
use crate::judge::Model;
use crate::judge::clients::{self, sequence_in};

/// Everything that a client heard wrongly, or did not hear.
pub fn judge(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    for visit in &evidence.visits {
        let judged = if is_undisturbed(visit, &visit.modes.lock().unwrap()) {
            [snapshot(visit, model), every_event(visit, model), notices(visit, model)].concat()
        } else {
            clients::once_at_most(&visit.heard).err().into_iter().collect()
        };
        let always = nothing_old(visit);
        let at_the_end = if visit.end == End::Over { the_end(visit, model) } else { vec![] };
        wrong.extend(
            [judged, always, at_the_end].concat().into_iter().map(|finding| format!("{finding}: {visit:?}")),
        );
    }
    wrong
}

/// Whether the replica worked with the log all the time, and never began anew.
fn is_undisturbed(visit: &Visit, modes: &[(Instant, Mode)]) -> bool {
    let ends = modes
        .iter()
        .skip(1)
        .map(|(until, _)| *until)
        .chain([visit.ended + std::time::Duration::from_secs(1)]);
    let alone = modes.iter().zip(ends).any(|((since, mode), until)| {
        *mode != Mode::Cluster && *since <= visit.ended && until >= visit.began
    });
    let begun_anew = |heard: &Value| heard["type"] == "resync" || heard["code"] == "catching_up";
    !alone && !visit.heard.iter().any(begun_anew)
}

fn kind(heard: &Value) -> &str {
    heard["type"].as_str().unwrap_or_default()
}

/// The sequence of the state that the visit began with.
fn begun(visit: &Visit) -> Option<u64> {
    sequence_in(visit.heard.first().filter(|first| kind(first) == "connected")?)
}

/// A visit begins with what is active, unless its user has acknowledged it.
fn snapshot(visit: &Visit, model: &Model) -> Vec<String> {
    let [_, shown, ..] = visit.heard.as_slice() else {
        return if matches!(visit.end, End::Died | End::Left) {
            vec![]
        } else {
            vec!["it heard nothing".to_owned()]
        };
    };
    let Some(begun) = begun(visit) else { return vec!["it does not begin with `connected`".to_owned()] };
    let active = model.active(visit.channel.as_str(), begun);
    let acked = active.and_then(|id| model.first_ack(id, visit.user.as_str()));
    let shown = shown["broadcast"]["id"].as_str();
    let right = match acked {
        None => shown == active,
        Some(at) if at <= begun => shown.is_none(),
        // The replica may have known more of acknowledgements than of what is active.
        Some(_) => shown.is_none() || shown == active,
    };
    if right { vec![] } else { vec![format!("at {begun} {active:?} is active, and it is shown {shown:?}")] }
}

/// Every event after the snapshot, in order, once: up to the end of the visit.
fn every_event(visit: &Visit, model: &Model) -> Vec<String> {
    let Some(begun) = begun(visit) else { return vec![] };
    let stayed = visit.end == End::Over;
    clients::every_change(&visit.heard, visit.channel.as_str(), begun, stayed, model)
        .err()
        .into_iter()
        .collect()
}

/// Of what its user acknowledged elsewhere, each once; and all of it, to the end.
fn notices(visit: &Visit, model: &Model) -> Vec<String> {
    let Some(begun) = begun(visit) else { return vec![] };
    let user = visit.user.as_str();
    let mut heard = BTreeSet::new();
    let mut wrong = Vec::new();
    for notice in visit.heard.iter().filter(|heard| kind(heard) == "broadcast_acknowledged") {
        let id = notice["broadcast_id"].as_str().unwrap_or_default();
        let first = model.first_ack(id, user);
        if !heard.insert(id) || sequence_in(notice) != first {
            wrong.push(format!("first acknowledged at {first:?}, it heard {notice}"));
        }
    }
    let own: BTreeSet<_> = visit.own.iter().map(ToString::to_string).collect();
    let missed = model.acknowledged.iter().filter(|(id, users)| {
        model.broadcasts.get(*id).is_some_and(|channel| channel == visit.channel.as_str())
            && users.get(user).is_some_and(|first| *first > begun)
            && !heard.contains(id.as_str())
            && !own.contains(*id)
    });
    if visit.end == End::Over {
        wrong.extend(missed.map(|(id, _)| format!("it did not hear that {id} was acknowledged")));
    }
    wrong
}

/// A replica that begins tells of single events once it has caught up; until then they are old. (Here it begins anew for
/// no other reason.)
fn nothing_old(visit: &Visit) -> Vec<String> {
    let caught_up = visit.heard.iter().position(|heard| kind(heard) == "resync").unwrap_or(0);
    let old = visit.heard[..caught_up].iter().filter(|heard| {
        ["new_broadcast", "broadcast_cleared"].contains(&kind(heard)) && sequence_in(heard).is_some()
    });
    old.map(|heard| format!("before it had caught up it told of {heard}")).collect()
}

/// In the end a client shows what the log says, was told so unasked, and knows that all is well.
fn the_end(visit: &Visit, model: &Model) -> Vec<String> {
    let active = model.active(visit.channel.as_str(), u64::MAX);
    let acked = active.is_some_and(|id| model.first_ack(id, visit.user.as_str()).is_some());
    let shown =
        |heard: &&Value| ["new_broadcast", "active_broadcast", "broadcast_cleared"].contains(&kind(heard));
    let mut last = visit.heard.iter().rev().filter(shown).map(|heard| heard["broadcast"]["id"].as_str());
    let mut wrong = Vec::new();
    let (answer, unasked) = (last.next().flatten(), last.next().flatten());
    if answer != active.filter(|_| !acked) {
        wrong.push(format!("{active:?} is active, and the answer is {answer:?}"));
    }
    if unasked != active && !(acked && unasked.is_none()) {
        wrong.push(format!("{active:?} is active, and it shows {unasked:?}"));
    }
    let told = visit.heard.iter().rev().find(|heard| ["connected", "mode"].contains(&kind(heard)));
    if told.is_none_or(|told| told["mode"] != "cluster") {
        wrong.push("it thinks that the log is away".to_owned());
    }
    wrong
}
