//! The options of rates: how often somebody may do something, and who says where requests come from.

use clap::Args;
use ipnet::IpNet;

use super::identity::Auth;
use crate::http::rates::peer::Proxies;
use crate::http::rates::{Rate, Rates};

/// How often somebody may do something, on this replica.
#[derive(Clone, Debug, Args)]
pub struct RateOptions {
    /// Broadcasts a minute that a creator may send, and as many clears; 0 for no limit. Default: 60 with `--auth jwt`, no limit with `--auth
    /// dev`, as for all rates.
    #[arg(long, env = "TIDINGS_CREATES_PER_MINUTE", value_name = "N")]
    pub creates_per_minute: Option<u32>,

    /// Acknowledgements a minute that a user may send. Default: 300 with `--auth jwt`.
    #[arg(long, env = "TIDINGS_ACKS_PER_MINUTE", value_name = "N")]
    pub acks_per_minute: Option<u32>,

    /// WebSockets and event streams a minute that may be opened from an address. Default: 6000 with `--auth jwt`.
    #[arg(long, env = "TIDINGS_CONNECTS_PER_MINUTE", value_name = "N")]
    pub connects_per_minute: Option<u32>,

    /// Requests a minute without a good token from an address; more of them get `429` instead of `401`. Default: 60 with
    /// `--auth jwt`.
    #[arg(long, env = "TIDINGS_REFUSALS_PER_MINUTE", value_name = "N")]
    pub refusals_per_minute: Option<u32>,

    /// Networks of proxies whose `X-Forwarded-For` is believed: `10.0.0.0/8`. The address of a request is the rightmost one
    /// there that is none of theirs.
    #[arg(long, env = "TIDINGS_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK", value_parser = network)]
    pub trusted_proxies: Vec<IpNet>,
}

impl RateOptions {
    /// The rates with these choices.
    pub fn rates(&self, auth: Auth) -> Rates {
        let [creates, acks, connects, refusals] = self.per_minute(auth);
        Rates {
            creates: Rate::new("creates", "broadcasts", creates),
            clears: Rate::new("clears", "clears", creates),
            acks: Rate::new("acks", "acknowledgements", acks),
            connects: Rate::new("connects", "connections", connects),
            refusals: Rate::new("refusals", "requests without a valid token", refusals),
            proxies: Proxies::new(self.trusted_proxies.clone()),
        }
    }

    /// Broadcasts, acknowledgements, connections and refusals a minute; 0 for no limit.
    pub fn per_minute(&self, auth: Auth) -> [u32; 4] {
        let rate = |chosen: Option<u32>, with_tokens| {
            chosen.unwrap_or(if auth.believes_everybody() { 0 } else { with_tokens })
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
        .map_err(|_| format!("`{text}` is no network: 10.0.0.0/8, fd00::/8, 192.0.2.1"))
}
