//! The interface descriptions in `schemas/`, and messages with fields that this build does not know.

mod checklist;
mod descriptions;
mod schemas;
mod unknown_fields;
