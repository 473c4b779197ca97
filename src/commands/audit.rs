//! `audit`: reads the log and nothing else.

use std::io::{BufWriter, Write as _, stdout};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::connect_to_look;
use crate::audit::replay::{Filter, replay};
use crate::audit::state::state_at;
use crate::config::{Audit, Nats, Replay, StateAt};
use crate::log::EventLog;
use crate::log::jetstream::JetStreamLog;
use crate::log::provision::Provision;

pub(super) async fn run(command: Audit) -> anyhow::Result<ExitCode> {
    match command {
        Audit::Replay(options) => print_replay(options).await,
        Audit::State(options) => print_state(options).await,
    }
}

/// The log behind a connection that only reads; what it would provision does not matter.
async fn open(nats: &Nats) -> anyhow::Result<Arc<dyn EventLog>> {
    let connection = connect_to_look(nats).await?;
    let provision = Provision { replicas: 1, log_max_bytes: 0, acks_max_age: Duration::ZERO };
    Ok(Arc::new(JetStreamLog::new(connection.client, provision)))
}

async fn print_replay(options: Replay) -> anyhow::Result<ExitCode> {
    let log = open(&options.nats).await?;
    let filter = Filter { channel: options.channel, event_type: options.event_type, user: options.user };
    let mut out = BufWriter::new(stdout().lock());
    let mut note = |line| eprintln!("{line}");
    replay(log, options.from_seq, &filter, &mut out, &mut note).await?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

async fn print_state(options: StateAt) -> anyhow::Result<ExitCode> {
    let log = open(&options.nats).await?;
    let head = log.info().await.context("asking the log how long it is")?.last_sequence;
    let at = options.at_seq.unwrap_or(head);
    if at > head {
        bail!("the log ends at sequence {head}; there is no state at {at} yet");
    }
    let state = state_at(log, at).await?;
    let mut out = BufWriter::new(stdout().lock());
    serde_json::to_writer_pretty(&mut out, &state.to_json(at)).map_err(std::io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
