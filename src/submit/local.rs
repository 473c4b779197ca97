//! On its own: while the log is away, a replica accepts commands into its outbox and shows what they do at once.
//!
//! The outbox is held from the judgement until what was accepted is part of the view, so that the next command is
//! judged on it. A command is confirmed when the disk has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::OwnedMutexGuard;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::mode::{CurrentMode, Mode, ModeMachine};
use super::outbox::{Base, Draft, Outbox, OutboxEntry, OutboxError};
use super::{Decision, Submit, SubmitError, Submitted};
use crate::blocking::blocking;
use crate::domain::{Accepted, Command, Event, Needs, Precondition, SentTo, Timestamp, in_log};
use crate::log::names::Subject;
use crate::log::{Epoch, NewEvent, TraceParent};
use crate::projection::{Position, Projection};

impl Submit {
    /// The outbox, when this replica is on its own or has yet to relay. `None`: the log is the place to write to.
    pub(super) async fn outbox_unless_with_log(
        &self,
    ) -> Result<Option<OwnedMutexGuard<Outbox>>, SubmitError> {
        if self.modes.now() == Mode::Cluster {
            return Ok(None);
        }
        let outbox = self.hold_outbox().await?;
        // The relay may have come to its end while this waited.
        Ok((self.modes.now() != Mode::Cluster).then_some(outbox))
    }

    /// Waits for the outbox, if this replica may accept anything.
    pub(super) async fn hold_outbox(&self) -> Result<OwnedMutexGuard<Outbox>, SubmitError> {
        // What an earlier run accepted holds the outbox until there is a state to show it over.
        if !self.projection.position().serving {
            return Err(SubmitError::CatchingUp);
        }
        match (self.options.accept_on_outage, self.log_is_full.load(Ordering::Relaxed)) {
            (false, _) => Err(SubmitError::Away),
            (true, true) => Err(SubmitError::LogFull),
            (true, false) => Ok(self.outbox.clone().lock_owned().await),
        }
    }

    /// Judges a command that creates or clears by what this replica shows, and accepts it into the outbox.
    pub(super) async fn accept(
        &self,
        outbox: OwnedMutexGuard<Outbox>,
        command: Command,
        now: Timestamp,
        id: Uuid,
        trace: Option<TraceParent>,
        sent_to: Option<SentTo>,
    ) -> Result<Submitted, SubmitError> {
        let channel = command.channel().clone();
        let condition = match &command {
            Command::Create { condition, .. } => condition.clone(),
            // What a clear takes down is named in its event.
            Command::Clear { .. } | Command::Acknowledge { .. } => Precondition::Always,
        };
        let before = self.projection.position();
        let (event, last, has_pending) = match self.judge(command, now, id).await? {
            Decision::Append { event, expected, has_pending } => (event, expected, has_pending),
            // There is nothing to do, as far as this replica can tell.
            Decision::Submitted(done) => {
                return Ok(Submitted { local: done.local || done.broadcast.is_none(), ..done });
            }
            Decision::Rejected(rejection) => return Err(SubmitError::Rejected(rejection)),
        };
        // While something is pending, the channel is shown as the log had it when the first of that was accepted. The log
        // may have gone on since, or another one may have taken its place.
        let epoch =
            if has_pending { outbox.pending_over() } else { unchanged_epoch(&self.projection, before) };
        let base = match (in_log(last), outbox.last_lifecycle(&channel)) {
            (None, Some(entry)) => Base::Entry(entry),
            _ => Base::Log { epoch, sequence: last },
        };
        let broadcast = event.broadcast_id();
        info!(broadcast.id = %broadcast, "{} on {channel}, in the outbox", event.event_type().name);
        let subject = Subject::Lifecycle(channel);
        let source = self.source.clone();
        let new = NewEvent { subject, id, event, time: now, source, expected: None, trace, sent_to };
        self.write_to_outbox(outbox, vec![Draft { base: Some(base), condition, new }]).await?;
        Ok(Submitted { id, sequence: None, broadcast: Some(broadcast), local: true, late: false, sent_to })
    }

    /// Accepts events of acknowledgements, all or none, with one sync of the disk. Says for each whether its users had
    /// acknowledged before.
    pub(super) async fn accept_acks(
        &self,
        outbox: OwnedMutexGuard<Outbox>,
        events: Vec<NewEvent>,
    ) -> Result<Vec<Vec<bool>>, SubmitError> {
        let mut already = Vec::with_capacity(events.len());
        let mut drafts = Vec::new();
        for mut new in events {
            let Event::Acknowledged(acknowledged) = &mut new.event else { continue };
            let id = acknowledged.broadcast_id;
            let users = acknowledged.acknowledgements.iter().map(|new| new.user.fingerprint());
            let users: Vec<_> = users.collect();
            let needs = Needs::acknowledged(id, users.iter().copied());
            let known = self.projection.with(needs, move |view| {
                users.iter().map(|user| view.acknowledged_by(id, *user).is_some()).collect::<Vec<_>>()
            });
            let known = known.await?;
            let mut unknown = known.iter().map(|known| !known);
            acknowledged.acknowledgements.retain(|_| unknown.next().unwrap_or(true));
            if !acknowledged.acknowledgements.is_empty() {
                drafts.push(Draft { base: None, condition: Precondition::Always, new });
            }
            already.push(known);
        }
        if !drafts.is_empty() {
            self.write_to_outbox(outbox, drafts).await?;
        }
        Ok(already)
    }

    /// Writes to the outbox, and folds what was written over the log's state when the disk has it. A task of its own:
    /// whoever asked may hang up at any moment, and what the disk has must become part of the view all the same.
    async fn write_to_outbox(
        &self,
        outbox: OwnedMutexGuard<Outbox>,
        drafts: Vec<Draft>,
    ) -> Result<(), SubmitError> {
        let kept = tokio::spawn(write_then_show(outbox, drafts, self.modes.clone(), self.projection.clone()));
        kept.await.unwrap_or_else(|panicked| {
            error!("accepting a command failed: {panicked}");
            Err(SubmitError::OutboxFailed)
        })
    }

    /// Shows again what an earlier run accepted, before anything else is accepted; then relays for ever.
    pub(super) fn restore_then_relay(self: Arc<Self>) {
        // Nobody has it yet.
        let outbox = self.outbox.clone().try_lock_owned();
        let (relay, tasks) = (self.clone(), self.options.tasks.clone());
        let relay = async move {
            if let Ok(mut outbox) = outbox
                && !outbox.waiting().is_empty()
            {
                warn!(
                    outbox.entries = outbox.waiting().len(),
                    "an earlier run accepted what the log may not have yet; the log gets it when it answers"
                );
                let _ = relay.projection.watch().wait_for(|position| position.serving).await;
                let left =
                    outbox.waiting().iter().map(|entry: &Arc<OutboxEntry>| accepted(&entry.new)).collect();
                let before = relay.projection.position();
                relay.projection.fold_pending(left).await;
                outbox.begin_pending_over(unchanged_epoch(&relay.projection, before));
            }
            relay.relay_for_ever().await;
        };
        tasks.spawn("relay of the outbox", relay);
    }

    /// Says what is left for the next start.
    pub fn log_what_waits(&self) {
        let entries = self.outbox_stats().entries;
        if entries > 0 {
            warn!(
                outbox.entries = entries,
                "the log does not have everything that was accepted; it gets the rest after the next start"
            );
        }
    }
}

async fn write_then_show(
    mut outbox: OwnedMutexGuard<Outbox>,
    drafts: Vec<Draft>,
    modes: CurrentMode,
    projection: Projection,
) -> Result<(), SubmitError> {
    let accepted = drafts.iter().map(|draft| accepted(&draft.new)).collect();
    let had_pending = projection.snapshot().has_pending;
    let before = projection.position();
    let written = blocking(move || {
        let written = outbox.append(drafts);
        (outbox, written)
    });
    let (mut outbox, written) = written.await.map_err(|panicked| {
        error!("writing the outbox failed: {panicked}");
        SubmitError::OutboxFailed
    })?;
    written.map_err(|error| match error {
        OutboxError::Full => SubmitError::OutboxFull,
        OutboxError::Disk(error) => {
            error!("the outbox did not take a command: {error:#}");
            SubmitError::OutboxFailed
        }
    })?;
    // Before anyone is shown it: an acknowledgement that reached the log before its broadcast would be lost.
    modes.update(ModeMachine::accepted);
    projection.fold_pending(accepted).await;
    if !had_pending {
        outbox.begin_pending_over(unchanged_epoch(&projection, before));
    }
    drop(outbox);
    Ok(())
}

/// The log that the projection shows; `None` when that may have become another one since this position.
fn unchanged_epoch(projection: &Projection, before: Position) -> Option<Epoch> {
    let now = projection.position();
    now.epoch.filter(|_| (now.epoch, now.generation) == (before.epoch, before.generation))
}

fn accepted(new: &NewEvent) -> (Accepted, Option<TraceParent>) {
    let accepted = Accepted {
        channel: new.subject.channel().clone(),
        id: new.id,
        at: new.time,
        sent_to: new.sent_to,
        event: new.event.clone(),
    };
    (accepted, new.trace)
}
