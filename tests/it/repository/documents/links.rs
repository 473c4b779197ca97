//! Links within the repository: the file exists, and has the heading that an anchor names.

use std::path::{Path, PathBuf};

use crate::support::nats::files_below;
use crate::support::shipped;

/// The documents below `docs/`.
pub fn below_docs() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let below = files_below(&root.join("docs"));
    let documents = below.into_iter().filter(|path| path.extension().is_some_and(|e| e == "md"));
    documents.map(|path| path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()).collect()
}

/// Those, and the documents that stand beside what they describe.
fn documents() -> Vec<String> {
    let beside = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "bench/README.md",
        "tests/README.md",
        "nats/README.md",
        "schemas/README.md",
        "schemas/metrics.md",
    ];
    below_docs().into_iter().chain(beside.map(str::to_owned)).collect()
}

/// The text without its fenced blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// What a text links to: `[words](target)`.
fn targets(text: &str) -> Vec<String> {
    let after = text.split("](").skip(1);
    after.filter_map(|rest| Some(rest.split_once(')')?.0.to_owned())).collect()
}

/// The anchor that GitHub makes of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

fn anchors(text: &str) -> Vec<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| anchor(line.trim_start_matches('#').trim())).collect()
}

/// What is wrong with a link of a document.
fn fault(document: &str, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, wanted) = target.split_once('#').unwrap_or((target, ""));
    let folder = Path::new(document).parent().unwrap();
    let path = if file.is_empty() { PathBuf::from(document) } else { folder.join(file) };
    if !Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists() {
        return Some(format!("{document}: {target}: there is no such file"));
    }
    let has =
        wanted.is_empty() || anchors(&prose(&shipped(path.to_str().unwrap()))).iter().any(|it| it == wanted);
    (!has).then(|| format!("{document}: {target}: there is no such heading"))
}

#[test]
fn every_link_within_the_repository_leads_somewhere() {
    let mut seen = 0;
    let mut faults = Vec::new();
    for document in documents() {
        let targets = targets(&prose(&shipped(&document)));
        seen += targets.len();
        faults.extend(targets.iter().filter_map(|target| fault(&document, target)));
    }
    assert!(seen > 100, "{seen} links");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_check_of_links_bites() {
    assert_eq!(fault("README.md", "docs/README.md"), None);
    assert_eq!(fault("docs/README.md", "../nats/README.md#the-log"), None);
    assert!(fault("README.md", "docs/no-such.md").is_some());
    assert!(fault("README.md", "nats/README.md#no-such-heading").is_some());
    assert_eq!(anchor("What is `--auth jwt`, and why?"), "what-is---auth-jwt-and-why");
}

#[test]
fn the_readme_is_short() {
    let lines = shipped("README.md").lines().count();
    assert!(lines <= 150, "README.md has {lines} lines: move some to docs/");
}
