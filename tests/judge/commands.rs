//! Commands: confirmed is in the log exactly once, where the answer said; refused is not there; retries get one answer.

use std::collections::BTreeSet;

use super::model::{Logged, Model};

/// A creator's command, and the answer to each try.
pub struct Command {
    /// Nobody else is called so: the log tells by it what became of the command.
    pub by: String,
    /// Whether it takes effect only under a condition.
    pub is_conditional: bool,
    pub answers: Vec<Answer>,
    /// Whether a retry would tell more.
    pub is_open: bool,
    /// The log may have lost it: then it is there once at most, and no more is demanded.
    pub may_be_lost: bool,
    /// How a finding names it.
    pub described: String,
}

/// The answer to one try.
#[derive(Clone, Debug)]
pub enum Answer {
    Done(Done),
    /// A clear found nothing.
    NothingToClear,
    /// An error that says that nothing was written.
    Refused,
    /// The retry was taken for another request.
    KeyReused,
    /// An error that says that the outcome is unknown, or no answer.
    Unknown,
}

/// What a success says.
#[derive(Clone, Debug)]
pub struct Done {
    /// The id of the event, if that is known.
    pub event: Option<String>,
    /// The broadcast that was posted or cleared.
    pub broadcast: String,
    /// Where in the log it is. What a replica accepted alone has no place yet.
    pub sequence: Option<u64>,
    /// Accepted by a replica alone.
    pub local: bool,
    /// To how many it went, if it is in the log and that was compared.
    pub sent_to: Option<String>,
}

impl Done {
    /// Of two replicas that are alone, each clears under one key what it shows: the log then has one of the two.
    fn is_of(&self, event: &Logged) -> bool {
        let about = if event.is_created() { &*event.id } else { event.says("broadcast_id") };
        self.event.as_ref().is_none_or(|id| *id == event.id)
            && (self.broadcast == about || (self.local && event.is_cleared()))
            && self.sequence.is_none_or(|sequence| sequence == event.sequence)
            && self.sent_to.as_ref().is_none_or(|sent_to| *sent_to == event.sent_to)
    }
}

pub fn judge(commands: &[Command], model: &Model) -> Vec<String> {
    let wrong = commands.iter().filter_map(|command| {
        let wrong = fault(command, model)?;
        Some(format!("{wrong}: {}", command.described))
    });
    wrong.collect()
}

fn fault(command: &Command, model: &Model) -> Option<String> {
    let logged: Vec<_> = model.by(&command.by).collect();
    if logged.len() > 1 {
        return Some(format!("it is in the log {} times", logged.len()));
    }
    if command.may_be_lost {
        return None;
    }
    if command.is_open {
        return Some("nobody ever said what became of it".to_owned());
    }
    let done = command.answers.iter().filter_map(|answer| match answer {
        Answer::Done(done) => Some(done),
        _ => None,
    });
    let done: Vec<_> = done.collect();
    if done.iter().filter_map(|done| done.event.as_ref()).collect::<BTreeSet<_>>().len() > 1 {
        return Some("two tries were told of two events".to_owned());
    }
    if let Some(done) = done.iter().find(|done| !logged.iter().any(|event| done.is_of(event))) {
        return Some(format!("it was confirmed as {done:?}, and the log has {logged:?}"));
    }
    if command.answers.iter().all(|answer| matches!(answer, Answer::Refused)) && !logged.is_empty() {
        return Some(format!("it was refused, and the log has {logged:?}"));
    }
    // Each key stands for one command, whatever is active when it is tried again.
    let reused = command.answers.iter().any(|answer| matches!(answer, Answer::KeyReused));
    reused.then(|| "a retry was taken for another request".to_owned())
}
