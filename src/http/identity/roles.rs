//! Roles: what a user may do, in all channels or in one, and how the claims of a token grant them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use thiserror::Error;

use crate::domain::{Channel, InvalidChannel};

/// What a user may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sends and clears broadcasts, and reads statistics.
    Creator,
    /// Reads statistics.
    Team,
    /// Reads broadcasts and acknowledges them, as every user may.
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

/// A role, for all channels or for one: `creator`, `creator@forum`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// The channel in which it is granted; none: in all.
    pub channel: Option<Channel>,
}

impl From<Role> for Grant {
    fn from(role: Role) -> Self {
        Self { role, channel: None }
    }
}

/// A text is not a [`Grant`] or a [`Mapping`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidGrant {
    /// The role is unknown.
    #[error("a role is one of: creator, team, user, auditor; or creator@CHANNEL")]
    Role,
    /// An auditor of one channel: the log is one for all of them.
    #[error("the role auditor reads the log of all channels, so it cannot be limited to one")]
    AuditorOfChannel,
    /// The channel is none.
    #[error(transparent)]
    Channel(#[from] InvalidChannel),
    /// A mapping without `=`.
    #[error("`{}` does not name groups: creator=editors,press, or creator@forum=forum-editors", .0.escape_debug())]
    NoGroups(String),
    /// A mapping with nothing between two commas.
    #[error("`{}` has an empty name of a group", .0.escape_debug())]
    EmptyGroup(String),
}

impl FromStr for Grant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (role, channel) = text.split_once('@').map_or((text, None), |(role, name)| (role, Some(name)));
        let role = Role::parse(role).ok_or(InvalidGrant::Role)?;
        if role == Role::Auditor && channel.is_some() {
            return Err(InvalidGrant::AuditorOfChannel);
        }
        Ok(Self { role, channel: channel.map(str::parse).transpose()? })
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.as_str())?;
        self.channel.as_ref().map_or(Ok(()), |channel| write!(f, "@{channel}"))
    }
}

/// The roles of a user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    everywhere: u8,
    /// Few users have any.
    in_channels: Option<Arc<BTreeMap<Channel, u8>>>,
}

impl Roles {
    /// Whether one of these is granted for all channels.
    pub fn any_everywhere(&self, roles: &[Role]) -> bool {
        has(self.everywhere, roles)
    }

    /// Whether one of these is granted in a channel.
    pub fn any_in(&self, channel: &Channel, roles: &[Role]) -> bool {
        let here = self.in_channels.as_ref().and_then(|channels| channels.get(channel));
        has(self.everywhere | here.copied().unwrap_or_default(), roles)
    }

    /// Each of them.
    pub fn list(&self) -> Vec<Grant> {
        let roles = |bits: u8| Role::ALL.into_iter().filter(move |role| bits & role.bit() != 0);
        let bound =
            self.in_channels.iter().flat_map(|channels| channels.iter()).flat_map(|(channel, bits)| {
                roles(*bits).map(|role| Grant { role, channel: Some(channel.clone()) })
            });
        roles(self.everywhere).map(Grant::from).chain(bound).collect()
    }
}

fn has(bits: u8, roles: &[Role]) -> bool {
    roles.iter().any(|role| bits & role.bit() != 0)
}

impl FromIterator<Grant> for Roles {
    fn from_iter<I: IntoIterator<Item = Grant>>(grants: I) -> Self {
        let (mut everywhere, mut bound) = (0, BTreeMap::new());
        for Grant { role, channel } in grants {
            match channel {
                None => everywhere |= role.bit(),
                Some(channel) => *bound.entry(channel).or_default() |= role.bit(),
            }
        }
        Self { everywhere, in_channels: (!bound.is_empty()).then(|| bound.into()) }
    }
}

/// One `--role`: the groups of an identity provider whose members have a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The role.
    pub grant: Grant,
    groups: Vec<String>,
}

impl FromStr for Mapping {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (grant, groups) = text.split_once('=').ok_or_else(|| InvalidGrant::NoGroups(text.to_owned()))?;
        let groups: Vec<_> = groups.split(',').map(|group| group.trim().to_owned()).collect();
        if groups.iter().any(String::is_empty) {
            return Err(InvalidGrant::EmptyGroup(text.to_owned()));
        }
        Ok(Self { grant: grant.trim().parse()?, groups })
    }
}

/// Which values of the roles claim grant which roles.
#[derive(Debug, Default)]
pub struct RoleMap {
    by_group: HashMap<String, Vec<Grant>>,
    /// Roles that are granted by groups, and so no longer by their own names.
    mapped: u8,
}

impl RoleMap {
    /// With these mappings. A role without any is granted by its own name.
    pub fn new(mappings: &[Mapping]) -> Self {
        let mut map = Self::default();
        for Mapping { grant, groups } in mappings {
            map.mapped |= grant.role.bit();
            for group in groups {
                map.by_group.entry(group.clone()).or_default().push(grant.clone());
            }
        }
        map
    }

    /// The roles that values of the claim grant. Unknown values are ignored: they are for other services.
    pub fn roles<'a>(&self, words: impl Iterator<Item = &'a str>) -> Roles {
        words.flat_map(|word| self.grants(word)).collect()
    }

    fn grants(&self, word: &str) -> impl Iterator<Item = Grant> {
        let by_name = word.parse::<Grant>().ok().filter(|grant| self.mapped & grant.role.bit() == 0);
        self.by_group.get(word).into_iter().flatten().cloned().chain(by_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roles(words: &[&str]) -> Roles {
        RoleMap::default().roles(words.iter().copied())
    }

    fn channel(name: &str) -> Channel {
        name.parse().unwrap()
    }

    #[test]
    fn roles_are_a_set_of_known_words() {
        let roles = roles(&["team", "admin", "auditor", "", "Creator"]);
        assert!(roles.any_everywhere(&[Role::Team]) && roles.any_everywhere(&[Role::Creator, Role::Auditor]));
        assert!(!roles.any_everywhere(&[Role::Creator, Role::User]));
        assert!(!Roles::default().any_everywhere(&Role::ALL));
    }

    #[test]
    fn a_role_with_a_channel_counts_there_alone() {
        let (forum, creator) = (channel("forum"), channel("creator"));
        let here = roles(&["creator@forum", "team", "user@nowhere"]);
        assert!(here.any_in(&forum, &[Role::Creator]) && !here.any_in(&creator, &[Role::Creator]));
        assert!(here.any_in(&forum, &[Role::Team]) && here.any_in(&creator, &[Role::Team]));
        assert!(!here.any_everywhere(&[Role::Creator]));
        let listed: Vec<_> = here.list().iter().map(ToString::to_string).collect();
        assert_eq!(listed, ["team", "creator@forum", "user@nowhere"]);
        for nothing in ["creator@", "creator@a b", "auditor@forum", "@forum", "creator@forum@x"] {
            assert_eq!(roles(&[nothing]), Roles::default(), "{nothing}");
        }
    }

    #[test]
    fn a_role_with_groups_is_granted_by_them_and_no_longer_by_its_name() {
        let mappings = ["creator=press,editors", "creator@forum=forum-editors", "auditor=press"];
        let mappings: Vec<Mapping> = mappings.iter().map(|text| text.parse().unwrap()).collect();
        let map = RoleMap::new(&mappings);
        let of = |word: &'static str| {
            map.roles([word].into_iter()).list().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(of("press"), ["creator", "auditor"]);
        assert_eq!(of("editors"), ["creator"]);
        assert_eq!(of("forum-editors"), ["creator@forum"]);
        assert_eq!(of("team"), ["team"], "it has no groups");
        for nothing in ["creator", "creator@forum", "auditor", "Press", ""] {
            assert!(of(nothing).is_empty(), "{nothing}");
        }
        for bad in ["creator", "creator=", "creator=a,,b", "root=a", "auditor@forum=a", "=a", "creator@=a"] {
            assert!(bad.parse::<Mapping>().is_err(), "{bad}");
        }
    }
}
