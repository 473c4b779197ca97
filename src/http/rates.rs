//! How often somebody may do something: a creator send, a user acknowledge, an address open connections and be refused.
//!
//! A budget fills up evenly over a minute, and may be spent at once. It is this replica's own: with three replicas behind
//! a balancer, three times as much may pass. Answers say where it stands, as the IETF's draft
//! draft-ietf-httpapi-ratelimit-headers-11 has it.

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

use super::error::ApiError;
use crate::domain::UserId;
use crate::push::lifetime::whole_seconds;
use peer::Proxies;

/// Keys that a rate remembers; each takes some 30 bytes. Who has its whole budget is forgotten.
const MAX_KEYS: usize = 100_000;

/// While as many have spent some of theirs, all share this many budgets.
const SHARED: u64 = 1_024;

/// So many checks later it is looked who can be forgotten.
const SWEEP_EVERY: u32 = 4_096;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Where somebody stands with a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    name: &'static str,
    per_minute: u32,
    left: u32,
    /// Until the budget is whole again; or, when it is spent, until the next one may pass.
    seconds: u64,
}

impl Standing {
    /// Says it in the headers of an answer.
    pub fn say(&self, response: &mut Response) {
        let Self { name, per_minute, left, seconds } = self;
        let said = [
            (POLICY, format!("\"{name}\";q={per_minute};w=60")),
            (LIMIT, format!("\"{name}\";r={left};t={seconds}")),
        ];
        for (header, value) in said {
            if let Ok(value) = HeaderValue::from_str(&value) {
                response.headers_mut().insert(header, value);
            }
        }
    }

    /// Until it is worth a new try.
    pub const fn seconds(&self) -> u64 {
        self.seconds
    }
}

/// The keys are hashes that nobody can foresee: how they are hashed once more matters to nobody.
type Budgets = HashMapStateStore<u64, foldhash::fast::RandomState>;

/// One rate, with a budget for each key.
pub struct Rate<C: Clock = DefaultClock> {
    name: &'static str,
    per_minute: NonZeroU32,
    clock: C,
    limiter: RateLimiter<u64, Budgets, C, StateInformationMiddleware>,
    /// Keys are known by a hash that nobody outside can foresee.
    hasher: RandomState,
    checks: AtomicU32,
}

impl Rate {
    /// So many a minute; zero: no limit.
    pub fn new(name: &'static str, per_minute: u32) -> Option<Self> {
        Some(Self::by(DefaultClock::default(), name, NonZeroU32::new(per_minute)?))
    }
}

impl<C: Clock + Clone> Rate<C> {
    fn by(clock: C, name: &'static str, per_minute: NonZeroU32) -> Self {
        let store = Budgets::default();
        let limiter = RateLimiter::new(Quota::per_minute(per_minute), store, clock.clone());
        Self { name, per_minute, clock, limiter, hasher: RandomState::new(), checks: AtomicU32::new(0) }
    }

    /// Takes one from the budget of a key. Without any left, says when there is one again.
    pub fn take<K: Hash>(&self, key: &K) -> Result<Standing, Standing> {
        let standing = |left, seconds| {
            let (name, per_minute) = (self.name, self.per_minute.get());
            Standing { name, per_minute, left, seconds }
        };
        match self.limiter.check_key(&self.key(key)) {
            Ok(taken) => {
                let left = taken.remaining_burst_capacity();
                let spent = u64::from(self.per_minute.get().saturating_sub(left));
                Ok(standing(left, (spent * 60).div_ceil(self.per_minute.get().into())))
            }
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                Err(standing(0, whole_seconds(wait).max(1)))
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

/// Every rate of a replica; those that are not there have no limit.
pub struct Rates {
    /// Broadcasts, by creator.
    pub creates: Option<Rate>,
    /// Clears, by creator. Whoever has sent too much can still take the last of it down.
    pub clears: Option<Rate>,
    /// Acknowledgements, by user.
    pub acks: Option<Rate>,
    /// WebSockets and event streams, by address.
    pub connects: Option<Rate>,
    /// Requests without a good token, by address.
    pub refusals: Option<Rate>,
    /// Whose word counts about where a request came from.
    pub proxies: Proxies,
}

/// What a rate says, if there is one.
type Taken = Result<Option<Standing>, ApiError>;

impl Rates {
    /// A creator wants to send a broadcast.
    pub fn create(&self, user: &UserId) -> Taken {
        take(self.creates.as_ref(), user, "broadcasts")
    }

    /// A creator wants to clear one.
    pub fn clear(&self, user: &UserId) -> Taken {
        take(self.clears.as_ref(), user, "clears")
    }

    /// A user wants to acknowledge one.
    pub fn acknowledge(&self, user: &UserId) -> Taken {
        take(self.acks.as_ref(), user, "acknowledgements")
    }

    /// Somebody wants to open a connection.
    pub fn connect(&self, parts: &Parts) -> Taken {
        match self.address(parts, self.connects.as_ref()) {
            Some(address) => take(self.connects.as_ref(), &address, "connections"),
            None => Ok(None),
        }
    }

    /// Somebody was refused; whoever is refused too often hears that instead. A good token from the same address passes
    /// all the same: whoever makes up tokens does not lock out the others behind the same proxy.
    pub fn refuse(&self, parts: &Parts, error: ApiError) -> ApiError {
        if !error.is_about_identity() {
            return error;
        }
        let address = self.address(parts, self.refusals.as_ref());
        let taken =
            address.map(|address| take(self.refusals.as_ref(), &address, "requests without a good token"));
        taken.and_then(Result::err).unwrap_or(error)
    }

    fn address(&self, parts: &Parts, rate: Option<&Rate>) -> Option<IpAddr> {
        rate.and_then(|_| self.proxies.address(parts)).map(network)
    }
}

fn take<K: Hash>(rate: Option<&Rate>, key: &K, what: &str) -> Taken {
    let Some(rate) = rate else { return Ok(None) };
    rate.take(key).map(Some).map_err(|standing| ApiError::too_many(what, standing))
}

/// Somebody has a whole /64 of IPv6 addresses.
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
        (Rate::by(clock.clone(), "things", per_minute.try_into().unwrap()), clock)
    }

    #[test]
    fn a_budget_may_be_spent_at_once_and_fills_up_evenly() {
        let (rate, clock) = rate(60);
        for left in (0..60).rev() {
            let standing = rate.take(&"ann").unwrap();
            assert_eq!((standing.left, standing.seconds), (left, 60 - u64::from(left)));
        }
        assert_eq!(rate.take(&"ann").unwrap_err().seconds, 1);
        assert!(rate.take(&"bob").is_ok(), "it is hers");
        clock.advance(Duration::from_millis(500));
        assert!(rate.take(&"ann").is_err());
        clock.advance(Duration::from_millis(501));
        assert_eq!(rate.take(&"ann").map(|standing| standing.left), Ok(0));
        clock.advance(Duration::from_mins(10));
        assert_eq!(rate.take(&"ann").map(|standing| standing.left), Ok(59));
    }

    #[test]
    fn who_waits_as_long_as_it_says_gets_through() {
        let (rate, clock) = rate(7);
        for _ in 0..7 {
            assert!(rate.take(&1).is_ok());
        }
        for _ in 0..20 {
            let wait = rate.take(&1).unwrap_err().seconds;
            clock.advance(Duration::from_secs(wait));
            assert!(rate.take(&1).is_ok(), "after {wait} s");
        }
    }

    #[test]
    fn what_is_remembered_has_a_bound() {
        let (rate, clock) = rate(60);
        for key in 0..MAX_KEYS as u64 + 10_000 {
            let _ = rate.take(&key);
        }
        let shared = usize::try_from(SHARED).unwrap();
        assert!(rate.limiter.len() <= MAX_KEYS + shared, "{}", rate.limiter.len());
        // A minute later all have their budgets again, and nobody has to be known.
        clock.advance(Duration::from_secs(61));
        for _ in 0..=SWEEP_EVERY {
            let _ = rate.take(&0);
        }
        assert!(rate.limiter.len() < 10, "{}", rate.limiter.len());
    }

    #[test]
    fn the_headers_are_those_of_the_draft() {
        let standing = Standing { name: "creates", per_minute: 60, left: 59, seconds: 1 };
        let mut response = Response::default();
        standing.say(&mut response);
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
