//! The options in docs/reference.md are those of `tidings serve --help`.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::shipped;

/// The names of options in a text: what begins with two dashes.
fn options(text: &str) -> BTreeSet<String> {
    let named =
        text.split(|c: char| !(c.is_ascii_lowercase() || c == '-')).filter(|word| word.starts_with("--"));
    named.filter(|word| word.len() > 3 && !word.starts_with("---")).map(str::to_owned).collect()
}

#[test]
fn the_reference_lists_every_option_and_no_other() {
    let help = Command::new(env!("CARGO_BIN_EXE_tidings")).args(["serve", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let headings = help.lines().map(str::trim_start).filter(|line| line.starts_with("--"));
    let there: BTreeSet<_> =
        headings.flat_map(|line| options(line.split([' ', '[']).next().unwrap())).collect();
    assert!(there.len() > 50, "{there:?}");

    let reference = shipped("docs/reference.md");
    let (_, section) = reference.split_once("## Configuration").unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `--"));
    let listed: BTreeSet<_> = rows.flat_map(|row| options(row.split('|').nth(1).unwrap())).collect();
    let only_there: Vec<_> = there.difference(&listed).collect();
    let only_listed: Vec<_> = listed.difference(&there).collect();
    assert!(
        only_there.is_empty() && only_listed.is_empty(),
        "not listed: {only_there:?}; no options: {only_listed:?}"
    );
}
