//! The authenticated sender of a request.

use std::time::Duration;

use super::error::AuthError;
use super::roles::{Role, Roles};
use crate::domain::{Channel, Timestamp, UserId};

/// A user, with what the request proves about them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// Their id.
    pub user: UserId,
    /// Their roles.
    pub roles: Roles,
    /// When their token expires; dev auth has none.
    pub expires_at: Option<Timestamp>,
}

impl Principal {
    /// Requires one of these roles in a channel.
    pub fn require(&self, channel: &Channel, roles: &[Role]) -> Result<(), AuthError> {
        if self.roles.any_in(channel, roles) {
            return Ok(());
        }
        let elsewhere = self.roles.list().iter().any(|grant| grant.channel.is_some());
        Err(self.lacks(roles, elsewhere.then_some(channel)))
    }

    /// Requires one of these roles for all channels.
    pub fn require_everywhere(&self, roles: &[Role]) -> Result<(), AuthError> {
        if self.roles.any_everywhere(roles) { Ok(()) } else { Err(self.lacks(roles, None)) }
    }

    fn lacks(&self, required: &[Role], channel: Option<&Channel>) -> AuthError {
        let (required, channel) = (required.to_vec(), channel.cloned());
        AuthError::MissingRole { required, channel, own: self.roles.list() }
    }

    /// How long the token remains valid; none for dev auth.
    pub fn remaining(&self, now: Timestamp) -> Option<Duration> {
        let left = self.expires_at?.as_unix_ms().saturating_sub(now.as_unix_ms());
        Some(Duration::from_millis(left.try_into().unwrap_or_default()))
    }

    /// The principal, unless the token has expired. Connections allow no leeway: they are told when the token expires.
    pub fn unexpired(self, now: Timestamp) -> Result<Self, AuthError> {
        if self.expires_at.is_some_and(|at| at <= now) { Err(AuthError::ExpiredToken) } else { Ok(self) }
    }

    /// Whether they see what creators and team of a channel see.
    pub fn is_staff(&self, channel: &Channel) -> bool {
        self.roles.any_in(channel, &[Role::Creator, Role::Team])
    }
}
