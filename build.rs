//! Bundles the interface descriptions: `schemas/*.yaml` with the JSON Schemas and examples that they name put in their
//! places, so that what a replica serves is whole, and no tool has to fetch or know anything else.
//!
//! A line that ends in `NAME: {$ref: FILE.json}`, or `{$ref: FILE.json#/$defs/PART}`, gets the JSON of that file, which
//! is YAML, too. In a schema, a reference to what the document gives a name becomes one to `#/components/schemas/NAME`,
//! and any other is replaced by what it refers to: `$id` is understood by few tools, a local reference by all.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::{env, fs};

use serde_json::{Map, Value};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Part of a schema file: its path below `schemas/`, and a JSON pointer.
type Place = (String, String);

fn main() -> Result<()> {
    println!("cargo::rerun-if-changed=schemas");
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("schemas");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut files = BTreeMap::new();
    read_json(&root, &root, &mut files)?;
    for document in ["openapi.yaml", "asyncapi.yaml"] {
        let text = fs::read_to_string(root.join(document))?;
        let bundled = Bundle::new(&text, &files)
            .and_then(|bundle| bundle.of(&text))
            .map_err(|e| format!("schemas/{document}: {e}"))?;
        fs::write(out.join(document), bundled)?;
    }
    Ok(())
}

/// Every JSON file, by its path below the root.
fn read_json(root: &Path, folder: &Path, files: &mut BTreeMap<String, Value>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            read_json(root, &path, files)?;
        } else if is_json(&path) {
            let name = path.strip_prefix(root)?.to_string_lossy().replace('\\', "/");
            let json = serde_json::from_slice(&fs::read(&path)?).map_err(|e| format!("{name}: {e}"))?;
            files.insert(name, json);
        }
    }
    Ok(())
}

fn is_json(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "json")
}

/// A line with something to put in: what stands before it, and what it is.
fn reference(line: &str) -> Option<(&str, Place)> {
    let (before, target) = line.strip_suffix('}')?.split_once(" {$ref: ")?;
    let (file, pointer) = target.split_once('#').unwrap_or((target, ""));
    is_json(Path::new(file)).then(|| (before, (file.to_owned(), pointer.to_owned())))
}

struct Bundle<'a> {
    files: &'a BTreeMap<String, Value>,
    /// Which file has which `$id`.
    ids: BTreeMap<&'a str, &'a str>,
    /// The schemas that the document gives a name.
    names: BTreeMap<Place, &'a str>,
}

impl<'a> Bundle<'a> {
    fn new(text: &'a str, files: &'a BTreeMap<String, Value>) -> Result<Self> {
        let id =
            |(path, schema): (&'a String, &'a Value)| Some((schema.get("$id")?.as_str()?, path.as_str()));
        let mut names = BTreeMap::new();
        for (before, place) in text.lines().filter_map(reference) {
            let name = before.trim().trim_end_matches(':');
            if !place.0.starts_with("examples/") && names.insert(place.clone(), name).is_some() {
                return Err(format!("{}{} has two names", place.0, place.1).into());
            }
        }
        Ok(Self { files, ids: files.iter().filter_map(id).collect(), names })
    }

    /// The document with everything in its place.
    fn of(&self, text: &str) -> Result<String> {
        let lines = text.lines().map(|line| {
            let Some((before, place)) = reference(line) else { return Ok(format!("{line}\n")) };
            let example = place.0.starts_with("examples/");
            let json = if example { self.at(&place)?.clone() } else { self.schema(&place)? };
            // What is below a key is indented further than the key.
            let depth = before.len() - before.trim_start_matches([' ', '-']).len() + 2;
            let json =
                serde_json::to_string_pretty(&json)?.replace('\n', &format!("\n{}", " ".repeat(depth)));
            Ok(format!("{before} {json}\n"))
        });
        lines.collect()
    }

    fn at(&self, (file, pointer): &Place) -> Result<&Value> {
        let found = self.files.get(file).and_then(|json| json.pointer(pointer));
        found.ok_or_else(|| format!("there is no {file}#{pointer}").into())
    }

    /// A schema, without what belongs to it as a file.
    fn schema(&self, place: &Place) -> Result<Value> {
        let Value::Object(mut fields) = self.at(place)?.clone() else {
            return Err(format!("{}#{} is no schema", place.0, place.1).into());
        };
        for field in ["$schema", "$id", "$comment", "$defs", "title"] {
            fields.shift_remove(field);
        }
        self.resolved(Value::Object(fields), &place.0)
    }

    /// A part of a file's schema with every reference resolved.
    fn resolved(&self, part: Value, file: &str) -> Result<Value> {
        match part {
            Value::Array(items) => items.into_iter().map(|item| self.resolved(item, file)).collect(),
            Value::Object(mut fields) => match fields.get("$ref").and_then(Value::as_str) {
                Some(target) => {
                    let place = self.place(target, file)?;
                    match self.names.get(&place) {
                        Some(name) => {
                            fields.insert("$ref".to_owned(), format!("#/components/schemas/{name}").into());
                            self.each_resolved(fields, file)
                        }
                        None => self.in_place(fields, &place),
                    }
                }
                None => self.each_resolved(fields, file),
            },
            other => Ok(other),
        }
    }

    fn each_resolved(&self, fields: Map<String, Value>, file: &str) -> Result<Value> {
        let each = fields.into_iter().map(|(name, value)| Ok((name, self.resolved(value, file)?)));
        each.collect::<Result<Map<_, _>>>().map(Value::Object)
    }

    /// What a reference refers to, with the description that stands beside the reference, if any.
    fn in_place(&self, beside: Map<String, Value>, place: &Place) -> Result<Value> {
        let mut schema = self.schema(place)?;
        for (name, value) in beside {
            match name.as_str() {
                "$ref" => {}
                "description" => schema[name] = value,
                _ => return Err(format!("`{name}` beside a reference to {}#{}", place.0, place.1).into()),
            }
        }
        Ok(schema)
    }

    fn place(&self, target: &str, file: &str) -> Result<Place> {
        let (id, pointer) = target.split_once('#').unwrap_or((target, ""));
        let file = match id {
            "" => file,
            id => self.ids.get(id).ok_or_else(|| format!("no schema has the $id {id}"))?,
        };
        Ok((file.to_owned(), pointer.to_owned()))
    }
}
