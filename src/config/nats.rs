//! Where the log is.

use std::path::PathBuf;

use clap::Args;

use crate::log::connection::NatsAddress;

/// Where the log is.
#[derive(Clone, Debug, Args)]
pub struct NatsOptions {
    /// URLs of a NATS to join, of one server or several of one cluster; `nats://user:password@host` where it asks for
    /// that. Without it, `serve` runs a nats-server of its own, and the other commands look for that one in the data
    /// directory.
    #[arg(long, env = "TIDINGS_NATS", hide_env_values = true, value_delimiter = ',', value_name = "URL")]
    pub nats: Vec<String>,

    /// A NATS credentials file.
    #[arg(long, env = "TIDINGS_NATS_CREDS", value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,

    /// The certificate authority to trust for NATS, in place of the system's (PEM). With it, a NATS without TLS is refused.
    #[arg(long, env = "TIDINGS_NATS_TLS_CA", value_name = "FILE")]
    pub nats_tls_ca: Option<PathBuf>,

    /// This client's certificate for NATS, where it asks for one (PEM). With it, a NATS without TLS is refused.
    #[arg(long, env = "TIDINGS_NATS_TLS_CERT", value_name = "FILE", requires = "nats_tls_key")]
    pub nats_tls_cert: Option<PathBuf>,

    /// The key of that certificate.
    #[arg(long, env = "TIDINGS_NATS_TLS_KEY", value_name = "FILE", requires = "nats_tls_cert")]
    pub nats_tls_key: Option<PathBuf>,

    /// Where this replica keeps what is its own.
    #[arg(long, env = "TIDINGS_DATA_DIR", value_name = "DIR", default_value = "tidings-data")]
    pub data_dir: PathBuf,
}

impl NatsOptions {
    /// How to reach these servers. The one that a replica runs for itself, on loopback, has no TLS, and its URL has the login.
    pub fn address(&self, servers: Vec<String>) -> NatsAddress {
        if self.nats.is_empty() {
            return NatsAddress { servers, ..NatsAddress::default() };
        }
        NatsAddress {
            servers,
            credentials: self.nats_creds.clone(),
            tls_ca: self.nats_tls_ca.clone(),
            tls_identity: self.nats_tls_cert.clone().zip(self.nats_tls_key.clone()),
        }
    }
}
