//! `decide`: judges a command against the state and says which event it becomes, if any. It changes nothing.

use thiserror::Error;
use uuid::Uuid;

use super::event::{Acknowledged, Acknowledgement, Broadcast, Cleared, Event};
use super::message::{MAX_MESSAGE_CHARS, Message};
use super::precondition::Precondition;
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
}

/// A rule of the domain forbids a command. The text is shown to the client; `http/error.rs` has the status codes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The message has no visible character.
    #[error("Broadcast message cannot be empty.")]
    MessageEmpty,
    /// The message has more than [`MAX_MESSAGE_CHARS`] Unicode scalar values.
    #[error("Broadcast message too long. Maximum {MAX_MESSAGE_CHARS} characters allowed. Current: {length}")]
    MessageTooLong {
        /// How many it has.
        length: usize,
    },
    /// The message has a control character, a bidirectional override, or a character that hides text.
    #[error(
        "Broadcast message contains the character U+{:04X} at position {place}, which is not allowed: control characters, \
         bidirectional overrides and invisible tags can make a message read differently from what it says.",
        u32::from(*.character)
    )]
    MessageForbiddenCharacter {
        /// The first such character.
        character: char,
        /// Its position, counted from 1 like the length: in the message as it would be stored.
        place: usize,
    },
    /// The type is none of `info`, `warning`, `alert`.
    #[error("`{}` is not a broadcast type. Use one of: {}.", .given.escape_debug(), Severity::ALL.map(Severity::as_str).join(", "))]
    UnknownType {
        /// The given type, cut to 40 characters.
        given: String,
    },
    /// The channel has no broadcast with this id.
    #[error("There is no broadcast {id} in this channel.")]
    UnknownBroadcast {
        /// The requested id.
        id: BroadcastId,
    },
    /// `If-Match` requires a broadcast to be active that is not.
    #[error("{} Nothing was changed.", .active.map_or_else(
        || "No broadcast is active now.".to_owned(),
        |active| format!("Another broadcast is active now: {active}."),
    ))]
    NotActive {
        /// The broadcast that is active, if any.
        active: Option<BroadcastId>,
    },
    /// `If-None-Match: *` requires that no broadcast is active.
    #[error("A broadcast is active now: {active}. Nothing was changed.")]
    AlreadyActive {
        /// The broadcast that is active.
        active: BroadcastId,
    },
    /// The idempotency key was used before, for another command.
    #[error("This Idempotency-Key was used before for another request. Use a new key for a new request.")]
    KeyReused,
}

impl Rejection {
    /// The code of this error for clients.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::MessageEmpty => "message_empty",
            Self::MessageTooLong { .. } => "message_too_long",
            Self::MessageForbiddenCharacter { .. } => "message_forbidden_character",
            Self::UnknownType { .. } => "unknown_type",
            Self::UnknownBroadcast { .. } => "unknown_broadcast",
            Self::NotActive { .. } => "not_active",
            Self::AlreadyActive { .. } => "already_active",
            Self::KeyReused => "idempotency_key_reused",
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
