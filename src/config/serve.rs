//! The options of `serve`.

use std::net::SocketAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::checkpoints::CheckpointOptions;
use super::identity::IdentityOptions;
use super::limits::LimitOptions;
use super::nats::NatsOptions;
use super::parsers::at_least_one;
use super::rates::RateOptions;
use super::sockets::SOCKET_LIMITS;
use super::streams::StreamOptions;
use crate::domain::Channel;
use crate::log::names::MIRROR_LEASE_KEY;
use crate::push::client::Limits;
use crate::push::session;
use crate::submit::outbox::OutboxLimits;

/// Room that the embedded server's store has beyond the log's own limit: the checkpoints, the KV buckets and the server's
/// books.
const STORE_HEADROOM_BYTES: u64 = 2 << 30;

/// How diagnostics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// What a replica does with requests that write while the log is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum OnOutage {
    /// Keep them on its own disk, let them take effect for its own clients, answer `202`, and bring them to the log.
    Accept,
    /// Answer `503`.
    Reject,
}

/// The options of `serve`.
#[derive(Clone, Debug, Args)]
pub struct Serve {
    /// Address to listen on: an IP address, or `localhost`, and a port. Port 0 lets the system choose; the data directory's
    /// `http.url` tells.
    #[arg(help_heading = "Service", long, env = "TIDINGS_LISTEN", default_value = "127.0.0.1:8000", value_name = "ADDRESS", value_parser = listen_address)]
    pub listen: SocketAddr,

    /// Where the log is.
    #[command(flatten, next_help_heading = "NATS and the log")]
    pub nats: NatsOptions,

    /// The nats-server to run without --nats. Default: the one on PATH.
    #[arg(help_heading = "NATS and the log", long, env = "TIDINGS_NATS_SERVER", value_name = "FILE")]
    pub nats_server: Option<PathBuf>,

    /// Loopback port of that nats-server. With it the server's login stays the same over restarts too, so that other
    /// programs that were given its URL get in again. Default: the system chooses a port at each start.
    #[arg(help_heading = "NATS and the log", long, env = "TIDINGS_NATS_PORT", value_name = "PORT", conflicts_with = "nats", value_parser = clap::value_parser!(u16).range(1..))]
    pub nats_port: Option<u16>,

    /// What this deployment chooses about the streams.
    #[command(flatten, next_help_heading = "NATS and the log")]
    pub streams: StreamOptions,

    /// What is signed of the log, and by whom.
    #[command(flatten, next_help_heading = "Checkpoints")]
    pub checkpoints: CheckpointOptions,

    /// This replica's name, unique among the replicas: of two live ones with one name, the later one counts under another.
    /// Default: an id kept in the data directory.
    #[arg(help_heading = "Service", long, env = "TIDINGS_REPLICA", value_name = "NAME", value_parser = replica_name)]
    pub replica: Option<String>,

    /// Channels that exist: `creator` is `/api/creator/broadcast`.
    #[arg(
        help_heading = "Service",
        long,
        env = "TIDINGS_CHANNELS",
        value_delimiter = ',',
        default_value = "creator",
        value_name = "NAME"
    )]
    pub channels: Vec<Channel>,

    /// How people prove who they are, and which pages may ask.
    #[command(flatten, next_help_heading = "Identity")]
    pub identity: IdentityOptions,

    /// How often somebody may do something.
    #[command(flatten, next_help_heading = "Rates")]
    pub rates: RateOptions,

    /// How long an append is tried. After that the outbox takes it, or its outcome is said to be unknown.
    #[arg(help_heading = "Outages", long, env = "TIDINGS_APPEND_TIMEOUT_MS", default_value_t = 3_000, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    pub append_timeout_ms: u64,

    /// What to do with requests that write while NATS is away.
    #[arg(help_heading = "Outages", long, env = "TIDINGS_ON_OUTAGE", default_value = "accept")]
    pub on_outage: OnOutage,

    /// Entries that the outbox keeps for the log while NATS is away; one may carry up to 1,000 acknowledgements.
    #[arg(help_heading = "Outages", long, env = "TIDINGS_OUTBOX_MAX_ENTRIES", default_value_t = 50_000, value_name = "N", value_parser = at_least_one())]
    pub outbox_max_entries: usize,

    /// Bytes that it keeps. They are in memory too, until the log has them.
    #[arg(help_heading = "Outages", long, env = "TIDINGS_OUTBOX_MAX_BYTES", default_value_t = 64 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(256 << 10..))]
    pub outbox_max_bytes: u64,

    /// How long the projection's store may take to open before it counts as damaged and is rebuilt.
    #[arg(help_heading = "Outages", long, env = "TIDINGS_STORE_OPEN_SECONDS", default_value_t = 60, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub store_open_seconds: u64,

    /// WebSocket and event-stream connections that this replica takes.
    #[arg(help_heading = "Limits", long, env = "TIDINGS_MAX_CONNECTIONS", default_value_t = 20_000, value_name = "N", value_parser = at_least_one())]
    pub max_connections: usize,

    /// How much of this replica anyone may take.
    #[command(flatten, next_help_heading = "Limits")]
    pub limits: LimitOptions,

    /// Bytes that a request's body may have.
    #[arg(help_heading = "Limits", long, env = "TIDINGS_MAX_BODY_BYTES", default_value_t = 32 * 1024, value_name = "BYTES")]
    pub max_body_bytes: usize,

    /// Bytes that a client's WebSocket message may have.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_MAX_MESSAGE_BYTES", default_value_t = SOCKET_LIMITS.message_bytes, value_name = "BYTES")]
    pub max_message_bytes: usize,

    /// WebSocket messages a second that a connection may send.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_MESSAGES_PER_SECOND", default_value_t = SOCKET_LIMITS.session.messages_per_second, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub messages_per_second: u32,

    /// WebSocket messages that a connection may send at once.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_MESSAGE_BURST", default_value_t = SOCKET_LIMITS.session.message_burst, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub message_burst: u32,

    /// A WebSocket client is closed when a message that it began has not ended after this long.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_MESSAGE_SECONDS", default_value_t = SOCKET_LIMITS.message_time.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub message_seconds: u64,

    /// Bytes that wait for a WebSocket client that does not read. When it would be more, it is closed.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_MAX_UNSENT_BYTES", default_value_t = SOCKET_LIMITS.unsent_bytes, value_name = "BYTES", value_parser = at_least_one())]
    pub max_unsent_bytes: usize,

    /// A WebSocket client is closed when something waits for it, and it takes nothing for this long.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_UNSENT_SECONDS", default_value_t = SOCKET_LIMITS.unsent_time.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub unsent_seconds: u64,

    /// Tasks that the connections are spread over. Default: one a processor.
    #[arg(help_heading = "Service", long, env = "TIDINGS_SHARDS", default_value_t = processors(), value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    pub shards: usize,

    /// A WebSocket client is pinged after this long without a word from it.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_HEARTBEAT_SECONDS", default_value_t = SOCKET_LIMITS.session.heartbeat.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub heartbeat_seconds: u64,

    /// A WebSocket client is closed after this long without a sign of life.
    #[arg(help_heading = "WebSockets", long, env = "TIDINGS_LIVENESS_SECONDS", default_value_t = SOCKET_LIMITS.session.liveness.as_secs(), value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub liveness_seconds: u64,

    /// After SIGTERM, `/readyz` fails for this long before anything else happens: the balancer looks elsewhere.
    #[arg(
        help_heading = "Stopping",
        long,
        env = "TIDINGS_DRAIN_GRACE_SECONDS",
        default_value_t = 0,
        value_name = "SECONDS"
    )]
    pub drain_grace_seconds: u64,

    /// Then connections are closed, spread over this long.
    #[arg(
        help_heading = "Stopping",
        long,
        env = "TIDINGS_DRAIN_SECONDS",
        default_value_t = 5,
        value_name = "SECONDS"
    )]
    pub drain_seconds: u64,

    /// How stderr is written: lines for people, or a JSON object a line. `TIDINGS_LOG` says how much.
    #[arg(
        help_heading = "Service",
        long,
        env = "TIDINGS_LOG_FORMAT",
        default_value = "text",
        value_name = "FORMAT"
    )]
    pub log_format: LogFormat,

    /// Print the options that are in effect as a file of environment variables, check them, and exit: code 1 when a start
    /// with them would fail. It does not look for NATS.
    #[arg(help_heading = "Service", long)]
    pub print_config: bool,
}

impl Serve {
    /// What applies of those options whose default depends on others, by their ids; 0 for any number.
    pub fn effective_defaults(&self) -> [(&'static str, usize); 7] {
        let (auth, limits) = (self.identity.auth, &self.limits);
        let any = |most: Option<usize>| most.unwrap_or_default();
        let rates = self.rates.per_minute(auth).map(|rate| rate.try_into().unwrap_or(usize::MAX));
        [
            ("max_sockets", limits.sockets(self.max_connections)),
            ("max_sockets_per_address", any(limits.sockets_per_address(auth))),
            ("max_connections_per_user", any(limits.connections_per_user(auth))),
            ("creates_per_minute", rates[0]),
            ("acks_per_minute", rates[1]),
            ("connects_per_minute", rates[2]),
            ("refusals_per_minute", rates[3]),
        ]
    }

    /// How long an answer may take, all that it may have to wait for included.
    pub fn answer_timeout(&self) -> Duration {
        self.limits.request_timeout() + Duration::from_millis(self.append_timeout_ms)
    }

    /// How much the outbox takes.
    pub const fn outbox_bounds(&self) -> OutboxLimits {
        OutboxLimits { entries: self.outbox_max_entries, bytes: self.outbox_max_bytes }
    }

    /// Bytes that the embedded server's streams may take on disk.
    pub const fn embedded_store_bytes(&self) -> u64 {
        self.streams.log_max_bytes.saturating_add(STORE_HEADROOM_BYTES)
    }

    /// The limits by these options.
    pub fn socket_limits(&self) -> Limits {
        Limits {
            session: session::Limits {
                heartbeat: Duration::from_secs(self.heartbeat_seconds),
                liveness: Duration::from_secs(self.liveness_seconds),
                messages_per_second: self.messages_per_second,
                message_burst: self.message_burst,
            },
            message_bytes: self.max_message_bytes,
            message_time: Duration::from_secs(self.message_seconds),
            unsent_bytes: self.max_unsent_bytes,
            unsent_time: Duration::from_secs(self.unsent_seconds),
        }
    }
}

fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let literal =
        text.strip_prefix("localhost:").map_or_else(|| text.to_owned(), |port| format!("127.0.0.1:{port}"));
    literal.parse().map_err(|_| {
        "an IP address and a port are wanted: `127.0.0.1:8000` for this machine alone, `0.0.0.0:8000` for every network \
         (IPv6: `[::1]:8000`, `[::]:8000`)"
            .to_owned()
    })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(64)
}

/// A replica's name is a key of the heartbeats' bucket.
fn replica_name(name: &str) -> Result<String, String> {
    let token = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name == MIRROR_LEASE_KEY {
        return Err(format!("`{MIRROR_LEASE_KEY}` is the name of the mirror's lease"));
    }
    if (1..=64).contains(&name.len()) && name.bytes().all(token) {
        Ok(name.to_owned())
    } else {
        Err("a replica's name has 1 to 64 of A-Z, a-z, 0-9, _ and -".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;
    use clap::CommandFactory as _;

    #[test]
    fn the_options_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_of_serve_is_an_environment_variable_too() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for option in
            serve.get_arguments().filter(|a| !["help", "print_config"].contains(&a.get_id().as_str()))
        {
            let expected = format!("TIDINGS_{}", option.get_id().as_str().to_uppercase());
            assert_eq!(option.get_env().and_then(|e| e.to_str()), Some(expected.as_str()));
        }
    }

    #[test]
    fn every_option_of_serve_is_under_a_heading_of_its_help() {
        let command = Cli::command();
        let serve = command.find_subcommand("serve").unwrap();
        for option in serve.get_arguments().filter(|option| option.get_id() != "help") {
            assert!(option.get_help_heading().is_some(), "{}", option.get_id());
        }
    }

    #[test]
    fn an_address_to_listen_on_is_an_ip_address_or_localhost() {
        assert_eq!(listen_address("localhost:8000"), listen_address("127.0.0.1:8000"));
        assert!(listen_address("[::1]:0").is_ok());
        for wrong in [":8000", "8000", "localhost", "example.com:80", "127.0.0.1:65536"] {
            assert!(listen_address(wrong).unwrap_err().contains("`127.0.0.1:8000`"), "{wrong}");
        }
    }

    #[test]
    fn replica_names_are_tokens() {
        assert!(replica_name("a-1_B").is_ok());
        for bad in ["", "mirror", "a.b", "a b", "é", &"x".repeat(65)] {
            assert!(replica_name(bad).is_err(), "{bad}");
        }
    }
}
