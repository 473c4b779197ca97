//! The options of the auditor's commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Error, Subcommand, ValueEnum};

use super::nats::NatsOptions;
use crate::audit::time_point::TimePoint;
use crate::domain::{BroadcastId, Channel, UserId};
use crate::duration::parse_duration;

// Paragraphs are one line each: the terminal's width breaks them.

const REPLAY_EXAMPLES: &str = "\
Examples:
  tidings audit replay --since 2h
  tidings audit replay --since 2026-11-25T02:43:00Z --channel creator
  tidings audit replay --follow --type broadcast.acknowledged | jq .data
  tidings audit replay --type broadcast.created | jq .data.message
  tidings audit replay --from-seq 100 --to-seq 200 --user ann
  tidings audit replay --since 3h --until 2026-11-25T03:00:00Z
  tidings audit replay --broadcast 019bc0e2-fed4-7675-b65a-96a26fc973f9
  tidings audit replay --file log.ndjson --type broadcast.cleared

All options together say which events are printed. NDJSON is one CloudEvent a line. Messages that are skipped are named on \
stderr.

Exit codes: 0 done, also when no event was printed; 2 wrong arguments; 3 the log cannot be read.";

const STATE_EXAMPLES: &str = "\
Examples:
  tidings audit state --at-seq 42
  tidings audit state --at 2026-11-25T02:43:00Z
  tidings audit state --at 15m | jq .at_sequence
  tidings audit state --file log.ndjson --at-seq 42

Exit codes: 0 done; 2 wrong arguments, or the log does not go so far; 3 the log cannot be read.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  tidings audit export log.ndjson
  tidings audit verify --file log.ndjson --key checkpoint.pub
  tidings audit export - | zstd > log.ndjson.zst

A line of JSON each: a header, every checkpoint, every message of the log with all headers, and an end with the root of the \
Merkle tree. What is added to the log meanwhile is not part of it. The file is written as FILE.part, synced and then renamed: \
a file of that name is complete, and only its owner may read it. What went to stdout is complete when it has its end line.

Exit codes: 0 exported; 2 wrong arguments; 3 the log cannot be read or the file cannot be written, and there is no file of that \
name.";

const VERIFY_EXAMPLES: &str = "\
Examples:
  tidings audit verify
  tidings audit verify --key checkpoint.pub --known kept.json
  tidings audit verify --format ndjson | jq 'select(.finding)'
  tidings audit verify --file log.ndjson --key checkpoint.pub

It checks: gaps and lost messages; each event's headers and body by their schemas; that headers, subject and body agree; the \
acknowledgements under each event's root; the guard that each event was appended under; the order of each channel's life; each \
checkpoint's signature and root; the root that you kept; the digest of each live replica; the KV mirror. An exported file is \
checked for its own form instead of replicas and the mirror. Each finding is a line, the first 1,000 of a kind.

With --known, the root of a log without findings is kept for the next time: what was verified once cannot be changed or cut \
off unnoticed. When the key that signs is replaced, keep the old public key and give both: without it, what it signed counts as \
signed by nobody known.

Exit codes: 0 nothing was found; 1 something was found; 2 wrong arguments; 3 the log, a key or a file cannot be read: nothing is \
known; 4 nothing was found, but nothing of this log is signed.";

const PROVE_EXAMPLES: &str = "\
Examples:
  tidings audit prove --broadcast ID --user 42 --wait --out 42.tlog-proof
  tidings audit prove --broadcast ID --out announced.tlog-proof
  tidings audit prove --broadcast ID --user 42 --file log.ndjson
  tidings audit check 42.tlog-proof --key checkpoint.pub

The file has everything that it takes to check it, except the public key: no log, no network, and it stays true when the log \
grows. That of a user shows nothing of any other user. Its form is C2SP's tlog-proof.

An event can be proven once it is in a signed checkpoint: after 1,000 events or a minute, unless replicas are configured \
otherwise. --wait waits for it.

Exit codes: 0 the proof is written; 1 the log has no such thing, or it cannot be proven; 2 wrong arguments; 3 the log cannot be \
read or the file cannot be written; 4 it is not signed yet, or nobody signs.";

const CHECK_EXAMPLES: &str = "\
Examples:
  tidings audit check 42.tlog-proof --key checkpoint.pub
  tidings audit check - --key checkpoint.pub < 42.tlog-proof | jq .proven

Believed is only what the signature covers: who acknowledged what and when, or what was announced, its sequence in the log and \
when it was recorded. That it is the first such event, and that the event as a whole is right, only the whole log shows: \
`tidings audit verify`.

Exit codes: 0 it is proven; 1 nothing is proven, with the reason; 2 wrong arguments; 3 the proof or the key cannot be read.";

/// The auditor's commands.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the events of the log, as they happened or as they happen.
    #[command(after_help = REPLAY_EXAMPLES)]
    Replay(Replay),
    /// Recompute everything from the log and hold it to what was signed, and to what others say of it.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(Verify),
    /// Print what was true after an event or at a moment: what was active, and who had acknowledged.
    #[command(after_help = STATE_EXAMPLES)]
    State(State),
    /// Prove to anybody that a user has acknowledged a broadcast, or that it was announced.
    #[command(after_help = PROVE_EXAMPLES)]
    Prove(Prove),
    /// Say what a proof proves, by its file and the public key alone.
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Check),
    /// Write the whole log and its checkpoints into one file, which the other commands read with --file.
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(Export),
}

/// Where an auditor reads the log: on NATS, or in a file that was exported.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Where the log is")]
pub struct LogFrom {
    /// Read a file that `tidings audit export` wrote, and ask no NATS.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// The log itself.
    #[command(flatten)]
    pub nats: NatsOptions,
}

impl LogFrom {
    /// Why these arguments do not go together. A variable that is set for all commands is no reason: a flag wins.
    pub fn conflict(matches: &ArgMatches) -> Option<Error> {
        let said = |id: &str| {
            matches.try_contains_id(id).is_ok_and(|there| there)
                && matches.value_source(id) == Some(ValueSource::CommandLine)
        };
        let of_nats = ["nats", "nats_creds", "nats_tls_ca", "nats_tls_cert", "nats_tls_key"];
        let other = of_nats.into_iter().find(|id| said(id)).filter(|_| said("file"))?;
        let what = format!(
            "--file reads a file and no NATS, so --{} cannot be used with it",
            other.replace('_', "-")
        );
        Some(Error::raw(ErrorKind::ArgumentConflict, what + "\n"))
    }
}

/// The options of `audit replay`.
#[derive(Clone, Debug, Args)]
pub struct Replay {
    /// The first sequence to print.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub from_seq: u64,

    /// The last sequence to print. Default: the log's last.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub to_seq: Option<u64>,

    /// Only events that the log recorded at this moment or later, by JetStream's clock: a time such as
    /// `2026-11-25T02:43:00Z` (RFC 3339), or how long ago, such as `15m` or `2h`. With --from-seq, the later start wins.
    #[arg(long, value_name = "TIME")]
    pub since: Option<TimePoint>,

    /// Only events that the log recorded at this moment or before, said in the same way. With --to-seq, the earlier end
    /// wins.
    #[arg(long, value_name = "TIME")]
    pub until: Option<TimePoint>,

    /// Only events of this channel.
    #[arg(long, value_name = "NAME")]
    pub channel: Option<Channel>,

    /// Only events of this type, e.g. `broadcast.created`.
    #[arg(long = "type", value_name = "TYPE")]
    pub event_type: Option<String>,

    /// Only events that this user caused or is part of.
    #[arg(long, value_name = "USER")]
    pub user: Option<UserId>,

    /// Only what became of this broadcast: created, acknowledged, cleared.
    #[arg(long, value_name = "ID", value_parser = BroadcastId::from_client)]
    pub broadcast: Option<BroadcastId>,

    /// Print what is there, then what is added, until it is interrupted. It waits while NATS is away. (The NATS that a
    /// replica runs for itself comes back elsewhere when that replica is started again.)
    #[arg(long, conflicts_with_all = ["file", "to_seq", "until"])]
    pub follow: bool,

    /// How to print.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: ReplayFormat,

    /// Where the log is.
    #[command(flatten)]
    pub from: LogFrom,
}

/// How `audit replay` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReplayFormat {
    /// A table on a terminal, else NDJSON.
    Auto,
    /// A line an event, for people: texts are cut to the width of the terminal, times to milliseconds.
    Table,
    /// A CloudEvent a line.
    Ndjson,
}

/// The options of `audit state`.
#[derive(Clone, Debug, Args)]
pub struct State {
    /// The last sequence to count in. Default: the log's last.
    #[arg(long, value_name = "N")]
    pub at_seq: Option<u64>,

    /// Count in what the log recorded at this moment or before, by JetStream's clock (`recordedtime` of a replay): a
    /// time such as `2026-11-25T02:43:00Z` (RFC 3339), or how long ago, such as `15m` or `2h`.
    #[arg(long, value_name = "TIME", conflicts_with = "at_seq")]
    pub at: Option<TimePoint>,

    /// How to print.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: StateFormat,

    /// Where the log is.
    #[command(flatten)]
    pub from: LogFrom,
}

/// How `audit state` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateFormat {
    /// A table on a terminal, else JSON.
    Auto,
    /// A line a broadcast, for people; who acknowledged is only counted.
    Table,
    /// Everything.
    Json,
}

/// The options of `audit verify`.
#[derive(Clone, Debug, Args)]
pub struct Verify {
    /// A public key that signs checkpoints, or a file with one or several, a line each. Default: the key of the data
    /// directory's replica, if it has made one and it is its log; else signatures are not looked at.
    #[arg(long, value_name = "KEY|FILE")]
    pub key: Vec<String>,

    /// Where you keep what you have verified. The log must go on from there; the file is written anew when nothing is
    /// found, and made when it is not there.
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,

    /// How to print.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: VerifyFormat,

    /// Where the log is.
    #[command(flatten)]
    pub from: LogFrom,
}

/// How `audit verify` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VerifyFormat {
    /// Text on a terminal, else NDJSON.
    Auto,
    /// A line a finding, and a sentence at the end.
    Text,
    /// An object a finding, and one at the end.
    Ndjson,
}

/// The options of `audit prove`.
#[derive(Clone, Debug, Args)]
pub struct Prove {
    /// The broadcast.
    #[arg(long, value_name = "ID", value_parser = BroadcastId::from_client)]
    pub broadcast: BroadcastId,

    /// Prove that this user has acknowledged it. Without, that it was announced, and what it says.
    #[arg(long, value_name = "USER")]
    pub user: Option<UserId>,

    /// Where the proof goes. Default: stdout.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,

    /// Wait for the next signed checkpoint when the event is not signed yet, for 2 minutes or as long as it says here:
    /// `--wait=10m`.
    #[arg(
        long,
        value_name = "DURATION",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2m",
        value_parser = parse_duration,
        conflicts_with = "file"
    )]
    pub wait: Option<Duration>,

    /// The public key that must have signed, or a file with one or several, a line each. Default: the key of the data
    /// directory's replica, if it has made one and it is its log; else whoever signed.
    #[arg(long, value_name = "KEY|FILE")]
    pub key: Vec<String>,

    /// Where the log is.
    #[command(flatten)]
    pub from: LogFrom,
}

/// The options of `audit check`.
#[derive(Clone, Debug, Args)]
pub struct Check {
    /// The proof; `-` for stdin.
    pub proof: PathBuf,

    /// The public key that you trust, or a file with one or several, a line each; got by another way than this service.
    #[arg(long, value_name = "KEY|FILE", required = true)]
    pub key: Vec<String>,

    /// How to print.
    #[arg(long, value_name = "FORMAT", default_value = "auto")]
    pub format: CheckFormat,
}

/// How `audit check` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// Text on a terminal, else JSON.
    Auto,
    /// A sentence.
    Text,
    /// An object.
    Json,
}

/// The options of `audit export`.
#[derive(Clone, Debug, Args)]
pub struct Export {
    /// The file to write; `-` is stdout.
    #[arg(value_name = "FILE")]
    pub out: PathBuf,

    /// Write over a file of that name.
    #[arg(long)]
    pub force: bool,

    /// Where the log is.
    #[command(flatten)]
    pub nats: NatsOptions,
}

#[cfg(test)]
mod tests {
    use clap::{Command, CommandFactory as _};

    use crate::config::Cli;

    /// The texts below the options, of a command and of those below it.
    fn tails(command: &Command, found: &mut Vec<(String, String)>) {
        found.extend(command.get_after_help().map(|tail| (command.get_name().to_owned(), tail.to_string())));
        command.get_subcommands().for_each(|below| tails(below, found));
    }

    #[test]
    fn paragraphs_of_help_are_one_line_and_examples_fit_into_a_terminal() {
        let mut found = Vec::new();
        tails(&Cli::command(), &mut found);
        assert!(found.len() > 8, "{found:?}");
        for (command, tail) in found {
            let is_prose = |line: &str| !line.is_empty() && !line.starts_with("  ") && !line.ends_with(':');
            let lines: Vec<_> = tail.lines().collect();
            let broken = lines.windows(2).find(|two| is_prose(two[0]) && is_prose(two[1]));
            assert_eq!(broken, None, "{command}: the terminal breaks lines, not the text");
            let long = lines.iter().find(|line| line.starts_with("  ") && line.len() > 98);
            assert_eq!(long, None, "{command}");
        }
    }
}
