//! An attempt: one event on its way into the log, with retries.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::{info, warn};
use uuid::Uuid;

use super::mode::Mode;
use super::{CONFLICT_TIMEOUT, Decision, PROJECTION_TIMEOUT, RETRY_PAUSE, Submit, SubmitError, Submitted};
use crate::crash_point::CrashPoint;
use crate::domain::{Command, SentTo, Timestamp};
use crate::log::names::Subject;
use crate::log::{AppendError, Appended, NewEvent, TraceParent};
use crate::metrics::ByOutcome;

/// One event on its way into the log, with retries.
pub(super) struct Attempt<'a> {
    submit: &'a Submit,
    id: Uuid,
    /// An append got no answer: the event may be in the log.
    unsure: bool,
}

impl<'a> Attempt<'a> {
    pub(super) const fn new(submit: &'a Submit, id: Uuid) -> Self {
        Self { submit, id, unsure: false }
    }

    /// Decides and appends until there is a result.
    pub(super) async fn write(
        &mut self,
        command: Command,
        now: Timestamp,
        trace: Option<TraceParent>,
        sent_to: Option<SentTo>,
    ) -> Result<Submitted, SubmitError> {
        let Self { submit, id, .. } = *self;
        let until = Instant::now() + CONFLICT_TIMEOUT;
        // Whether the view had all that the log had on this channel when it was last asked.
        let mut caught_up = false;
        let mut lost_at = None;
        loop {
            // Once the log is known to be away, waiting for it is of no use.
            let in_time = Instant::now() < until && submit.modes.now() == Mode::Cluster;
            let (event, expected) = match submit.judge(command.clone(), now, id).await? {
                Decision::Append { event, expected, .. } => (event, expected),
                Decision::Submitted(done) if done.broadcast.is_some() || caught_up => return Ok(done),
                Decision::Rejected(rejection) if caught_up => return Err(SubmitError::Rejected(rejection)),
                // No guard checks what is not appended, and another replica may have answered a moment ago: "nothing
                // to clear" and "another one is active" are said of the log as it is, not of how far this one has read.
                Decision::Submitted(_) | Decision::Rejected(_) if in_time => {
                    caught_up = submit.catch_up(command.channel(), until).await;
                    continue;
                }
                // The log does not say where its head is, so whether there is anything to do is not known.
                Decision::Submitted(_) | Decision::Rejected(_) => return Err(SubmitError::Unknown { id }),
            };
            let (broadcast, name) = (event.broadcast_id(), event.event_type().name);
            let subject = Subject::Lifecycle(command.channel().clone());
            let source = submit.source.clone();
            let (time, expected) = (now, Some(expected));
            let new = NewEvent { subject, id, event, time, source, expected, trace, sent_to };
            match self.append(new).await {
                Ok(Appended { sequence, duplicate: false }) => {
                    info!(broadcast.id = %broadcast, log.sequence = sequence, "{} on {}", name, command.channel());
                    submit.projection.reached(sequence, PROJECTION_TIMEOUT).await;
                    return Ok(Submitted {
                        id,
                        sequence: Some(sequence),
                        broadcast: Some(broadcast),
                        local: false,
                        late: false,
                        sent_to,
                    });
                }
                // The log compared the ids alone. Whether a key stood for this very command, only `decide` can tell.
                Ok(Appended { sequence, duplicate: true }) if in_time => {
                    let patience = until.saturating_duration_since(Instant::now());
                    caught_up = submit.projection.reached(sequence, patience).await;
                }
                Ok(_) => return Err(SubmitError::Unknown { id }),
                Err(AppendError::Conflict) if in_time => {
                    caught_up = submit.catch_up(command.channel(), until).await;
                    // Against the same head again: the log is another one than the projection has read so far.
                    if lost_at.replace(expected) == Some(expected) {
                        sleep(RETRY_PAUSE).await;
                    }
                }
                Err(error) => return Err(self.refusal(&error)),
            }
        }
    }

    /// Appends, and keeps asking under the same id while there is no answer, still time, and reason to hope. Each append
    /// has its own time: a conflict was an answer.
    pub(super) async fn append(&mut self, new: NewEvent) -> Result<Appended, AppendError> {
        let until = Instant::now() + self.submit.options.append_timeout;
        loop {
            let begun = Instant::now();
            CrashPoint::BeforeAppend.reached();
            let append = timeout_at(until, self.submit.log.append(new.clone()));
            tokio::pin!(append);
            // Whoever asked does not wait for the rest of the time once the log is known to be away. Looked at in turn:
            // the receivers of a watch wake in a random order, and a simulation follows from its seed.
            let answer = loop {
                match timeout(MODE_POLL_INTERVAL, &mut append).await {
                    Ok(answer) => break answer.unwrap_or_else(|_| Err(no_answer("no answer in time"))),
                    Err(_) if self.submit.modes.now() == Mode::Local => {
                        break Err(no_answer("the log went away meanwhile"));
                    }
                    Err(_) => {}
                }
            };
            CrashPoint::AfterAppend.reached();
            self.submit.options.metrics.append(&outcome(&answer), begun.elapsed());
            let error = match answer {
                Err(error @ (AppendError::InProcess | AppendError::Unknown(_))) => error,
                appended_or_refused => {
                    self.submit.modes.update(|machine| machine.appended(true));
                    return appended_or_refused;
                }
            };
            self.unsure = true;
            if Instant::now() + RETRY_PAUSE >= until || self.submit.modes.now() == Mode::Local {
                self.submit.modes.update(|machine| machine.appended(false));
                return Err(error);
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    /// The error of a command whose event was not appended.
    pub(super) fn refusal(&self, error: &AppendError) -> SubmitError {
        let why = error.to_string();
        if self.submit.unconfirmed.is_due(&why) {
            warn!(event.id = %self.id, "an append was not confirmed: {why}");
        }
        self.or_unknown(match error {
            AppendError::Full => SubmitError::LogFull,
            AppendError::TooLarge => SubmitError::TooLarge,
            AppendError::Conflict => SubmitError::Contended,
            AppendError::InProcess | AppendError::Unknown(_) => SubmitError::Unknown { id: self.id },
        })
    }

    pub(super) fn or_unknown(&self, error: SubmitError) -> SubmitError {
        error.or_unknown_if(self.unsure, self.id)
    }
}

/// How often an append that waits for its answer looks whether the log is known to be away.
const MODE_POLL_INTERVAL: Duration = Duration::from_millis(100);

fn no_answer(why: &'static str) -> AppendError {
    AppendError::Unknown(anyhow::anyhow!(why))
}

/// The label of an append's outcome in metrics.
pub(super) fn outcome(answer: &Result<Appended, AppendError>) -> ByOutcome {
    match answer {
        Ok(Appended { duplicate: false, .. }) => ByOutcome::APPENDED,
        Ok(Appended { duplicate: true, .. }) => ByOutcome::DUPLICATE,
        Err(AppendError::Conflict) => ByOutcome::CONFLICT,
        Err(AppendError::Full | AppendError::TooLarge) => ByOutcome::REFUSED,
        Err(AppendError::InProcess | AppendError::Unknown(_)) => ByOutcome::UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_the_log_is_counted_as_what_it_means() {
        let appended = |duplicate| Ok(Appended { sequence: 1, duplicate });
        for (answer, counted) in [
            (appended(false), ByOutcome::APPENDED),
            (appended(true), ByOutcome::DUPLICATE),
            (Err(AppendError::Conflict), ByOutcome::CONFLICT),
            (Err(AppendError::Full), ByOutcome::REFUSED),
            (Err(AppendError::TooLarge), ByOutcome::REFUSED),
            (Err(AppendError::InProcess), ByOutcome::UNKNOWN),
            (Err(AppendError::Unknown(anyhow::anyhow!("no answer"))), ByOutcome::UNKNOWN),
        ] {
            assert_eq!(outcome(&answer), counted, "{answer:?}");
        }
    }
}
