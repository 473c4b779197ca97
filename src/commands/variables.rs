//! Environment variables that look like options and are none: a misspelt one would have no effect, and nobody would know.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use tracing::warn;

use super::diagnostics::VERBOSITY;
use crate::config::{Cli, SECRET_VARIABLE};
use crate::crash_point;

/// What every variable of Tidings begins with.
const PREFIX: &str = "TIDINGS_";

/// What Kubernetes sets in every container of a namespace for a service that is called `tidings`.
const KUBERNETES_PREFIXES: [&str; 2] = ["TIDINGS_PORT", "TIDINGS_SERVICE_"];

/// How many letters a name may differ by at most, and still be taken for a misspelt one; and one letter in this many. A short
/// name is near to every other.
const TYPING_ERRORS: usize = 3;
const LETTERS_AN_ERROR: usize = 3;

/// Warns of each variable that no command knows.
pub(super) fn warn_of_unknown() {
    let known = known();
    let set = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in set.filter(|name| is_unknown(name, &known)) {
        let hint = nearest(&name, &known).map_or_else(
            || "`tidings serve --help` lists those that there are".to_owned(),
            |near| format!("is {near} meant?"),
        );
        warn!("the environment variable {name} is unknown and has no effect; {hint}");
    }
}

fn is_unknown(name: &str, known: &BTreeSet<String>) -> bool {
    name.starts_with(PREFIX)
        && !known.contains(name)
        && !KUBERNETES_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn nearest<'a>(name: &str, known: &'a BTreeSet<String>) -> Option<&'a str> {
    let distance = |other: &str| strsim::damerau_levenshtein(name, other);
    let letters = name.len().saturating_sub(PREFIX.len());
    let allowed = (letters / LETTERS_AN_ERROR).clamp(1, TYPING_ERRORS);
    known
        .iter()
        .map(String::as_str)
        .min_by_key(|other| distance(other))
        .filter(|near| distance(near) <= allowed)
}

/// The variables of all commands: they share one environment.
fn known() -> BTreeSet<String> {
    let mut known: BTreeSet<_> =
        [VERBOSITY, SECRET_VARIABLE, crash_point::VARIABLE].map(str::to_owned).into();
    let mut commands = vec![Cli::command()];
    while let Some(command) = commands.pop() {
        let variables =
            command.get_arguments().filter_map(|option| option.get_env()?.to_str().map(str::to_owned));
        known.extend(variables);
        commands.extend(command.get_subcommands().cloned());
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_is_known_from_a_strange_one() {
        let known = known();
        assert_eq!(nearest("TIDINGS_CHANELS", &known), Some("TIDINGS_CHANNELS"));
        assert_eq!(nearest("TIDINGS_LSITEN", &known), Some("TIDINGS_LISTEN"));
        assert_eq!(nearest("TIDINGS_LOGS", &known), Some("TIDINGS_LOG"));
        assert_eq!(nearest("TIDINGS_COLOUR_OF_THE_PAGE", &known), None);
        assert_eq!(nearest("TIDINGS_FOO", &known), None);
        for name in
            ["TIDINGS_LOG", "TIDINGS_AUTH_SECRET", "TIDINGS_DATA_DIR", "TIDINGS_PORT_8000_TCP", "HOME"]
        {
            assert!(!is_unknown(name, &known), "{name}");
        }
        assert!(is_unknown("TIDINGS_CHANELS", &known));
    }
}
