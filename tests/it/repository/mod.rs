//! The repository itself: source layout, documents, and the table of promises and tests.

mod documents;
mod rules;
mod tidy;
