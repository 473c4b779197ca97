//! What a proof shows of an event: enough to compute its leaf anew, and of its body no more than it is about.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::error::ProofError;
use crate::domain::{Broadcast, BroadcastId, Channel, Event, Timestamp, UserId};
use crate::log::RawMessage;
use crate::log::envelope::{Decoded, decode, subject_and_id, type_of};
use crate::log::facts::{Fact, facts_of};
use crate::log::leaf::{StatedMessage, Statement};
use crate::log::merkle::{Hash, inclusion_ranges, verify_inclusion};
use crate::log::names::Subject;
use crate::log::names::header::FACTS_ROOT;

/// The extra data of a proof, as JSON: `schemas/proof.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofExtra {
    /// The bytes of the event's [`Statement`], in base64.
    statement: String,
    shown: Disclosed,
}

/// What is shown of the body, of which the statement has the hash alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Disclosed {
    /// Nothing but one user, by way of the root over the event's facts.
    Acknowledgement(FactProof),
    /// All of it, in base64.
    Announcement { body: String },
}

/// One fact, and how it leads to the root over all of its event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FactProof {
    fact: Fact,
    /// Which one it is, from 0, and of how many. The root does not say how many there are: nobody may believe this.
    number: u64,
    facts: u64,
    path: Vec<Hash>,
}

/// What an event says, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenEvent {
    /// Its place in the log, from 1.
    pub sequence: u64,
    /// When the log recorded it, in nanoseconds since 1970-01-01.
    pub time_ns: i64,
    /// In which channel.
    pub channel: Channel,
    /// What it says.
    pub what: ProvenFact,
}

/// What can be proven of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProvenFact {
    /// A user has acknowledged a broadcast.
    Acknowledged {
        /// Which.
        broadcast_id: BroadcastId,
        /// Who.
        user: UserId,
        /// When, by the clock of the replica that accepted it.
        at: Timestamp,
    },
    /// A broadcast was announced.
    Announced {
        /// What it was.
        broadcast: Broadcast,
        /// Whether it was overtaken before it reached the log, and so is without effect.
        late: bool,
    },
}

impl ProofExtra {
    /// Shows that a user acknowledged, or without one, what was announced.
    pub(super) fn of(raw: &RawMessage, user: Option<&UserId>) -> Result<Self, ProofError> {
        let lost = ProofError::Lost(raw.sequence);
        let Decoded::Event(recorded) = decode(raw) else { return Err(lost) };
        let shown = match (&recorded.event, user) {
            (Event::Created(_), None) => Disclosed::Announcement { body: STANDARD.encode(&raw.body) },
            (Event::Acknowledged(acknowledged), Some(user)) => {
                let facts = facts_of(acknowledged).ok_or(ProofError::NoSalt(raw.sequence))?;
                Disclosed::Acknowledgement(FactProof::of(&facts, user).ok_or(lost)?)
            }
            _ => return Err(lost),
        };
        Ok(Self { statement: STANDARD.encode(Statement::of(raw).to_bytes()), shown })
    }

    /// What it says, and the leaf that must be in the log for it to be true.
    pub(super) fn event(&self) -> Result<(ProvenEvent, Hash), String> {
        let bytes = STANDARD.decode(&self.statement).ok();
        let statement = bytes.and_then(|bytes| Statement::from_bytes(&bytes));
        let statement = statement.ok_or("what it shows is no statement of a log")?;
        let (leaf, sequence) = (statement.leaf(), statement.sequence);
        let stated = statement.message.ok_or("it shows a place whose event the log has lost")?;
        let time_ns = stated.time_ns;
        let (channel, what) = match &self.shown {
            Disclosed::Acknowledgement(one) => one.event(stated)?,
            Disclosed::Announcement { body } => announced(sequence, stated, body)?,
        };
        Ok((ProvenEvent { sequence, time_ns, channel, what }, leaf))
    }
}

/// The message that a statement is of, if this is its body.
fn message(sequence: u64, stated: StatedMessage, body: Vec<u8>) -> RawMessage {
    let StatedMessage { time_ns, subject, headers, .. } = stated;
    RawMessage { sequence, time_ns, subject, headers, body: body.into() }
}

fn announced(sequence: u64, stated: StatedMessage, body: &str) -> Result<(Channel, ProvenFact), String> {
    let body = STANDARD.decode(body).map_err(|_| "the body that it shows is no base64")?;
    let statement = Statement { sequence, message: Some(stated.clone()) };
    let raw = message(sequence, stated, body);
    if Statement::of(&raw) != statement {
        return Err("the body that it shows is not the one whose hash the event has".to_owned());
    }
    match decode(&raw) {
        Decoded::Event(recorded) => match recorded.event {
            Event::Created(broadcast) => {
                Ok((recorded.channel, ProvenFact::Announced { broadcast, late: recorded.late }))
            }
            Event::Cleared(_) | Event::Acknowledged(_) => Err("the event announces nothing".to_owned()),
        },
        Decoded::Skipped(why) => Err(format!("what it shows is no event that this build knows: {why}")),
    }
}

impl FactProof {
    fn of(facts: &[Fact], user: &UserId) -> Option<Self> {
        let number = facts.iter().position(|fact| fact.user == *user)?;
        let leaves: Vec<_> = facts.iter().map(Fact::leaf).collect();
        let (number, count) = (number as u64, leaves.len() as u64);
        let at = |place: u64| usize::try_from(place).unwrap_or(usize::MAX);
        let path = inclusion_ranges(number, count).into_iter().map(|range| {
            let beside = leaves.get(at(range.start)..at(range.end)).unwrap_or_default();
            Hash::of(beside.iter().copied())
        });
        Some(Self { path: path.collect(), fact: facts.get(at(number))?.clone(), number, facts: count })
    }

    fn event(&self, stated: StatedMessage) -> Result<(Channel, ProvenFact), String> {
        let raw = message(0, stated, Vec::new());
        let unknown = |why| format!("what it shows is no event that this build knows: {why}");
        let (name, version) = type_of(&raw).map_err(unknown)?;
        let (subject, _) = subject_and_id(&raw).map_err(unknown)?;
        let Subject::Acks(channel, broadcast_id) = subject else {
            return Err("no acknowledgements belong on the subject of the event".to_owned());
        };
        if !Event::is_acknowledged(&name, version) {
            return Err("the event is of another kind than acknowledgements".to_owned());
        }
        let Fact { user, at, .. } = &self.fact;
        if self.fact.broadcast_id != broadcast_id {
            return Err("the event is about another broadcast than the acknowledgement".to_owned());
        }
        let root = raw.header(FACTS_ROOT).and_then(|root| root.parse().ok());
        let root = root.ok_or("the event has no root over its acknowledgements")?;
        if !verify_inclusion(root, self.facts, self.number, self.fact.leaf(), &self.path) {
            return Err("the acknowledgement is not one of the event".to_owned());
        }
        Ok((channel, ProvenFact::Acknowledged { broadcast_id, user: user.clone(), at: *at }))
    }
}
