//! The options of the operator's commands.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::identity::Secret;
use super::nats::NatsOptions;
use super::streams::StreamOptions;
use crate::domain::UserId;
use crate::duration::parse_duration;
use crate::http::identity::Grant;
use crate::notary::note::KeyName;

const TOKEN_HELP: &str = "\
Example:
  (umask 077; head -c 32 /dev/urandom | base64 > token.secret)
  tidings serve --auth jwt --auth-secret-file token.secret
  tidings admin token --auth-secret-file token.secret --sub ann --role creator > token
  curl -H \"Authorization: Bearer $(cat token)\" localhost:8000/api/creator/broadcast/stats

Whoever has the secret can make such tokens, for anybody: usually that is the application that people log in to.";

const KEYGEN_HELP: &str = "\
Example:
  tidings admin keygen --name example.com/tidings checkpoint.key > checkpoint.pub
  tidings serve --checkpoint-key checkpoint.key
  tidings audit verify --key checkpoint.pub

Give auditors the public key by a way that is not this service. To rotate, make another key of the same name, add its \
public half to what auditors have, restart the replicas with `--checkpoint-key new.key,old.key`, and leave the old one out \
when nobody asks for it any more.";

const NATS_URL_HELP: &str = "\
The URL has a password that lets its holder read and write everything in that NATS. It is new at each start of the replica, \
unless `serve --nats-port` fixes the port, and the login with it.

Example, for the `nats` command, which reads NATS_URL; in its arguments other users would see the password:
  export NATS_URL=$(tidings admin nats-url)
  nats stream view BROADCASTS";

const REBUILD_HELP: &str = "\
The projection is derived from the log and comes back the same. It is quarantined, not deleted: `projection.quarantine-1` is \
the newest of at most three. A replica that gave up on its projection begins anew as well.

Exit codes: 0 the next start rebuilds; 1 it could not be moved; 3 a replica runs in this directory, nothing was changed.

Example, where systemd runs the replica:
  systemctl stop tidings
  tidings admin rebuild --data-dir /var/lib/tidings
  systemctl start tidings

While it rebuilds, /readyz fails and other replicas serve.";

const PROVISION_HELP: &str = "\
The log's epoch is its identity: 16 hexadecimal digits in the metadata of the stream BROADCASTS (key `tidings-epoch`), drawn \
when the stream is created. A stream that comes from elsewhere, such as `nats stream add`, has none, and `tidings serve` does \
not start with it. `--adopt` gives it one, once. A restored snapshot keeps its epoch and needs no adoption.

Exit codes: 0 everything is as defined; 1 something differs, or failed.";

const STATUS_HELP: &str = "\
Exit codes, for a monitor or cron: 0 nothing is wrong; 1 something is, and each problem says what to do; 2 wrong usage; \
3 NATS could not be asked.";

/// How `admin status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusFormat {
    /// A table on a terminal, else JSON.
    Auto,
    /// Tables, and a line a problem, for people.
    Table,
    /// Everything.
    Json,
}

/// The operator's commands.
#[derive(Debug, Subcommand)]
pub enum Admin {
    /// Create the streams and buckets that are missing, and report what differs in those that exist.
    #[command(after_help = PROVISION_HELP)]
    Provision {
        /// Where NATS is.
        #[command(flatten)]
        nats: NatsOptions,
        /// What to create.
        #[command(flatten)]
        streams: StreamOptions,
        /// Use a stream BROADCASTS that Tidings did not create: give it an epoch. Nothing happens to one that has an epoch.
        #[arg(long)]
        adopt: bool,
    },
    /// Print the state of the log, the buckets and the live replicas, and what is wrong with it.
    #[command(after_help = STATUS_HELP)]
    Status {
        /// How to print.
        #[arg(long, value_name = "FORMAT", default_value = "auto")]
        format: StatusFormat,
        /// Where NATS is.
        #[command(flatten)]
        nats: NatsOptions,
    },
    /// Print the URL, with the login, of the NATS that a replica runs for itself.
    #[command(after_help = NATS_URL_HELP)]
    NatsUrl {
        /// The data directory of the replica. Only who can read it gets the URL.
        #[arg(long, env = "TIDINGS_DATA_DIR", value_name = "DIR", default_value = "tidings-data")]
        data_dir: PathBuf,
    },
    /// Have a stopped replica rebuild its projection from the log at its next start.
    #[command(after_help = REBUILD_HELP)]
    Rebuild {
        /// Where the replica keeps its own.
        #[arg(long, env = "TIDINGS_DATA_DIR", value_name = "DIR", default_value = "tidings-data")]
        data_dir: PathBuf,
    },
    /// Ask a replica whether it is ready: exit code 0, or 1 with the reason.
    Health {
        /// The replica. Default: the one of the data directory.
        #[arg(long, value_name = "URL")]
        url: Option<String>,
        /// Where a local replica keeps its own.
        #[arg(long, env = "TIDINGS_DATA_DIR", value_name = "DIR", default_value = "tidings-data")]
        data_dir: PathBuf,
    },
    /// Make a key that signs checkpoints: the secret half into a file, the public one to stdout.
    #[command(after_help = KEYGEN_HELP)]
    Keygen {
        /// The key's name, and so the log's: a URL without its scheme is a good one, since nobody else has it.
        #[arg(long)]
        name: KeyName,
        /// Where the secret key goes. The file must not be there yet; only its owner can read it.
        file: PathBuf,
    },
    /// Make a token for `serve --auth jwt` with a shared secret, and print it.
    #[command(after_help = TOKEN_HELP)]
    Token(MintToken),
}

/// What a token says.
#[derive(Debug, Args)]
pub struct MintToken {
    /// Whose it is: the user's id.
    #[arg(long, value_name = "USER")]
    pub sub: UserId,
    /// What they may do: creator, team, user, auditor; `creator@forum` in the channel `forum` alone. Several, or none, may
    /// be given.
    #[arg(long, value_delimiter = ',', value_name = "ROLE")]
    pub role: Vec<Grant>,
    /// Groups that they are in, where `serve --role` maps groups to roles.
    #[arg(long, value_delimiter = ',', value_name = "GROUP")]
    pub group: Vec<String>,
    /// What they are called.
    #[arg(long)]
    pub name: Option<String>,
    /// How long it lasts: `15m`, `8h`, `30days`.
    #[arg(long, default_value = "1h", value_name = "TIME", value_parser = parse_duration)]
    pub expires_in: Duration,
    /// Whom it is for: one of `--auth-audience`.
    #[arg(long)]
    pub aud: Option<String>,
    /// Who issues it: one of `--auth-issuer`.
    #[arg(long)]
    pub iss: Option<String>,
    /// The claim that holds the roles: as `serve` has it.
    #[arg(long, env = "TIDINGS_AUTH_ROLES_CLAIM", default_value = "roles", value_name = "NAME")]
    pub auth_roles_claim: String,
    /// What it is signed with.
    #[command(flatten)]
    pub secret: Secret,
}
