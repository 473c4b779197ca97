//! `decide`: judges a command against the state and returns the event that it becomes, if any. It changes nothing.

use uuid::Uuid;

use super::event::{Acknowledged, Acknowledgement, Broadcast, Cleared, Event};
use super::message::Message;
use super::needs::Needs;
use super::precondition::Precondition;
use super::rejection::Rejection;
use super::types::{BroadcastId, Channel, Fingerprint, Severity, Timestamp, UserId};
use super::view::View;

/// A request to change the state of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Create a broadcast; it supersedes the active one.
    Create {
        /// The channel to create it in.
        channel: Channel,
        /// Its text.
        message: Message,
        /// How clients present it.
        severity: Severity,
        /// The creator.
        by: UserId,
        /// The precondition on the active broadcast (`If-Match`, `If-None-Match`).
        condition: Precondition,
    },
    /// End the active broadcast.
    Clear {
        /// The channel to clear.
        channel: Channel,
        /// The creator.
        by: UserId,
        /// The precondition on the active broadcast (`If-Match`).
        condition: Precondition,
    },
    /// Acknowledge a broadcast, once for all of a user's devices.
    Acknowledge {
        /// The channel of the broadcast.
        channel: Channel,
        /// The broadcast.
        broadcast: BroadcastId,
        /// The user who acknowledges it.
        user: UserId,
    },
}

impl Command {
    /// The channel that the command is for.
    pub const fn channel(&self) -> &Channel {
        match self {
            Self::Create { channel, .. }
            | Self::Clear { channel, .. }
            | Self::Acknowledge { channel, .. } => channel,
        }
    }

    /// What [`decide`] will look up for this command under the event id `id`.
    pub fn needs(&self, id: Uuid) -> Needs {
        match self {
            Self::Create { .. } => {
                Needs { broadcasts: vec![BroadcastId(id)], lifecycle_events: vec![id], ..Needs::default() }
            }
            Self::Clear { .. } => Needs { lifecycle_events: vec![id], ..Needs::default() },
            Self::Acknowledge { broadcast, user, .. } => {
                Needs::acknowledged(*broadcast, [user.fingerprint()])
            }
        }
    }
}

/// Judges `command` by `view`, which must hold what [`Command::needs`] names for it.
///
/// `now` and `id` become the event's time and id. `Ok(None)` means that nothing has to be written: the state is already as
/// requested, or the log has an event with this id. So deciding again with the same id after a lost answer is safe. A
/// precondition is then judged by what was active before that event, as it was the first time.
pub fn decide(
    view: View<'_>,
    command: &Command,
    now: Timestamp,
    id: Uuid,
) -> Result<Option<Event>, Rejection> {
    let channel = view.channel(command.channel());
    match command {
        Command::Create { message, severity, by, condition, .. } => {
            if let Some(written) = view.lifecycle_event(id) {
                let known = view.broadcast(written.broadcast).filter(|known| known.broadcast.id.0 == id);
                let same = known.is_some_and(|known| {
                    let Broadcast { message: sent, severity: sent_as, .. } = &known.broadcast;
                    sent == message
                        && sent_as == severity
                        && (known.late || condition.holds(known.superseded))
                });
                return if same { Ok(None) } else { Err(Rejection::KeyReused) };
            }
            require(condition, channel.active)?;
            Ok(Some(Event::Created(Broadcast {
                id: BroadcastId(id),
                message: message.clone(),
                severity: *severity,
                created_by: by.clone(),
                created_at: now,
            })))
        }
        Command::Clear { by, condition, .. } => {
            if let Some(written) = view.lifecycle_event(id) {
                let same = condition.holds(Some(written.broadcast)) && written.broadcast.0 != id;
                return if same { Ok(None) } else { Err(Rejection::KeyReused) };
            }
            require(condition, channel.active)?;
            Ok(channel.active.map(|broadcast_id| {
                Event::Cleared(Cleared { broadcast_id, cleared_by: by.clone(), cleared_at: now })
            }))
        }
        Command::Acknowledge { channel, broadcast, user } => {
            if acknowledged_before(view, channel, *broadcast, user.fingerprint())?.is_some() {
                return Ok(None);
            }
            Ok(Some(Event::Acknowledged(Acknowledged {
                broadcast_id: *broadcast,
                acknowledgements: vec![Acknowledgement { user: user.clone(), at: now }],
                salt: None,
            })))
        }
    }
}

/// Judges an acknowledgement alone, by the user's [`UserId::fingerprint`]: the sequence at which the user made it before,
/// or `None` when that is still to do.
pub fn acknowledged_before(
    view: View<'_>,
    channel: &Channel,
    broadcast: BroadcastId,
    user: Fingerprint,
) -> Result<Option<u64>, Rejection> {
    match view.broadcast(broadcast) {
        Some(known) if known.channel == *channel => Ok(view.acknowledged_by(broadcast, user)),
        _ => Err(Rejection::UnknownBroadcast { id: broadcast }),
    }
}

fn require(condition: &Precondition, active: Option<BroadcastId>) -> Result<(), Rejection> {
    match (condition, active) {
        _ if condition.holds(active) => Ok(()),
        (Precondition::NoneActive, Some(active)) => Err(Rejection::AlreadyActive { active }),
        _ => Err(Rejection::NotActive { active }),
    }
}
