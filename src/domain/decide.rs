//! `decide`: judges a command against the state and says which event it becomes, if any. It changes nothing.

use uuid::Uuid;

use super::event::{Acknowledged, Acknowledgement, Broadcast, Cleared, Event};
use super::message::Message;
use super::needs::Needs;
use super::precondition::Precondition;
use super::rejection::Rejection;
use super::types::{BroadcastId, Channel, Fingerprint, Severity, Timestamp, UserId};
use super::view::View;

/// What somebody wants to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Send an announcement; it takes the place of the active one.
    Create {
        /// Where.
        channel: Channel,
        /// What it says.
        message: Message,
        /// How to present it.
        severity: Severity,
        /// Who sends it.
        by: UserId,
        /// What has to be active.
        condition: Precondition,
    },
    /// Take the active announcement down.
    Clear {
        /// Where.
        channel: Channel,
        /// Who does it.
        by: UserId,
        /// What has to be active.
        condition: Precondition,
    },
    /// Confirm an announcement, once for all of a user's devices.
    Acknowledge {
        /// Where.
        channel: Channel,
        /// Which one.
        broadcast: BroadcastId,
        /// Who confirms.
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
/// `now` and `id` are what the event will carry. `Ok(None)` means that nothing has to be written: it is already so,
/// or the event with this id is in the log. Deciding again with the same id after a lost answer is therefore safe. A
/// condition is then judged by what was active before that event, as it was the first time: what it demanded may be gone
/// since, by this very event even.
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
