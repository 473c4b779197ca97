//! Holds the messages of live connections, and the events of the log, to `asyncapi.yaml`.

use std::collections::{BTreeSet, HashSet};
use std::sync::{LazyLock, Mutex};

use serde_json::Value;

use super::{Document, code_fault, judge};

pub static ASYNCAPI: LazyLock<Document> = LazyLock::new(|| Document::parse(tidings::contract::ASYNCAPI));

/// Texts that were held already: in a storm, thousands of clients hear the same.
static HELD: LazyLock<Mutex<HashSet<(&'static str, String)>>> = LazyLock::new(Mutex::default);

/// Fails unless the description has this text from the server on a WebSocket.
pub fn hold_told(text: &str) {
    hold("tell", text);
}

/// Fails unless the description has this data on an event stream.
pub fn hold_streamed(data: &str) {
    hold("stream", data);
}

fn hold(operation: &'static str, text: &str) {
    if HELD.lock().unwrap().insert((operation, text.to_owned())) {
        judge("asyncapi.yaml", &format!("{operation}: {text}"), &text_faults(operation, text));
    }
}

/// The names of the messages of an operation.
pub fn messages_of(operation: &str) -> BTreeSet<&'static str> {
    let messages = ASYNCAPI.json["operations"][operation]["messages"].as_array();
    let messages = messages.unwrap_or_else(|| panic!("there is no operation {operation}"));
    messages.iter().map(|message| ASYNCAPI.follow(message)["name"].as_str().unwrap()).collect()
}

fn text_faults(operation: &str, text: &str) -> Vec<String> {
    let json: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
    let name = json["type"].as_str().or_else(|| json.as_str()).unwrap_or("");
    if !messages_of(operation).contains(name) {
        return vec![format!("there is no message `{name}`")];
    }
    let message = &ASYNCAPI.json["components"]["messages"][name];
    let mut faults = ASYNCAPI.faults(&message["payload"], &json);
    faults.extend(code_fault(ASYNCAPI.follow(&message["payload"])["description"].as_str(), &json));
    faults
}

/// The codes with which the server closes a WebSocket.
pub fn close_codes() -> BTreeSet<u64> {
    let codes = ASYNCAPI.json["channels"]["webSocket"]["x-close-codes"].as_array().unwrap();
    codes.iter().map(|code| code.as_u64().unwrap()).collect()
}

/// Fails unless the description has this code from the server.
pub fn hold_closed(code: u16) {
    assert!(close_codes().contains(&code.into()), "against asyncapi.yaml: closed with {code}");
}

/// Fails unless the description has this event on this subject of the log.
pub fn hold_stored(subject: &str, headers: &Value, body: &Value) {
    judge("asyncapi.yaml", &format!("{subject}: {headers} {body}"), &stored_faults(subject, headers, body));
}

pub fn stored_faults(subject: &str, headers: &Value, body: &Value) -> Vec<String> {
    let channels = ASYNCAPI.json["channels"].as_object().unwrap().values();
    let channel = channels.into_iter().find(|channel| is_at(channel["address"].as_str().unwrap(), subject));
    let kind = headers["ce-type"].as_str().unwrap_or("");
    let message = channel.map(|channel| ASYNCAPI.follow(&channel["messages"][kind]));
    let Some(message) = message.filter(|message| !message.is_null()) else {
        return vec![format!("there is no `{kind}` on {subject}")];
    };
    let mut faults = ASYNCAPI.faults(&message["headers"], headers);
    faults.extend(ASYNCAPI.faults(&message["payload"], body));
    faults
}

fn is_at(address: &str, subject: &str) -> bool {
    let (address, subject): (Vec<_>, Vec<_>) = (address.split('.').collect(), subject.split('.').collect());
    address.len() == subject.len()
        && address.iter().zip(&subject).all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
}

#[test]
fn what_is_against_the_description_is_noticed() {
    let faults = |text: &str| text_faults("tell", text).len();
    assert_eq!((faults("ping"), faults("pong")), (0, 0));
    assert_eq!(faults(r#"{"type":"resync","position":"9f2c41d07be3a865-7"}"#), 0);
    assert_eq!(faults(r#"{"type":"error","code":"busy","message":"x"}"#), 0);
    for wrong in [
        r#"{"type":"error","code":"lazy","message":"x"}"#,
        "pang",
        "7",
        "{}",
        r#"{"type":"shout"}"#,
        r#"{"type":"resync","position":"7"}"#,
    ] {
        assert_eq!(faults(wrong), 1, "{wrong}");
    }
    assert_eq!(text_faults("stream", "ping").len(), 1, "no heartbeat on an event stream");
    assert!(is_at("broadcasts.{channel}.late", "broadcasts.creator.late"));
    assert!(!is_at("broadcasts.{channel}.late", "broadcasts.creator.lifecycle"));
}
