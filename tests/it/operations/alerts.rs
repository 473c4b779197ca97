//! The alerts that are shipped: rules that Prometheus accepts, of metrics that a replica serves, fire when they should; and
//! `/metrics` is what the tools of Prometheus read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::support::issuer::key_set;
use crate::support::{Issuer, Nats, Replica, Spec, shipped};
use tidings::warnings::Warning;

#[derive(Debug, Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Debug, Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Debug, Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    #[serde(default)]
    r#for: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/prometheus")
}

fn rules() -> Vec<Rule> {
    let file: File = serde_saphyr::from_str(&shipped("deploy/prometheus/alerts.yml")).unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// Runs promtool in the folder of the alerts; returns whether it is content, and what it writes.
fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .current_dir(folder())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: tests/install.sh brings it");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), said)
}

/// One with everything that has metrics of its own.
async fn start(nats: &Nats) -> (Replica, tempfile::NamedTempFile) {
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(keys.path(), key_set(&[&Issuer::edwards("e")]).to_string()).unwrap();
    let file = keys.path().to_str().unwrap();
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-file", file]);
    (Replica::start_with(spec).await, keys)
}

/// The metrics that an expression names.
fn metrics_in(expression: &str) -> BTreeSet<String> {
    const WORDS: [&str; 10] =
        ["and", "or", "unless", "by", "without", "on", "ignoring", "offset", "bool", "group_left"];
    let mut names = BTreeSet::new();
    let mut rest = expression;
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    while let Some(first) = rest.chars().next() {
        let length = match first {
            // Labels, durations and texts name no metric.
            '{' => rest.find('}').unwrap() + 1,
            '[' => rest.find(']').unwrap() + 1,
            '"' => rest[1..].find('"').unwrap() + 2,
            c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        rest = after;
        // A function, or an aggregation with its labels before its argument.
        let is_function = ["(", "by ", "without "].iter().any(|next| after.trim_start().starts_with(next));
        if first.is_ascii_alphabetic() && !WORDS.contains(&token) && !is_function {
            names.insert(token.to_owned());
        } else if ["by", "without", "on", "ignoring"].contains(&token) {
            rest = &after[after.find(')').unwrap()..];
        }
    }
    names
}

#[test]
fn the_metrics_of_an_expression_are_found() {
    let found = metrics_in(
        r#"max by (a) (rate(m1{l="m9"}[5m])) > 0.8 or time() - m2 > 15 and on (b) m3:x offset 5m"#,
    );
    assert_eq!(found.into_iter().collect::<Vec<_>>(), ["m1", "m2", "m3:x"]);
}

#[tokio::test]
async fn every_alert_is_of_metrics_that_a_replica_serves() {
    let nats = Nats::start().await;
    let (replica, _keys) = start(&nats).await;
    let text = replica.metrics().await;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let mut served: BTreeSet<_> =
        samples.map(|line| line.split(['{', ' ']).next().unwrap().to_owned()).collect();
    served.insert("up".to_owned());
    let rules = rules();
    assert!(rules.len() > 25, "{}", rules.len());
    let names: BTreeSet<_> = rules.iter().map(|rule| &rule.alert).collect();
    assert_eq!(names.len(), rules.len(), "each has a name of its own");
    for Rule { alert, expr, labels, annotations, .. } in &rules {
        let used = metrics_in(expr);
        assert!(!used.is_empty() && used.is_subset(&served), "{alert} needs {used:?}");
        assert!(["critical", "warning", "info"].contains(&&*labels["severity"]), "{alert}");
        assert!(annotations["description"].len() > 20 && annotations["summary"].len() > 10, "{alert}");
        for code in expr.split("{code=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            assert!(Warning::of_code(code).is_some(), "{alert}: there is no warning {code}");
        }
    }
}

#[test]
fn every_alert_is_listed_as_it_is_shipped() {
    let list = shipped("schemas/metrics.md");
    let listed: Vec<_> = list.lines().filter(|line| line.starts_with("| `Tidings")).collect();
    let shipped = rules().into_iter().map(|rule| {
        let lasting = if rule.r#for.is_empty() { String::new() } else { format!(" for {}", rule.r#for) };
        let expression = rule.expr.replace('|', "\\|");
        format!("| `{}` | `{expression}`{lasting} | {} |", rule.alert, rule.annotations["description"])
    });
    let shipped: Vec<_> = shipped.collect();
    assert_eq!(listed, shipped);
}

#[test]
fn prometheus_accepts_the_alerts_and_they_fire_when_they_should() {
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]] {
        let (ok, said) = promtool(&arguments, "");
        assert!(ok && said.contains("SUCCESS"), "{arguments:?}: {said}");
    }
}

#[tokio::test]
async fn tools_that_read_the_old_text_format_alone_read_metrics_and_find_nothing_to_object_to() {
    let nats = Nats::start().await;
    let (replica, _keys) = start(&nats).await;
    for accept in [None, Some("text/plain; version=0.0.4"), Some("*/*")] {
        let mut request = replica.raw_request(reqwest::Method::GET, "/metrics");
        if let Some(accept) = accept {
            request = request.header("Accept", accept);
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        assert!(answer.headers()["vary"].to_str().unwrap().to_lowercase().contains("accept"));
        let text = answer.text().await.unwrap();
        let (ok, said) = promtool(&["check", "metrics"], &text);
        assert!(ok, "{said}");
    }
}
