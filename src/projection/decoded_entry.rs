//! An entry of the log, decoded: what it means to this build.

use crate::domain::{Channel, Event, Recorded};
use crate::log::TraceParent;
use crate::log::envelope::{Decoded, Skipped, decode, trace_of};
use crate::log::merkle::Hash;
use crate::log::names::Subject;
use crate::log::reader::LogEntry;

/// A decoded entry of the log.
pub struct DecodedEntry {
    /// Its sequence in the log.
    pub sequence: u64,
    /// Its leaf in the Merkle tree.
    pub leaf: Hash,
    /// What was decoded.
    pub kind: EntryKind,
}

/// What an entry of the log is to this build.
pub enum EntryKind {
    /// An event, and the trace of the request that caused it.
    Event(Recorded, Option<TraceParent>),
    /// A message that is skipped, and the channel, if it is on that channel's lifecycle subject: the guard there counts it too.
    Skipped(Skipped, Option<Channel>),
    /// A message that the log has lost.
    Hole,
}

impl EntryKind {
    /// The channel whose state the entry may change.
    pub(super) const fn channel(&self) -> Option<&Channel> {
        match self {
            Self::Event(recorded, _) => Some(&recorded.channel),
            Self::Skipped(_, channel) => channel.as_ref(),
            Self::Hole => None,
        }
    }

    /// The channel of the lifecycle subject that the message is on; `None` on any other subject.
    pub fn lifecycle_channel(&self) -> Option<&Channel> {
        match self {
            Self::Event(Recorded { event: Event::Acknowledged(_), .. } | Recorded { late: true, .. }, _) => {
                None
            }
            Self::Event(recorded, _) => Some(&recorded.channel),
            Self::Skipped(_, channel) => channel.as_ref(),
            Self::Hole => None,
        }
    }

    /// How many acknowledgements it has.
    pub(super) const fn acknowledgements(&self) -> usize {
        match self {
            Self::Event(Recorded { event: Event::Acknowledged(event), .. }, _) => {
                event.acknowledgements.len()
            }
            _ => 0,
        }
    }
}

impl DecodedEntry {
    /// Decodes what the reader read.
    pub fn of(entry: &LogEntry) -> Self {
        let kind = match entry {
            LogEntry::Hole(_) => EntryKind::Hole,
            LogEntry::Message(message) => match decode(message) {
                Decoded::Event(recorded) => EntryKind::Event(recorded, trace_of(message)),
                Decoded::Skipped(skipped) => EntryKind::Skipped(
                    skipped,
                    match message.subject.parse() {
                        Ok(Subject::Lifecycle(channel)) => Some(channel),
                        _ => None,
                    },
                ),
            },
        };
        Self { sequence: entry.sequence(), leaf: entry.leaf(), kind }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::domain::Timestamp;

    impl DecodedEntry {
        /// An event on the channel `creator`, in a log whose leaves do not matter.
        pub(in crate::projection) fn of_event(sequence: u64, id: Uuid, event: Event) -> Self {
            let recorded = Recorded {
                sequence,
                recorded_at: Timestamp::from_unix_ms(0),
                channel: "creator".parse().unwrap(),
                id,
                late: false,
                relayed: false,
                sent_to: None,
                event,
            };
            Self { sequence, leaf: Hash::empty(), kind: EntryKind::Event(recorded, None) }
        }
    }
}
