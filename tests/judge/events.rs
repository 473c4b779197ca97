//! Events: each is in the log once, changes something, or says for a reason that it came too late.

use super::commands::Command;
use super::model::{Logged, Model};

pub fn judge(commands: &[Command], model: &Model) -> Vec<String> {
    let doubles = model.doubles().map(|event| format!("it is in the log twice: {event:?}"));
    // Whatever is in a channel's lifecycle was decided on what was there before it.
    let idle = model.idle.iter().map(|sequence| format!("without effect: {:?}", model.at(*sequence)));
    let late = model.log.iter().filter(|event| event.late && !is_overtaken(event, commands, model));
    let late = late.map(|event| format!("nothing overtook {event:?}"));
    doubles.chain(idle).chain(late).collect()
}

/// A post without a condition goes on record as late only when something newer is in the channel's lifecycle before it,
/// whatever became of what its replica had accepted earlier. A clear and a post with a condition may have another
/// reason: what they demand is not so.
fn is_overtaken(late: &Logged, commands: &[Command], model: &Model) -> bool {
    let command = commands.iter().find(|command| late.is_by(&command.by));
    let mut before = model.log.iter().take_while(|event| event.sequence < late.sequence);
    late.is_cleared()
        || command.is_some_and(|command| command.is_conditional)
        || before.any(|event| {
            event.channel == late.channel
                && !event.late
                && !event.accepted_at().is_empty()
                && event.accepted_at() >= late.accepted_at()
        })
}
