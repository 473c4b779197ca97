//! The limits of requests and connections over HTTP.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::identity::Auth;
use super::parsers::at_least_one;
use crate::http::server::limits::{HeadLimits, Timeouts};

/// TCP connections for everything but WebSockets and event streams, by default.
const SOCKETS_BESIDE_CONNECTIONS: usize = 1_000;

/// TCP connections from one address, by default.
const SOCKETS_PER_ADDRESS: usize = 1_000;

/// WebSockets and event streams of one user, by default.
const CONNECTIONS_PER_USER: usize = 20;

/// The longest timeout.
const DAY_SECONDS: u64 = 24 * 3_600;

/// The limits of requests and connections.
#[derive(Clone, Debug, Args)]
pub struct LimitOptions {
    /// TCP connections of all kinds. Default: 1,000 more than --max-connections. Where the system allows fewer file
    /// descriptors, both limits are lower.
    #[arg(long, env = "TIDINGS_MAX_SOCKETS", value_name = "N", value_parser = at_least_one())]
    pub max_sockets: Option<usize>,

    /// TCP connections from one address (of IPv6, one /64); 0: no limit. Behind a load balancer all come from its address,
    /// so limit them there. Default: 1000; with --auth dev no limit.
    #[arg(long, env = "TIDINGS_MAX_SOCKETS_PER_ADDRESS", value_name = "N")]
    pub max_sockets_per_address: Option<usize>,

    /// WebSockets and event streams of one user on this replica; 0: no limit. Default: 20; with --auth dev no limit.
    #[arg(long, env = "TIDINGS_MAX_CONNECTIONS_PER_USER", value_name = "N")]
    pub max_connections_per_user: Option<usize>,

    /// Bytes of the request line and the header fields of a request.
    #[arg(long, env = "TIDINGS_MAX_HEAD_BYTES", default_value_t = 16 * 1024, value_name = "BYTES", value_parser = up_to(1 << 20))]
    pub max_head_bytes: usize,

    /// Header fields of a request.
    #[arg(long, env = "TIDINGS_MAX_HEAD_FIELDS", default_value_t = 100, value_name = "N", value_parser = up_to(10_000))]
    pub max_head_fields: usize,

    /// How long the request line and the header fields may take to arrive.
    #[arg(long, env = "TIDINGS_HEAD_TIMEOUT_SECONDS", default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub head_timeout_seconds: u64,

    /// How long the body of a request may take to arrive after that.
    #[arg(long, env = "TIDINGS_REQUEST_TIMEOUT_SECONDS", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub request_timeout_seconds: u64,

    /// How long an idle TCP connection is kept open. Set it above the load balancer's upstream keep-alive timeout.
    #[arg(long, env = "TIDINGS_IDLE_TIMEOUT_SECONDS", default_value_t = 75, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub idle_timeout_seconds: u64,
}

impl LimitOptions {
    /// TCP connections of all kinds, when so many are WebSockets and event streams.
    pub fn sockets(&self, max_connections: usize) -> usize {
        self.max_sockets.unwrap_or_else(|| max_connections.saturating_add(SOCKETS_BESIDE_CONNECTIONS))
    }

    /// TCP connections from one address; `None` for no limit.
    pub fn sockets_per_address(&self, auth: Auth) -> Option<usize> {
        bound(self.max_sockets_per_address, auth, SOCKETS_PER_ADDRESS)
    }

    /// WebSockets and event streams of one user; `None` for no limit.
    pub fn connections_per_user(&self, auth: Auth) -> Option<usize> {
        bound(self.max_connections_per_user, auth, CONNECTIONS_PER_USER)
    }

    /// How large the head of a request may be.
    pub const fn head(&self) -> HeadLimits {
        HeadLimits { bytes: self.max_head_bytes, fields: self.max_head_fields }
    }

    /// How long clients may take.
    pub const fn timeouts(&self) -> Timeouts {
        Timeouts {
            head: Duration::from_secs(self.head_timeout_seconds),
            idle: Duration::from_secs(self.idle_timeout_seconds),
        }
    }

    /// How long a request body may take.
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }
}

/// Each request may take that much memory.
fn up_to(limit: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=limit)
}

/// The option, where 0 means no limit; by default a limit, except in dev auth, where few trusted people connect.
fn bound(chosen: Option<usize>, auth: Auth, default: usize) -> Option<usize> {
    match chosen {
        Some(0) => None,
        Some(limit) => Some(limit),
        None if auth.is_unauthenticated() => None,
        None => Some(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_auth_has_no_limits_by_default() {
        assert_eq!(bound(None, Auth::Dev, 20), None);
        assert_eq!(bound(Some(3), Auth::Dev, 20), Some(3));
        assert_eq!(bound(Some(0), Auth::Dev, 20), None);
    }
}
