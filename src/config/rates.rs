//! The rate limits, and the proxies whose `X-Forwarded-For` is trusted.

use clap::Args;
use ipnet::IpNet;

use super::identity::Auth;
use crate::http::rates::Rates;
use crate::http::rates::peer::Proxies;
use crate::rate_limit::RateLimit;

/// The rate limits of this replica.
#[derive(Clone, Debug, Args)]
pub struct RateOptions {
    /// Broadcasts, and as many clears, of a creator per minute; 0: no limit. Default: 60 with `--auth jwt`; with `--auth dev` no
    /// limit, as for all rates.
    #[arg(long, env = "TIDINGS_CREATES_PER_MINUTE", value_name = "N")]
    pub creates_per_minute: Option<u32>,

    /// Acknowledgements of a user per minute. Default: 300 with `--auth jwt`.
    #[arg(long, env = "TIDINGS_ACKS_PER_MINUTE", value_name = "N")]
    pub acks_per_minute: Option<u32>,

    /// WebSockets and event streams opened from an address per minute. Default: 6000 with `--auth jwt`.
    #[arg(long, env = "TIDINGS_CONNECTS_PER_MINUTE", value_name = "N")]
    pub connects_per_minute: Option<u32>,

    /// Requests without a valid token from an address per minute; further ones get `429` instead of `401`. Default: 60 with
    /// `--auth jwt`.
    #[arg(long, env = "TIDINGS_REFUSALS_PER_MINUTE", value_name = "N")]
    pub refusals_per_minute: Option<u32>,

    /// Networks of trusted proxies: `10.0.0.0/8`. The client address of a request is the rightmost one in `X-Forwarded-For`
    /// that is in none of them.
    #[arg(long, env = "TIDINGS_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK", value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
}

impl RateOptions {
    /// The rate limit of acknowledgements, by user.
    pub fn acks(&self, auth: Auth) -> Option<RateLimit> {
        let [_, acks, ..] = self.per_minute(auth);
        RateLimit::new("acks", "acknowledgements", acks)
    }

    /// The rate limits of requests.
    pub fn rates(&self, auth: Auth) -> Rates {
        let [creates, _, connects, refusals] = self.per_minute(auth);
        Rates {
            creates: RateLimit::new("creates", "broadcasts", creates),
            clears: RateLimit::new("clears", "clears", creates),
            connects: RateLimit::new("connects", "connections", connects),
            refusals: RateLimit::new("refusals", "requests without a valid token", refusals),
            proxies: Proxies::new(self.trusted_proxies.clone()),
        }
    }

    /// Broadcasts, acknowledgements, connections and refusals per minute; 0: no limit.
    pub fn per_minute(&self, auth: Auth) -> [u32; 4] {
        let rate = |chosen: Option<u32>, with_tokens| {
            chosen.unwrap_or(if auth.is_unauthenticated() { 0 } else { with_tokens })
        };
        [
            rate(self.creates_per_minute, 60),
            rate(self.acks_per_minute, 300),
            rate(self.connects_per_minute, 6_000),
            rate(self.refusals_per_minute, 60),
        ]
    }
}

/// A network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = || text.parse::<std::net::IpAddr>().map(IpNet::from);
    text.parse()
        .or_else(|_| address())
        .map_err(|_| format!("`{text}` is not a network, such as 10.0.0.0/8, fd00::/8 or 192.0.2.1"))
}
