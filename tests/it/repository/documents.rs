//! The documents: what they link to exists, their commands work as they stand there, and what they show is what comes out.
//!
//! `documents/blocks.rs` says how a block asks for it.

mod blocks;
mod links;
mod options;
mod release;
mod screenshot;
mod session;

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Browser, Http, PATIENCE, eventually, shipped};
use blocks::{Block, Kind, blocks};
use session::Session;

/// What has to be there before the first block.
#[derive(Clone, Copy, PartialEq)]
enum Start {
    Nothing,
    /// The replica of `make run`.
    Replica,
}

/// A test for each document, which follows it from the top.
macro_rules! documents {
    ($($name:ident: $path:literal, $start:expr;)*) => {
        const DOCUMENTS: &[&str] = &[$($path),*];
        $(
            #[tokio::test]
            async fn $name() {
                follow($path, $start).await;
            }
        )*
    };
}

documents! {
    readme: "README.md", Start::Nothing;
    index: "docs/README.md", Start::Nothing;
    architecture: "docs/architecture.md", Start::Nothing;
    audit: "docs/audit.md", Start::Replica;
    authentication: "docs/authentication.md", Start::Nothing;
    banner: "docs/banner.md", Start::Replica;
    creators: "docs/creators.md", Start::Replica;
    deployment: "docs/deployment.md", Start::Nothing;
    glossary: "docs/glossary.md", Start::Nothing;
    guarantees: "docs/guarantees.md", Start::Nothing;
    migration: "docs/migration.md", Start::Replica;
    operation: "docs/operation.md", Start::Replica;
    reference: "docs/reference.md", Start::Replica;
    tutorial: "docs/tutorial.md", Start::Nothing;
}

/// The blocks of a document; one that is neither run nor says why is a failure.
fn blocks_of(document: &str) -> Vec<Block> {
    blocks(&shipped(document)).unwrap_or_else(|fault| panic!("{document}: {fault}"))
}

/// Follows a document to its end. What it has started runs until the session is dropped.
async fn follow(document: &'static str, start: Start) -> Session {
    let mut session = Session::new(document);
    if start == Start::Replica {
        session.start(&blocks::command("make run"), "Tidings listens at").await;
        // The first heartbeat of a replica may say that it is not ready yet; the next one follows in a moment.
        eventually("nothing is wrong", || session.succeeds("tidings admin status")).await;
    }
    for block in blocks_of(document) {
        session.run(&block).await;
    }
    session
}

#[test]
fn every_document_is_followed() {
    let there: BTreeSet<_> = links::below_docs().into_iter().chain(["README.md".to_owned()]).collect();
    let followed: BTreeSet<_> = DOCUMENTS.iter().map(|document| (*document).to_owned()).collect();
    assert_eq!(there, followed);
}

#[tokio::test]
async fn the_pages_of_the_banner_show_what_is_active() {
    let session = follow("docs/banner.md", Start::Replica).await;
    let browser = Browser::start().await;
    let stream = browser.visit(&session.local("http://127.0.0.1:5500/events.html")).await;
    let banner = browser.visit(&session.local("http://127.0.0.1:5500/")).await;
    for tab in [&stream, &banner] {
        tab.shows("message", "Back at noon").await;
    }
    banner.click("acknowledge").await;
    banner.hides("message").await;
    let (http, base) =
        (Http::patient(PATIENCE), session.local("http://localhost:8000/api/creator/broadcast"));
    eventually("the acknowledgement of ann is confirmed", || async {
        let active = http.request(Method::GET, format!("{base}/active")).header("X-User-Id", "ann");
        active.send().await.unwrap().json::<Value>().await.unwrap() == json!({"broadcast": null})
    })
    .await;
    let again = http.request(Method::POST, base.clone()).json(&json!({"message": "and again"}));
    assert_eq!(again.send().await.unwrap().status(), 201);
    for tab in [&stream, &banner] {
        tab.shows("message", "and again").await;
    }
}

#[tokio::test]
#[should_panic(expected = "README.md:7: exit code 3")]
async fn a_command_that_fails_is_noticed() {
    let text = "```sh\n(exit 3)\n```\n";
    let mut block = blocks(text).unwrap().remove(0);
    block.line = 7;
    assert_eq!(block.kind, blocks::command("").kind);
    Session::new("README.md").run(&block).await;
}

#[test]
fn what_is_left_out_is_little() {
    let all: Vec<_> = DOCUMENTS.iter().flat_map(|document| blocks_of(document)).collect();
    let count = |wanted: fn(&Kind) -> bool| all.iter().filter(|block| wanted(&block.kind)).count();
    let run = count(|kind| matches!(kind, Kind::Run { .. } | Kind::Background { .. }));
    let skipped = count(|kind| *kind == Kind::Skip);
    assert!(run > 40 && skipped < 8, "{run} are run, {skipped} are not");
}
