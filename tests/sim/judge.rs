//! The judge: what must hold whatever happened, by what people wrote down, the log, and what the replicas know.

use std::collections::{BTreeMap, BTreeSet};

use tidings::domain::Timestamp;
use tidings::submit::{Acknowledged, Submitted};

use crate::evidence::Evidence;
use crate::hearing;
use crate::model::{Logged, Model};
use crate::people::{Said, Tried};
use crate::world::MOST_SKEW_MS;

/// Everything that does not hold.
pub fn judge(evidence: &Evidence) -> Vec<String> {
    let model = Model::read(&evidence.log);
    [
        commands(evidence, &model),
        guards(&model),
        overtaken(evidence, &model),
        overtaking(evidence, &model),
        acknowledgements(evidence, &model),
        replicas(evidence, &model),
        hearing::judge(evidence, &model),
    ]
    .concat()
}

/// Confirmed is in the log exactly once, where it was said to be; refused is not there; retries are told of one event.
fn commands(evidence: &Evidence, model: &Model) -> Vec<String> {
    let judged = evidence.tried.iter().filter_map(|tried| {
        let wrong = command(tried, model)?;
        Some(format!("{wrong}: {tried:?}"))
    });
    let twice = model.log.len() - model.ids().len();
    judged.chain((twice > 0).then(|| format!("{twice} events are in the log twice"))).collect()
}

fn command(tried: &Tried, model: &Model) -> Option<String> {
    let logged: Vec<_> = model.by(tried.by.as_str()).collect();
    let done: Vec<_> = tried.said.iter().filter_map(done).collect();
    if tried.is_open() {
        return Some("nobody ever said what became of it".to_owned());
    }
    if logged.len() > 1 {
        return Some(format!("it is in the log {} times", logged.len()));
    }
    if done.iter().map(|done| done.id).collect::<BTreeSet<_>>().len() > 1 {
        return Some("two tries were told of two events".to_owned());
    }
    if let Some(wrong) = done.iter().find(|done| !logged.iter().any(|event| stands_for(event, done))) {
        return Some(format!("it was confirmed as {wrong:?}, and the log has {logged:?}"));
    }
    if tried.said.iter().all(|said| matches!(said, Said::Refused(_))) && !logged.is_empty() {
        return Some(format!("it was refused, and the log has {logged:?}"));
    }
    // Each key stands for one command, whatever is active when it is tried again.
    if tried.said.iter().any(|said| matches!(said, Said::Refused(why) if why.contains("KeyReused"))) {
        return Some("a retry was taken for another request".to_owned());
    }
    condition(tried, &logged, model)
}

/// What was done, when anything was.
fn done(said: &Said) -> Option<&Submitted> {
    match said {
        Said::Done(done) if done.broadcast.is_some() => Some(done),
        _ => None,
    }
}

/// Of two replicas that are alone, each clears under one key what it shows: the log then has one of the two.
fn stands_for(event: &Logged, done: &Submitted) -> bool {
    let about = if event.is_created() { &event.id } else { event.says("broadcast_id") };
    let same = done.broadcast.is_some_and(|id| id.to_string() == *about);
    event.id == done.id.to_string()
        && (same || (done.local && event.is_cleared()))
        && done.sequence.is_none_or(|sequence| {
            // Every replica answers every retry as the event says.
            let sent_to = done.sent_to.map(|sent_to| sent_to.to_string()).unwrap_or_default();
            sequence == event.sequence && sent_to == event.sent_to
        })
}

/// What took effect on a condition met it in the log, also when a replica had accepted it alone.
fn condition(tried: &Tried, logged: &[&Logged], model: &Model) -> Option<String> {
    let [event] = logged else { return None };
    if event.late {
        return None;
    }
    let active = model.active(&event.channel, event.sequence - 1).map(|id| id.parse().unwrap());
    (!tried.condition.holds(active)).then(|| format!("{active:?} was active when it came into the log"))
}

/// Whatever is in a channel's lifecycle was decided on what was there before it, so it has an effect.
fn guards(model: &Model) -> Vec<String> {
    model.idle.iter().map(|sequence| format!("without effect: {:?}", model.at(*sequence))).collect()
}

/// A post without a condition goes on record as late only when something newer is in the channel's lifecycle before it,
/// whatever became of what its replica had accepted earlier. A clear and a post with a condition may have another
/// reason: what they demand is not so.
fn overtaken(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    for late in model.log.iter().filter(|event| event.late) {
        let mut tried = evidence.tried.iter();
        let tried = tried
            .find(|tried| [late.says("created_by"), late.says("cleared_by")].contains(&tried.by.as_str()));
        let depends = late.is_cleared() || tried.is_some_and(|tried| !tried.condition.is_always());
        let mut before = model
            .log
            .iter()
            .filter(|event| event.sequence < late.sequence && event.channel == late.channel && !event.late);
        let newer =
            |event: &Logged| !event.accepted_at().is_empty() && event.accepted_at() >= late.accepted_at();
        if !depends && !before.any(newer) {
            wrong.push(format!("nothing overtook {late:?}"));
        }
    }
    wrong
}

/// What a replica had accepted alone does not take the place of what was sent only after that. (Each was tried once: with
/// two replicas that accept the same, one may have decided on the earlier of the two.)
fn overtaking(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    let once: Vec<_> = evidence.tried.iter().filter(|tried| tried.said.len() == 1).collect();
    for tried in &once {
        let [Said::Done(Submitted { local: true, .. })] = tried.said.as_slice() else { continue };
        let Some(event) = model.by(tried.by.as_str()).find(|event| event.is_created() && !event.late) else {
            continue;
        };
        let answered = tried.answered.map_or(0, Timestamp::as_unix_ms);
        let surely_after =
            Timestamp::from_unix_ms(answered + i64::try_from(MOST_SKEW_MS).unwrap()).to_string();
        let before = model.log.iter().rev().filter(|before| before.sequence < event.sequence);
        let mut before = before.filter(|before| before.channel == event.channel && !before.late);
        if let Some(newer) = before.find(|before| !before.accepted_at().is_empty())
            && newer.accepted_at() > surely_after.as_str()
            && once.iter().any(|other| model.by(other.by.as_str()).any(|event| event.id == newer.id))
        {
            wrong.push(format!("{newer:?} was sent after {tried:?} was accepted, and lost to it"));
        }
    }
    wrong
}

/// A confirmed acknowledgement is in the log, at the place that was told, and was news once.
fn acknowledgements(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut news = BTreeMap::new();
    for acked in &evidence.acked {
        let (user, broadcast) = (acked.user.as_str(), acked.broadcast.to_string());
        let Some(first) = model.first_ack(&broadcast, user) else {
            wrong.push(format!("the log does not count {acked:?}"));
            continue;
        };
        match acked.said {
            Acknowledged { sequence: Some(told), already: Some(_) } if told != first => {
                wrong.push(format!("its place is {first}: {acked:?}"));
            }
            Acknowledged { sequence: Some(_), already: Some(false) } => {
                *news.entry((acked.user.clone(), broadcast)).or_insert(0) += 1;
            }
            _ => {}
        }
    }
    wrong.extend(
        news.iter()
            .filter(|(_, times)| **times > 1)
            .map(|(ack, times)| format!("news {times} times: {ack:?}")),
    );
    wrong
}

/// Every replica knows what a clean replay knows, and what the model says; and the log took all that was accepted.
fn replicas(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, standing) in evidence.standings.iter().enumerate() {
        if standing.digest != evidence.replayed {
            wrong
                .push(format!("{number} has the digest {}, a replay {}", standing.digest, evidence.replayed));
        }
        if standing.rejected > 0 {
            wrong.push(format!("{number} keeps {} events that the log did not take", standing.rejected));
        }
        let channels: BTreeSet<_> = model.turns.iter().map(|turn| &turn.channel).collect();
        let active = channels
            .into_iter()
            .filter_map(|name| Some((name.clone(), model.active(name, u64::MAX)?.to_owned())));
        let active: BTreeMap<_, _> = active.collect();
        if standing.active != active {
            wrong.push(format!("{number} shows {:?}, and active is {active:?}", standing.active));
        }
        for (id, known) in &standing.acknowledged {
            let counted = model.acknowledged.get(id).cloned().unwrap_or_default();
            if *known != counted {
                wrong.push(format!("{number} knows of {id} {known:?}, and the log says {counted:?}"));
            }
        }
    }
    wrong
}
