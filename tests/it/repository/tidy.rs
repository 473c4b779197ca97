//! The house rules that a machine can hold: layer order, one place for each kind of thing, files of a readable size.

mod circles;

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::nats::files_below;

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn rust_files(folder: &str) -> Vec<(String, String)> {
    let root = source("");
    let files =
        files_below(&source(folder)).into_iter().filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let named = files.map(|path| {
        let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
        (name, fs::read_to_string(&path).unwrap())
    });
    named.collect()
}

/// The code of a file without its comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// The modules in the order in which `lib.rs` declares them.
fn layers(lib: &str) -> Vec<String> {
    lib.lines()
        .filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.to_owned()))
        .collect()
}

/// The top module that a file belongs to.
fn layer_of(file: &str) -> &str {
    file.trim_start_matches("src/").split(['/', '.']).next().unwrap()
}

/// The imports of a file that go against the order, as `module: line`.
fn against_the_order(layers: &[String], file: &str, code: &str) -> Vec<String> {
    let place = |name: &str| layers.iter().position(|layer| layer == name);
    let Some(own) = place(layer_of(file)) else { return Vec::new() };
    let mut found = Vec::new();
    for line in code.lines() {
        for after in line.split("crate::").skip(1) {
            let name: String = after.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if place(&name).is_some_and(|other| other > own) {
                found.push(format!("{file}: {}", line.trim()));
            }
        }
    }
    found
}

#[test]
fn a_module_imports_only_from_those_above_it() {
    let layers = layers(&fs::read_to_string(source("src/lib.rs")).unwrap());
    assert!(layers.len() > 8 && layers[0] == "domain", "{layers:?}");
    let found: Vec<_> = rust_files("src")
        .iter()
        .flat_map(|(file, text)| against_the_order(&layers, file, &code(text)))
        .collect();
    assert!(found.is_empty(), "against the order of lib.rs:\n{}", found.join("\n"));
}

#[test]
fn files_do_not_import_each_other_in_circles() {
    let files = rust_files("src").into_iter().filter(|(file, _)| !file.ends_with("/tests.rs"));
    let files: Vec<_> = files.map(|(file, text)| (file, code(&text))).collect();
    let circles = circles::of(&files);
    let in_layer = |layer: &str| circles.iter().any(|circle| layer_of(&circle[0]) == layer);
    let found: Vec<_> = circles.iter().filter(|circle| !CIRCULAR.contains(&layer_of(&circle[0]))).collect();
    assert!(found.is_empty(), "files that import each other in a circle: {found:#?}");
    for layer in CIRCULAR {
        assert!(in_layer(layer), "{layer} has no circle any more: take it from the list");
    }
}

#[test]
fn the_check_of_the_order_bites() {
    let layers: Vec<_> = ["domain", "log", "http"].map(str::to_owned).to_vec();
    assert_eq!(against_the_order(&layers, "src/log/mod.rs", "use crate::http::router;").len(), 1);
    assert_eq!(against_the_order(&layers, "src/domain/types.rs", "let x = crate::log::names::A;").len(), 1);
    assert!(
        against_the_order(&layers, "src/http/mod.rs", "use crate::domain::State;\nuse crate::log::A;")
            .is_empty()
    );
    assert!(
        code("//! crate::http\nfn a() {}\n#[cfg(test)]\nmod tests { crate::http }").find("http").is_none()
    );
}

/// The layers whose files still import each other in circles.
const CIRCULAR: [&str; 1] = ["submit"];

/// A word of the code, and the only files that may say it.
const ONLY_IN: [(&str, &[&str]); 11] = [
    ("sled::", &["src/projection/store.rs"]),
    ("$KV", &["src/log/names.rs"]),
    ("\"broadcasts.", &["src/log/names.rs"]),
    (
        "StatusCode::",
        &[
            "src/http/error.rs",
            "src/http/error/conversions.rs",
            "src/http/error/requests.rs",
            "src/http/respond.rs",
            "src/http/request_body.rs",
            "src/http/server/connection.rs",
            "src/http/handshake.rs",
            "src/http/operations.rs",
        ],
    ),
    // What a replica keeps is closed to other users of the machine from its first moment on. What an auditor asks for is a
    // file of the auditor's.
    ("fs::write(", &["src/disk/private.rs", "src/commands/audit/proof.rs"]),
    ("File::create", &["src/disk/private.rs"]),
    ("OpenOptions", &["src/disk/private.rs", "src/commands/audit/export.rs"]),
    ("fs::create_dir", &["src/disk/private.rs"]),
    ("now_utc", &["src/clock.rs"]),
    ("now_v7", &["src/clock.rs"]),
    ("std::process::exit", &["src/shutdown.rs"]),
];

/// Words that the code does not say at all, and why.
const NOWHERE: [(&str, &str); 6] = [
    ("pull::Ordered", "the client's ordered consumer loses its place: log/reader.rs is there instead"),
    ("OrderedConfig", "the client's ordered consumer loses its place: log/reader.rs is there instead"),
    ("crate::{", "one module a line, so that the order can be read"),
    ("super::super::", "start from the crate: the order is read from there"),
    (".unwrap()", "a panic path"),
    ("#[allow(", "`#[expect]` says why, and says when it is not needed any more"),
];

#[test]
fn each_kind_of_thing_has_one_place() {
    let mut found = Vec::new();
    for (file, text) in rust_files("src").iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        let code = code(text);
        for (word, places) in ONLY_IN {
            if code.contains(word) && !places.contains(&file.as_str()) {
                found.push(format!("{file} says {word}, which belongs in {places:?}"));
            }
        }
        for (word, why) in NOWHERE {
            if code.contains(word) {
                found.push(format!("{file} says {word}: {why}"));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

/// Ways around the harness, which holds every answer and every message to the interface descriptions.
const UNJUDGED: [&str; 4] = ["reqwest::Client", "reqwest::get", "RequestBuilder", "connect_async"];

#[test]
fn tests_ask_a_replica_through_the_harness() {
    let tests = rust_files("tests").into_iter();
    // A balancer has answers of its own, which nothing describes.
    let exempt = ["/support/", "/rolling_restart/", "/tidy.rs"];
    for (file, text) in tests.filter(|(file, _)| !exempt.iter().any(|part| file.contains(part))) {
        for word in UNJUDGED {
            assert!(!text.contains(word), "{file} says {word}: ask through support::Http or support::Client");
        }
    }
}

#[test]
fn routes_are_added_where_they_are_listed() {
    for (file, text) in rust_files("src").iter().filter(|(file, _)| file != "src/http/routes.rs") {
        assert!(
            !code(text).contains(".route("),
            "{file} says .route(: a route that no description is held to"
        );
    }
}

#[test]
fn the_domain_is_pure() {
    let allowed = [
        "std",
        "jiff",
        "serde",
        "serde_json",
        "thiserror",
        "uuid",
        "sha2",
        "crate",
        "super",
        "self",
        "proptest",
    ];
    for (file, text) in rust_files("src/domain") {
        for line in text.lines().filter_map(|line| line.strip_prefix("use ")) {
            let root = line.split([':', ' ', ';']).next().unwrap();
            let module = allowed.contains(&root)
                || rust_files("src/domain").iter().any(|(f, _)| f.ends_with(&format!("/{root}.rs")));
            assert!(module || root == "decide" || root == "event", "{file}: use {line}");
        }
        assert!(!text.contains("std::fs") && !text.contains("std::net") && !text.contains("tokio"), "{file}");
    }
}

#[test]
fn files_open_with_a_sentence_and_stay_readable() {
    for (file, text) in ["src", "tests", "bench"].into_iter().flat_map(rust_files) {
        assert!(text.starts_with("//! "), "{file} does not say what it is");
        let lines = text.lines().count();
        assert!(lines <= 480, "{file} has {lines} lines: move a wall");
    }
}
