//! Descriptors: each TCP connection is one, so how many this process may have bounds how many connections it takes.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{info, warn};

use crate::config::Serve;
use crate::http::server::MAX_REJECTING;

/// What a replica has open besides connections of clients: its stores, its log, NATS, and whom it turns away.
const OWN: usize = 192 + MAX_REJECTING;

/// With fewer sockets than this a replica is of no use.
const LEAST_SOCKETS: usize = 64;

/// Raises the soft limit of descriptors to the hard one, and fits the options into what that gives: a replica that ran
/// out of them could not even say that it is full, nor open a file of its own. Fewer connections than somebody has `chosen` are
/// a warning; fewer than the default are what this system is set up for.
pub(super) fn fit(options: &mut Serve, chosen: bool) -> anyhow::Result<()> {
    let (connections, sockets) = (options.max_connections, options.limits.sockets(options.max_connections));
    if sockets <= connections {
        bail!(
            "--max-sockets {sockets} must be more than --max-connections {connections}: each of those is a TCP \
             connection, and requests need some too"
        );
    }
    let Some(limit) = raised() else { return Ok(()) };
    let Some((sockets, connections)) = fitted(limit, sockets, connections)? else { return Ok(()) };
    let fewer = format!(
        "this process may have {limit} files open, which is too few for {} TCP connections: it takes {sockets}, \
         {connections} of them WebSockets and event streams. A higher `ulimit -n` lifts that",
        options.limits.sockets(options.max_connections)
    );
    if chosen {
        warn!("{fewer}");
    } else {
        info!("{fewer}");
    }
    options.max_connections = connections;
    options.limits.max_sockets = Some(sockets);
    Ok(())
}

/// How many descriptors there may be, now as many as the system allows; `None` for any number.
fn raised() -> Option<usize> {
    let now = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum });
    // Some systems have a bound of their own below a hard limit that says there is none.
    let current = if raised.is_ok() { now.maximum } else { now.current };
    current.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// Sockets, and WebSockets and event streams among them, when there may be so many descriptors; `None` when all fit.
/// Less room is less for both: requests keep up to a quarter.
fn fitted(limit: usize, sockets: usize, connections: usize) -> anyhow::Result<Option<(usize, usize)>> {
    let room = limit.saturating_sub(OWN);
    if room >= sockets {
        return Ok(None);
    }
    if room < LEAST_SOCKETS {
        bail!(
            "this process may have {limit} files open, which is too few: {OWN} are its own, and {LEAST_SOCKETS} TCP \
             connections are the least. Raise the hard limit (`ulimit -Hn`)"
        );
    }
    let beside = (sockets - connections).min(room / 4);
    Ok(Some((room, room - beside)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_do_not_fit_are_cut_to_what_does() {
        assert_eq!(fitted(21_256, 21_000, 20_000).unwrap(), None);
        assert_eq!(fitted(21_255, 21_000, 20_000).unwrap(), Some((20_999, 19_999)));
        assert_eq!(fitted(1_024, 21_000, 20_000).unwrap(), Some((768, 576)));
        assert!(fitted(256, 21_000, 20_000).is_err());
        for limit in 320..30_000 {
            let (sockets, connections) = fitted(limit, 21_000, 20_000).unwrap().unwrap_or((21_000, 20_000));
            assert!(connections < sockets && sockets + OWN <= limit.max(21_256), "{limit}");
        }
    }
}
