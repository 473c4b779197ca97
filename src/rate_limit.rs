//! Rate limits: a quota for each key, which refills evenly over a minute and may be used at once.
//!
//! Each replica counts for itself: behind a balancer, three replicas allow three times as much.

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota as Refill, RateLimiter};
use thiserror::Error;

/// Keys that one rate limit remembers; each takes some 30 bytes. A key with a full quota is forgotten.
const MAX_KEYS: usize = 100_000;

/// Once there are that many, new keys share this many quotas.
const SHARED: u64 = 1_024;

/// Full quotas are swept out after so many checks.
const SWEEP_EVERY: u32 = 4_096;

/// The state of a quota after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Of the limit, for headers.
    pub name: &'static str,
    /// Requests per minute, and at once.
    pub per_minute: u32,
    /// Requests that remain.
    pub remaining: u32,
    /// Until the quota is full again; or, when nothing remains, until the next request is accepted.
    pub reset_seconds: u64,
}

/// The quota of a key is used up.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("Too many {what} in a short time.")]
pub struct RateLimited {
    /// What there were too many of.
    pub what: &'static str,
    /// The quota.
    pub quota: Quota,
}

/// The keys are hashes with a random seed, so a fast hash of them is enough.
type Quotas = HashMapStateStore<u64, foldhash::fast::RandomState>;

/// One rate limit, with a quota for each key.
pub struct RateLimit<C: Clock = DefaultClock> {
    name: &'static str,
    what: &'static str,
    per_minute: NonZeroU32,
    clock: C,
    limiter: RateLimiter<u64, Quotas, C, StateInformationMiddleware>,
    /// Keys are remembered by a hash with a random seed.
    hasher: RandomState,
    checks: AtomicU32,
}

impl RateLimited {
    /// The code of this error for clients.
    pub const CODE: &'static str = "too_many_requests";
}

impl RateLimit {
    /// A limit of so many requests a minute; zero: none. `name` is for the headers, `what` for the error.
    pub fn new(name: &'static str, what: &'static str, per_minute: u32) -> Option<Self> {
        Some(Self::with_clock(DefaultClock::default(), name, what, NonZeroU32::new(per_minute)?))
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with_clock(clock: C, name: &'static str, what: &'static str, per_minute: NonZeroU32) -> Self {
        let limiter = RateLimiter::new(Refill::per_minute(per_minute), Quotas::default(), clock.clone());
        let (hasher, checks) = (RandomState::new(), AtomicU32::new(0));
        Self { name, what, per_minute, clock, limiter, hasher, checks }
    }

    /// Takes one request from the quota of a key.
    pub fn take<K: Hash>(&self, key: &K) -> Result<Quota, RateLimited> {
        let per_minute = self.per_minute.get();
        let quota =
            |remaining, reset_seconds| Quota { name: self.name, per_minute, remaining, reset_seconds };
        match self.limiter.check_key(&self.key(key)) {
            Ok(taken) => {
                let remaining = taken.remaining_burst_capacity();
                let used = u64::from(per_minute.saturating_sub(remaining));
                Ok(quota(remaining, (used * 60).div_ceil(per_minute.into())))
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(RateLimited { what: self.what, quota: quota(0, seconds.max(1)) })
            }
        }
    }

    fn key<K: Hash>(&self, key: &K) -> u64 {
        let hash = self.hasher.hash_one(key);
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_EVERY == SWEEP_EVERY - 1 {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        if self.limiter.len() < MAX_KEYS { hash } else { hash % SHARED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::time::Duration;

    fn rate(per_minute: u32) -> (RateLimit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (RateLimit::with_clock(clock.clone(), "things", "things", per_minute.try_into().unwrap()), clock)
    }

    #[test]
    fn a_quota_may_be_used_at_once_and_refills_evenly() {
        let (rate, clock) = rate(60);
        for remaining in (0..60).rev() {
            let quota = rate.take(&"ann").unwrap();
            assert_eq!((quota.remaining, quota.reset_seconds), (remaining, 60 - u64::from(remaining)));
        }
        assert_eq!(rate.take(&"ann").unwrap_err().quota.reset_seconds, 1);
        assert!(rate.take(&"bob").is_ok(), "each has a quota of their own");
        clock.advance(Duration::from_millis(500));
        assert!(rate.take(&"ann").is_err());
        clock.advance(Duration::from_millis(501));
        assert_eq!(rate.take(&"ann").map(|quota| quota.remaining), Ok(0));
        clock.advance(Duration::from_mins(10));
        assert_eq!(rate.take(&"ann").map(|quota| quota.remaining), Ok(59));
    }

    #[test]
    fn a_client_that_waits_until_the_reset_is_accepted() {
        let (rate, clock) = rate(7);
        for _ in 0..7 {
            assert!(rate.take(&1).is_ok());
        }
        for _ in 0..20 {
            let wait = rate.take(&1).unwrap_err().quota.reset_seconds;
            clock.advance(Duration::from_secs(wait));
            assert!(rate.take(&1).is_ok(), "after {wait} s");
        }
    }

    #[test]
    fn remembered_keys_are_bounded() {
        let (rate, clock) = rate(60);
        for key in 0..MAX_KEYS as u64 + 10_000 {
            let _ = rate.take(&key);
        }
        let shared = usize::try_from(SHARED).unwrap();
        assert!(rate.limiter.len() <= MAX_KEYS + shared, "{}", rate.limiter.len());
        // A minute later all quotas are full again, and no key has to be known.
        clock.advance(Duration::from_secs(61));
        for _ in 0..=SWEEP_EVERY {
            let _ = rate.take(&0);
        }
        assert!(rate.limiter.len() < 10, "{}", rate.limiter.len());
    }
}
