//! The interface descriptions, whole, as `build.rs` bundles them from `schemas/`.

/// The HTTP interface: OpenAPI 3.1, in YAML.
pub const OPENAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/openapi.yaml"));

/// The messages of live connections, and the events of the log: AsyncAPI 3.0, in YAML.
pub const ASYNCAPI: &str = include_str!(concat!(env!("OUT_DIR"), "/asyncapi.yaml"));
