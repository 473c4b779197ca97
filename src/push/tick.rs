//! The clock of a shard, in milliseconds. An `Instant` is twice as large, and every connection has several.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

use tokio::time::Instant;

/// Milliseconds since a shard began. An `Option` of one is no larger than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tick(NonZeroU64);

impl Tick {
    /// When the shard began.
    pub const BEGINNING: Self = Self(NonZeroU64::MIN);

    /// So long before this one; the beginning, if it would be before that.
    #[must_use]
    pub fn before(self, time: Duration) -> Self {
        let earlier = self.0.get().saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        Self(NonZeroU64::new(earlier).unwrap_or(NonZeroU64::MIN))
    }
}

/// Rounded down to the millisecond.
impl Add<Duration> for Tick {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How long after the other one; nothing, if it is before it.
impl Sub for Tick {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// The clock of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardClock(Instant);

impl ShardClock {
    /// A clock that starts now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// The time.
    pub fn now(&self) -> Tick {
        Tick::BEGINNING + self.0.elapsed()
    }

    /// The instant of a tick.
    pub fn instant(&self, tick: Tick) -> Instant {
        // So far away that there is no such time: the next day is soon enough to look again.
        let soon = || Instant::now() + Duration::from_hours(24);
        self.0.checked_add(tick - Tick::BEGINNING).unwrap_or_else(soon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_tick_has_its_instant() {
        let watch = ShardClock::start();
        assert_eq!((watch.now(), size_of::<Option<Tick>>()), (Tick::BEGINNING, 8));
        let later = watch.now() + Duration::from_micros(70_900);
        tokio::time::sleep_until(watch.instant(later)).await;
        assert_eq!(watch.now(), later);
        assert_eq!(later - Tick::BEGINNING, Duration::from_millis(70));
        assert_eq!(Tick::BEGINNING - later, Duration::ZERO);
        let never = later + Duration::MAX;
        assert!(never > later && watch.instant(never) > Instant::now());
    }
}
