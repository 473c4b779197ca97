//! The rate limits of requests: broadcasts by creator, connections and refused requests by address. Those of acknowledgements
//! are with [`crate::submit::Acks`].
//!
//! Responses carry the state of the quota in the headers of draft-ietf-httpapi-ratelimit-headers-11.

pub mod peer;

use std::hash::Hash;
use std::net::IpAddr;

use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;

use crate::domain::UserId;
use crate::rate_limit::{Quota, RateLimit, RateLimited};
use peer::Proxies;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Writes the state of a quota into the headers of a response.
pub fn write_headers(quota: &Quota, response: &mut Response) {
    let Quota { name, per_minute, remaining, reset_seconds } = quota;
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

/// The rate limits of a replica; `None`: no limit.
pub struct Rates {
    /// Broadcasts, by creator.
    pub creates: Option<RateLimit>,
    /// Clears, by creator: after too many broadcasts, the last one can still be cleared.
    pub clears: Option<RateLimit>,
    /// WebSockets and event streams, by address.
    pub connects: Option<RateLimit>,
    /// Requests without a valid token, by address.
    pub refusals: Option<RateLimit>,
    /// The proxies whose `X-Forwarded-For` is trusted.
    pub proxies: Proxies,
}

/// The state of a quota, where there is a limit.
type Taken = Result<Option<Quota>, RateLimited>;

impl Rates {
    /// A creator sends a broadcast.
    pub fn create(&self, user: &UserId) -> Taken {
        take(self.creates.as_ref(), user)
    }

    /// A creator clears a broadcast.
    pub fn clear(&self, user: &UserId) -> Taken {
        take(self.clears.as_ref(), user)
    }

    /// A client opens a connection.
    pub fn connect(&self, parts: &Parts) -> Taken {
        self.by_address(self.connects.as_ref(), parts)
    }

    /// A request without a valid token was refused.
    pub fn refuse(&self, parts: &Parts) -> Taken {
        self.by_address(self.refusals.as_ref(), parts)
    }

    fn by_address(&self, rate: Option<&RateLimit>, parts: &Parts) -> Taken {
        let address = rate.and_then(|_| self.proxies.address(parts));
        address.map_or(Ok(None), |address| take(rate, &network(address)))
    }
}

fn take<K: Hash>(rate: Option<&RateLimit>, key: &K) -> Taken {
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

    #[test]
    fn the_headers_are_those_of_the_draft() {
        let quota = Quota { name: "creates", per_minute: 60, remaining: 59, reset_seconds: 1 };
        let mut response = Response::default();
        write_headers(&quota, &mut response);
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
