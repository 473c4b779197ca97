//! The options about the streams and buckets in NATS.

use std::time::Duration;

use clap::Args;

use crate::log::provision::Provision;

/// What a deployment chooses about the streams.
#[derive(Clone, Debug, Args)]
pub struct StreamOptions {
    /// Copies of each stream over the NATS cluster: 1; 3 on three nodes; or 5 on five. An even number costs more and survives no more losses.
    #[arg(long, env = "TIDINGS_STREAM_REPLICAS", default_value_t = 1, value_name = "N", value_parser = odd_copies)]
    pub stream_replicas: u8,

    /// Bytes that the log takes before it refuses new events. Nothing old is ever dropped.
    #[arg(long, env = "TIDINGS_LOG_MAX_BYTES", default_value_t = 16 << 30, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..))]
    pub log_max_bytes: u64,

    /// How long the KV mirror keeps an acknowledgement.
    #[arg(long, env = "TIDINGS_ACKS_MAX_AGE_SECONDS", default_value_t = 30 * 24 * 3600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    pub acks_max_age_seconds: u64,

    /// Bytes that the KV mirror keeps of acknowledgements before it drops the oldest of them; about 250 each. NATS reserves them
    /// in its memory store, on each node that keeps a copy.
    #[arg(long, env = "TIDINGS_ACKS_MAX_BYTES", default_value_t = 512 << 20, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1 << 20..))]
    pub acks_max_bytes: u64,
}

impl StreamOptions {
    /// The definitions with these choices.
    pub fn provision(&self) -> Provision {
        Provision {
            replicas: self.stream_replicas.into(),
            log_max_bytes: self.log_max_bytes,
            acks_max_age: Duration::from_secs(self.acks_max_age_seconds),
            acks_max_bytes: self.acks_max_bytes,
        }
    }
}

fn odd_copies(text: &str) -> Result<u8, String> {
    match text.parse() {
        Ok(copies @ (1 | 3 | 5)) => Ok(copies),
        _ => Err("a stream has 1, 3 or 5 copies".to_owned()),
    }
}
