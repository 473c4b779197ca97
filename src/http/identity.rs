//! Who is asking, and what they may do.

mod credential;
mod crypto;
mod dev;
mod fetch;
pub mod gate;
pub mod jwks;
pub mod keys;
pub mod origin;
mod token;

use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::error::ApiError;
use super::state::App;
use crate::domain::{Timestamp, UserId};

pub use credential::{Places, SUBPROTOCOL};
pub use token::{Signers, Verifier};

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends and clears broadcasts, and reads statistics.
    Creator,
    /// Reads statistics.
    Team,
    /// Reads broadcasts and acknowledges them, as everybody does.
    User,
    /// Reads the log.
    Auditor,
}

impl Role {
    /// Every role, in the order in which documents list them.
    pub const ALL: [Self; 4] = [Self::Creator, Self::Team, Self::User, Self::Auditor];

    /// The role of this name.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.as_str() == word)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creator => "creator",
            Self::Team => "team",
            Self::User => "user",
            Self::Auditor => "auditor",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The roles that somebody has: any of them, or none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Roles(u8);

impl Roles {
    /// Whether one of these is among them.
    pub fn any(self, roles: &[Role]) -> bool {
        roles.iter().any(|role| self.0 & role.bit() != 0)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        Self(roles.into_iter().fold(0, |bits, role| bits | role.bit()))
    }
}

/// Of words, unknown ones passed over.
impl<'a> FromIterator<&'a str> for Roles {
    fn from_iter<I: IntoIterator<Item = &'a str>>(words: I) -> Self {
        words.into_iter().filter_map(Role::parse).collect()
    }
}

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
    /// Lets those through who have one of these roles.
    pub fn require(&self, roles: &[Role]) -> Result<(), ApiError> {
        if self.roles.any(roles) {
            return Ok(());
        }
        let named = |roles: &[Role], between: &str| {
            roles.iter().map(|role| role.as_str()).collect::<Vec<_>>().join(between)
        };
        let own: Vec<_> = Role::ALL.into_iter().filter(|role| self.roles.any(&[*role])).collect();
        let have = match own[..] {
            [] => "you have none".to_owned(),
            [one] => format!("yours is {}", one.as_str()),
            _ => format!("yours are {}", named(&own, ", ")),
        };
        let message = format!("This takes the role {}; {have}.", named(roles, " or "));
        Err(ApiError::forbidden("role_required", message))
    }

    /// How long their token lasts from now on.
    pub fn lasts(&self, now: Timestamp) -> Option<Duration> {
        let left = self.ends?.as_unix_ms().saturating_sub(now.as_unix_ms());
        Some(Duration::from_millis(left.try_into().unwrap_or_default()))
    }

    /// Whether they learn what creators and team learn.
    pub fn is_staff(&self) -> bool {
        self.roles.any(&[Role::Creator, Role::Team])
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
    fn roles_are_a_set_of_known_words() {
        let roles: Roles = ["team", "admin", "auditor", "", "Creator"].into_iter().collect();
        assert!(roles.any(&[Role::Team]) && roles.any(&[Role::Creator, Role::Auditor]));
        assert!(!roles.any(&[Role::Creator, Role::User]) && !Roles::default().any(&Role::ALL));
    }

    #[test]
    fn who_lacks_a_role_hears_which_one_and_what_they_have() {
        let who = |words: &[&str]| Identity {
            user: "ann".parse().unwrap(),
            roles: words.iter().copied().collect(),
            ends: None,
        };
        let said = |words: &[&str]| {
            who(words).require(&[Role::Creator, Role::Team]).err().map(|error| error.into_parts().1)
        };
        assert_eq!(said(&["team"]), None);
        assert_eq!(said(&[]).unwrap(), "This takes the role creator or team; you have none.");
        assert_eq!(said(&["user"]).unwrap(), "This takes the role creator or team; yours is user.");
        let two = said(&["auditor", "user"]).unwrap();
        assert_eq!(two, "This takes the role creator or team; yours are user, auditor.");
    }
}
