//! `serve --print-config`: the options that are in effect, as a file of environment variables, and whether they can work.

use std::ffi::OsStr;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, CommandFactory as _};

use super::{
    descriptors, embedded, keys, require_a_ping_in_time, require_safe_address, require_servers_for_the_copies,
};
use crate::commands::diagnostics::{VERBOSITY, Verbosity};
use crate::config::{Cli, SECRET_VARIABLE, Serve};
use crate::log::connection::{self, without_password};
use crate::warnings::Warnings;

/// The parts of the file, in this order.
#[derive(Default)]
struct ConfigSections {
    flags: Vec<String>,
    environment: Vec<String>,
    defaults: Vec<String>,
    not_set: Vec<String>,
}

impl ConfigSections {
    fn of(&mut self, origin: ValueSource) -> &mut Vec<String> {
        match origin {
            ValueSource::CommandLine => &mut self.flags,
            ValueSource::EnvVariable => &mut self.environment,
            _ => &mut self.defaults,
        }
    }
}

/// Every option as an environment variable, in a form that systemd (`EnvironmentFile=`) and Docker (`--env-file`) read:
/// `NAME=value` on a line, comments on lines of their own. Where a value has a secret, the line is a comment.
pub(crate) fn printed(matches: &ArgMatches, options: &Serve, verbosity: &Verbosity) -> String {
    let cli = Cli::command();
    let known = cli.find_subcommand("serve").into_iter().flat_map(clap::Command::get_arguments);
    let mut sections = ConfigSections::default();
    for option in known {
        if let Some(name) = option.get_env().and_then(OsStr::to_str) {
            add(&mut sections, name, option, matches, options);
        }
    }
    let origin = if verbosity.is_chosen { &mut sections.environment } else { &mut sections.defaults };
    origin.push(format!("{VERBOSITY}={}", verbosity.directives));
    // It has no flag, and is not to be seen.
    if std::env::var_os(SECRET_VARIABLE).is_some_and(|secret| !secret.is_empty()) {
        sections.environment.push(format!("# {SECRET_VARIABLE} is set, and not shown"));
    } else {
        sections.not_set.push(format!("# {SECRET_VARIABLE}="));
    }
    let titled = [
        ("flags", sections.flags),
        ("environment", sections.environment),
        ("defaults", sections.defaults),
        ("not set", sections.not_set),
    ];
    let sections = titled.iter().filter(|(_, lines)| !lines.is_empty());
    let sections: Vec<_> =
        sections.map(|(title, lines)| format!("# {title}\n{}\n", lines.join("\n"))).collect();
    sections.join("\n")
}

fn add(sections: &mut ConfigSections, name: &str, option: &Arg, matches: &ArgMatches, options: &Serve) {
    let id = option.get_id().as_str();
    let (Some(origin), Some(values)) = (matches.value_source(id), matches.get_raw(id)) else {
        match options.effective_defaults().into_iter().find(|(known, _)| *known == id) {
            Some((_, value)) => sections.defaults.push(format!("{name}={value}")),
            None => sections.not_set.push(format!("# {name}=")),
        }
        return;
    };
    let delimiter = option.get_value_delimiter().unwrap_or(',').to_string();
    let values = values.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(&delimiter);
    // Those whose values may have a password; an `@` of another, as in `creator@forum=editors`, hides nothing.
    let shown = if option.is_hide_env_values_set() { without_password(&values) } else { values.clone() };
    let secret = if shown == values { "" } else { "# its login is not shown: " };
    sections.of(origin).push(format!("{secret}{name}={shown}"));
}

/// Everything about the options that a start would find wrong, and that needs neither the network nor the data directory.
pub(crate) async fn check(options: &Serve, connections_are_chosen: bool) -> anyhow::Result<()> {
    require_safe_address(options)?;
    require_a_ping_in_time(options)?;
    require_servers_for_the_copies(options)?;
    options.identity.authenticator(&options.channels, &Warnings::default()).await?;
    connection::check(&options.nats.address(options.nats.nats.clone()))?;
    if options.nats_server.is_some() {
        embedded::find(options.nats_server.as_deref())?;
    }
    keys::check(&options.checkpoints)?;
    descriptors::fit(&mut options.clone(), connections_are_chosen)
}
