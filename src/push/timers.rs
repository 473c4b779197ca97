//! When which client has to be looked after: one entry each, which is moved only when it comes up.
//!
//! A client that says something puts its deadline off. That costs nothing here: its entry comes up at the old time, and is
//! put where the deadline is then.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use tokio::time::sleep_until;

use super::client::{Client, Limits};
use super::moment::{Moment, Stopwatch};

/// Names of clients by when they come up. An entry that is not its client's own any more is passed over, and so is that of
/// a client who left; it goes within one heartbeat.
#[derive(Default)]
pub(super) struct Timers {
    entries: BinaryHeap<Reverse<(Moment, usize)>>,
}

impl Timers {
    /// Looks after this client by its deadline, at the latest.
    pub(super) fn arm(&mut self, client: &mut Client, name: usize, limits: &Limits) {
        let deadline = client.deadline(limits);
        if client.armed.is_none_or(|armed| deadline < armed) {
            client.armed = Some(deadline);
            self.entries.push(Reverse((deadline, name)));
        }
    }

    /// Waits until something comes up.
    pub(super) async fn wait(&self, watch: &Stopwatch) {
        match self.entries.peek() {
            Some(Reverse((at, _))) => sleep_until(watch.instant(*at)).await,
            None => std::future::pending().await,
        }
    }

    /// What came up: when it should, and whose it is.
    pub(super) fn take(&mut self, now: Moment) -> Option<(Moment, usize)> {
        let due = self.entries.peek().is_some_and(|Reverse((at, _))| *at <= now);
        due.then(|| self.entries.pop()).flatten().map(|Reverse(entry)| entry)
    }
}
