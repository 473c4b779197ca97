//! The rules of the simulation: those of the judge, and what only it can know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tidings::domain::{BroadcastId, Timestamp};
use tidings::submit::{Acknowledged, Submitted};

use crate::evidence::Evidence;
use crate::hearing;
use crate::judge::model::Logged;
use crate::judge::{self, Acknowledgement, Answer, Command, Model, Observed};
use crate::people::{Acked, Said, Tried};
use crate::world::MOST_SKEW_MS;

/// Replicas know that the log is another one within this after it has come back.
const NOTICED_WITHIN: Duration = Duration::from_secs(5);

/// Everything that does not hold.
pub fn judge(evidence: &Evidence) -> Vec<String> {
    let model = Model::read(&evidence.log);
    let lost: Vec<_> = evidence.lost.iter().map(Logged::read).collect();
    let of_another_log: BTreeSet<_> = evidence
        .tried
        .iter()
        .filter(|tried| is_of_another_log(evidence, tried))
        .flat_map(broadcasts)
        .collect();
    let is_kept = |acked: &&Acked| {
        !may_be_lost(acked, evidence, &model, &lost) && !of_another_log.contains(&acked.broadcast)
    };
    let observed = Observed {
        commands: evidence.tried.iter().map(|tried| command(tried, evidence, &lost)).collect(),
        acknowledgements: evidence.acked.iter().filter(is_kept).map(acknowledgement).collect(),
        replayed: evidence.replayed.to_string(),
        digests: evidence.standings.iter().map(|standing| standing.digest.to_string()).collect(),
    };
    [
        judge::judge(&observed, &model),
        conditions(evidence, &model),
        overtaking(evidence, &model),
        replicas(evidence, &model),
        hearing::judge(evidence, &model),
    ]
    .concat()
}

/// Whether it was tried when the log was another one, or when the replicas may not have known yet that it is.
fn is_of_another_log(evidence: &Evidence, tried: &Tried) -> bool {
    evidence.replaced.is_some_and(|replaced| tried.began < replaced + NOTICED_WITHIN)
}

/// What was done, when anything was.
fn done(said: &Said) -> Option<&Submitted> {
    match said {
        Said::Done(done) if done.broadcast.is_some() => Some(done),
        _ => None,
    }
}

/// The broadcasts that a command was answered with.
fn broadcasts(tried: &Tried) -> impl Iterator<Item = BroadcastId> {
    tried.said.iter().filter_map(done).filter_map(|done| done.broadcast)
}

fn command(tried: &Tried, evidence: &Evidence, lost: &[Logged]) -> Command {
    Command {
        by: tried.by.to_string(),
        is_conditional: !tried.condition.is_always(),
        answers: tried.said.iter().map(answer).collect(),
        is_open: tried.is_open(),
        may_be_lost: is_of_another_log(evidence, tried)
            || lost.iter().any(|event| event.is_by(tried.by.as_str())),
        described: format!("{tried:?}"),
    }
}

fn answer(said: &Said) -> Answer {
    match said {
        Said::Done(done) => match done.broadcast {
            None => Answer::NothingToClear,
            Some(broadcast) => Answer::Done(judge::Done {
                event: Some(done.id.to_string()),
                broadcast: broadcast.to_string(),
                sequence: done.sequence,
                local: done.local,
                // Every replica answers every retry as the event says.
                sent_to: done
                    .sequence
                    .map(|_| done.sent_to.map(|sent_to| sent_to.to_string()).unwrap_or_default()),
            }),
        },
        Said::Refused(why) if why.contains("KeyReused") => Answer::KeyReused,
        Said::Refused(_) => Answer::Refused,
        Said::Unknown | Said::Nothing => Answer::Unknown,
    }
}

fn acknowledgement(acked: &Acked) -> Acknowledgement {
    let Acknowledged { sequence, already } = acked.said;
    Acknowledgement {
        broadcast: acked.broadcast.to_string(),
        user: acked.user.to_string(),
        sequence,
        already,
    }
}

/// Whether the log has lost an acknowledgement, or the broadcast that it is about.
fn may_be_lost(acked: &Acked, evidence: &Evidence, model: &Model, lost: &[Logged]) -> bool {
    let broadcast = acked.broadcast.to_string();
    let has = |event: &Logged| {
        let users = event.data["acknowledgements"].as_array().into_iter().flatten();
        let mut users = users.map(|acknowledgement| &acknowledgement["user"]);
        event.id == broadcast
            || (event.says("broadcast_id") == broadcast && users.any(|user| user == acked.user.as_str()))
    };
    (evidence.replaced.is_some() && !model.broadcasts.contains_key(&broadcast)) || lost.iter().any(has)
}

/// What took effect on a condition met it in the log, also when a replica had accepted it alone.
fn conditions(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    for tried in &evidence.tried {
        for event in model.by(tried.by.as_str()).filter(|event| !event.late) {
            let active = model.active(&event.channel, event.sequence - 1).map(|id| id.parse().unwrap());
            if !tried.condition.holds(active) {
                wrong.push(format!("{active:?} was active when it came into the log: {tried:?}"));
            }
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

/// Every replica shows what the model says, and the log took all that was accepted.
fn replicas(evidence: &Evidence, model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    for (number, standing) in evidence.standings.iter().enumerate() {
        // What was accepted alone about a broadcast that the log has lost, it does not take.
        let has_lost = evidence.replaced.is_some() || !evidence.lost.is_empty();
        if standing.rejected > 0 && !has_lost {
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
