//! The schemas of events, as `schemas/` publishes them, and what is not by them.

use anyhow::anyhow;
use jsonschema::Validator;
use serde_json::{Map, Value};

use crate::log::RawMessage;

/// The schema of the headers, and that of each body by its `$id`.
const ENVELOPE: &str = include_str!("../../../schemas/envelope.json");
const BODIES: [&str; 3] = [
    include_str!("../../../schemas/events/broadcast.created.1.json"),
    include_str!("../../../schemas/events/broadcast.cleared.1.json"),
    include_str!("../../../schemas/events/broadcast.acknowledged.1.json"),
];

/// The schemas, compiled.
pub(super) struct Schemas {
    envelope: Validator,
    bodies: Vec<(String, Validator)>,
}

impl Schemas {
    pub(super) fn load() -> anyhow::Result<Self> {
        let compile = |text: &str| -> anyhow::Result<(String, Validator)> {
            let schema: Value = serde_json::from_str(text)?;
            let options = jsonschema::options().should_validate_formats(true);
            let validator = options.build(&schema).map_err(|e| anyhow!("a schema of this build: {e}"))?;
            Ok((schema["$id"].as_str().unwrap_or_default().to_owned(), validator))
        };
        let bodies = BODIES.into_iter().map(compile).collect::<anyhow::Result<_>>()?;
        Ok(Self { envelope: compile(ENVELOPE)?.1, bodies })
    }

    /// The first thing in which a message is not by its schemas.
    pub(super) fn fault(&self, raw: &RawMessage) -> Option<String> {
        let headers: Map<String, Value> =
            raw.headers.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
        if headers.len() != raw.headers.len() {
            return Some("a header stands there twice".to_owned());
        }
        if let Some(fault) = fault(&self.envelope, &Value::Object(headers)) {
            return Some(format!("header {fault}"));
        }
        let id = raw.header("ce-dataschema")?;
        let (_, schema) = self.bodies.iter().find(|(known, _)| known == id)?;
        let body = match serde_json::from_slice(&raw.body) {
            Ok(body) => body,
            Err(error) => return Some(format!("body: {error}")),
        };
        Some(format!("body {}", fault(schema, &body)?))
    }
}

/// Looked for only in what is wrong: to say yes takes a fraction of the time.
fn fault(schema: &Validator, value: &Value) -> Option<String> {
    if schema.is_valid(value) {
        return None;
    }
    let error = schema.iter_errors(value).next()?;
    Some(format!("{}: {error}", error.instance_path()))
}
