//! The mode: whether this replica works with the log, on its own, or brings to the log what it accepted on its own.
//!
//! ```text
//!            two missed probes, or two appends without an answer
//!   cluster ────────────────────────────────────────────────────► local
//!      ▲ ▲ │                                                      │ ▲
//!      │ │ └─ an append without an answer went to the outbox ─┐   │ │ two missed probes
//!      │ │                                                    ▼   ▼ │
//!      │ └─────────── all of it is settled ───────────────── relaying ◄─┐
//!      └───── three good probes, the reader at the head ───── local ────┘ … and what was accepted is not settled
//! ```

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::crash_point::CrashPoint;
use crate::error_log::LogLimiter;
use crate::log::stream_monitor::StreamMonitor;
use crate::log::{EventLog, ReadError};
use crate::projection::Projection;

/// The log is asked for a sign of life this often, and has this long to give it: two that it misses take about 3 s.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// So many missed probes, or appends without an answer, in a row mean that the log is away.
const MISSED: u32 = 2;

/// So many good probes in a row mean that it is back.
const GOOD: u32 = 3;

/// How a replica works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// With the log: what it accepts is in the log.
    #[default]
    Cluster,
    /// On its own: what it accepts goes to its outbox.
    Local,
    /// The log is back, and gets what is in the outbox; what is accepted meanwhile waits behind that.
    Relaying,
}

impl Mode {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Local => "local",
            Self::Relaying => "relaying",
        }
    }
}

/// The rules of the mode as a pure machine: what was seen goes in, the mode comes out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModeMachine {
    mode: Mode,
    /// Something was accepted, and is shown over what the log says. An empty outbox is not the end of that.
    unsettled: bool,
    missed: u32,
    good: u32,
    unanswered: u32,
}

impl ModeMachine {
    /// A replica that starts, with or without something in its outbox.
    pub fn new(waiting: bool) -> Self {
        let mode = if waiting { Mode::Local } else { Mode::Cluster };
        Self { mode, unsettled: waiting, ..Self::default() }
    }

    /// The mode now.
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The log did not answer a probe.
    pub const fn missed(&mut self) {
        self.good = 0;
        self.missed += 1;
        if self.missed >= MISSED {
            self.mode = Mode::Local;
        }
    }

    /// The log answered a probe. `at_head`: the projection shows all that the log had at the probe before.
    pub const fn answered(&mut self, at_head: bool) {
        self.missed = 0;
        self.good += 1;
        if matches!(self.mode, Mode::Local) && self.good >= GOOD && at_head {
            self.unanswered = 0;
            self.mode = if self.unsettled { Mode::Relaying } else { Mode::Cluster };
        }
    }

    /// An append got an answer, or none in its time.
    pub const fn appended(&mut self, answered: bool) {
        if answered {
            self.unanswered = 0;
            return;
        }
        self.unanswered += 1;
        if self.unanswered >= MISSED && !matches!(self.mode, Mode::Local) {
            self.mode = Mode::Local;
            // What was good before says nothing about now.
            self.good = 0;
        }
    }

    /// Something went into the outbox: what comes next must wait behind it.
    pub const fn accepted(&mut self) {
        self.unsettled = true;
        if matches!(self.mode, Mode::Cluster) {
            self.mode = Mode::Relaying;
        }
    }

    /// The outbox is empty, and what was in it is shown as the log has it.
    pub const fn relayed(&mut self) {
        self.unsettled = false;
        if matches!(self.mode, Mode::Relaying) {
            self.mode = Mode::Cluster;
        }
    }
}

/// The mode of a replica, shared. Cheap to clone.
#[derive(Clone, Debug)]
pub struct CurrentMode {
    machine: Arc<Mutex<ModeMachine>>,
    current: watch::Sender<Mode>,
}

impl CurrentMode {
    /// A replica that starts, with or without something in its outbox.
    pub fn new(waiting: bool) -> Self {
        let machine = ModeMachine::new(waiting);
        Self { machine: Arc::new(Mutex::new(machine)), current: watch::Sender::new(machine.mode()) }
    }

    /// The mode now.
    pub fn now(&self) -> Mode {
        *self.current.borrow()
    }

    /// Follows the mode.
    pub fn watch(&self) -> watch::Receiver<Mode> {
        self.current.subscribe()
    }

    pub(super) fn update(&self, what: impl FnOnce(&mut ModeMachine)) {
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        what(&mut machine);
        // Sent while the machine is locked, so that watchers see the modes in their order. Watchers wake only for a change:
        // every probe and every append comes through here.
        let after = machine.mode();
        let mut before = after;
        self.current.send_if_modified(|mode| {
            before = std::mem::replace(mode, after);
            before != after
        });
        match (before, after) {
            (before, after) if before == after => {}
            (_, Mode::Local) => {
                warn!(
                    "the event log is away: this replica goes on alone, and keeps what it accepts in its outbox"
                );
            }
            (_, Mode::Relaying) => info!("the event log answers: it gets what waits in the outbox"),
            (_, Mode::Cluster) => info!("working with the event log again"),
        }
    }
}

/// A connection that carries nothing is given up at most this often.
const RECONNECT_EVERY: Duration = Duration::from_secs(10);

/// Asks the log for signs of life until the replica stops. A connection over which nothing is answered, though it counts
/// as up, is given up: what still comes in over it keeps the client itself from noticing that nothing goes out.
pub(super) async fn probe(
    log: Arc<dyn EventLog>,
    projection: Projection,
    modes: CurrentMode,
    condition: Arc<StreamMonitor>,
) {
    let (mut unanswered, mut given_up) = (0, None::<Instant>);
    let no_leader = LogLimiter::every(Duration::from_secs(10));
    let mut ticks = interval(PROBE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    loop {
        ticks.tick().await;
        CrashPoint::BeforeProbe.reached();
        let answer = timeout(PROBE_TIMEOUT, log.report()).await;
        unanswered = if answer.is_err() { unanswered + 1 } else { 0 };
        if unanswered >= MISSED && given_up.is_none_or(|at| at.elapsed() >= RECONNECT_EVERY) {
            (unanswered, given_up) = (0, Some(Instant::now()));
            log.force_reconnect().await;
        }
        if let Ok(Err(error @ ReadError::NoLeader)) = &answer
            && no_leader.is_due(&error.to_string())
        {
            warn!("{error}");
        }
        if let Ok(Ok((info, report))) = answer {
            condition.record(info, report);
            let position = projection.position();
            // Of a log to which others write all the time, nobody has the very last event.
            let at_head = before.is_some_and(|(epoch, head)| {
                epoch == info.epoch && position.epoch == Some(epoch) && position.sequence >= head
            });
            modes.update(|machine| machine.answered(at_head && position.caught_up));
            before = Some((info.epoch, info.last_sequence));
        } else {
            condition.record_failure(answer.ok().and_then(Result::err).as_ref());
            modes.update(ModeMachine::missed);
            before = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_wake_when_the_mode_changes_and_for_nothing_else() {
        let modes = CurrentMode::new(false);
        let mut watcher = modes.watch();
        for _ in 0..3 {
            modes.update(|machine| machine.answered(true));
            modes.update(|machine| machine.appended(true));
        }
        modes.update(ModeMachine::missed);
        assert!(!watcher.has_changed().unwrap(), "the mode is the same");
        modes.update(ModeMachine::missed);
        assert!(watcher.has_changed().unwrap());
        assert_eq!(*watcher.borrow_and_update(), Mode::Local);
        modes.update(ModeMachine::missed);
        assert!(!watcher.has_changed().unwrap());
    }

    #[test]
    fn one_missed_probe_is_nothing_and_two_are_an_outage() {
        let mut machine = ModeMachine::new(false);
        machine.missed();
        assert_eq!(machine.mode(), Mode::Cluster);
        machine.answered(true);
        machine.missed();
        assert_eq!(machine.mode(), Mode::Cluster);
        machine.missed();
        assert_eq!(machine.mode(), Mode::Local);
    }

    #[test]
    fn the_log_is_back_after_three_good_probes_at_its_head() {
        let mut machine = ModeMachine::new(true);
        machine.answered(true);
        machine.answered(true);
        machine.missed();
        for _ in 0..5 {
            machine.answered(false);
        }
        assert_eq!(machine.mode(), Mode::Local, "the projection is behind");
        machine.answered(true);
        assert_eq!(machine.mode(), Mode::Relaying);
        machine.missed();
        machine.missed();
        assert_eq!(machine.mode(), Mode::Local);
        for _ in 0..3 {
            machine.answered(true);
        }
        machine.relayed();
        assert_eq!(machine.mode(), Mode::Cluster);
    }

    #[test]
    fn with_nothing_in_the_outbox_there_is_nothing_to_relay() {
        let mut machine = ModeMachine::new(false);
        (0..2).for_each(|_| machine.missed());
        (0..3).for_each(|_| machine.answered(true));
        assert_eq!(machine.mode(), Mode::Cluster);
    }

    #[test]
    fn appends_without_an_answer_are_an_outage_too() {
        let mut machine = ModeMachine::new(false);
        machine.appended(false);
        machine.accepted();
        assert_eq!(machine.mode(), Mode::Relaying, "what comes next waits behind it");
        machine.appended(true);
        machine.appended(false);
        assert_eq!(machine.mode(), Mode::Relaying);
        machine.appended(false);
        assert_eq!(machine.mode(), Mode::Local);
        machine.answered(true);
        machine.answered(true);
        assert_eq!(machine.mode(), Mode::Local, "probes alone said that all was well");
        machine.answered(true);
        assert_eq!(machine.mode(), Mode::Relaying);
    }
}
