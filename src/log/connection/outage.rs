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
use super::{Address, CONNECT_TIMEOUT, Connection, without_password};
use crate::trouble::{Repeated, causes};

/// How often it is looked whether the connection is up, and how often the servers are tried while it is not.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const TRY_EVERY: Duration = Duration::from_secs(5);

/// The same reason is said this often.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// A server that has not even refused within this time does not answer.
const TRY_PATIENCE: Duration = Duration::from_secs(3);

/// What is known of an outage.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    /// A server refused the login: an option has to change.
    pub(super) login_refused: bool,
    /// What each server answered, in one line; empty while that is not known.
    pub(super) servers: String,
}

/// Watches a connection until it is closed.
pub(super) async fn watch(connection: Connection) {
    let repeated = Repeated::every(SAID_EVERY);
    while !connection.is_closing() {
        sleep(LOOK_EVERY).await;
        if connection.is_up() {
            continue;
        }
        let outage = diagnose(&connection.address, &connection.name).await;
        if connection.is_up() || connection.is_closing() {
            continue;
        }
        connection.outage.send_replace(outage);
        let why = connection.why_not();
        if repeated.is_due(&why) {
            warn!("no connection to NATS: {why}");
        }
        tokio::select! {
            () = sleep(TRY_EVERY) => {}
            () = connection.is_made() => {}
        }
        if connection.is_up() {
            repeated.over();
        }
    }
}

/// Tries each server once.
async fn diagnose(address: &Address, name: &str) -> Outage {
    let Ok(servers) = hosts(address) else { return Outage::default() };
    let tried = join_all(servers.into_iter().map(|server| try_one(address, name, server))).await;
    Outage {
        login_refused: tried.iter().any(|(_, login_refused)| *login_refused),
        servers: tried.into_iter().map(|(what, _)| what).collect::<Vec<_>>().join("; "),
    }
}

/// What a server answers, and whether it refuses the login.
async fn try_one(address: &Address, name: &str, server: ServerAddr) -> (String, bool) {
    let shown = without_password(server.as_url_str());
    let options = match login_options(address, name) {
        Ok(options) => options.connection_timeout(CONNECT_TIMEOUT),
        Err(error) => return (format!("{shown}: {}", causes(&error)), false),
    };
    match timeout(TRY_PATIENCE, options.connect(server)).await {
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
