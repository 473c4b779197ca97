//! Fields of event bodies that this build does not know.

use serde_json::Value;

/// How much of a field's name is repeated in a diagnostic, in characters.
const MAX_NAME_CHARS: usize = 60;

/// The first field of a body that is not among the `known` ones. `None` when all are, or when the body is not JSON. Called only
/// for a body that could not be decoded, so it may build the whole tree of values.
pub(super) fn first_unknown(known: &[&str], body: &[u8]) -> Option<String> {
    let body: Value = serde_json::from_slice(body).ok()?;
    unknown_below("", &body, known)
}

fn unknown_below(path: &str, value: &Value, known: &[&str]) -> Option<String> {
    match value {
        Value::Array(items) => items.iter().find_map(|item| unknown_below(path, item, known)),
        Value::Object(fields) => fields.iter().find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            if known.contains(&path.as_str()) {
                unknown_below(&path, value, known)
            } else {
                Some(path.chars().take(MAX_NAME_CHARS).collect())
            }
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Event;
    use crate::domain::event::{Acknowledged, Acknowledgement, Broadcast, Cleared, DecodeError};
    use crate::domain::{BroadcastId, Message, Severity, Timestamp};
    use serde_json::json;
    use uuid::Uuid;

    /// One event of each type with every field that it may have.
    fn whole() -> Vec<Event> {
        let (by, at) = ("ann".parse().unwrap(), Timestamp::from_unix_ms(1));
        let broadcast_id = BroadcastId(Uuid::from_u128(7));
        vec![
            Event::Created(Broadcast {
                id: broadcast_id,
                message: Message::parse("hi").unwrap(),
                severity: Severity::Info,
                created_by: by,
                created_at: at,
            }),
            Event::Cleared(Cleared { broadcast_id, cleared_by: "ann".parse().unwrap(), cleared_at: at }),
            Event::Acknowledged(Acknowledged {
                broadcast_id,
                acknowledgements: vec![Acknowledgement { user: "bob".parse().unwrap(), at }],
                salt: Some(Uuid::from_u128(8)),
            }),
        ]
    }

    fn paths(path: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| paths(path, item, found)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    found.push(path.clone());
                    paths(&path, value, found);
                }
            }
            _ => {}
        }
    }

    #[test]
    fn the_list_of_fields_is_that_of_the_bodies() {
        for (event, listed) in whole().iter().zip(Event::TYPES) {
            assert_eq!(event.event_type(), listed);
            let mut written = Vec::new();
            paths("", &serde_json::from_slice(&event.to_json().unwrap()).unwrap(), &mut written);
            written.sort();
            let mut fields = listed.fields.to_vec();
            fields.sort_unstable();
            assert_eq!(written, fields, "{}", listed.name);
        }
    }

    #[test]
    fn an_unknown_field_makes_an_event_unreadable_wherever_it_stands() {
        let unreadable = |event: &Event, body: &Value| {
            let kind = event.event_type();
            Event::from_json(kind.name, kind.version, body.to_string().as_bytes()).unwrap_err()
        };
        for event in whole() {
            let body: Value = serde_json::from_slice(&event.to_json().unwrap()).unwrap();
            for value in [json!(null), json!({"users": ["7"]}), json!(false)] {
                let mut more = body.clone();
                more["audience"] = value;
                let why = unreadable(&event, &more);
                assert!(matches!(&why, DecodeError::UnknownField(field) if field == "audience"), "{why:?}");
                // A newer build may have loosened a rule as well.
                let first = body.as_object().unwrap().keys().next().unwrap();
                more[first] = json!(7);
                let why = unreadable(&event, &more);
                assert!(matches!(&why, DecodeError::UnknownField(field) if field == "audience"), "{why:?}");
            }
        }
        let acknowledged = &whole()[2];
        let mut body: Value = serde_json::from_slice(&acknowledged.to_json().unwrap()).unwrap();
        body["acknowledgements"][0]["level"] = json!("seen");
        let why = unreadable(acknowledged, &body);
        assert!(
            matches!(&why, DecodeError::UnknownField(field) if field == "acknowledgements.level"),
            "{why:?}"
        );
        assert!(matches!(unreadable(acknowledged, &json!({})), DecodeError::Malformed(_)));
        assert!(matches!(unreadable(acknowledged, &json!([])), DecodeError::Malformed(_)));
    }
}
