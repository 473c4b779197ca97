//! Counts: how many are connected, and how well that is known.

use crate::domain::{Audience, SentTo};

/// How well the number of distinct users over all replicas is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accuracy {
    /// Every user counts once.
    #[default]
    Exact,
    /// Connections of this replica came or went since the last sum, at most a second ago. A user who has connections to
    /// other replicas too may count twice.
    Changing,
    /// It is estimated from sketches: see [`super::sketch`] for the error.
    Estimate,
    /// NATS is away: other replicas count as they were last heard, and not at all after ten seconds.
    Partial,
}

/// How many are connected in a channel to other replicas, when it was last summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections to other replicas.
    pub elsewhere: u64,
    /// Distinct users who have connections to other replicas alone.
    pub users_elsewhere: u64,
    /// The connections to this replica then, and their distinct users.
    pub here: (u64, u64),
    /// How well the distinct users over all replicas were known then.
    pub accuracy: Accuracy,
    /// Live replicas, this one included.
    pub replicas: u64,
}

impl Counts {
    /// What to show, with who is connected to this replica at this moment. Connections and users are of the same moment: what
    /// this replica has is of now, and what the others have is of the last sum.
    pub fn with_local(self, connections_local: u64, users_local: u64) -> Connected {
        let connections = self.elsewhere.saturating_add(connections_local);
        let is_settled = self.here == (connections_local, users_local) || self.users_elsewhere == 0;
        Connected {
            connections,
            users: self.users_elsewhere.saturating_add(users_local).min(connections),
            connections_local,
            users_local,
            accuracy: match self.accuracy {
                Accuracy::Exact if !is_settled => Accuracy::Changing,
                accuracy => accuracy,
            },
            replicas: self.replicas.max(1),
        }
    }
}

/// How many are connected in a channel, as creators and team are told.
#[derive(Clone, Copy, Debug)]
pub struct Connected {
    /// Connections over all replicas.
    pub connections: u64,
    /// Distinct users over all replicas.
    pub users: u64,
    /// Connections to this replica.
    pub connections_local: u64,
    /// Distinct users of this replica.
    pub users_local: u64,
    /// How well `users` is known.
    pub accuracy: Accuracy,
    /// Live replicas.
    pub replicas: u64,
}

impl Connected {
    /// To how many goes what is sent now.
    pub const fn audience(&self) -> Audience {
        let approximate = !matches!(self.accuracy, Accuracy::Exact);
        let (users, connections) = (self.users_local, self.connections_local);
        Audience {
            of_all: SentTo { users: self.users, connections: self.connections, approximate },
            of_replica: SentTo { users, connections, approximate: true },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two users of this replica on four connections, and five of others on as many.
    fn three_replicas() -> Counts {
        Counts { elsewhere: 5, users_elsewhere: 5, here: (4, 2), accuracy: Accuracy::Exact, replicas: 3 }
    }

    #[test]
    fn users_and_connections_are_of_one_moment_and_what_is_not_settled_is_approximate() {
        for (connections, users, expected) in [
            (4, 2, (9, 7, Accuracy::Exact)),
            (0, 0, (5, 5, Accuracy::Changing)),
            (9, 7, (14, 12, Accuracy::Changing)),
        ] {
            let now = three_replicas().with_local(connections, users);
            assert_eq!((now.connections, now.users, now.accuracy), expected);
        }
        let alone = Counts { replicas: 1, here: (4, 2), ..Counts::default() };
        let now = alone.with_local(0, 0);
        assert_eq!((now.connections, now.users, now.accuracy), (0, 0, Accuracy::Exact));
        let estimated = Counts { accuracy: Accuracy::Estimate, ..three_replicas() };
        assert_eq!(estimated.with_local(0, 0).accuracy, Accuracy::Estimate);
    }

    #[test]
    fn what_the_log_does_not_have_yet_reaches_the_clients_of_this_replica_alone() {
        let counts = three_replicas();
        let connected = counts.with_local(4, 2);
        let Audience { of_all, of_replica } = connected.audience();
        assert_eq!(of_all, SentTo { users: 7, connections: 9, approximate: false });
        assert_eq!(of_replica, SentTo { users: 2, connections: 4, approximate: true });
    }
}
