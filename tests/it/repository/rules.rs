//! The tables of rules and tests, in `tests/README.md` and `docs/guarantees.md`: every test that they name exists.

use std::fs;
use std::path::Path;

use crate::support::shipped;

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it"))
}

/// The paths in the last column of a document's tables.
fn named(document: &str) -> Vec<String> {
    let rows = document.lines().filter(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.trim_end_matches([' ', '|']).rsplit_once(" | "));
    let paths = cells.flat_map(|(_, cell)| cell.split('`').skip(1).step_by(2));
    paths.filter(|path| path.contains("::")).map(str::to_owned).collect()
}

/// The file of a module below `tests/it`.
fn module(path: &str) -> Option<String> {
    let file = path.replace("::", "/");
    let files = [tests().join(format!("{file}.rs")), tests().join(file).join("mod.rs")];
    files.iter().find_map(|file| fs::read_to_string(file).ok())
}

/// Whether the code has a test function of this name.
fn has_test(code: &str, name: &str) -> bool {
    let declared =
        |line: &str| line.trim_start().trim_start_matches("async ").starts_with(&format!("fn {name}("));
    let is_test = |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
    let lines: Vec<_> = code.lines().collect();
    let declaration = lines.iter().position(|line| declared(line));
    declaration
        .is_some_and(|at| lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(is_test))
}

/// Whether a path is a module of tests, or a test in one.
fn exists(path: &str) -> bool {
    module(path).is_some()
        || path
            .rsplit_once("::")
            .is_some_and(|(parent, name)| module(parent).is_some_and(|code| has_test(&code, name)))
}

#[test]
fn every_test_that_a_table_names_exists() {
    for (document, fewest) in [("tests/README.md", 30), ("docs/guarantees.md", 15)] {
        let named = named(&shipped(document));
        assert!(named.len() >= fewest, "{document} names {} tests", named.len());
        let missing: Vec<_> = named.iter().filter(|path| !exists(path)).collect();
        assert!(missing.is_empty(), "{document} names tests that do not exist: {missing:?}");
    }
}

#[test]
fn the_check_of_tests_bites() {
    assert!(exists("repository::rules") && exists("repository::rules::the_check_of_tests_bites"));
    assert!(!exists("repository::no_such_file") && !exists("repository::rules::no_such_test"));
    assert!(!exists("repository::rules::has_test"), "a function without the attribute is no test");
    assert_eq!(
        named("| a `x::y` rule | `a::b`, `make sim` and `c::d::e` |\nno `f::g` row"),
        ["a::b", "c::d::e"]
    );
}

#[test]
fn every_folder_of_tests_is_listed() {
    let readme = shipped("tests/README.md");
    for entry in fs::read_dir(tests()).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let row = format!("| `it/{name}/` |");
        assert!(name == "main.rs" || readme.contains(&row), "tests/README.md does not list {name}");
    }
}
