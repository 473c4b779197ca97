//! While there is no connection to NATS: finds out why, server by server, and says so now and then.
//!
//! The client itself reconnects for ever and says little: neither which server it tried, nor why TLS failed. So each server
//! is tried once more here, by a client that gives up at the first error and keeps its cause.

use std::time::Duration;

use async_nats::{ConnectErrorKind, ServerAddr};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::login::{hosts, login_options};
use super::{CONNECT_TIMEOUT, NatsAddress, NatsConnection, without_password};
use crate::error_log::{LogLimiter, causes};

/// How often it is looked whether the connection is up, and how often the servers are tried while it is not.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
const TRY_EVERY: Duration = Duration::from_secs(5);

/// The same reason is said this often.
const LOG_EVERY: Duration = Duration::from_secs(10);

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

/// Watches a connection until it is closed.
pub(super) async fn watch(connection: NatsConnection) {
    let repeated = LogLimiter::every(LOG_EVERY);
    while !connection.is_closing() {
        sleep(POLL_INTERVAL).await;
        if connection.is_up() {
            continue;
        }
        let outage = diagnose(&connection.address, &connection.name).await;
        if connection.is_up() || connection.is_closing() {
            continue;
        }
        connection.outage.send_replace(outage);
        let why = connection.outage_reason();
        if repeated.is_due(&why) {
            warn!("no connection to NATS: {why}");
        }
        tokio::select! {
            () = sleep(TRY_EVERY) => {}
            () = connection.reconnected() => {}
        }
        if connection.is_up() {
            repeated.reset();
        }
    }
}

/// Tries each server once.
async fn diagnose(address: &NatsAddress, name: &str) -> OutageCause {
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
