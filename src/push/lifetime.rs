//! How long a connection lives: as long as the token that it came with, or the last one that it was given since. Pure, like
//! the session: whoever drives it says what moment it is.

use std::time::Duration;

use super::tick::Tick;

/// Clients are told this long before the end.
pub const NOTICE: Duration = Duration::from_secs(30);

/// What the passing of time asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Tell the client that this many seconds are left.
    Expiring {
        /// Rounded up.
        in_seconds: u64,
    },
    /// End it.
    Expired,
}

/// The life of one connection.
#[derive(Debug)]
pub struct Lifetime {
    ends: Option<Tick>,
    told: bool,
}

impl Lifetime {
    /// Of a connection that lasts this long from now on; `None`: as long as it likes.
    pub fn new(now: Tick, lasts: Option<Duration>) -> Self {
        Self { ends: lasts.map(|lasts| now + lasts), told: false }
    }

    /// From now on it lasts this long.
    pub fn renew(&mut self, now: Tick, lasts: Option<Duration>) {
        *self = Self::new(now, lasts);
    }

    /// When [`Lifetime::tick`] has something to say.
    pub fn deadline(&self) -> Option<Tick> {
        self.ends.map(|ends| if self.told { ends } else { ends.before(NOTICE) })
    }

    /// What the passing of time asks for. A life that is shorter than the notice is told of at once.
    pub fn tick(&mut self, now: Tick) -> Option<Due> {
        let left = self.ends? - now;
        if left.is_zero() {
            return Some(Due::Expired);
        }
        if self.told || left > NOTICE {
            return None;
        }
        self.told = true;
        Some(Due::Expiring { in_seconds: whole_seconds(left) })
    }
}

/// Rounded up: who comes back after that many is not too early.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Tick {
        Tick::BEGINNING + for_ms(ms)
    }

    fn for_ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_end_is_told_of_once_and_comes_on_time() {
        let mut life = Lifetime::new(at(0), Some(for_ms(60_000)));
        assert_eq!((life.deadline(), life.tick(at(29_999))), (Some(at(30_000)), None));
        assert_eq!(life.tick(at(30_000)), Some(Due::Expiring { in_seconds: 30 }));
        assert_eq!((life.deadline(), life.tick(at(30_001))), (Some(at(60_000)), None));
        assert_eq!(life.tick(at(59_999)), None);
        assert_eq!(life.tick(at(60_000)), Some(Due::Expired));
    }

    #[test]
    fn a_short_life_is_told_of_at_once_and_a_missed_notice_does_not_hold_up_the_end() {
        let mut life = Lifetime::new(at(0), Some(for_ms(2_500)));
        assert_eq!(life.deadline(), Some(at(0)));
        assert_eq!(life.tick(at(0)), Some(Due::Expiring { in_seconds: 3 }));
        let mut late = Lifetime::new(at(0), Some(for_ms(60_000)));
        assert_eq!(late.tick(at(70_000)), Some(Due::Expired));
    }

    #[test]
    fn a_renewed_life_is_told_of_again() {
        let mut life = Lifetime::new(at(0), Some(for_ms(40_000)));
        assert!(life.tick(at(15_000)).is_some());
        life.renew(at(20_000), Some(for_ms(100_000)));
        assert_eq!((life.deadline(), life.tick(at(40_000))), (Some(at(90_000)), None));
        assert_eq!(life.tick(at(90_000)), Some(Due::Expiring { in_seconds: 30 }));
        // Also a shorter one, and one without an end.
        life.renew(at(91_000), Some(for_ms(1_000)));
        assert_eq!(life.tick(at(91_000)), Some(Due::Expiring { in_seconds: 1 }));
        life.renew(at(91_500), None);
        assert_eq!((life.deadline(), life.tick(at(999_000))), (None, None));
    }
}
