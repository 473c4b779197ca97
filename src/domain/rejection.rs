//! Rejections: the rules of the domain that a command can break.

use thiserror::Error;

use super::types::{BroadcastId, MAX_MESSAGE_CHARS, Severity};

/// A rule of the domain forbids a command. The text is shown to the client; `http/error.rs` has the status codes.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// The message has no visible character.
    #[error("Broadcast message cannot be empty.")]
    MessageEmpty,
    /// The message has more than [`MAX_MESSAGE_CHARS`] Unicode scalar values.
    #[error("Broadcast message too long. Maximum {MAX_MESSAGE_CHARS} characters allowed. Current: {length}")]
    MessageTooLong {
        /// Its length.
        length: usize,
    },
    /// The message has a control character, a bidirectional override, or a character that hides text.
    #[error(
        "Broadcast message contains the character U+{:04X} at position {position}, which is not allowed: control characters, \
         bidirectional overrides and invisible tags can make a message read differently from what it says.",
        u32::from(*.character)
    )]
    MessageForbiddenCharacter {
        /// The first such character.
        character: char,
        /// Its position, counted from 1 like the length: in the message as it would be stored.
        position: usize,
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

impl Rejection {
    /// The rejection of a word that is no [`Severity`].
    pub fn unknown_type(given: &str) -> Self {
        Self::UnknownType { given: given.chars().take(40).collect() }
    }
}
