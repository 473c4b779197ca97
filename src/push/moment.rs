//! Moments: milliseconds since a shard began. An `Instant` is twice as large, and every connection has several of them.

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

use tokio::time::Instant;

/// A moment of a shard, to the millisecond. An `Option` of one is no larger than itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(NonZeroU64);

impl Moment {
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
impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

/// How long after the other one; nothing, if it is before it.
impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.get().saturating_sub(earlier.0.get()))
    }
}

/// Tells what moment it is.
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// Begins now.
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// What moment it is.
    pub fn now(&self) -> Moment {
        Moment::BEGINNING + self.0.elapsed()
    }

    /// When a moment is.
    pub fn instant(&self, moment: Moment) -> Instant {
        // So far away that there is no such time: the next day is soon enough to look again.
        let soon = || Instant::now() + Duration::from_hours(24);
        self.0.checked_add(moment - Moment::BEGINNING).unwrap_or_else(soon)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_moment_is_where_its_instant_is() {
        let watch = Stopwatch::start();
        assert_eq!((watch.now(), size_of::<Option<Moment>>()), (Moment::BEGINNING, 8));
        let later = watch.now() + Duration::from_micros(70_900);
        tokio::time::sleep_until(watch.instant(later)).await;
        assert_eq!(watch.now(), later);
        assert_eq!(later - Moment::BEGINNING, Duration::from_millis(70));
        assert_eq!(Moment::BEGINNING - later, Duration::ZERO);
        let never = later + Duration::MAX;
        assert!(never > later && watch.instant(never) > Instant::now());
    }
}
