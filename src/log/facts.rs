//! Facts: the acknowledgements of an event, each hashed, so that one can be shown without the others.
//!
//! The event carries an RFC 6962 root over its facts in a header, and so in its leaf. Each fact is salted: the
//! root and one fact reveal nothing about the other users, not even to one who guesses.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::leaf::put;
use super::merkle::Hash;
use crate::domain::{Acknowledged, BroadcastId, Timestamp, UserId};

/// One user has acknowledged one broadcast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// The broadcast.
    pub broadcast_id: BroadcastId,
    /// The user.
    pub user: UserId,
    /// When it was accepted, by the clock of the replica that accepted it.
    pub at: Timestamp,
    /// What makes it unguessable: SHA-256 over the event's salt and the fact's number, from 0.
    pub salt: Hash,
}

impl Fact {
    /// Its leaf in the tree of the event: salt, broadcast id (16 bytes), user, and milliseconds since 1970 (8 bytes,
    /// big-endian), each after its length as in a [`super::leaf::Statement`].
    pub fn leaf(&self) -> Hash {
        let mut bytes = Vec::with_capacity(160);
        put(&mut bytes, &self.salt.0);
        put(&mut bytes, self.broadcast_id.0.as_bytes());
        put(&mut bytes, self.user.as_str().as_bytes());
        put(&mut bytes, &self.at.as_unix_ms().to_be_bytes());
        Hash::leaf(&bytes)
    }
}

/// The facts of an event, in its order; `None` when it has no salt and so no root.
pub fn facts_of(acknowledged: &Acknowledged) -> Option<Vec<Fact>> {
    let salt = acknowledged.salt?;
    let facts = (0..).zip(&acknowledged.acknowledgements).map(|(number, acknowledgement)| Fact {
        broadcast_id: acknowledged.broadcast_id,
        user: acknowledgement.user.clone(),
        at: acknowledgement.at,
        salt: nth_salt(salt, number),
    });
    Some(facts.collect())
}

/// The root over the facts of an event, as its header carries it.
pub fn root_of(acknowledged: &Acknowledged) -> Option<Hash> {
    Some(Hash::of(facts_of(acknowledged)?.iter().map(Fact::leaf)))
}

fn nth_salt(salt: Uuid, number: u64) -> Hash {
    let hash = Sha256::new().chain_update(salt.as_bytes()).chain_update(number.to_be_bytes());
    Hash(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Acknowledgement;

    fn acknowledged(users: &[&str]) -> Acknowledged {
        let ack =
            |user: &&str| Acknowledgement { user: user.parse().unwrap(), at: Timestamp::from_unix_ms(1) };
        Acknowledged {
            broadcast_id: BroadcastId(Uuid::from_u128(7)),
            acknowledgements: users.iter().map(ack).collect(),
            salt: Some(Uuid::from_u128(9)),
        }
    }

    #[test]
    fn each_part_of_a_fact_counts() {
        let event = acknowledged(&["ann", "bob"]);
        let root = root_of(&event);
        let changed: [fn(&mut Acknowledged); 5] = [
            |e| e.broadcast_id = BroadcastId(Uuid::from_u128(8)),
            |e| e.acknowledgements[1].user = "eve".parse().unwrap(),
            |e| e.acknowledgements[1].at = Timestamp::from_unix_ms(2),
            |e| e.acknowledgements.swap(0, 1),
            |e| e.salt = Some(Uuid::from_u128(10)),
        ];
        for change in changed {
            let mut other = event.clone();
            change(&mut other);
            assert_ne!(root_of(&other), root, "{other:?}");
        }
        assert_eq!(root_of(&Acknowledged { salt: None, ..event }), None);
    }

    #[test]
    fn one_user_twice_is_two_facts_that_look_unlike() {
        let facts = facts_of(&acknowledged(&["ann", "ann"])).unwrap();
        assert_ne!(facts[0].leaf(), facts[1].leaf());
    }
}
