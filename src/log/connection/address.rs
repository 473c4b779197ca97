//! The servers of NATS and the login, as a deployment configures them.

use std::path::PathBuf;

/// Where NATS is and how to be let in.
#[derive(Clone, Debug, Default)]
pub struct NatsAddress {
    /// One URL or several of one cluster.
    pub servers: Vec<String>,
    /// A credentials file (`.creds`).
    pub credentials: Option<PathBuf>,
    /// The certificate authority to trust, in place of the system's. With it nothing is said without TLS.
    pub tls_ca: Option<PathBuf>,
    /// This client's certificate and key. With them nothing is said without TLS.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

impl std::fmt::Display for NatsAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NATS at {}", without_password(&self.servers.join(",")))
    }
}

/// A server list as it may appear in messages: what stands before an `@` is not shown, nor what may belong to it. A comma
/// divides passwords that should have had `%2C`, too.
pub fn without_password(servers: &str) -> String {
    let parts = servers.split("://").map(|part| match part.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => part.to_owned(),
    });
    parts.collect::<Vec<_>>().join("://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_show() {
        for (given, shown) in [
            ("nats://a:b@h:4222,nats://h2", "nats://…@h:4222,nats://h2"),
            ("nats://h,tls://a:b,c@d@h2,h3", "nats://h,tls://…@h2,h3"),
            ("token@h", "…@h"),
            ("h:4222,h2", "h:4222,h2"),
        ] {
            assert_eq!(without_password(given), shown);
        }
    }
}
