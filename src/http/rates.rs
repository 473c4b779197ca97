//! Rate limits: of broadcasts by creator, of acknowledgements by user, of connections and of refused requests by address.
//!
//! A quota refills evenly over a minute, and may be used at once. Each replica counts for itself: behind a balancer, three
//! replicas allow three times as much. Responses carry the state of the quota in the headers of
//! draft-ietf-httpapi-ratelimit-headers-11.

pub mod peer;

use std::hash::{BuildHasher as _, Hash, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use governor::clock::{Clock, DefaultClock};
use governor::middleware::StateInformationMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::domain::UserId;
use peer::Proxies;

/// Keys that one rate limit remembers; each takes some 30 bytes. A key with a full quota is forgotten.
const MAX_KEYS: usize = 100_000;

/// Once there are that many, new keys share this many quotas.
const SHARED: u64 = 1_024;

/// Full quotas are swept out after so many checks.
const SWEEP_EVERY: u32 = 4_096;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The state of a quota after a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateLimitState {
    name: &'static str,
    per_minute: u32,
    remaining: u32,
    /// Until the quota is full again; or, when nothing remains, until the next request is accepted.
    reset_seconds: u64,
}

impl RateLimitState {
    /// Writes it into the headers of a response.
    pub fn write_headers(&self, response: &mut Response) {
        let Self { name, per_minute, remaining, reset_seconds } = self;
        let headers = [
            (POLICY, format!("\"{name}\";q={per_minute};w=60")),
            (LIMIT, format!("\"{name}\";r={remaining};t={reset_seconds}")),
        ];
        for (header, value) in headers {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(header, value);
            }
        }
    }

    /// Seconds until the next request is accepted, when nothing remains.
    pub const fn reset_seconds(&self) -> u64 {
        self.reset_seconds
    }
}

/// A quota is used up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spent {
    /// What there were too many of.
    pub what: &'static str,
    /// The state of the quota.
    pub state: RateLimitState,
}

/// The keys are hashes with a random seed, so a fast hash of them is enough.
type Quotas = HashMapStateStore<u64, foldhash::fast::RandomState>;

/// One rate limit, with a quota for each key.
pub struct Rate<C: Clock = DefaultClock> {
    name: &'static str,
    what: &'static str,
    per_minute: NonZeroU32,
    clock: C,
    limiter: RateLimiter<u64, Quotas, C, StateInformationMiddleware>,
    /// Keys are remembered by a hash with a random seed.
    hasher: RandomState,
    checks: AtomicU32,
}

impl Rate {
    /// A limit of so many requests a minute; zero: none. `name` is for the headers, `what` for the error.
    pub fn new(name: &'static str, what: &'static str, per_minute: u32) -> Option<Self> {
        Some(Self::with_clock(DefaultClock::default(), name, what, NonZeroU32::new(per_minute)?))
    }
}

impl<C: Clock + Clone> Rate<C> {
    fn with_clock(clock: C, name: &'static str, what: &'static str, per_minute: NonZeroU32) -> Self {
        let limiter = RateLimiter::new(Quota::per_minute(per_minute), Quotas::default(), clock.clone());
        let (hasher, checks) = (RandomState::new(), AtomicU32::new(0));
        Self { name, what, per_minute, clock, limiter, hasher, checks }
    }

    /// Takes one request from the quota of a key.
    pub fn take<K: Hash>(&self, key: &K) -> Result<RateLimitState, Spent> {
        let per_minute = self.per_minute.get();
        let state = |remaining, reset_seconds| RateLimitState {
            name: self.name,
            per_minute,
            remaining,
            reset_seconds,
        };
        match self.limiter.check_key(&self.key(key)) {
            Ok(taken) => {
                let remaining = taken.remaining_burst_capacity();
                let used = u64::from(per_minute.saturating_sub(remaining));
                Ok(state(remaining, (used * 60).div_ceil(per_minute.into())))
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(Spent { what: self.what, state: state(0, seconds.max(1)) })
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

/// The rate limits of a replica; `None`: no limit.
pub struct Rates {
    /// Broadcasts, by creator.
    pub creates: Option<Rate>,
    /// Clears, by creator: after too many broadcasts, the last one can still be cleared.
    pub clears: Option<Rate>,
    /// Acknowledgements, by user.
    pub acks: Option<Rate>,
    /// WebSockets and event streams, by address.
    pub connects: Option<Rate>,
    /// Requests without a valid token, by address.
    pub refusals: Option<Rate>,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Proxies,
}

/// The state of a quota, where there is a limit.
type Taken = Result<Option<RateLimitState>, Spent>;

impl Rates {
    /// A creator sends a broadcast.
    pub fn create(&self, user: &UserId) -> Taken {
        take(self.creates.as_ref(), user)
    }

    /// A creator clears a broadcast.
    pub fn clear(&self, user: &UserId) -> Taken {
        take(self.clears.as_ref(), user)
    }

    /// A user acknowledges a broadcast.
    pub fn acknowledge(&self, user: &UserId) -> Taken {
        take(self.acks.as_ref(), user)
    }

    /// A client opens a connection.
    pub fn connect(&self, parts: &Parts) -> Taken {
        self.by_address(self.connects.as_ref(), parts)
    }

    /// A request without a valid token was refused.
    pub fn refuse(&self, parts: &Parts) -> Taken {
        self.by_address(self.refusals.as_ref(), parts)
    }

    fn by_address(&self, rate: Option<&Rate>, parts: &Parts) -> Taken {
        let address = rate.and_then(|_| self.proxies.address(parts));
        address.map_or(Ok(None), |address| take(rate, &network(address)))
    }
}

fn take<K: Hash>(rate: Option<&Rate>, key: &K) -> Taken {
    rate.map(|rate| rate.take(key)).transpose()
}

/// A client of IPv6 has a whole /64 of addresses.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use governor::clock::FakeRelativeClock;
    use std::time::Duration;

    fn rate(per_minute: u32) -> (Rate<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Rate::with_clock(clock.clone(), "things", "things", per_minute.try_into().unwrap()), clock)
    }

    #[test]
    fn a_quota_may_be_used_at_once_and_refills_evenly() {
        let (rate, clock) = rate(60);
        for remaining in (0..60).rev() {
            let state = rate.take(&"ann").unwrap();
            assert_eq!((state.remaining, state.reset_seconds), (remaining, 60 - u64::from(remaining)));
        }
        assert_eq!(rate.take(&"ann").unwrap_err().state.reset_seconds, 1);
        assert!(rate.take(&"bob").is_ok(), "each has a quota of their own");
        clock.advance(Duration::from_millis(500));
        assert!(rate.take(&"ann").is_err());
        clock.advance(Duration::from_millis(501));
        assert_eq!(rate.take(&"ann").map(|state| state.remaining), Ok(0));
        clock.advance(Duration::from_mins(10));
        assert_eq!(rate.take(&"ann").map(|state| state.remaining), Ok(59));
    }

    #[test]
    fn a_client_that_waits_until_the_reset_is_accepted() {
        let (rate, clock) = rate(7);
        for _ in 0..7 {
            assert!(rate.take(&1).is_ok());
        }
        for _ in 0..20 {
            let wait = rate.take(&1).unwrap_err().state.reset_seconds;
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

    #[test]
    fn the_headers_are_those_of_the_draft() {
        let state = RateLimitState { name: "creates", per_minute: 60, remaining: 59, reset_seconds: 1 };
        let mut response = Response::default();
        state.write_headers(&mut response);
        assert_eq!(response.headers()["ratelimit-policy"], r#""creates";q=60;w=60"#);
        assert_eq!(response.headers()["ratelimit"], r#""creates";r=59;t=1"#);
    }

    #[test]
    fn an_address_of_ipv6_counts_as_its_network() {
        let network = |address: &str| network(address.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("192.0.2.7"), "192.0.2.7");
    }
}
