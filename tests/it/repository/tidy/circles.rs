//! Circles of imports: files that import each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};

/// The module path of a file, `src/http/error.rs` or `src/http/mod.rs`: its segments below the crate.
fn module(file: &str) -> Vec<&str> {
    let path = file.trim_start_matches("src/").trim_end_matches(".rs");
    let mut segments: Vec<_> = path.split('/').collect();
    if matches!(segments.last(), Some(&"mod" | &"lib")) {
        segments.pop();
    }
    segments
}

/// The paths that a `use` tree stands for: `a::{b, c::{d, e}}` for `a::b`, `a::c::d` and `a::c::e`.
fn expand(tree: &str) -> Vec<String> {
    let Some((prefix, rest)) = tree.split_once('{') else {
        return vec![tree.split(" as ").next().unwrap().trim().to_owned()];
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let (mut depth, mut start, mut trees) = (0, 0, Vec::new());
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                trees.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    trees.push(&inner[start..]);
    let trees = trees.into_iter().map(str::trim).filter(|tree| !tree.is_empty());
    trees.flat_map(expand).map(|path| format!("{}{path}", prefix.trim())).collect()
}

/// The paths that code names: those of its `use` declarations, and those in its text that begin at the crate, at this module or
/// at the one above.
fn paths(code: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for statement in code.split(';') {
        let declared = statement.split_inclusive('\n').find_map(|line| {
            let line = line.trim_start();
            let line = line.strip_prefix("pub").map_or(line, |rest| {
                rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map_or(rest, |(_, rest)| rest)
            });
            line.trim_start().starts_with("use ").then_some(line)
        });
        let tree = declared.and_then(|line| {
            let at = statement.find(line)?;
            statement[at..].trim_start().strip_prefix("use ")
        });
        paths.extend(tree.into_iter().flat_map(expand));
        for root in ["crate::", "super::", "self::"] {
            for (at, _) in statement.match_indices(root) {
                let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
                paths.push(statement[at..].chars().take_while(|letter| is_path(*letter)).collect());
            }
        }
    }
    paths
}

/// The file that a path of a module leads to, if it is one of the crate.
fn target<'a>(modules: &BTreeMap<Vec<&'a str>, usize>, module: &[&'a str], path: &'a str) -> Option<usize> {
    let mut segments = path.split("::").map(str::trim).peekable();
    let mut at = match *segments.peek()? {
        "crate" => Vec::new(),
        "super" => module[..module.len().checked_sub(1)?].to_vec(),
        _ => module.to_vec(),
    };
    if matches!(*segments.peek()?, "crate" | "super" | "self") {
        segments.next();
    } else if !modules.contains_key(&[&at[..], &[segments.peek()?]].concat()) {
        return None;
    }
    for segment in segments {
        at.push(segment);
        if !modules.contains_key(&at) {
            at.pop();
            break;
        }
    }
    modules.get(&at).copied()
}

/// The circles among files, given as paths and code: the files of each, in order. Two files of a circle reach each other.
pub fn of(files: &[(String, String)]) -> Vec<Vec<String>> {
    let modules: BTreeMap<_, _> =
        files.iter().enumerate().map(|(index, (file, _))| (module(file), index)).collect();
    let imports: Vec<BTreeSet<usize>> = files
        .iter()
        .enumerate()
        .map(|(index, (file, code))| {
            let (own, paths) = (module(file), paths(code));
            let targets = paths.iter().filter_map(|path| target(&modules, &own, path));
            targets.filter(|target| *target != index).collect()
        })
        .collect();
    let reached: Vec<BTreeSet<usize>> = (0..files.len()).map(|from| reachable(&imports, from)).collect();
    let circle_of = |index: usize| {
        let members = reached[index].iter().filter(|other| reached[**other].contains(&index));
        members.map(|member| files[*member].0.clone()).collect::<Vec<_>>()
    };
    let circles: BTreeSet<_> = (0..files.len()).map(circle_of).filter(|circle| circle.len() > 1).collect();
    circles.into_iter().collect()
}

fn reachable(imports: &[BTreeSet<usize>], from: usize) -> BTreeSet<usize> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(next) = waiting.pop() {
        waiting.extend(imports[next].iter().copied().filter(|target| reached.insert(*target)));
    }
    reached
}

#[test]
fn the_check_of_circles_bites() {
    let files = |files: &[(&str, &str)]| -> Vec<_> {
        files.iter().map(|(file, code)| ((*file).to_owned(), (*code).to_owned())).collect()
    };
    let circle = files(&[
        ("src/a.rs", "mod b;\nuse crate::c::{D, e};"),
        ("src/a/b.rs", "pub(super) use super::X;\nfn f() { let x = crate::c::D; }"),
        ("src/c.rs", "use std::fmt;\npub use crate::{\n    a::b::Y,\n};"),
        ("src/d/mod.rs", "use crate::a::X;\nuse e::Z;"),
        ("src/d/e.rs", "use crate::c::D;"),
    ]);
    assert_eq!(of(&circle), [["src/a.rs", "src/a/b.rs", "src/c.rs"].map(str::to_owned)]);
    let open = files(&[
        ("src/a.rs", "mod b;\nuse b::X;\nuse super::c::Y;"),
        ("src/a/b.rs", "use crate::c::Y;"),
        ("src/c.rs", "use std::a::b;"),
    ]);
    assert_eq!(of(&open), Vec::<Vec<String>>::new());
}
