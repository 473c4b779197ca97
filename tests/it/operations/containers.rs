//! What can be held of the image and the compose file without an engine: that they fit the binary, the files and each other.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use serde_json::Value;
use tidings::config::{Cli, Serve};

use crate::support::shipped;

/// What a replica allows itself beyond grace and spread: for those who do not finish, and to leave NATS.
const PATIENCE_SECONDS: u64 = 10 + 2;

fn compose() -> Value {
    serde_saphyr::from_str(&shipped("docker-compose.yml")).unwrap()
}

fn services<'a>(compose: &'a Value, prefix: &'a str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let all = compose["services"].as_object().unwrap();
    all.iter().filter(move |(name, _)| name.starts_with(prefix))
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect()
}

/// The environment that a container of a replica has: that of the image, and that of the compose file.
fn environment(replica: &Value) -> BTreeMap<String, String> {
    let image = shipped("Dockerfile");
    let image = image.lines().find_map(|line| line.strip_prefix("ENV ")).expect("the image sets variables");
    let image = image.split(' ').map(|pair| pair.split_once('=').unwrap());
    let given = replica["environment"].as_object().unwrap().iter();
    image
        .chain(given.map(|(name, value)| (name.as_str(), value.as_str().expect("a string"))))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The options that a replica of the compose file runs with.
fn options(environment: &BTreeMap<String, String>) -> Serve {
    let flags = environment.iter().map(|(name, value)| {
        let name = name.strip_prefix("TIDINGS_").expect("only ours").to_lowercase().replace('_', "-");
        if value == "true" { format!("--{name}") } else { format!("--{name}={value}") }
    });
    let words = ["tidings".to_owned(), "serve".to_owned()].into_iter().chain(flags);
    match Cli::try_parse_from(words).unwrap().command {
        tidings::config::Command::Serve(serve) => *serve,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_variable_of_a_replica_is_an_option_that_takes_it() {
    for (name, replica) in services(&compose(), "replica-") {
        let environment = environment(replica);
        let printed = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .args(["serve", "--print-config"])
            .env_clear()
            .envs(&environment)
            .output()
            .unwrap();
        assert!(printed.status.success(), "{name}: {}", String::from_utf8_lossy(&printed.stderr));
        let printed = String::from_utf8(printed.stdout).unwrap();
        let (_, given) = printed.split_once("# environment\n").unwrap();
        let (given, _) = given.split_once("\n\n").unwrap();
        for (variable, value) in &environment {
            let line = format!("{variable}={value}");
            assert!(given.lines().any(|printed| printed == line), "{name}: no {line} in:\n{printed}");
        }
    }
}

#[test]
fn a_replica_has_time_to_drain_and_files_for_its_connections() {
    let balancer = shipped("tests/balancer/haproxy.cfg");
    for (name, replica) in services(&compose(), "replica-") {
        let options = options(&environment(replica));
        let seconds = options.drain_grace_seconds + options.drain_seconds + PATIENCE_SECONDS;
        let period =
            replica["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
        assert!(period > seconds, "{name} may need {seconds} s to stop and is killed after {period} s");
        // The balancer needs two looks, a second apart, to see that a replica is about to stop.
        assert!(balancer.contains("check inter 1s fall 2 ") && options.drain_grace_seconds > 2, "{name}");
        let files = replica["ulimits"]["nofile"].as_u64().unwrap();
        assert!(files > options.max_connections as u64 + 1_000, "{name} has {files} files");
        assert_eq!(options.streams.stream_replicas, 3);
        assert_eq!(options.nats.nats.len(), 3);
    }
}

#[test]
fn the_replicas_sign_with_one_key_that_the_first_of_them_makes() {
    let compose = compose();
    for (name, replica) in services(&compose, "replica-") {
        let options = options(&environment(replica)).checkpoints;
        let [file] = &options.checkpoint_key[..] else { panic!("{name}: {options:?}") };
        assert!(options.checkpoint_key_name.is_some(), "{name} makes it when it is missing");
        // The volume of all three, on a folder that the image gives to the user of the replicas.
        let folder = file.parent().unwrap().to_str().unwrap();
        assert!(words(&replica["volumes"]).contains(&&*format!("keys:{folder}")), "{name}");
        let image = shipped("Dockerfile");
        let given = image.lines().find(|line| line.contains("install --directory --owner 65532")).unwrap();
        assert!(given.split(' ').any(|word| word == folder), "{given}");
    }
}

#[test]
fn every_container_is_confined_watched_and_bounded() {
    let compose = compose();
    assert_eq!(services(&compose, "").count(), 7);
    for (name, service) in services(&compose, "") {
        assert_eq!(service["read_only"], true, "{name}");
        assert_eq!(words(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(service["restart"], "unless-stopped", "{name}");
        assert!(service["healthcheck"]["test"].is_array(), "{name}");
        assert!(service["ulimits"]["nofile"].is_u64(), "{name}");
        assert!(service["stop_grace_period"].is_string(), "{name}");
        assert!(service["deploy"]["resources"]["limits"]["memory"].is_string(), "{name}");
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().unwrap().starts_with("127.0.0.1:"), "{name} is open to the world: {port}");
        }
    }
    for (name, replica) in services(&compose, "replica-") {
        for node in ["nats-1", "nats-2", "nats-3"] {
            assert_eq!(replica["depends_on"][node]["condition"], "service_healthy", "{name}");
        }
    }
}

#[test]
fn the_balancer_asks_for_the_state_of_a_replica_by_a_host_that_dev_auth_knows() {
    let balancer = shipped("tests/balancer/haproxy.cfg");
    let check = balancer.lines().find(|line| line.contains("http-check send")).unwrap();
    assert!(check.ends_with("hdr Host localhost"), "{check}");
}

#[test]
fn what_is_mounted_is_there() {
    let compose = compose();
    for (name, config) in compose["configs"].as_object().unwrap() {
        let path = config["file"].as_str().unwrap();
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(path).is_file(), "{name}: no {path}");
    }
    for (name, service) in services(&compose, "") {
        for config in service["configs"].as_array().into_iter().flatten() {
            assert!(compose["configs"].get(config["source"].as_str().unwrap()).is_some(), "{name}: {config}");
        }
        for volume in service["volumes"].as_array().into_iter().flatten() {
            let (volume, _) = volume.as_str().unwrap().split_once(':').unwrap();
            assert!(compose["volumes"].get(volume).is_some(), "{name}: {volume} is no named volume");
        }
        for network in words(&service["networks"]) {
            assert!(compose["networks"].get(network).is_some(), "{name}: {network}");
        }
    }
    let balancer = shipped("tests/balancer/haproxy.cfg");
    for (name, _) in services(&compose, "replica-") {
        assert!(balancer.contains(&format!("server {name} {name}:8000\n")), "the balancer knows {name}");
    }
}

#[test]
fn versions_are_the_ones_that_are_tested() {
    let compose = compose();
    let install = shipped("nats/install.sh");
    let pinned = install.lines().find_map(|line| line.strip_prefix("readonly pinned=")).unwrap();
    for (name, node) in services(&compose, "nats-") {
        assert_eq!(node["image"], format!("nats:{pinned}-alpine"), "{name}");
    }
    let image = shipped("Dockerfile");
    let from: Vec<_> = image.lines().filter_map(|line| line.strip_prefix("FROM ")).collect();
    let built_on = from[0].strip_suffix(" AS build").unwrap();
    let debian = from[1].strip_prefix("debian:").and_then(|tag| tag.strip_suffix("-slim")).unwrap();
    assert_eq!(built_on, format!("rust:{}-slim-{debian}", env!("CARGO_PKG_RUST_VERSION")));
    let version = format!("org.opencontainers.image.version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert!(image.contains(&version), "the label is not {version}");
}

#[test]
fn the_commands_of_the_image_parse() {
    let image = shipped("Dockerfile");
    let command = |before: &str| -> Vec<String> {
        let (_, rest) = image.split_once(before).unwrap();
        serde_json::from_str(rest.lines().next().unwrap()).unwrap()
    };
    let start: Vec<_> = command("\nENTRYPOINT ").into_iter().chain(command("\nCMD ")).collect();
    Cli::try_parse_from(start).unwrap();
    Cli::try_parse_from(command("s CMD ")).unwrap();
    for (name, replica) in services(&compose(), "replica-") {
        let check = words(&replica["healthcheck"]["test"]);
        assert_eq!(check[0], "CMD", "{name}");
        Cli::try_parse_from(&check[1..]).unwrap();
    }
}

#[test]
fn cargo_loads_the_workspace_from_what_the_image_copies() {
    let (root, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), tempfile::tempdir().unwrap());
    let image = shipped("Dockerfile");
    let copied =
        image.lines().filter_map(|line| line.strip_prefix("COPY ")).filter(|line| !line.starts_with("--"));
    for line in copied {
        let (sources, destination) = line.rsplit_once(' ').unwrap();
        for source in sources.split(' ') {
            let from = root.join(source);
            assert!(
                shipped(".dockerignore").lines().any(|line| line == format!("!{source}")),
                "{source} is ignored"
            );
            let to = folder.path().join(destination);
            let to = if destination.ends_with('/') { to.join(from.file_name().unwrap()) } else { to };
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copy = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
            assert!(copy.success(), "{line}");
        }
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"]);
    let loaded = cargo.current_dir(folder.path()).output().unwrap();
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}
