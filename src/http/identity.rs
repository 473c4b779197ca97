//! Who is asking, and what they may do.

mod credential;
mod crypto;
mod dev;
mod fetch;
pub mod gate;
pub mod guard;
pub mod jwks;
pub mod keys;
pub mod origin;
pub mod roles;
pub mod rules;
mod token;

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::ApiError;
use super::state::App;
use crate::domain::{Channel, Timestamp, UserId};

pub use credential::{Places, SUBPROTOCOL};
pub use roles::{Grant, Role, Roles};
pub use token::{Signers, Verifier};

/// Somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Their id.
    pub user: UserId,
    /// What they may do.
    pub roles: Roles,
    /// When their token ends; dev auth has none.
    pub ends: Option<Timestamp>,
}

impl Identity {
    /// An error for those who have none of these roles in a channel.
    pub fn require(&self, channel: &Channel, roles: &[Role]) -> Result<(), ApiError> {
        if self.roles.any_in(channel, roles) {
            return Ok(());
        }
        let elsewhere = self.roles.list().iter().any(|grant| grant.channel.is_some());
        Err(self.lacks(roles, elsewhere.then_some(channel)))
    }

    /// An error for those who have none of these roles for all channels.
    pub fn require_everywhere(&self, roles: &[Role]) -> Result<(), ApiError> {
        if self.roles.any_everywhere(roles) { Ok(()) } else { Err(self.lacks(roles, None)) }
    }

    fn lacks(&self, roles: &[Role], channel: Option<&Channel>) -> ApiError {
        let wanted = roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(" or ");
        let place = channel.map(|channel| format!(" in the channel `{channel}`")).unwrap_or_default();
        let own = self.roles.list().iter().map(ToString::to_string).collect::<Vec<_>>();
        let have = match &own[..] {
            [] => "you have no role".to_owned(),
            [one] => format!("your role is {one}"),
            _ => format!("your roles are {}", own.join(", ")),
        };
        ApiError::forbidden("role_required", format!("Requires the role {wanted}{place}; {have}."))
    }

    /// How long their token lasts from now on.
    pub fn lasts(&self, now: Timestamp) -> Option<Duration> {
        let left = self.ends?.as_unix_ms().saturating_sub(now.as_unix_ms());
        Some(Duration::from_millis(left.try_into().unwrap_or_default()))
    }

    /// Whether they learn what creators and team of a channel learn.
    pub fn is_staff(&self, channel: &Channel) -> bool {
        self.roles.any_in(channel, &[Role::Creator, Role::Team])
    }
}

/// Whoever sends a request that is answered once.
impl FromRequestParts<App> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.gate.of_request(parts).await.map_err(|error| app.rates.refuse(parts, error))
    }
}

/// Whoever opens a connection: a WebSocket or an event stream.
pub struct Listener(pub Identity);

impl FromRequestParts<App> for Listener {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        app.rates.connect(parts)?;
        let who = app.gate.of_connection(parts, app.clock.now()).await;
        who.map(Self).map_err(|error| app.rates.refuse(parts, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_lacks_a_role_hears_which_one_and_what_they_have() {
        let who = |words: &[&str]| Identity {
            user: "ann".parse().unwrap(),
            roles: words.iter().map(|word| word.parse::<Grant>().unwrap()).collect(),
            ends: None,
        };
        let (creator, roles) = ("creator".parse().unwrap(), [Role::Creator, Role::Team]);
        let said =
            |words: &[&str]| who(words).require(&creator, &roles).err().map(|error| error.into_parts().1);
        assert_eq!(said(&["team"]), None);
        assert_eq!(said(&["team@creator"]), None);
        assert_eq!(said(&[]).unwrap(), "Requires the role creator or team; you have no role.");
        assert_eq!(said(&["user"]).unwrap(), "Requires the role creator or team; your role is user.");
        let two = said(&["auditor", "user"]).unwrap();
        assert_eq!(two, "Requires the role creator or team; your roles are user, auditor.");
        let elsewhere = said(&["creator@forum"]).unwrap();
        let expected =
            "Requires the role creator or team in the channel `creator`; your role is creator@forum.";
        assert_eq!(elsewhere, expected);
        assert!(who(&["creator@forum"]).require_everywhere(&roles).is_err());
    }
}
