//! Counts: how many are connected, and how well that is known.

use crate::domain::{Audience, SentTo};

/// How well the number of distinct users over all replicas is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accuracy {
    /// Every user counts once.
    #[default]
    Exact,
    /// It is estimated from sketches: see [`super::sketch`] for the error.
    Estimate,
    /// NATS is away: other replicas count as they were last heard, and not at all after ten seconds.
    Partial,
}

/// How many are connected in a channel, to other replicas and to all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections to other replicas.
    pub elsewhere: u64,
    /// Distinct users over all replicas.
    pub users: u64,
    /// How well `users` is known.
    pub accuracy: Accuracy,
    /// Live replicas, this one included.
    pub replicas: u64,
}

impl Counts {
    /// What to show, with who is connected to this replica at this moment: the sums are a heartbeat old.
    pub fn with_local(self, connections_local: u64, users_local: u64) -> Connected {
        Connected {
            connections: self.elsewhere.saturating_add(connections_local),
            users: self.users.max(users_local),
            connections_local,
            users_local,
            accuracy: self.accuracy,
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

    #[test]
    fn what_the_log_does_not_have_yet_reaches_the_clients_of_this_replica_alone() {
        let counts = Counts { elsewhere: 5, users: 7, accuracy: Accuracy::Exact, replicas: 3 };
        let connected = counts.with_local(4, 2);
        let Audience { of_all, of_replica } = connected.audience();
        assert_eq!(of_all, SentTo { users: 7, connections: 9, approximate: false });
        assert_eq!(of_replica, SentTo { users: 2, connections: 4, approximate: true });
    }
}
