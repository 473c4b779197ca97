//! `decide`: judges a command against the state and says which event it becomes, if any. It changes nothing.

use std::fmt;

use uuid::Uuid;

use super::condition::Condition;
use super::event::{Acknowledged, Acknowledgement, Broadcast, Cleared, Event};
use super::message::{MAX_MESSAGE_CHARS, Message};
use super::types::{BroadcastId, Channel, Fingerprint, Kind, Timestamp, UserId};
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
        kind: Kind,
        /// Who sends it.
        by: UserId,
        /// What has to be active.
        condition: Condition,
    },
    /// Take the active announcement down.
    Clear {
        /// Where.
        channel: Channel,
        /// Who does it.
        by: UserId,
        /// What has to be active.
        condition: Condition,
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
}

/// A rule of the domain said no. Each becomes one status code and one sentence in `http/error.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Nothing of the message can be seen.
    MessageEmpty,
    /// The message has more than 280 Unicode scalar values.
    MessageTooLong {
        /// How many it has.
        length: usize,
    },
    /// The message has a control character, a bidirectional override, or a character that hides text.
    MessageForbiddenCharacter {
        /// The first of them.
        character: char,
        /// Where it stands, counted from 1 as the length is: in the message as it would be kept.
        place: usize,
    },
    /// The type is none of `info`, `warning`, `alert`.
    UnknownType {
        /// What was given, cut to 40 characters.
        given: String,
    },
    /// The channel knows no broadcast of this id.
    UnknownBroadcast {
        /// The id asked for.
        id: BroadcastId,
    },
    /// `If-Match` demands another broadcast than the active one, or any, and none is active.
    NotActive {
        /// The one that is.
        active: Option<BroadcastId>,
    },
    /// `If-None-Match: *` demands that none is active.
    AlreadyActive {
        /// The one that is.
        active: BroadcastId,
    },
    /// The idempotency key was used before, for another command.
    KeyReused,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MessageEmpty => f.write_str("Broadcast message cannot be empty."),
            Self::MessageTooLong { length } => write!(
                f,
                "Broadcast message too long. Maximum {MAX_MESSAGE_CHARS} characters allowed. Current: {length}"
            ),
            Self::MessageForbiddenCharacter { character, place } => write!(
                f,
                "Broadcast message contains the character U+{:04X} at position {place}, which is not allowed: control \
                 characters, bidirectional overrides and invisible tags can make a message read differently from what it says.",
                u32::from(*character)
            ),
            Self::UnknownType { given } => write!(
                f,
                "`{}` is not a broadcast type. Use one of: {}.",
                given.escape_debug(),
                Kind::ALL.map(Kind::as_str).join(", ")
            ),
            Self::UnknownBroadcast { id } => write!(f, "There is no broadcast {id} in this channel."),
            Self::NotActive { active: Some(active) } => {
                write!(f, "Another broadcast is active now: {active}. Nothing was changed.")
            }
            Self::NotActive { active: None } => {
                f.write_str("No broadcast is active now. Nothing was changed.")
            }
            Self::AlreadyActive { active } => {
                write!(f, "A broadcast is active now: {active}. Nothing was changed.")
            }
            Self::KeyReused => f.write_str(
                "This Idempotency-Key was used before for another request. Use a new key for a new request.",
            ),
        }
    }
}

/// Judges `command` by `view`, which must hold what [`State::needs`](super::State::needs) names for it.
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
        Command::Create { message, kind, by, condition, .. } => {
            if let Some(written) = view.written_by(id) {
                let known = view.broadcast(written.about).filter(|known| known.broadcast.id.0 == id);
                let same = known.is_some_and(|known| {
                    let Broadcast { message: sent, kind: sent_as, .. } = &known.broadcast;
                    sent == message && sent_as == kind && (known.late || condition.holds(known.superseded))
                });
                return if same { Ok(None) } else { Err(Rejection::KeyReused) };
            }
            require(condition, channel.active)?;
            Ok(Some(Event::Created(Broadcast {
                id: BroadcastId(id),
                message: message.clone(),
                kind: *kind,
                created_by: by.clone(),
                created_at: now,
            })))
        }
        Command::Clear { by, condition, .. } => {
            if let Some(written) = view.written_by(id) {
                let same = condition.holds(Some(written.about)) && written.about.0 != id;
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

fn require(condition: &Condition, active: Option<BroadcastId>) -> Result<(), Rejection> {
    match (condition, active) {
        _ if condition.holds(active) => Ok(()),
        (Condition::NoneActive, Some(active)) => Err(Rejection::AlreadyActive { active }),
        _ => Err(Rejection::NotActive { active }),
    }
}
