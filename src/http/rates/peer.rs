//! The client address of a request: the peer of the connection, or what a trusted proxy wrote into `X-Forwarded-For`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderName;
use axum::http::request::Parts;
use ipnet::IpNet;
use tracing::warn;

use crate::http::server::socket_limit::SocketPermit;

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies whose `X-Forwarded-For` is trusted.
#[derive(Debug, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    warned: AtomicBool,
}

impl Proxies {
    /// Trusts the addresses of these networks.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self { trusted, warned: AtomicBool::new(false) }
    }

    /// The client address of a request, as far as it is known.
    pub fn address(&self, parts: &Parts) -> Option<IpAddr> {
        let peer = peer(parts)?.to_canonical();
        let forwarded = parts.headers.get_all(FORWARDED);
        let forwarded: Vec<_> =
            forwarded.iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
        if !forwarded.is_empty() && !self.trusts(peer) && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "ignoring the X-Forwarded-For of {peer}, which is no trusted proxy: if it is a proxy of yours, add it to \
                 --trusted-proxies, or all of its clients share one rate limit"
            );
        }
        Some(self.client(peer, &forwarded))
    }

    /// Each proxy appends the address of its own peer: the rightmost address that is no trusted proxy is the client. What
    /// stands left of it may be made up.
    fn client(&self, peer: IpAddr, forwarded: &[&str]) -> IpAddr {
        let mut client = peer;
        for text in forwarded.iter().rev() {
            if !self.trusts(client) {
                break;
            }
            let Some(address) = parse(text.trim()) else { break };
            client = address.to_canonical();
        }
        client
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The peer of the TCP connection.
fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Arc<SocketPermit>>().map(|permit| permit.peer())
}

/// An address; some proxies append the port.
fn parse(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_trusted_proxy_saw_counts() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let client = |peer: &str, forwarded: &str| {
            let forwarded: Vec<_> = forwarded.split(',').filter(|text| !text.is_empty()).collect();
            proxies.client(peer.parse().unwrap(), &forwarded).to_string()
        };
        for (peer, forwarded, address) in [
            // Straight from the client, whatever its header names.
            ("192.0.2.1", "", "192.0.2.1"),
            ("192.0.2.1", "198.51.100.9", "192.0.2.1"),
            // Through one proxy, and two.
            ("10.0.0.1", "198.51.100.9", "198.51.100.9"),
            ("10.0.0.1", "198.51.100.9, 10.0.0.2", "198.51.100.9"),
            ("::1", "198.51.100.9:4711", "198.51.100.9"),
            ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
            ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
            // Made up by the client: it stands farther left.
            ("10.0.0.1", "1.1.1.1, 10.9.9.9, 198.51.100.9", "198.51.100.9"),
            ("10.0.0.1", "1.1.1.1, 198.51.100.9, 10.0.0.2", "198.51.100.9"),
            // Unreadable: as far as it goes.
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "::ffff:198.51.100.9", "198.51.100.9"),
        ] {
            assert_eq!(client(peer, forwarded), address, "{peer}: {forwarded}");
        }
    }
}
