//! The schemas: every example keeps its own, and so does what is stored, mirrored and replayed.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::HeaderMap;
use futures_util::TryStreamExt as _;
use reqwest::Method;
use serde_json::{Map, Value, json};
use tidings::domain::Event;
use tidings::log::RawMessage;
use tidings::log::envelope::{Decoded, decode};
use tidings::log::facts::root_of;
use tidings::log::names::header::{FACTS_ROOT, SENT_TO};
use tidings::log::names::{LOG_STREAM, MIRROR_LEASE_KEY, POSITION_KEY};
use tidings::push::heartbeat::Heartbeat;
use tidings::push::wire::ClientMessage;

use crate::support::contract::asyncapi::{hold_stored, stored_faults};
use crate::support::contract::schemas::{Schemas, examples};
use crate::support::{Nats, Replica, eventually, percent_encoded};

#[test]
fn every_example_keeps_its_schema_and_every_schema_has_an_example() {
    let schemas = Schemas::load();
    let mut shown = BTreeSet::new();
    for (name, example) in examples() {
        if let Some(schema) = Schemas::of_example(&name) {
            schemas.hold(&schema, &example);
            shown.insert(schema);
        } else {
            hold_stored(example["subject"].as_str().unwrap(), &example["headers"], &example["body"]);
            schemas.hold("envelope", &example["headers"]);
            let body = schemas.of_body(&example["headers"]);
            schemas.hold(&body, &example["body"]);
            shown.extend(["envelope".to_owned(), body]);
        }
    }
    assert_eq!(shown, schemas.validators.keys().cloned().collect());
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
    for (name, example) in examples() {
        if name.starts_with("examples/events/") {
            let recorded = match decode(&raw(&example)) {
                Decoded::Event(recorded) => recorded,
                Decoded::Skipped(skipped) => panic!("{name}: {skipped:?}"),
            };
            let again: Value = serde_json::from_slice(&recorded.event.to_json().unwrap()).unwrap();
            assert_eq!(again, example["body"], "{name} means what it says");
            assert_eq!(recorded.late, raw(&example).subject.split('.').next_back() == Some("late"), "{name}");
            if let Event::Acknowledged(acknowledged) = &recorded.event {
                let root = root_of(acknowledged).map(|root| root.to_string());
                assert_eq!(root.as_deref(), raw(&example).header(FACTS_ROOT), "{name}: its facts");
            }
            let sent_to = recorded.sent_to.map(|sent_to| sent_to.to_string());
            assert_eq!(sent_to.as_deref(), raw(&example).header(SENT_TO), "{name}: to how many it went");
            let kind = recorded.event.event_type();
            types.insert(format!("{}:{}", kind.name, kind.version));
        } else if name.starts_with("examples/messages/client.") {
            ClientMessage::parse(&example.to_string()).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        } else if name.starts_with("examples/kv/heartbeat.") {
            serde_json::from_value::<Heartbeat>(example).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
    }
    let known = Event::TYPES.map(|kind| format!("{}:{}", kind.name, kind.version));
    assert_eq!(types, known.into(), "every event that this build knows has an example");
}

#[test]
fn a_wrong_message_is_noticed() {
    let schemas = Schemas::load();
    let mut tried = 0;
    let mut passed = Vec::new();
    for (name, example) in examples() {
        let Some(schema) = Schemas::of_example(&name) else {
            let body = schemas.of_body(&example["headers"]);
            for (schema, part) in [("envelope", &example["headers"]), (body.as_str(), &example["body"])] {
                tried += wrong(&schemas, &name, schema, part, &mut passed);
            }
            continue;
        };
        tried += wrong(&schemas, &name, &schema, &example, &mut passed);
    }
    assert!(tried > 200, "{tried}");
    assert_eq!(passed, Vec::<String>::new(), "these went unnoticed");
    assert!(!schemas.errors("messages/server", &json!({"type": "shout", "message": "x"})).is_empty());
    assert!(!schemas.errors("messages/client", &json!({"type": "acknowledge_broadcast"})).is_empty());
    let created = &examples()["examples/events/broadcast.created.1"];
    assert!(
        !stored_faults("broadcasts.creator.schedule.x", &created["headers"], &created["body"]).is_empty()
    );
    assert!(!stored_faults("broadcasts.creator.lifecycle", &created["headers"], &json!({})).is_empty());
}

/// Puts a value of a wrong kind into each field of an example in turn.
fn wrong(schemas: &Schemas, name: &str, schema: &str, right: &Value, passed: &mut Vec<String>) -> usize {
    let fields = right.as_object().unwrap();
    for field in fields.keys() {
        let mut wrong = fields.clone();
        wrong[field] = json!({"": [1.5]});
        if schemas.errors(schema, &Value::Object(wrong)).is_empty() {
            passed.push(format!("{name}: {field}"));
        }
    }
    fields.len()
}

fn by_name(headers: &HeaderMap) -> Value {
    let named = headers.iter().map(|(name, values)| (name.to_string(), values[0].as_str().into()));
    Value::Object(named.collect::<Map<_, _>>())
}

#[tokio::test]
async fn what_is_stored_and_replayed_is_by_the_contract() {
    let schemas = Schemas::load();
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
        let body = serde_json::from_slice(&stored.payload).unwrap();
        hold_stored(stored.subject.as_str(), &by_name(&stored.headers), &body);
    }
    let replayed = String::from_utf8(replica.tidings(&["audit", "replay"]).await.stdout).unwrap();
    assert_eq!(replayed.lines().count() as u64, last);
    for line in replayed.lines() {
        schemas.hold("cloudevent", &serde_json::from_str(line).unwrap());
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
            schemas.hold(schema, &mirrored(&nats, &bucket, &key).await);
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
