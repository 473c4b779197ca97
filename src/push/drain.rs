//! A drain: when which share of the connections is closed, and when their clients come back.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

/// How finely the closes are spread.
const TICK: Duration = Duration::from_millis(50);

/// A client is asked to wait up to this long before it comes back.
const RETRY_SPREAD_MS: u64 = 3_000;

/// How long the client of this connection is asked to wait. A multiplier that is coprime to the spread gives neighbours
/// hints that are far apart.
pub(super) const fn retry_after_ms(connection: u64) -> u64 {
    connection.wrapping_mul(1_867) % RETRY_SPREAD_MS
}

/// The closing of every connection, spread evenly over a time.
pub(super) struct Drain {
    began: Instant,
    over: Duration,
    connections: usize,
    closed: usize,
    tick: Interval,
    /// Who waits for the end of it.
    pub(super) done: Vec<oneshot::Sender<()>>,
}

impl Drain {
    /// One that begins now. It must be made within a runtime, whose timer it ticks by.
    pub(super) fn new(now: Instant, over: Duration, connections: usize) -> Self {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { began: now, over, connections, closed: 0, tick, done: Vec::new() }
    }

    /// How many more are to be closed by now: the first at once, the last before the time is over.
    pub(super) fn due(&mut self, now: Instant) -> usize {
        let passed = now.saturating_duration_since(self.began).as_millis();
        let share = (self.connections as u128 * passed).checked_div(self.over.as_millis());
        let by_now = share.and_then(|share| usize::try_from(share).ok()).map_or(self.connections, |n| n + 1);
        let due = by_now.min(self.connections).saturating_sub(self.closed);
        self.closed += due;
        due
    }
}

/// Waits until there may be something to close.
pub(super) async fn next_tick(drain: &mut Option<Drain>) {
    match drain {
        Some(drain) => drop::<Instant>(drain.tick.tick().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// What is due at each tick of a drain.
    fn dues(over: Duration, connections: usize) -> Vec<usize> {
        let began = Instant::now();
        let mut drain = Drain::new(began, over, connections);
        let ticks = u32::try_from(over.as_millis() / TICK.as_millis()).unwrap();
        (0..=ticks).map(|tick| drain.due(began + TICK * tick)).collect()
    }

    #[tokio::test]
    async fn closes_are_spread_evenly_over_the_whole_time() {
        for connections in [1, 3, 60, 101, 20_000] {
            let dues = dues(Duration::from_secs(5), connections);
            assert_eq!(dues.iter().sum::<usize>(), connections);
            assert!(dues[0] >= 1, "it begins at once");
            let (least, most) = (connections / 100, connections.div_ceil(100) + 1);
            let inner = &dues[1..dues.len() - 1];
            assert!(inner.iter().all(|due| (least..=most).contains(due)), "{connections}: {dues:?}");
            let half: usize = dues[..50].iter().sum();
            assert!(half.abs_diff(connections / 2) <= most, "{connections}: {half} in the first half");
        }
    }

    #[tokio::test]
    async fn a_drain_that_was_held_up_catches_up_and_one_without_time_closes_all_at_once() {
        let began = Instant::now();
        let mut late = Drain::new(began, Duration::from_secs(5), 100);
        assert_eq!(late.due(began), 1);
        assert_eq!(late.due(began + Duration::from_mins(1)), 99);
        assert_eq!(late.due(began + Duration::from_mins(2)), 0);
        assert_eq!(dues(Duration::ZERO, 100), [100]);
    }

    #[test]
    fn hints_differ_from_connection_to_connection() {
        let hints: HashSet<_> = (1..=RETRY_SPREAD_MS).map(retry_after_ms).collect();
        assert_eq!(hints.len(), 3_000);
        assert!((1..100).all(|id| retry_after_ms(id).abs_diff(retry_after_ms(id + 1)) > 500));
    }
}
