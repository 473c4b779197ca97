//! The fenced blocks of a document, and what their info strings ask of the tests.
//!
//! | info string | meaning |
//! | --- | --- |
//! | `sh` | run it; it has to succeed |
//! | `sh exit="0 or 4"` | run it; it ends with one of these codes |
//! | `sh timeout="150"` | run it, for at most so many seconds |
//! | `sh until="words"` | start it, wait for these words in its output, and keep it running until the document ends |
//! | `sh release` | run by `release.rs` alone, since it builds a release |
//! | `sh no-run="needs Docker"` | not run, for one of the reasons in [`REASONS`] |
//! | `text output`, `json output` | the end of what the block before has printed; `…` stands for anything |
//! | `html file="banner/index.html"` | a file that the following blocks use |
//! | anything but `sh`, alone | shown, and not looked at |

use std::collections::BTreeMap;

/// Why a block may be left out.
const REASONS: [&str; 4] = ["needs Docker", "needs a public host name", "needs root", "it is the test suite"];

/// How long a block may take unless it says otherwise.
const SECONDS: u64 = 60;

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    Run { codes: Vec<i32>, seconds: u64 },
    Background { until: String },
    Release,
    Skip,
    Output,
    File(String),
    Shown,
}

#[derive(Clone, Debug)]
pub struct Block {
    /// Where it begins in the document.
    pub line: usize,
    pub kind: Kind,
    pub text: String,
}

/// The words of an info string after the language: `name`, or `name="value"`.
fn attributes(info: &str) -> Result<BTreeMap<&str, &str>, String> {
    let mut rest = info.trim();
    let mut found = BTreeMap::new();
    while !rest.is_empty() {
        let end = rest.find([' ', '=']).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let (value, after) = match after.strip_prefix("=\"") {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| format!("no end of a value: {info}"))?,
            None => ("", after),
        };
        found.insert(name, value);
        rest = after.trim_start();
    }
    Ok(found)
}

fn codes(value: &str) -> Result<Vec<i32>, String> {
    value.split(" or ").map(|code| code.parse().map_err(|_| format!("no exit code: {code}"))).collect()
}

fn shell(attributes: &BTreeMap<&str, &str>) -> Result<Kind, String> {
    let names: Vec<&str> = attributes.keys().copied().collect();
    match names[..] {
        ["no-run"] if REASONS.contains(&attributes["no-run"]) => Ok(Kind::Skip),
        ["no-run"] => Err(format!("no reason that counts: {}", attributes["no-run"])),
        ["release"] => Ok(Kind::Release),
        ["until"] => Ok(Kind::Background { until: attributes["until"].to_owned() }),
        [] | ["exit" | "timeout"] | ["exit", "timeout"] => {
            let codes = attributes.get("exit").map_or(Ok(vec![0]), |value| codes(value))?;
            let seconds = attributes.get("timeout").map_or(Ok(SECONDS), |value| value.parse());
            Ok(Kind::Run { codes, seconds: seconds.map_err(|e| e.to_string())? })
        }
        _ => Err(format!("these do not go together: {names:?}")),
    }
}

fn kind(info: &str) -> Result<Kind, String> {
    let (language, rest) = info.split_once(' ').unwrap_or((info, ""));
    let attributes = attributes(rest)?;
    let names: Vec<&str> = attributes.keys().copied().collect();
    match (language, &names[..]) {
        ("sh", _) => shell(&attributes),
        ("bash" | "shell" | "console", _) => Err(format!("a block of {language}: write `sh`")),
        (_, ["output"]) => Ok(Kind::Output),
        (_, ["file"]) => Ok(Kind::File(attributes["file"].to_owned())),
        (_, []) => Ok(Kind::Shown),
        _ => Err(format!("these mean nothing here: {names:?}")),
    }
}

/// Every block of a document; those within a list too.
pub fn blocks(text: &str) -> Result<Vec<Block>, String> {
    let mut found: Vec<Block> = Vec::new();
    // The block that is open, and how far it is indented.
    let mut open: Option<(Block, usize)> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let indent = line.len() - line.trim_start().len();
        match (line.trim().strip_prefix("```"), open.take()) {
            (Some(_), Some((block, _))) => found.push(block),
            (Some(info), None) => {
                let kind = kind(info).map_err(|error| format!("line {number}: {error}"))?;
                open = Some((Block { line: number, kind, text: String::new() }, indent));
            }
            (None, Some((mut block, indent))) => {
                block.text += line.get(indent..).unwrap_or_default();
                block.text.push('\n');
                open = Some((block, indent));
            }
            (None, None) => {}
        }
    }
    open.map_or(Ok(found), |(block, _)| Err(format!("line {}: this block has no end", block.line)))
}

/// A block with one command.
pub fn command(text: &str) -> Block {
    let kind = Kind::Run { codes: vec![0], seconds: SECONDS };
    Block { line: 0, kind, text: text.to_owned() }
}

/// Whether `printed` has the parts of `expected` between its `…` in order, white space aside. What is expected ends where
/// the output ends, unless more may follow.
pub fn shows(printed: &str, expected: &str, more_may_follow: bool) -> bool {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let (printed, expected) = (flat(printed), flat(expected));
    let mut rest = printed.as_str();
    let (before, last) = expected.rsplit_once('…').map_or((None, &*expected), |(a, b)| (Some(a), b));
    for part in before.into_iter().flat_map(|before| before.split('…')) {
        match rest.split_once(part.trim()) {
            Some((_, after)) => rest = after,
            None => return false,
        }
    }
    let last = last.trim();
    if more_may_follow { rest.contains(last) } else { rest.ends_with(last) }
}

#[test]
fn an_info_string_is_understood_or_refused() {
    let run = |codes: &[i32], seconds| Kind::Run { codes: codes.to_vec(), seconds };
    assert_eq!(kind("sh"), Ok(run(&[0], SECONDS)));
    assert_eq!(kind("sh exit=\"0 or 4\" timeout=\"90\""), Ok(run(&[0, 4], 90)));
    assert_eq!(kind("sh until=\"listens at\""), Ok(Kind::Background { until: "listens at".to_owned() }));
    assert_eq!(kind("sh no-run=\"needs Docker\""), Ok(Kind::Skip));
    assert_eq!(kind("html file=\"a/b.html\""), Ok(Kind::File("a/b.html".to_owned())));
    assert_eq!(kind("nginx"), Ok(Kind::Shown));
    for refused in ["sh no-run", "sh no-run=\"it is slow\"", "sh skip", "bash", "sh until=\"a", "json run"] {
        assert!(kind(refused).is_err(), "{refused}");
    }
}

#[test]
fn blocks_are_found_in_lists_too() {
    let found = blocks("# A\n\n```sh\na\n  b\n```\n\n1. B\n\n   ```json output\n   {}\n   ```\n").unwrap();
    let texts: Vec<_> = found.iter().map(|block| (block.line, &*block.text)).collect();
    assert_eq!(texts, [(3, "a\n  b\n"), (10, "{}\n")]);
    assert!(blocks("```sh\na\n").is_err());
}

#[test]
fn output_is_compared_by_its_parts() {
    let printed = "first\n{\"id\":\"17\",\"message\":\"Back\"}\n";
    assert!(shows(printed, "{\"id\":\"…\",\"message\":\"Back\"}", false));
    assert!(shows(printed, "first {\"id\":…", false));
    assert!(!shows(printed, "{\"id\":\"…\",\"message\":\"Gone\"}", false));
    assert!(!shows(printed, "first", false));
    assert!(shows(printed, "first", true));
}
