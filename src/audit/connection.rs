//! The NATS connection that auditors over HTTP read through.
//!
//! nats-server closes a connection whose data is not taken fast enough. Auditors who read a long log at full speed must
//! therefore not share the connection that a replica reads, appends and beats over.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::sync::{OnceCell, Semaphore, watch};
use tokio::time::timeout;

use crate::log::EventLog;
use crate::log::connection::NatsConnection;
use crate::log::jetstream::JetStreamLog;

/// The name that the operator of NATS sees.
const NAME: &str = "tidings-auditors";

/// A connection that is not up after so long counts as down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// A second connection of a replica, made when the first auditor asks and kept from then on.
pub struct AuditConnection {
    replica: NatsConnection,
    own: OnceCell<NatsConnection>,
    turns: Arc<Semaphore>,
}

/// The log over that connection.
#[derive(Clone)]
pub struct AuditLog {
    /// The log; whoever reads it asks for little at a time.
    pub log: Arc<dyn EventLog>,
    /// Changes when the connection is back.
    pub reconnected: watch::Receiver<u64>,
    /// Whose turn it is to turn events into lines: auditors together use one core at most, whatever they read.
    pub turns: Arc<Semaphore>,
}

impl AuditConnection {
    /// Connects to where `replica` is connected, with the same login, when it is first used.
    pub fn beside(replica: NatsConnection) -> Self {
        Self { replica, own: OnceCell::new(), turns: Arc::new(Semaphore::new(1)) }
    }

    /// The log, over a connection that is up. An error while NATS is away.
    pub async fn log(&self) -> anyhow::Result<AuditLog> {
        let own = self.own.get_or_try_init(|| self.replica.connect_as(NAME)).await?;
        let mut reconnected = own.generation.clone();
        if !own.is_up() {
            let made = *reconnected.borrow_and_update();
            // The first time, or after an outage.
            let up = timeout(CONNECT_TIMEOUT, reconnected.wait_for(|now| *now > made)).await;
            up.context("the connection for auditors is not up")?.context("the connection is closed")?;
        }
        if !own.is_up() {
            bail!("the connection for auditors is not up");
        }
        let log = Arc::new(JetStreamLog::shared(own.client.clone()));
        Ok(AuditLog { log, reconnected: own.generation.clone(), turns: self.turns.clone() })
    }
}
