//! The options that bound what anyone can ask of a replica over HTTP.

use std::time::Duration;

use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::{Auth, at_least_one};
use crate::http::server::limits::{HeadLimits, Timeouts};

/// Sockets for everything but WebSockets and event streams, unless it is said how many there are in all.
const SOCKETS_BESIDE_CONNECTIONS: usize = 1_000;

/// Sockets from one address, where addresses are those of people.
const SOCKETS_PER_ADDRESS: usize = 1_000;

/// WebSockets and event streams of one user, where users are who they say.
const CONNECTIONS_PER_USER: usize = 20;

/// What takes a day is not in time.
const DAY_SECONDS: u64 = 24 * 3_600;

/// How much of a replica anyone may take.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// TCP connections that this replica takes, whatever they are for. Default: 1,000 more than --max-connections.
    /// Where the system gives fewer descriptors, fewer of both.
    #[arg(long, env = "TIDINGS_MAX_SOCKETS", value_name = "N", value_parser = at_least_one())]
    pub max_sockets: Option<usize>,

    /// TCP connections from one address (of IPv6, one /64); 0: any number. Behind a balancer all come from its address,
    /// so let it count them. Default: 1000; with --auth dev any number.
    #[arg(long, env = "TIDINGS_MAX_SOCKETS_PER_ADDRESS", value_name = "N")]
    pub max_sockets_per_address: Option<usize>,

    /// WebSocket and event-stream connections of one user on this replica; 0: any number. Default: 20; with --auth dev
    /// any number.
    #[arg(long, env = "TIDINGS_MAX_CONNECTIONS_PER_USER", value_name = "N")]
    pub max_connections_per_user: Option<usize>,

    /// Bytes that the head of a request may have: its first line and its fields.
    #[arg(long, env = "TIDINGS_MAX_HEAD_BYTES", default_value_t = 16 * 1024, value_name = "BYTES", value_parser = up_to(1 << 20))]
    pub max_head_bytes: usize,

    /// Fields that it may have.
    #[arg(long, env = "TIDINGS_MAX_HEAD_FIELDS", default_value_t = 100, value_name = "N", value_parser = up_to(10_000))]
    pub max_head_fields: usize,

    /// How long the head of a request may take to arrive.
    #[arg(long, env = "TIDINGS_HEAD_TIMEOUT_SECONDS", default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub head_timeout_seconds: u64,

    /// How long its body may take after that.
    #[arg(long, env = "TIDINGS_REQUEST_TIMEOUT_SECONDS", default_value_t = 10, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub request_timeout_seconds: u64,

    /// How long a TCP connection may wait for its next request. Keep it above what a balancer keeps its own for.
    #[arg(long, env = "TIDINGS_IDLE_TIMEOUT_SECONDS", default_value_t = 75, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=DAY_SECONDS))]
    pub idle_timeout_seconds: u64,
}

impl Limits {
    /// TCP connections in all, when so many are WebSockets and event streams.
    pub fn sockets(&self, max_connections: usize) -> usize {
        self.max_sockets.unwrap_or_else(|| max_connections.saturating_add(SOCKETS_BESIDE_CONNECTIONS))
    }

    /// TCP connections from one address; `None` for any number.
    pub fn sockets_per_address(&self, auth: Auth) -> Option<usize> {
        bound(self.max_sockets_per_address, auth, SOCKETS_PER_ADDRESS)
    }

    /// WebSockets and event streams of one user; `None` for any number.
    pub fn connections_per_user(&self, auth: Auth) -> Option<usize> {
        bound(self.max_connections_per_user, auth, CONNECTIONS_PER_USER)
    }

    /// How large a head may be.
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

    /// How long a request's body may take.
    pub const fn request_timeout(&self) -> Duration {
        Duration::from_secs(self.request_timeout_seconds)
    }
}

/// There is room for as much as is allowed, for each request.
fn up_to(most: u64) -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..=most)
}

/// What was chosen, 0 standing for no bound; else none where everybody is believed, who are few and know each other.
fn bound(chosen: Option<usize>, auth: Auth, default: usize) -> Option<usize> {
    match chosen {
        Some(0) => None,
        Some(most) => Some(most),
        None if auth.believes_everybody() => None,
        None => Some(default),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_counted_where_everybody_is_believed_unless_that_is_asked_for() {
        assert_eq!(bound(None, Auth::Dev, 20), None);
        assert_eq!(bound(Some(3), Auth::Dev, 20), Some(3));
        assert_eq!(bound(Some(0), Auth::Dev, 20), None);
    }
}
