//! The clients of a replica that stands still are let go, so that they reconnect to one that does not.
//!
//! A replica whose disk is full shows its clients nothing new, for as long as the disk is full. While another replica can serve
//! them, they are closed with `1012` (event streams end with `retry:`), and nobody new is taken. A replica that is alone, or one
//! of several that all stand still, keeps its clients: elsewhere they would be no better off.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::hub::Hub;
use crate::projection::Position;

/// It has to stand still for this long: longer than heartbeats are apart, so that others that stand still too have said so.
const AFTER: Duration = Duration::from_secs(5);

/// The connections are closed over this long, so that they do not all come to the others at one moment.
const OVER: Duration = Duration::from_secs(5);

/// When clients are let go, as a pure machine.
#[derive(Debug, Default)]
struct Machine {
    /// Since when it stands still.
    since: Option<Instant>,
    released: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Todo {
    Nothing,
    /// Look again then.
    Wait(Instant),
    Release,
    Resume,
}

impl Machine {
    fn look(&mut self, halted: bool, others: usize, now: Instant) -> Todo {
        if !halted {
            self.since = None;
        }
        let since = halted.then(|| *self.since.get_or_insert(now));
        match since.filter(|_| others > 0) {
            None if std::mem::take(&mut self.released) => Todo::Resume,
            Some(since) if !self.released && now < since + AFTER => Todo::Wait(since + AFTER),
            Some(_) if !self.released => {
                self.released = true;
                Todo::Release
            }
            None | Some(_) => Todo::Nothing,
        }
    }
}

/// Lets the clients of the hub go while the projection stands still and others serve, until the replica stops.
pub async fn watch(hub: Hub, mut position: watch::Receiver<Position>, mut others: watch::Receiver<usize>) {
    let mut machine = Machine::default();
    loop {
        let halted = position.borrow_and_update().halt.is_some();
        let serving = *others.borrow_and_update();
        let mut again = None;
        match machine.look(halted, serving, Instant::now()) {
            Todo::Nothing => {}
            Todo::Wait(until) => again = Some(until),
            Todo::Release => {
                warn!(
                    replicas.serving = serving,
                    "the projection stands still: clients are closed, so that they reconnect to another replica"
                );
                hub.release(OVER).await;
            }
            Todo::Resume => {
                info!("clients are taken again");
                hub.resume().await;
            }
        }
        let look_again = async {
            match again {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = position.changed() => if changed.is_err() { return },
            changed = others.changed() => if changed.is_err() { return },
            () = look_again => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn clients_are_let_go_when_the_projection_stands_still_and_another_replica_serves() {
        let began = Instant::now();
        let mut machine = Machine::default();
        assert_eq!(machine.look(false, 2, began), Todo::Nothing);
        assert_eq!(machine.look(true, 2, began), Todo::Wait(began + AFTER));
        assert_eq!(machine.look(true, 2, began + AFTER), Todo::Release);
        assert_eq!(machine.look(true, 2, began + 2 * AFTER), Todo::Nothing, "once");
        assert_eq!(machine.look(false, 2, began + 3 * AFTER), Todo::Resume);
        assert_eq!(machine.look(false, 2, began + 4 * AFTER), Todo::Nothing);
    }

    #[tokio::test]
    async fn a_replica_that_is_alone_keeps_its_clients_and_takes_new_ones() {
        let began = Instant::now();
        let mut machine = Machine::default();
        assert_eq!(machine.look(true, 0, began), Todo::Nothing);
        assert_eq!(machine.look(true, 0, began + 9 * AFTER), Todo::Nothing);
        // Another one has come.
        assert_eq!(machine.look(true, 1, began + 10 * AFTER), Todo::Release);
        // It has gone again: those who are left stay, and others may come.
        assert_eq!(machine.look(true, 0, began + 11 * AFTER), Todo::Resume);
    }

    #[tokio::test]
    async fn a_disk_that_is_full_for_a_moment_closes_nobody() {
        let began = Instant::now();
        let mut machine = Machine::default();
        assert_eq!(machine.look(true, 1, began), Todo::Wait(began + AFTER));
        assert_eq!(machine.look(false, 1, began + AFTER / 2), Todo::Nothing);
        assert_eq!(machine.look(true, 1, began + AFTER), Todo::Wait(began + 2 * AFTER));
    }
}
