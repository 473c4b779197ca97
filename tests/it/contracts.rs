//! The contracts: what is stored, sent and answered is what `schemas/` says, in a running replica as in the examples.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use async_nats::HeaderMap;
use futures_util::TryStreamExt as _;
use jsonschema::{Registry, Validator};
use reqwest::{Method, RequestBuilder};
use serde_json::{Map, Value, json};
use tidings::log::RawMessage;
use tidings::log::envelope::{Decoded, decode};
use tidings::log::names::{LOG_STREAM, MIRROR_LEASE_KEY, POSITION_KEY};
use tidings::push::heartbeat::Heartbeat;
use tidings::push::wire::ClientMessage;

use crate::support::nats::files_below;
use crate::support::{Client, Nats, Replica, eventually, percent_encoded};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

/// Every JSON file below `schemas/`, by its path there without the ending.
fn files(examples: bool) -> BTreeMap<String, Value> {
    let all = files_below(&folder()).into_iter().filter(|path| path.extension().is_some_and(|e| e == "json"));
    let named = all.map(|path| {
        let name = path.strip_prefix(folder()).unwrap().with_extension("").to_str().unwrap().to_owned();
        let json =
            serde_json::from_slice(&fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{name}: {e}"));
        (name, json)
    });
    named.filter(|(name, _)| name.starts_with("examples/") == examples).collect()
}

/// The schemas, compiled; they find each other by their `$id`, and nothing is fetched.
struct Contracts {
    validators: BTreeMap<String, Validator>,
    names: BTreeMap<String, String>,
}

impl Contracts {
    fn load() -> Self {
        let schemas = files(false);
        let id = |schema: &Value| schema["$id"].as_str().unwrap().to_owned();
        let known = schemas.values().map(|schema| (id(schema), schema));
        let registry = Registry::new().extend(known).unwrap().prepare().unwrap();
        let compile = |(name, schema): (&String, &Value)| {
            jsonschema::meta::validate(schema).unwrap_or_else(|e| panic!("{name} is no schema: {e}"));
            let options = jsonschema::options().with_registry(&registry).should_validate_formats(true);
            (name.clone(), options.build(schema).unwrap_or_else(|e| panic!("{name}: {e}")))
        };
        let names = schemas.iter().map(|(name, schema)| (id(schema), name.clone())).collect();
        Self { validators: schemas.iter().map(compile).collect(), names }
    }

    fn errors(&self, schema: &str, instance: &Value) -> Vec<String> {
        let validator = self.validators.get(schema).unwrap_or_else(|| panic!("there is no schema {schema}"));
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    fn hold(&self, schema: &str, instance: &Value) {
        let errors = self.errors(schema, instance);
        assert!(errors.is_empty(), "not a {schema}: {instance}\n{}", errors.join("\n"));
    }

    /// A stored event: its headers, and its body by the schema that they name.
    fn hold_stored(&self, headers: &Value, body: &Value) {
        self.hold("envelope", headers);
        self.hold(&self.names[headers["ce-dataschema"].as_str().unwrap()], body);
    }

    /// The schema of an example, by the rule of `schemas/README.md`; golden events have two, and none of this kind.
    fn of_example(name: &str) -> Option<String> {
        let path = name.strip_prefix("examples/")?;
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let first = file.split('.').next()?;
        (folder != "events")
            .then(|| if folder.is_empty() { first.to_owned() } else { format!("{folder}/{first}") })
    }
}

#[test]
fn every_example_keeps_its_contract_and_every_contract_has_an_example() {
    let contracts = Contracts::load();
    let mut shown = BTreeSet::new();
    for (name, example) in files(true) {
        if let Some(schema) = Contracts::of_example(&name) {
            contracts.hold(&schema, &example);
            shown.insert(schema);
        } else {
            contracts.hold_stored(&example["headers"], &example["body"]);
            shown.insert("envelope".to_owned());
            shown.insert(contracts.names[example["headers"]["ce-dataschema"].as_str().unwrap()].clone());
        }
    }
    assert_eq!(shown, contracts.validators.keys().cloned().collect());
}

fn raw(example: &Value) -> RawMessage {
    let headers = example["headers"].as_object().unwrap().iter();
    RawMessage {
        sequence: 7,
        time_ns: 0,
        subject: example["subject"].as_str().unwrap().to_owned(),
        headers: headers.map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect(),
        body: serde_json::to_vec(&example["body"]).unwrap().into(),
    }
}

#[test]
fn what_was_written_once_is_read_for_ever() {
    let mut types = BTreeSet::new();
    for (name, example) in files(true) {
        if name.starts_with("examples/events/") {
            let recorded = match decode(&raw(&example)) {
                Decoded::Event(recorded) => recorded,
                Decoded::Skipped(skipped) => panic!("{name}: {skipped:?}"),
            };
            let again: Value = serde_json::from_slice(&recorded.event.to_json().unwrap()).unwrap();
            assert_eq!(again, example["body"], "{name} means what it says");
            assert_eq!(recorded.late, raw(&example).subject.split('.').next_back() == Some("late"), "{name}");
            let kind = recorded.event.event_type();
            types.insert(format!("{}:{}", kind.name, kind.version));
        } else if name.starts_with("examples/messages/client.") {
            ClientMessage::parse(&example.to_string()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        } else if name.starts_with("examples/kv/heartbeat.") {
            serde_json::from_value::<Heartbeat>(example).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    let known = tidings::domain::Event::TYPES.map(|kind| format!("{}:{}", kind.name, kind.version));
    assert_eq!(types, known.into(), "every event that this build knows has an example");
}

#[test]
fn a_wrong_message_is_noticed() {
    let contracts = Contracts::load();
    let mut tried = 0;
    let mut passed = Vec::new();
    for (name, example) in files(true) {
        let Some(schema) = Contracts::of_example(&name) else {
            let body = contracts.names[example["headers"]["ce-dataschema"].as_str().unwrap()].clone();
            for (schema, part) in [("envelope", &example["headers"]), (body.as_str(), &example["body"])] {
                tried += wrong(&contracts, &name, schema, part, &mut passed);
            }
            continue;
        };
        tried += wrong(&contracts, &name, &schema, &example, &mut passed);
    }
    assert!(tried > 200, "{tried}");
    assert_eq!(passed, Vec::<String>::new(), "these went unnoticed");
    assert!(!contracts.errors("messages/server", &json!({"type": "shout", "message": "x"})).is_empty());
    assert!(!contracts.errors("messages/client", &json!({"type": "acknowledge_broadcast"})).is_empty());
}

/// Puts a value of a wrong kind into each field of an example in turn.
fn wrong(contracts: &Contracts, name: &str, schema: &str, right: &Value, passed: &mut Vec<String>) -> usize {
    let fields = right.as_object().unwrap();
    for field in fields.keys() {
        let mut wrong = fields.clone();
        wrong[field] = json!({"": [1.5]});
        if contracts.errors(schema, &Value::Object(wrong)).is_empty() {
            passed.push(format!("{name}: {field}"));
        }
    }
    fields.len()
}

/// Sends a request and holds the answer to a schema, errors to that of errors.
async fn answer(contracts: &Contracts, schema: &str, request: RequestBuilder) -> Value {
    let response = request.send().await.unwrap();
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(schema == "rest/error", status.as_u16() >= 400, "{status}: {body}");
    contracts.hold(schema, &body);
    body
}

async fn every_answer(contracts: &Contracts, replica: &Replica) {
    let post = |path: &str| replica.request(Method::POST, path);
    let get = |path: &str| replica.request(Method::GET, path);
    answer(contracts, "rest/active", get("/active")).await;
    answer(contracts, "rest/stats", get("/stats")).await;
    let body = json!({"message": "Grüße", "type": "warning"});
    let created =
        answer(contracts, "rest/created", post("").header("Idempotency-Key", "k").json(&body)).await;
    answer(contracts, "rest/created", post("").header("Idempotency-Key", "k").json(&body)).await;
    for path in ["active", "stats", "limits"] {
        answer(contracts, &format!("rest/{path}"), get(&format!("/{path}"))).await;
    }
    let acknowledge = json!({"broadcast_id": created["id"]});
    for user in ["dev", "dev", "名前", "a.b c"] {
        let request = post("/acknowledge").header("X-User-Id", user).json(&acknowledge);
        answer(contracts, "rest/acknowledged", request).await;
    }
    answer(contracts, "rest/history", get("/history?limit=1")).await;
    for path in ["", "/acks?limit=2"] {
        let schema = if path.is_empty() { "rest/broadcast" } else { "rest/acks" };
        answer(contracts, schema, get(&format!("/{}{path}", created["id"].as_str().unwrap()))).await;
    }
    answer(contracts, "rest/cleared", post("/clear")).await;
    answer(contracts, "rest/cleared", post("/clear")).await;
    answer(contracts, "rest/history", get("/history")).await;

    let posted = |body: Value| post("").json(&body);
    let id = "\"0198c5a0-1111-7222-8333-444455556666\"";
    let errors = [
        posted(json!([])),
        posted(json!({})),
        posted(json!({"message": 1})),
        posted(json!({"message": " "})),
        posted(json!({"message": "x".repeat(300)})),
        posted(json!({"message": "\u{1b}"})),
        posted(json!({"message": "x".repeat(40_000)})),
        posted(json!({"message": "x", "type": "y"})),
        posted(json!({"message": "x", "link": "y"})),
        posted(json!({"message": "other"})).header("Idempotency-Key", "k"),
        posted(json!({"message": "x"})).header("If-Match", id),
        posted(json!({"message": "x"})).header("If-Match", "x"),
        posted(json!({"message": "x"})).header("Origin", "https://example.org"),
        posted(json!({"message": "x"})).header("X-User-Id", "u"),
        posted(json!({"message": "x"})).header("X-User-Role", "u"),
        post("").body("x"),
        post("/acknowledge").json(&json!({"broadcast_id": "x"})),
        post("/acknowledge").json(&json!({"broadcast_id": id.trim_matches('"')})),
        get("/active?min_sequence=x"),
        get("/active?min_sequence=1000000"),
        get("/ws"),
        get("/nothing"),
        get("/clear"),
        replica.raw_request(Method::GET, "/api/nowhere/broadcast/active"),
    ];
    let (count, mut codes) = (errors.len(), BTreeSet::new());
    for request in errors {
        codes.insert(answer(contracts, "rest/error", request).await["code"].as_str().unwrap().to_owned());
    }
    assert_eq!(codes.len(), count, "each has its own code: {codes:?}");
}

/// Has two clients hear every kind of message, and returns all that they heard.
async fn every_message(nats: &Nats, replica: &Replica) -> Vec<Value> {
    let mut staff = replica.connect_with("?user_id=s&role=team").await;
    let mut clients: Vec<Client> = vec![replica.connect("u").await, replica.connect("u").await];
    for client in &mut clients {
        client.greeted().await;
    }
    let id = replica.post_broadcast("x").await["id"].as_str().unwrap().to_owned();
    clients[0].acknowledge(&id).await;
    clients[0].acknowledge(&id).await;
    clients[0].acknowledge("0198c5a0-1111-7222-8333-444455556666").await;
    clients[1].until("the news", |m| m["type"] == "broadcast_acknowledged").await;
    staff.until("counts", |m| m["type"] == "stats_update").await;
    replica.clear().await;
    let last = replica.post_broadcast("y").await["id"].clone();
    clients.push(replica.connect("late").await);
    clients[2].until("what is active", |m| m["broadcast"]["id"] == last).await;

    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    nats.log().await;
    clients.push(staff);
    for client in &mut clients {
        client.until("a new start", |m| m["type"] == "resync").await;
        client.until("its end", |m| m["type"] == "broadcast_cleared").await;
    }
    clients.into_iter().flat_map(|client| client.heard).collect()
}

#[tokio::test]
async fn a_running_replica_answers_and_sends_by_the_contract() {
    let contracts = Contracts::load();
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    every_answer(&contracts, &replica).await;
    let mut kinds = BTreeSet::new();
    for message in every_message(&nats, &replica).await {
        contracts.hold("messages/server", &message);
        kinds.insert(message["type"].as_str().unwrap().to_owned());
    }
    let schema = &files(false)["messages/server"];
    let every: BTreeSet<_> =
        schema["oneOf"].as_array().unwrap().iter().map(|kind| kind["$ref"].as_str().unwrap()).collect();
    let kinds: BTreeSet<_> = kinds.into_iter().map(|kind| format!("#/$defs/{kind}")).collect();
    assert_eq!(
        kinds.iter().map(String::as_str).collect::<BTreeSet<_>>(),
        every,
        "all that there are were sent"
    );
}

fn by_name(headers: &HeaderMap) -> Value {
    let named = headers.iter().map(|(name, values)| (name.to_string(), values[0].as_str().into()));
    Value::Object(named.collect::<Map<_, _>>())
}

#[tokio::test]
async fn what_is_stored_and_replayed_is_by_the_contract() {
    let contracts = Contracts::load();
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let _client = replica.connect("u").await;
    let keyed =
        replica.request(Method::POST, "").header("Idempotency-Key", "k").json(&json!({"message": "🦀"}));
    let id = keyed.send().await.unwrap().json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    for user in ["u", "名前", "a.b c", "\u{1}\""] {
        acknowledge_as(&replica, &id, user).await;
    }
    replica.clear().await;
    let active = replica.post_broadcast("active").await;
    let last = active["sequence"].as_u64().unwrap();

    let stream = nats.jetstream().await.get_stream(LOG_STREAM).await.unwrap();
    for sequence in 1..=last {
        let stored = stream.get_raw_message(sequence).await.unwrap();
        contracts.hold_stored(&by_name(&stored.headers), &serde_json::from_slice(&stored.payload).unwrap());
    }
    let replayed = String::from_utf8(replica.tidings(&["audit", "replay"]).await.stdout).unwrap();
    assert_eq!(replayed.lines().count() as u64, last);
    for line in replayed.lines() {
        contracts.hold("cloudevent", &serde_json::from_str(line).unwrap());
    }

    eventually("the mirror has it", || async {
        mirrored(&nats, "broadcast_active", "creator").await["id"] == active["id"]
    })
    .await;
    let mut held = BTreeMap::<_, u32>::new();
    for (bucket, schema) in [("active", "kv/active"), ("acks", "kv/ack"), ("replicas", "kv/heartbeat")] {
        let bucket = format!("broadcast_{bucket}");
        let store = nats.jetstream().await.get_key_value(&bucket).await.unwrap();
        for key in store.keys().await.unwrap().try_collect::<Vec<_>>().await.unwrap() {
            let schema = match key.as_str() {
                MIRROR_LEASE_KEY => continue,
                POSITION_KEY => "kv/position",
                _ => schema,
            };
            contracts.hold(schema, &mirrored(&nats, &bucket, &key).await);
            *held.entry(schema).or_default() += 1;
        }
    }
    assert_eq!(held, [("kv/active", 1), ("kv/ack", 4), ("kv/heartbeat", 1), ("kv/position", 2)].into());
}

async fn acknowledge_as(replica: &Replica, id: &str, user: &str) {
    let mut client = replica.connect(&percent_encoded(user)).await;
    assert_eq!(client.acknowledge(id).await["already"], false);
}

async fn mirrored(nats: &Nats, bucket: &str, key: &str) -> Value {
    let store = nats.jetstream().await.get_key_value(bucket).await.unwrap();
    store.get(key).await.unwrap().map_or(Value::Null, |bytes| serde_json::from_slice(&bytes).unwrap())
}
