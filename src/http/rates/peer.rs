//! Where a request came from: the connection's other end, or what a proxy says that is known to tell the truth.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderName;
use axum::http::request::Parts;
use ipnet::IpNet;
use tracing::warn;

use crate::http::sockets::SocketPermit;

const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Proxies whose word counts.
#[derive(Debug, Default)]
pub struct Proxies {
    trusted: Vec<IpNet>,
    warned: AtomicBool,
}

impl Proxies {
    /// Those of these networks.
    pub fn new(trusted: Vec<IpNet>) -> Self {
        Self { trusted, warned: AtomicBool::new(false) }
    }

    /// The address that a request came from, as far as that is known.
    pub fn address(&self, parts: &Parts) -> Option<IpAddr> {
        let peer = peer(parts)?.to_canonical();
        let said = parts.headers.get_all(FORWARDED);
        let said: Vec<_> = said.iter().flat_map(|value| value.to_str().unwrap_or("?").split(',')).collect();
        if !said.is_empty() && !self.trusts(peer) && !self.warned.swap(true, Ordering::Relaxed) {
            warn!(
                "{peer} says in X-Forwarded-For where requests come from, and is not believed: where it is a proxy of \
                 yours, name it in --trusted-proxies, or all who come through it count as one"
            );
        }
        Some(self.farthest(peer, &said))
    }

    /// Each proxy wrote down at the right whom it heard from: the rightmost that is no proxy of ours is the last one that
    /// somebody trustworthy has seen. What stands left of it, anybody may have written.
    fn farthest(&self, peer: IpAddr, said: &[&str]) -> IpAddr {
        let mut farthest = peer;
        for text in said.iter().rev() {
            if !self.trusts(farthest) {
                break;
            }
            let Some(address) = read(text.trim()) else { break };
            farthest = address.to_canonical();
        }
        farthest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The other end of the connection, as the server that took it knows it.
fn peer(parts: &Parts) -> Option<IpAddr> {
    parts.extensions.get::<Arc<SocketPermit>>().map(|place| place.peer())
}

/// Some write the port, too.
fn read(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_trusted_proxy_saw_counts() {
        let proxies = Proxies::new(vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
        let farthest = |peer: &str, said: &str| {
            let said: Vec<_> = said.split(',').filter(|text| !text.is_empty()).collect();
            proxies.farthest(peer.parse().unwrap(), &said).to_string()
        };
        for (peer, said, address) in [
            // Straight from the client, whatever it says.
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
            // Nothing that can be read: as far as it goes.
            ("10.0.0.1", "unknown", "10.0.0.1"),
            ("10.0.0.1", "198.51.100.9, unknown, 10.0.0.2", "10.0.0.2"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("10.0.0.1", "::ffff:198.51.100.9", "198.51.100.9"),
        ] {
            assert_eq!(farthest(peer, said), address, "{peer}: {said}");
        }
    }
}
