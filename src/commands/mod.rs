//! The commands of the binary: each puts the parts together and takes them apart.

mod admin;
mod audit;
mod data_dir;
mod diagnostics;
mod keys;
mod progress;
mod serve;
mod stdout;
mod tokens;
mod variables;

use std::fs;
use std::io::{ErrorKind, Write as _, stdout};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, FromArgMatches as _};
use tracing::error;

use crate::config::{Cli, Command, Contract, LogFormat, LogFrom, NatsOptions};
use crate::contract::{ASYNCAPI, OPENAPI};
use crate::disk::private;
use crate::error_log::causes;
use crate::log::connection::{NatsConnection, connect};
use crate::log::embedded;
use diagnostics::Verbosity;
use serve::configuration;

/// Reads the command line and does what it says.
pub fn run() -> ExitCode {
    private::restrict_new_files();
    let matches = Cli::command().get_matches();
    let audit = matches.subcommand_matches("audit").and_then(|audit| audit.subcommand());
    if let Some(conflict) = audit.and_then(|(_, options)| LogFrom::conflict(options)) {
        conflict.exit();
    }
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Command::NatsChild { binary, configuration } = &cli.command {
        return fail(&embedded::exec_child(binary, configuration));
    }
    let verbosity = Verbosity::of(&cli.command);
    let format = diagnostics::start(&cli.command, &verbosity);
    variables::warn_of_unknown();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::from(error).context("starting the runtime")),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Serve(options) => {
                let serve = matches.subcommand_matches("serve").context("`serve` was not parsed")?;
                let connections_are_chosen = serve::connections_are_chosen(serve);
                if options.print_config {
                    print(&configuration::printed(serve, &options, &verbosity))?;
                    configuration::check(&options, connections_are_chosen).await?;
                } else {
                    serve::serve(*options, connections_are_chosen).await?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Command::Audit(command) => Ok(audit::run(command).await),
            Command::Admin(command) => admin::run(command).await,
            Command::Contract { document } => {
                print(match document {
                    Contract::Openapi => OPENAPI,
                    Contract::Asyncapi => ASYNCAPI,
                })?;
                Ok(ExitCode::SUCCESS)
            }
            Command::NatsChild { .. } => Ok(ExitCode::FAILURE),
        }
    });
    done.unwrap_or_else(|error| match format {
        LogFormat::Text => fail(&error),
        LogFormat::Json => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    })
}

/// To stdout; unlike `print!`, a reader that has left is an error that [`fail`] knows, and no panic.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    fail_with(error, ExitCode::FAILURE)
}

/// Says why, and ends with a code of its own.
fn fail_with(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    // A closed pipe (`| head`) is how a reader says that it has enough.
    let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
    if io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe) {
        return ExitCode::SUCCESS;
    }
    eprintln!("tidings: {}", causes(error));
    code
}

/// Connects a command that only looks: to the NATS that is named, or to the one that a replica runs for itself.
async fn connect_read_only(nats: &NatsOptions) -> anyhow::Result<NatsConnection> {
    if !nats.nats.is_empty() {
        return connect(&nats.address(nats.nats.clone()), "tidings").await;
    }
    let url = embedded_nats(&nats.data_dir)?;
    // A replica that was killed has left its address behind.
    connect(&nats.address(vec![url]), "tidings").await.with_context(|| no_embedded_nats(&nats.data_dir))
}

/// The URL, with its login, of the NATS that a replica of this data directory runs for itself.
fn embedded_nats(data_dir: &Path) -> anyhow::Result<String> {
    if let Err(error) = fs::read_dir(data_dir)
        && error.kind() == ErrorKind::PermissionDenied
    {
        return Err(error).with_context(|| {
            format!(
                "only the user who runs the replica in {}, and root, can use its NATS",
                data_dir.display()
            )
        });
    }
    data_dir::read(data_dir, data_dir::NATS_URL).with_context(|| no_embedded_nats(data_dir))
}

fn no_embedded_nats(data_dir: &Path) -> String {
    format!("no --nats was given, and no replica with a NATS of its own runs in {}", data_dir.display())
}
