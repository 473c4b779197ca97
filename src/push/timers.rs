//! Deadlines by client. Entries are rearmed lazily, when they fire.
//!
//! A client that says something puts its deadline off. That costs nothing here: its entry comes up at the old time, and is
//! put where the deadline is then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::sleep_until;

use super::attach::ConnectionId;
use super::client::{Client, Limits};
use super::tick::{ShardClock, Tick};

/// Clients by deadline. An entry that is not the one its client is armed with is skipped, and so is that of a client that is
/// gone; it fires within one heartbeat.
#[derive(Default)]
pub(super) struct Timers {
    entries: BinaryHeap<Reverse<(Tick, ConnectionId)>>,
}

impl Timers {
    /// Makes sure that a timer fires by the deadline of this client.
    pub(super) fn arm(&mut self, client: &mut Client, id: ConnectionId, limits: &Limits) {
        let deadline = client.deadline(limits);
        if client.armed.is_none_or(|armed| deadline < armed) {
            client.armed = Some(deadline);
            self.entries.push(Reverse((deadline, id)));
        }
    }

    /// Waits until a timer fires.
    pub(super) async fn wait(&self, clock: &ShardClock) {
        match self.entries.peek() {
            Some(Reverse((at, _))) => sleep_until(clock.instant(*at)).await,
            None => std::future::pending().await,
        }
    }

    /// The next timer that is due: its deadline, and its client.
    pub(super) fn take(&mut self, now: Tick) -> Option<(Tick, ConnectionId)> {
        let due = self.entries.peek().is_some_and(|Reverse((at, _))| *at <= now);
        due.then(|| self.entries.pop()).flatten().map(|Reverse(entry)| entry)
    }
}
