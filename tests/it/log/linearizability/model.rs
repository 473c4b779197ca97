//! What one server would do that does one request after the other.

use todc_utils::Specification;

/// Under which condition a post or a clear has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    Always,
    /// `If-None-Match: *`.
    NothingActive,
    /// `If-Match` with the id of this broadcast.
    Active(u64),
}

impl Precondition {
    fn holds(self, active: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::NothingActive => active.is_none(),
            Self::Active(number) => active == Some(number),
        }
    }
}

/// How a post or a clear was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// `412`.
    PreconditionFailed,
    /// Not at all, or that the outcome is unknown.
    Unknown,
}

/// A request about the active broadcast of a channel. Broadcasts are numbered.
#[derive(Clone, Copy, Debug)]
pub enum ChannelOperation {
    Post {
        number: u64,
        precondition: Precondition,
        outcome: Outcome,
    },
    /// With the broadcast that was cleared, if that is known and there was one.
    Clear {
        cleared: Option<u64>,
        precondition: Precondition,
        outcome: Outcome,
    },
    /// With the broadcast that was active.
    Read(Option<u64>),
}

/// A channel has an active broadcast, or none.
pub struct Channel;

impl Specification for Channel {
    type State = Option<u64>;
    type Operation = ChannelOperation;

    fn init() -> Self::State {
        None
    }

    fn apply(operation: &Self::Operation, active: &Self::State) -> (bool, Self::State) {
        let active = *active;
        let write =
            |precondition: Precondition, outcome, done, after| match (outcome, precondition.holds(active)) {
                (Outcome::Done, holds) => (holds && done, after),
                (Outcome::PreconditionFailed, holds) => (!holds, active),
                (Outcome::Unknown, true) => (true, after),
                (Outcome::Unknown, false) => (true, active),
            };
        match *operation {
            ChannelOperation::Post { number, precondition, outcome } => {
                write(precondition, outcome, true, Some(number))
            }
            ChannelOperation::Clear { cleared, precondition, outcome } => {
                write(precondition, outcome, active == cleared, None)
            }
            ChannelOperation::Read(read) => (read == active, active),
        }
    }
}

/// A request about the acknowledgement of one user of one broadcast.
#[derive(Clone, Copy, Debug)]
pub enum AcknowledgementOperation {
    /// Whether it was there already, if that was answered.
    Acknowledge { already: Option<bool> },
    /// Whether it was there.
    Read(bool),
}

/// A user has acknowledged a broadcast, or has not.
pub struct Acknowledgement;

impl Specification for Acknowledgement {
    type State = bool;
    type Operation = AcknowledgementOperation;

    fn init() -> Self::State {
        false
    }

    fn apply(operation: &Self::Operation, is_there: &Self::State) -> (bool, Self::State) {
        match *operation {
            AcknowledgementOperation::Acknowledge { already } => {
                (already.is_none_or(|already| already == *is_there), true)
            }
            AcknowledgementOperation::Read(read) => (read == *is_there, *is_there),
        }
    }
}
