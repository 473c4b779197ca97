//! Why there is no connection to NATS, server by server.
//!
//! The client itself reconnects for ever and says little: neither which server it tried, nor why TLS failed. So each server
//! is tried once more here, by a client that gives up at the first error and keeps its cause.

use std::time::Duration;

use async_nats::{ConnectErrorKind, ServerAddr};
use futures_util::future::join_all;
use tokio::time::timeout;

use super::address::{NatsAddress, without_password};
use super::login::{CONNECT_TIMEOUT, hosts, login_options};
use crate::error_log::causes;

/// A server that has not even refused within this time does not answer.
const TRY_TIMEOUT: Duration = Duration::from_secs(3);

/// What is known of an outage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct OutageCause {
    /// A server refused the login: an option has to change.
    pub(super) login_refused: bool,
    /// What each server answered, in one line; empty while that is not known.
    pub(super) servers: String,
}

/// Tries each server once.
pub(super) async fn diagnose(address: &NatsAddress, name: &str) -> OutageCause {
    let Ok(servers) = hosts(address) else { return OutageCause::default() };
    let tried = join_all(servers.into_iter().map(|server| try_one(address, name, server))).await;
    OutageCause {
        login_refused: tried.iter().any(|(_, login_refused)| *login_refused),
        servers: tried.into_iter().map(|(what, _)| what).collect::<Vec<_>>().join("; "),
    }
}

/// What a server answers, and whether it refuses the login.
async fn try_one(address: &NatsAddress, name: &str, server: ServerAddr) -> (String, bool) {
    let shown = without_password(server.as_url_str());
    let options = match login_options(address, name) {
        Ok(options) => options.connection_timeout(CONNECT_TIMEOUT),
        Err(error) => return (format!("{shown}: {}", causes(&error)), false),
    };
    match timeout(TRY_TIMEOUT, options.connect(server)).await {
        Ok(Ok(client)) => {
            let _ = client.drain().await;
            (format!("{shown} answers"), false)
        }
        Ok(Err(error)) => {
            let refused = error.kind() == ConnectErrorKind::AuthorizationViolation;
            (format!("{shown}: {}", causes(&error.into())), refused)
        }
        Err(_) => (format!("{shown}: no answer"), false),
    }
}
