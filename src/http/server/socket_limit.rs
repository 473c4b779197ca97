//! How many TCP connections are accepted: in all, and from one address.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prometheus_client::metrics::gauge::Gauge;

use crate::push::admission::Admission;

/// The network part of an IPv6 address: a client usually has a whole /64.
const IPV6_NETWORK: u128 = u128::MAX << 64;

/// Counts the open TCP connections against their limits.
#[derive(Clone)]
pub struct SocketLimit(Arc<Counts>);

struct Counts {
    max: usize,
    open: AtomicUsize,
    addresses: Admission<IpAddr>,
    gauge: Gauge,
}

/// Why a TCP connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The replica has reached its limit.
    Full,
    /// The address has reached its limit.
    AddressFull,
}

/// An open TCP connection, counted until this is dropped. Requests have it among their extensions; whoever takes a
/// connection over from HTTP keeps it.
pub struct SocketPermit {
    peer: IpAddr,
    counts: Arc<Counts>,
}

impl Drop for SocketPermit {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::Relaxed);
        self.counts.gauge.dec();
        self.counts.addresses.give_back(&network(self.peer));
    }
}

impl SocketPermit {
    /// The peer: a client, or the last proxy in front of this replica.
    pub const fn peer(&self) -> IpAddr {
        self.peer
    }
}

impl SocketLimit {
    /// Limits the connections in all, and from one address (`None`: not). Open connections are shown by a gauge.
    pub fn new(max: usize, max_per_address: Option<usize>, gauge: Gauge) -> Self {
        let addresses = Admission::new(max_per_address);
        Self(Arc::new(Counts { max, open: AtomicUsize::new(0), addresses, gauge }))
    }

    /// Counts one more connection, unless a limit is reached. It never waits.
    pub fn acquire(&self, peer: SocketAddr) -> Result<Arc<SocketPermit>, Refused> {
        let Counts { max, open, addresses, gauge } = &*self.0;
        let network = network(peer.ip());
        addresses.take(&network).map_err(|_| Refused::AddressFull)?;
        let one_more = |open| (open < *max).then_some(open + 1);
        if open.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_err() {
            addresses.give_back(&network);
            return Err(Refused::Full);
        }
        gauge.inc();
        Ok(Arc::new(SocketPermit { peer: peer.ip(), counts: self.0.clone() }))
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & IPV6_NETWORK)),
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
        let limit = SocketLimit::new(3, Some(2), gauge.clone());
        let mut open =
            vec![limit.acquire(peer("10.0.0.1")).unwrap(), limit.acquire(peer("10.0.0.1")).unwrap()];
        assert_eq!(limit.acquire(peer("::ffff:10.0.0.1")).err(), Some(Refused::AddressFull));
        open.push(limit.acquire(peer("10.0.0.2")).unwrap());
        assert_eq!(limit.acquire(peer("10.0.0.3")).err(), Some(Refused::Full));
        assert_eq!((gauge.get(), open[2].peer()), (3, peer("10.0.0.2").ip()));
        let kept_by_a_handler = open[0].clone();
        open.clear();
        assert_eq!(gauge.get(), 1);
        drop(kept_by_a_handler);
        assert_eq!(gauge.get(), 0);
        assert!(limit.acquire(peer("10.0.0.3")).is_ok(), "a rejected connection is not counted");
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        assert_eq!(network(peer("2001:db8::1").ip()), network(peer("2001:db8::ffff:1").ip()));
        assert_ne!(network(peer("2001:db8::1").ip()), network(peer("2001:db8:0:1::1").ip()));
        assert_ne!(network(peer("10.0.0.1").ip()), network(peer("10.0.0.2").ip()));
    }
}
