//! `audit`: reads the log and nothing else.

mod keys;
mod proof;
mod verify;

use std::io::{BufWriter, IsTerminal as _, Write as _, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;

use super::stdout::{Writer, abandoned};
use super::{connect_to_look, print};
use crate::audit::follow::follow;
use crate::audit::replay::{Filter, Form, replay};
use crate::audit::source::Source;
use crate::audit::state::state_at;
use crate::audit::terminal::{json_pages, printable};
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Audit, Replay, ReplayFormat, State, StateFormat};
use crate::log::EventLog;
use crate::log::connection::Connection;
use crate::log::jetstream::JetStreamLog;
use crate::shutdown::Shutdown;

/// The width of a table where no terminal says how wide it is.
const TABLE_WIDTH: usize = 120;

pub(super) async fn run(command: Audit) -> anyhow::Result<ExitCode> {
    match command {
        Audit::Replay(options) => print_replay(options).await?,
        Audit::State(options) => print_state(options).await?,
        Audit::Verify(options) => return verify::run(options).await,
        Audit::Prove(options) => proof::prove(options).await?,
        Audit::Check(options) => return proof::check(&options),
    }
    Ok(ExitCode::SUCCESS)
}

fn log_behind(connection: &Connection) -> Arc<dyn EventLog> {
    Arc::new(JetStreamLog::to_look(connection.client.clone()))
}

/// Notes name what foreign messages say of themselves. A stderr that nobody reads is no reason to stop.
#[expect(clippy::needless_pass_by_value, reason = "it is a note's last use")]
fn note(line: String) {
    let _ = writeln!(stderr(), "{}", printable(&line));
}

async fn print_replay(options: Replay) -> anyhow::Result<()> {
    let connection = connect_to_look(&options.nats).await?;
    let form = match options.format {
        ReplayFormat::Auto if stdout().is_terminal() => Form::Table(table_width()),
        ReplayFormat::Table => Form::Table(table_width()),
        ReplayFormat::Auto | ReplayFormat::Ndjson => Form::Ndjson,
    };
    let filter = Filter {
        from: options.from_seq,
        since_ns: options.since.map(|since| since.as_unix_ns(SystemClock.now())),
        channel: options.channel,
        event_type: options.event_type,
        user: options.user,
    };
    if options.follow {
        return print_as_it_grows(connection, &filter, form).await;
    }
    let mut out = BufWriter::new(stdout().lock());
    replay(&Source::Log(log_behind(&connection)), &filter, form, &mut out, &mut note).await?;
    Ok(out.flush()?)
}

/// Ends by a signal, or when nobody reads any more.
async fn print_as_it_grows(connection: Connection, filter: &Filter, form: Form) -> anyhow::Result<()> {
    let (_begin, mut shutdown) = Shutdown::listen()?;
    let (lines, writer) = Writer::start()?;
    let (log, mut note) = (log_behind(&connection), note);
    tokio::select! {
        followed = follow(log, connection.generation, filter, form, lines, &mut note) => followed?,
        () = shutdown.wait() => {}
        () = abandoned() => {}
    }
    Ok(writer.finish().await?)
}

async fn print_state(options: State) -> anyhow::Result<()> {
    let source = Source::Log(log_behind(&connect_to_look(&options.nats).await?));
    let at = sequence_at(&source, &options).await?;
    let state = state_at(&source, at).await?;
    let table = match options.format {
        StateFormat::Auto => stdout().is_terminal(),
        StateFormat::Table => true,
        StateFormat::Json => false,
    };
    print(&if table { state.to_table(at, table_width()) } else { json_pages(&state.to_json(at)) })
}

/// The last sequence to count in.
async fn sequence_at(source: &Source, options: &State) -> anyhow::Result<u64> {
    let head = source.head().await?.last_sequence;
    if let Some(moment) = options.at {
        let now = SystemClock.now();
        let moment = moment.as_unix_ns(now);
        if moment > now.as_unix_ms().saturating_mul(1_000_000) {
            note("this moment is still to come: more may be recorded before it".to_owned());
        }
        return source.last_before(moment.saturating_add(1)).await;
    }
    let at = options.at_seq.unwrap_or(head);
    if at > head {
        bail!("the log ends at sequence {head}; there is no state at {at} yet");
    }
    Ok(at)
}

fn table_width() -> usize {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.ok().map(|size| size.ws_col.into()).filter(|width| *width > 0).unwrap_or(TABLE_WIDTH)
}
