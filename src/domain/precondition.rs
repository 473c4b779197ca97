//! The precondition of a command on the active broadcast.

use serde::{Deserialize, Serialize};

use super::types::BroadcastId;

/// The precondition of a post or a clear (RFC 9110, section 13.1), as JSON in the outbox of a replica.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precondition {
    /// No precondition: whatever is active, if anything is.
    #[default]
    Always,
    /// `If-Match: *`: some broadcast is active.
    AnyActive,
    /// `If-Match` with ids: one of these broadcasts is active.
    OneOf(Vec<BroadcastId>),
    /// `If-None-Match: *`: no broadcast is active.
    NoneActive,
}

impl Precondition {
    /// Whether it holds while this broadcast is active in the channel.
    pub fn holds(&self, active: Option<BroadcastId>) -> bool {
        match self {
            Self::Always => true,
            Self::AnyActive => active.is_some(),
            Self::OneOf(ids) => active.is_some_and(|active| ids.contains(&active)),
            Self::NoneActive => active.is_none(),
        }
    }

    /// Whether it always holds.
    pub const fn is_always(&self) -> bool {
        matches!(self, Self::Always)
    }

    /// Whether it names broadcasts. Its author knew them, so a broadcast that meets it is older than the command.
    pub const fn names_broadcasts(&self) -> bool {
        matches!(self, Self::OneOf(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_condition_is_about_what_is_active() {
        let id = |n| BroadcastId(Uuid::from_u128(n));
        let held = |condition: &Precondition| [None, Some(id(1)), Some(id(2))].map(|id| condition.holds(id));
        assert_eq!(held(&Precondition::Always), [true, true, true]);
        assert_eq!(held(&Precondition::AnyActive), [false, true, true]);
        assert_eq!(held(&Precondition::OneOf(vec![id(2), id(3)])), [false, false, true]);
        assert_eq!(held(&Precondition::NoneActive), [true, false, false]);
    }

    #[test]
    fn it_is_written_as_it_will_be_read() {
        let id = BroadcastId(Uuid::from_u128(1));
        for (condition, json) in [
            (Precondition::Always, r#""always""#),
            (Precondition::AnyActive, r#""any_active""#),
            (Precondition::OneOf(vec![id]), r#"{"one_of":["00000000-0000-0000-0000-000000000001"]}"#),
            (Precondition::NoneActive, r#""none_active""#),
        ] {
            assert_eq!(serde_json::to_string(&condition).unwrap(), json);
            assert_eq!(serde_json::from_str::<Precondition>(json).unwrap(), condition);
        }
    }
}
