//! `audit`: reads the log and nothing else.

mod exit;
mod export;
mod keys;
mod proof;
mod verify;

use std::fs;
use std::io::{BufWriter, IsTerminal as _, Write as _, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use exit::WrongUsage;

use super::progress::Progress;
use super::stdout::{StdoutWriter, abandoned};
use super::{connect_read_only, fail_with, print};
use crate::audit::export::ExportFile;
use crate::audit::follow::follow;
use crate::audit::replay::{Filter, OutputFormat, replay};
use crate::audit::source::Source;
use crate::audit::state::fold_up_to;
use crate::audit::terminal::{json_pages, printable};
use crate::audit::verify::checkpoints::SignedRoots;
use crate::clock::{Clock as _, SystemClock};
use crate::config::{Audit, LogFrom, Replay, ReplayFormat, State, StateFormat};
use crate::domain::Event;
use crate::log::EventLog;
use crate::log::connection::NatsConnection;
use crate::log::jetstream::JetStreamLog;
use crate::log::provision;
use crate::notary::checkpoint::SignedCheckpoint;
use crate::notary::note::PublicKey;
use crate::notary::stream::{CheckpointStream, StoredCheckpoint};
use crate::shutdown::Shutdown;

/// How many faults of a file are worth a note.
const MAX_FAULTS_NOTED: usize = 10;

/// The width of a table where no terminal says how wide it is.
const TABLE_WIDTH: usize = 120;

/// Does what was asked for; see [`exit`] for what the code says.
pub(super) async fn run(command: Audit) -> ExitCode {
    match run_command(command).await {
        Ok(code) => code,
        Err(error) => fail_with(&error, ExitCode::from(exit::code_of(&error))),
    }
}

async fn run_command(command: Audit) -> anyhow::Result<ExitCode> {
    match command {
        Audit::Replay(options) => print_replay(options).await?,
        Audit::State(options) => print_state(options).await?,
        Audit::Verify(options) => return verify::run(options).await,
        Audit::Export(options) => export::run(options).await?,
        Audit::Prove(options) => proof::prove(options).await?,
        Audit::Check(options) => return proof::check(&options),
    }
    Ok(ExitCode::SUCCESS)
}

/// A log that was found where an auditor said.
struct AuditInput {
    source: Source,
    /// The exported file, if it is in one.
    file: Option<Arc<ExportFile>>,
    /// How NATS is reached, if it is there.
    connection: Option<NatsConnection>,
}

impl AuditInput {
    /// Opens the file that is named, or connects.
    async fn of(from: &LogFrom) -> anyhow::Result<Self> {
        let Some(path) = &from.file else {
            let connection = connect_read_only(&from.nats).await?;
            let source = Source::Log(log_behind(&connection));
            return Ok(Self { source, file: None, connection: Some(connection) });
        };
        let progress = Progress::over(fs::metadata(path).map_or(0, |found| found.len()));
        let file = Arc::new(ExportFile::open(path, |bytes| progress.at(bytes))?);
        Ok(Self { source: Source::File(file.clone()), file: Some(file), connection: None })
    }

    /// What was signed of it. Ask before you ask the log where it ends: it is not signed beyond that, then.
    async fn signed(&self, keys: Vec<PublicKey>) -> anyhow::Result<SignedRoots> {
        let mut signed = SignedRoots::of(self.source.head().await?.epoch, keys);
        let take = |batch: Vec<StoredCheckpoint>| {
            signed.take(&batch);
            Ok(())
        };
        match (&self.file, &self.connection) {
            (Some(file), _) => file.each_checkpoint(take)?,
            (None, Some(connection)) => {
                if let Some(checkpoints) =
                    CheckpointStream::find(provision::context(&connection.client)).await?
                {
                    checkpoints.each(take).await?;
                }
            }
            (None, None) => {}
        }
        Ok(signed)
    }

    /// The newest checkpoint of it that one of these keys has signed; without any keys, that anybody has.
    async fn newest_signed(&self, trusted: &[PublicKey]) -> anyhow::Result<Option<SignedCheckpoint>> {
        let epoch = self.source.head().await?.epoch;
        if let Some(file) = &self.file {
            return file.newest_checkpoint(|noted| noted.read(epoch, trusted));
        }
        let Some(connection) = &self.connection else { return Ok(None) };
        match CheckpointStream::find(provision::context(&connection.client)).await? {
            Some(checkpoints) => checkpoints.newest_of(epoch, trusted).await,
            None => Ok(None),
        }
    }
}

/// The same, with a note about each thing that is wrong with a file, as far as that is of use to people.
async fn open_input(from: &LogFrom) -> anyhow::Result<AuditInput> {
    let input = AuditInput::of(from).await?;
    if let (Some(file), Some(path)) = (&input.file, &from.file) {
        let name = path.display();
        for fault in file.faults().iter().take(MAX_FAULTS_NOTED) {
            note(format!("{name}: {fault}"));
        }
        let more = file.faults().len().saturating_sub(MAX_FAULTS_NOTED) as u64 + file.more_faults();
        if more > 0 {
            note(format!("{name}: {more} faults more; `tidings audit verify --file` names them"));
        }
    }
    Ok(input)
}

fn log_behind(connection: &NatsConnection) -> Arc<dyn EventLog> {
    Arc::new(JetStreamLog::read_only(connection.client.clone()))
}

/// Notes name what foreign messages say of themselves. A stderr that nobody reads is no reason to stop.
#[expect(clippy::needless_pass_by_value, reason = "it is a note's last use")]
fn note(line: String) {
    let _ = writeln!(stderr(), "{}", printable(&line));
}

async fn print_replay(options: Replay) -> anyhow::Result<()> {
    let mut known = Event::TYPES.iter().map(|known| known.name);
    if let Some(unknown) = options.event_type.as_deref().filter(|asked| !known.any(|known| known == *asked)) {
        let known: Vec<_> = Event::TYPES.iter().map(|known| known.name).collect();
        let what = format!("--type: there is no event {unknown:?}; there are {}", known.join(", "));
        return Err(WrongUsage(what).into());
    }
    let input = open_input(&options.from).await?;
    let format = match options.format {
        ReplayFormat::Auto if stdout().is_terminal() => OutputFormat::Table(table_width()),
        ReplayFormat::Table => OutputFormat::Table(table_width()),
        ReplayFormat::Auto | ReplayFormat::Ndjson => OutputFormat::Ndjson,
    };
    let filter = Filter {
        from: options.from_seq,
        to: options.to_seq,
        since_ns: options.since.map(|since| since.as_unix_ns(SystemClock.now())),
        until_ns: options.until.map(|until| until.as_unix_ns(SystemClock.now())),
        channel: options.channel,
        event_type: options.event_type,
        user: options.user,
        broadcast: options.broadcast,
    };
    if let Some(connection) = input.connection.filter(|_| options.follow) {
        return print_as_it_grows(connection, &filter, format).await;
    }
    let mut out = BufWriter::new(stdout().lock());
    // What is printed on a terminal shows by itself how far it is.
    let progress = if stdout().is_terminal() { Progress::hidden() } else { Progress::over(0) };
    let told = |sequence, of| progress.at_of(sequence, of);
    let mut said = |line: String| progress.note(&line);
    replay(&input.source, &filter, format, &mut out, &mut said, told).await?;
    Ok(out.flush()?)
}

/// Ends by a signal, or when nobody reads any more.
async fn print_as_it_grows(
    connection: NatsConnection,
    filter: &Filter,
    format: OutputFormat,
) -> anyhow::Result<()> {
    let (_begin, mut shutdown) = Shutdown::listen()?;
    let (lines, writer) = StdoutWriter::start()?;
    let (log, mut note) = (log_behind(&connection), note);
    tokio::select! {
        followed = follow(log, connection.generation, filter, format, lines, &mut note) => followed?,
        () = shutdown.wait() => {}
        () = abandoned() => {}
    }
    Ok(writer.finish().await?)
}

async fn print_state(options: State) -> anyhow::Result<()> {
    let source = open_input(&options.from).await?.source;
    let at = sequence_at(&source, &options).await?;
    let progress = Progress::over(at);
    let state = fold_up_to(&source, at, |sequence| progress.at(sequence)).await?;
    drop(progress);
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
        let what = format!("the log ends at sequence {head}; there is no state at {at} yet");
        return Err(WrongUsage(what).into());
    }
    Ok(at)
}

fn table_width() -> usize {
    let size = rustix::termios::tcgetwinsize(stdout());
    size.ok().map(|size| size.ws_col.into()).filter(|width| *width > 0).unwrap_or(TABLE_WIDTH)
}
