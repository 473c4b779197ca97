//! Which TCP connections a replica takes: so many in all, and so many from one address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use crate::push::admission::Admission;

/// Of an IPv6 address, the part that names a site: whoever has one address has all that share it.
const IPV6_SITE: u128 = u128::MAX << 64;

/// The places for sockets.
#[derive(Clone)]
pub struct Sockets(Arc<Places>);

struct Places {
    most: usize,
    taken: AtomicUsize,
    addresses: Admission<IpAddr>,
    gauge: Gauge,
}

/// Why a socket is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The replica has as many as it takes.
    Full,
    /// Its address has as many as one may.
    AddressFull,
}

/// A socket that was taken. Requests have it as an extension; whoever takes a socket over from HTTP keeps it for as long
/// as the socket, which is counted for so long.
pub struct SocketPermit {
    peer: IpAddr,
    of: Arc<Places>,
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.of.taken.fetch_sub(1, Ordering::Relaxed);
        self.of.gauge.dec();
        self.of.addresses.give_back(&site(self.peer));
    }
}

impl SocketPermit {
    /// Who is at the other end: a client, or the last balancer before this replica.
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl Sockets {
    /// Places for so many, of which one address may have so many; counted in a gauge.
    pub fn new(most: usize, most_per_address: Option<usize>, gauge: Gauge) -> Self {
        let addresses = Admission::new(most_per_address);
        Self(Arc::new(Places { most, taken: AtomicUsize::new(0), addresses, gauge }))
    }

    /// Takes a socket, or says why not. It never waits.
    pub fn enter(&self, peer: SocketAddr) -> Result<Arc<SocketPermit>, Refused> {
        let Places { most, taken, addresses, gauge } = &*self.0;
        let site = site(peer.ip());
        addresses.take(&site).map_err(|_| Refused::AddressFull)?;
        let one_more = |taken| (taken < *most).then_some(taken + 1);
        if taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            addresses.give_back(&site);
            return Err(Refused::Full);
        }
        gauge.inc();
        Ok(Arc::new(SocketPermit { peer: peer.ip(), of: self.0.clone() }))
    }
}

/// What counts as one address.
fn site(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_SITE)),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> SocketAddr {
        SocketAddr::new(address.parse().unwrap(), 1)
    }

    #[test]
    fn sockets_are_bounded_in_all_and_by_address_and_counted_while_they_live() {
        let gauge = Gauge::default();
        let sockets = Sockets::new(3, Some(2), gauge.clone());
        let mut taken =
            vec![sockets.enter(peer("10.0.0.1")).unwrap(), sockets.enter(peer("10.0.0.1")).unwrap()];
        assert_eq!(sockets.enter(peer("::ffff:10.0.0.1")).err(), Some(Refused::AddressFull));
        taken.push(sockets.enter(peer("10.0.0.2")).unwrap());
        assert_eq!(sockets.enter(peer("10.0.0.3")).err(), Some(Refused::Full));
        assert_eq!((gauge.get(), taken[2].peer()), (3, peer("10.0.0.2").ip()));
        let kept_by_a_handler = taken[0].clone();
        taken.clear();
        assert_eq!(gauge.get(), 1);
        drop(kept_by_a_handler);
        assert_eq!(gauge.get(), 0);
        assert!(sockets.enter(peer("10.0.0.3")).is_ok(), "who was refused has taken no place");
    }

    #[test]
    fn a_site_is_one_address() {
        assert_eq!(site(peer("2001:db8::1").ip()), site(peer("2001:db8::ffff:1").ip()));
        assert_ne!(site(peer("2001:db8::1").ip()), site(peer("2001:db8:0:1::1").ip()));
        assert_ne!(site(peer("10.0.0.1").ip()), site(peer("10.0.0.2").ip()));
    }
}
