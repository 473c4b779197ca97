//! The JSON Schemas and examples as files, for what neither description speaks of: stored values, and what the audit prints.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use jsonschema::{Registry, Validator};
use serde_json::Value;

use crate::support::nats::files_below;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

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

/// Every example, by its path below `schemas/` without the ending.
pub fn examples() -> BTreeMap<String, Value> {
    files(true)
}

/// The schemas, compiled; they find each other by their `$id`, and nothing is fetched.
pub struct Schemas {
    pub validators: BTreeMap<String, Validator>,
    pub names: BTreeMap<String, String>,
}

impl Schemas {
    pub fn load() -> Self {
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

    pub fn errors(&self, schema: &str, instance: &Value) -> Vec<String> {
        let validator = self.validators.get(schema).unwrap_or_else(|| panic!("there is no schema {schema}"));
        validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
    }

    pub fn hold(&self, schema: &str, instance: &Value) {
        super::judge(
            &format!("schemas/{schema}.json"),
            &instance.to_string(),
            &self.errors(schema, instance),
        );
    }

    /// The schema of a stored event's body: the one that its headers name.
    pub fn of_body(&self, headers: &Value) -> String {
        self.names[headers["ce-dataschema"].as_str().unwrap()].clone()
    }

    /// The schema of an example, by the rule of `schemas/README.md`; golden events have two, and none of this kind.
    pub fn of_example(name: &str) -> Option<String> {
        let path = name.strip_prefix("examples/")?;
        let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
        let first = file.split('.').next()?;
        (folder != "events")
            .then(|| if folder.is_empty() { first.to_owned() } else { format!("{folder}/{first}") })
    }
}
