//! The contracts as judges: every answer and every message that a test gets from a replica passes here.

pub mod asyncapi;
pub mod openapi;
pub mod schemas;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

/// An interface description, and the schemas in it, compiled as they are needed.
pub struct Document {
    pub json: Value,
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Document {
    pub fn parse(yaml: &str) -> Self {
        let json = serde_saphyr::from_str(yaml).expect("the description is YAML");
        Self { json, compiled: Mutex::default() }
    }

    /// What is at a place, or where the reference that stands there leads to.
    pub fn follow<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str().and_then(|target| target.strip_prefix('#')) {
            Some(pointer) => self.follow(self.json.pointer(pointer).expect("a reference leads somewhere")),
            None => value,
        }
    }

    /// What is wrong with a value by a schema of this document.
    pub fn faults(&self, schema: &Value, value: &Value) -> Vec<String> {
        let mut compiled = self.compiled.lock().unwrap();
        let validator = compiled.entry(schema.to_string()).or_insert_with(|| {
            let whole = json!({"allOf": [schema], "components": self.json["components"]});
            let options = jsonschema::options().should_validate_formats(true);
            Arc::new(options.build(&whole).unwrap_or_else(|e| panic!("{schema}: {e}")))
        });
        let validator = Arc::clone(validator);
        drop(compiled);
        validator.iter_errors(value).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }
}

/// What is wrong with an error's code by a description that lists them: a part of it must name the code.
fn code_fault(part: Option<&str>, body: &Value) -> Option<String> {
    let code = body["code"].as_str()?;
    let named = part.is_some_and(|part| part.contains(&format!("`{code}`")));
    (!named).then(|| format!("the code `{code}` is not described"))
}

/// Fails the test that got something which is against a contract.
fn judge(contract: &str, what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "against {contract}: {what}\n{}", faults.join("\n"));
}
