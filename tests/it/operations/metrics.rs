//! What `/metrics` says: by the rules of OpenMetrics and of its list in `schemas/metrics.md`, and true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use reqwest::Method;
use serde_json::json;
use tidings::clock::{Clock as _, SystemClock};
use tidings::log::EventLog as _;

use crate::support::issuer::key_set;
use crate::support::{Issuer, Nats, Replica, Spec, eventually};

#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    unit: String,
    labels: BTreeSet<String>,
}

/// A text that keeps the rules of OpenMetrics as far as we use it.
struct OpenMetrics {
    families: BTreeMap<String, Family>,
    samples: BTreeMap<String, f64>,
}

/// What a sample's name may add to its family's name.
const SUFFIXES: [(&str, &[&str]); 4] = [
    ("gauge", &[""]),
    ("counter", &["_total"]),
    ("info", &["_info"]),
    ("histogram", &["_bucket", "_count", "_sum"]),
];

impl OpenMetrics {
    fn parse(text: &str) -> Self {
        let body = text.strip_suffix("# EOF\n").expect("the text ends with # EOF");
        let mut parsed = Self { families: BTreeMap::new(), samples: BTreeMap::new() };
        let mut current = String::new();
        for line in body.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                let mut words = comment.splitn(3, ' ').map(str::to_owned);
                let (kind, name) = (words.next().unwrap(), words.next().unwrap());
                let rest = words.next().unwrap_or_else(|| panic!("{line} says nothing"));
                let family = parsed.families.entry(name.clone()).or_default();
                let said = match kind.as_str() {
                    "HELP" => &mut family.help,
                    "TYPE" => &mut family.kind,
                    "UNIT" => &mut family.unit,
                    _ => panic!("{line}"),
                };
                assert!(said.is_empty(), "{name} is declared twice");
                *said = rest;
                current = name;
            } else {
                parsed.sample(line, &current);
            }
        }
        parsed
    }

    fn sample(&mut self, line: &str, current: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line:?}"));
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let family = self.families.get_mut(current).unwrap_or_else(|| panic!("{name} is not declared"));
        let (_, suffixes) = SUFFIXES.iter().find(|(kind, _)| *kind == family.kind).unwrap();
        let suffix = name.strip_prefix(current).unwrap_or_else(|| panic!("{name} stands under {current}"));
        assert!(suffixes.contains(&suffix), "{name} is a {}", family.kind);
        // No value of a label of ours has a comma or a quote in it.
        let labels = labels.strip_suffix('}').unwrap().split(',').filter(|label| !label.is_empty());
        for label in labels {
            let (label, value) = label.split_once('=').unwrap();
            assert!(value.len() > 1 && value.starts_with('"') && value.ends_with('"'), "{line}");
            if label != "le" {
                family.labels.insert(label.to_owned());
            }
        }
        assert!(
            self.samples.insert(series.to_owned(), value.parse().unwrap()).is_none(),
            "{series} comes twice"
        );
    }

    fn get(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("no {series} in {:#?}", self.samples.keys()))
    }

    fn expect(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            let found = self.get(series);
            assert!((found - value).abs() < 0.5, "{series} is {found}, not {value}");
        }
    }
}

async fn as_open_metrics(replica: &Replica) -> String {
    let request =
        replica.raw_request(Method::GET, "/metrics").header("Accept", "application/openmetrics-text");
    request.send().await.unwrap().text().await.unwrap()
}

async fn scrape(replica: &Replica) -> OpenMetrics {
    OpenMetrics::parse(&as_open_metrics(replica).await)
}

/// Seconds since 1970.
fn now() -> f64 {
    f64::from(u32::try_from(SystemClock.now().as_unix_ms() / 1_000).unwrap())
}

async fn becomes(replica: &Replica, series: &str, value: f64) {
    eventually(&format!("{series} is {value}"), || async {
        scrape(replica).await.samples.get(series).is_some_and(|found| (found - value).abs() < 0.5)
    })
    .await;
}

/// Two broadcasts and a clear for two clients, and acknowledgements by two users; returns the clients.
async fn some_events(replica: &Replica) -> [crate::support::Client; 2] {
    let mut clients = [replica.connect("a").await, replica.connect("b").await];
    for client in &mut clients {
        client.greeted().await;
    }
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    replica.post_broadcast("two").await;
    for user in ["x", "y", "y"] {
        replica.acknowledge(&id, user).await;
    }
    replica.clear().await;
    for client in &mut clients {
        client.until("the clear", |m| m["type"] == "broadcast_cleared").await;
    }
    clients
}

#[tokio::test]
async fn metrics_count_what_happened() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let clients = some_events(&replica).await;
    for path in ["/nothing/here", "/nothing/there?token=XYZZY", "/api/creator/broadcast/ws"] {
        replica.raw_request(Method::GET, path).send().await.unwrap();
    }
    let brew = Method::from_bytes(b"BREW").unwrap();
    replica.request(brew, "/active").send().await.unwrap();
    becomes(&replica, "tidings_mirroring", 1.0).await;

    let request =
        replica.raw_request(Method::GET, "/metrics").header("Accept", "application/openmetrics-text");
    let answer = request.send().await.unwrap();
    let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, "application/openmetrics-text; version=1.0.0; charset=utf-8");
    let text = answer.text().await.unwrap();
    assert!(!text.contains("XYZZY") && !text.contains("nothing"), "{text}");
    let said = OpenMetrics::parse(&text);
    said.expect(&[
        (concat!(r#"tidings_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""}"#), 1.0),
        ("tidings_ready", 1.0),
        (r#"tidings_connections{channel="creator"}"#, 2.0),
        (r#"tidings_broadcasts_total{channel="creator"}"#, 2.0),
        // Two broadcasts and a clear, to two clients.
        (r#"tidings_deliveries_total{channel="creator"}"#, 6.0),
        (r#"tidings_acks_total{channel="creator"}"#, 2.0),
        ("tidings_slow_clients_total", 0.0),
        ("tidings_divergence_total", 0.0),
        // Two created, two acknowledged, one cleared.
        ("tidings_projection_sequence", 5.0),
        ("tidings_log_sequence", 5.0),
        ("tidings_projection_applied_messages_total", 5.0),
        ("tidings_projection_lag_events", 0.0),
        ("tidings_projection_caught_up", 1.0),
        ("tidings_projection_gave_up", 0.0),
        ("tidings_projection_holes", 0.0),
        ("tidings_projection_epoch_changes_total", 0.0),
        (r#"tidings_projection_rebuilds_total{reason="damaged"}"#, 0.0),
        (r#"tidings_projection_rebuilds_total{reason="other_log"}"#, 0.0),
        ("tidings_log_limit_bytes", f64::from(1 << 30) * 16.0),
        ("tidings_log_followed", 1.0),
        ("tidings_nats_connected", 1.0),
        ("tidings_nats_connections_total", 1.0),
        ("tidings_reader_passes_total", 1.0),
        ("tidings_replicas", 1.0),
        (r#"tidings_append_duration_seconds_count{outcome="appended"}"#, 5.0),
        (r#"tidings_append_duration_seconds_bucket{le="+Inf",outcome="appended"}"#, 5.0),
        (r#"tidings_append_duration_seconds_count{outcome="unknown"}"#, 0.0),
        ("tidings_ack_commit_size_count", 2.0),
        ("tidings_ack_commit_size_sum", 2.0),
        ("tidings_ack_confirmation_duration_seconds_count", 2.0),
        ("tidings_acks_waiting", 0.0),
        (r#"tidings_commands_waiting{channel="creator"}"#, 0.0),
        ("tidings_announcements_waiting", 0.0),
        ("tidings_reads_waiting", 0.0),
        (r#"tidings_messages_waiting{channel="creator"}"#, 0.0),
        (r#"tidings_lagging_connections{channel="creator"}"#, 0.0),
        (r#"tidings_http_requests_total{method="POST",route="/api/{channel}/broadcast",status="201"}"#, 2.0),
        (r#"tidings_http_requests_total{method="POST",route="/api/{channel}/broadcast/acknowledge",status="200"}"#, 3.0),
        (r#"tidings_http_requests_total{method="GET",route="/api/{channel}/broadcast/ws",status="101"}"#, 2.0),
        (r#"tidings_http_requests_total{method="GET",route="",status="404"}"#, 2.0),
        (r#"tidings_http_requests_total{method="other",route="/api/{channel}/broadcast/active",status="405"}"#, 1.0),
        (r#"tidings_http_request_duration_seconds_count{method="POST",route="/api/{channel}/broadcast"}"#, 2.0),
        (r#"tidings_connections_refused_total{reason="upgrade_required"}"#, 1.0),
        (r#"tidings_websocket_closes_total{code="client"}"#, 0.0),
    ]);
    let batches = said.get("tidings_projection_apply_duration_seconds_count");
    assert!((1.0..=5.0).contains(&batches), "{batches}");
    assert!(said.get("tidings_append_duration_seconds_sum{outcome=\"appended\"}") > 0.0);
    for client in clients {
        client.close().await;
    }
    becomes(&replica, r#"tidings_connections{channel="creator"}"#, 0.0).await;
    becomes(&replica, r#"tidings_websocket_closes_total{code="client"}"#, 2.0).await;
    let mut rude = replica.connect("rude").await;
    rude.send_raw(tokio_tungstenite::tungstenite::Message::binary(vec![1])).await;
    assert_eq!(rude.closed().await.code, 1003);
    becomes(&replica, r#"tidings_websocket_closes_total{code="1003"}"#, 1.0).await;
}

#[tokio::test]
async fn metrics_show_an_outage_and_the_return() {
    let mut nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "300"]);
    let replica = Replica::start_with(spec).await;
    nats.kill();
    becomes(&replica, "tidings_nats_connected", 0.0).await;
    becomes(&replica, "tidings_log_followed", 0.0).await;
    let post = replica.request(Method::POST, "").json(&json!({"message": "kept"})).send().await.unwrap();
    assert_eq!(post.status(), 202);
    becomes(&replica, "tidings_outbox_entries", 1.0).await;
    let said = scrape(&replica).await;
    said.expect(&[("tidings_degraded", 1.0), ("tidings_outbox_rejected_entries_total", 0.0)]);
    assert!(said.get("tidings_outbox_stored_bytes") > 100.0);
    nats.start_again().await;
    becomes(&replica, "tidings_log_followed", 1.0).await;
    let said = scrape(&replica).await;
    said.expect(&[("tidings_nats_connected", 1.0), ("tidings_nats_connections_total", 2.0)]);
    assert!(said.get("tidings_reader_passes_total") > 1.5);
    becomes(&replica, "tidings_degraded", 0.0).await;
    scrape(&replica).await.expect(&[("tidings_outbox_entries", 0.0), ("tidings_outbox_stored_bytes", 0.0)]);
}

#[tokio::test]
async fn metrics_show_the_other_replicas_and_when_the_heartbeat_was_taken() {
    let nats = Nats::start().await;
    let mut replicas = [Replica::start(&nats).await, Replica::start(&nats).await];
    for replica in &replicas {
        becomes(replica, "tidings_replicas", 2.0).await;
        let now = now();
        eventually("its heartbeat was taken", || async {
            replica.metric("tidings_last_heartbeat_timestamp_seconds").await > now - 600.0
        })
        .await;
        let epoch = nats.log().await.info().await.unwrap().epoch;
        let followed = format!("tidings_log_info{{epoch=\"{epoch}\"}}");
        assert!((replica.metric(&followed).await - 1.0).abs() < 0.1, "{followed}");
    }
    replicas[0].terminate().await;
    becomes(&replicas[1], "tidings_replicas", 1.0).await;
}

#[tokio::test]
async fn a_read_that_waits_is_seen() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let ahead = format!("{}-1000", replica.readyz().await["epoch"].as_str().unwrap());
    let ahead = || replica.request(Method::GET, "/active").header("Tidings-Min-Position", &ahead).send();
    let seen = eventually("a read waits", || async { replica.count("tidings_reads_waiting").await == 1 });
    tokio::select! {
        () = seen => {}
        () = async { while ahead().await.unwrap().status() == 503 {} } => panic!("it cannot be there"),
    }
    becomes(&replica, "tidings_reads_waiting", 0.0).await;
}

#[tokio::test]
async fn metrics_show_the_process() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let said = scrape(&replica).await;
    let pid = replica.pid().as_raw_nonzero();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let open = f64::from(u32::try_from(open).unwrap());
    assert!((said.get("process_open_fds") - open).abs() < 10.0, "{open}");
    assert!(said.get("process_max_fds") >= open);
    assert!(said.get("process_resident_memory_bytes") > 1e6);
    assert!(said.get("process_virtual_memory_bytes") > said.get("process_resident_memory_bytes"));
    assert!(said.get("process_threads") > 1.0);
    let now = now();
    let age = now - said.get("process_start_time_seconds");
    assert!((-2.0..600.0).contains(&age), "it started {age} s ago");
    let used = said.get("process_cpu_seconds_total");
    assert!(used >= 0.0 && used < age.max(1.0) * 64.0, "{used}");
}

/// What stands in the list: name as it is queried, type, labels, meaning.
type Row = (String, String, String, String);

fn listed() -> Vec<Row> {
    let list = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/metrics.md")).unwrap();
    let rows = list.lines().filter_map(|line| {
        let cells: Vec<_> = line.strip_prefix("| `")?.strip_suffix(" |")?.split(" | ").collect();
        // The table of alerts has two.
        let [name, kind, labels, help] = cells[..] else { return None };
        let name = name.strip_suffix('`').unwrap();
        Some((name.to_owned(), kind.to_owned(), labels.replace('`', ""), help.to_owned()))
    });
    rows.collect()
}

#[tokio::test]
async fn every_metric_is_listed_and_keeps_the_rules_for_names() {
    let nats = Nats::start().await;
    // Some are there with published keys alone.
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(keys.path(), key_set(&[&Issuer::edwards("e")]).to_string()).unwrap();
    let file = keys.path().to_str().unwrap();
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-file", file]);
    let replica = Replica::start_with(spec).await;
    replica.raw_request(Method::GET, "/api/creator/broadcast/ws").send().await.unwrap();
    let said = scrape(&replica).await;
    assert!(said.families.len() > 40, "{}", said.families.len());
    let mut found = Vec::new();
    for (name, Family { kind, help, unit, labels }) in &said.families {
        assert!(name.starts_with("tidings_") || name.starts_with("process_"), "{name}");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
        assert!(help.len() > 6 && help.ends_with('.') && !help.contains('|'), "{name}: {help}");
        assert!(
            !["_total", "_count", "_sum", "_bucket", "_info"].iter().any(|end| name.ends_with(end)),
            "{name}"
        );
        // Base units, and last.
        assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name} in {unit}");
        let said_unit = ["seconds", "bytes"].iter().find(|unit| name.split('_').any(|word| word == **unit));
        assert_eq!(said_unit.map_or("", |unit| *unit), unit, "{name}");
        assert!(
            !["_ms", "_millis", "_minutes", "_kb", "_mb"].iter().any(|end| name.ends_with(end)),
            "{name}"
        );
        let (_, suffixes) = SUFFIXES.iter().find(|(known, _)| known == kind).unwrap();
        let suffix = if kind == "histogram" { "" } else { suffixes[0] };
        let labels = labels.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.push((format!("{name}{suffix}"), kind.clone(), labels, help.trim_end_matches('.').to_owned()));
    }
    let mut listed = listed();
    if !cfg!(target_os = "linux") {
        listed.retain(|(name, ..)| !name.starts_with("process_"));
    }
    listed.sort();
    found.sort();
    for row in &found {
        assert!(
            listed.contains(row),
            "schemas/metrics.md does not have\n| `{}` | {} | {} | {} |",
            row.0,
            row.1,
            row.2,
            row.3
        );
    }
    assert_eq!(listed, found);
}
