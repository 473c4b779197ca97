//! Snapshots of a stream, as `nats stream backup` makes them and `nats stream restore` brings them back.

use std::time::Duration;

use async_nats::Client;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Nats;

/// How long the server may be silent about a snapshot.
const SILENCE: Duration = Duration::from_secs(10);

/// A stream with its configuration and its messages.
pub struct Snapshot {
    stream: String,
    config: Value,
    state: Value,
    chunks: Vec<bytes::Bytes>,
}

impl Nats {
    /// Takes a snapshot of a stream while everything runs.
    pub async fn snapshot(&self, stream: &str) -> Snapshot {
        let client = self.client().await;
        let inbox = client.new_inbox();
        let mut delivered = client.subscribe(inbox.clone()).await.unwrap();
        let request = json!({"deliver_subject": inbox, "no_consumers": true});
        let answer = ask(&client, format!("$JS.API.STREAM.SNAPSHOT.{stream}"), request).await;
        let mut chunks = Vec::new();
        loop {
            let chunk = timeout(SILENCE, delivered.next()).await.expect("the next chunk").unwrap();
            // A message without a body is the end.
            if chunk.payload.is_empty() {
                break;
            }
            if let Some(reply) = chunk.reply {
                client.publish(reply, bytes::Bytes::new()).await.unwrap();
            }
            chunks.push(chunk.payload);
        }
        let [config, state] = ["config", "state"].map(|part| answer[part].clone());
        Snapshot { stream: stream.to_owned(), config, state, chunks }
    }

    /// Deletes the stream, if it is there, and makes it again from a snapshot.
    pub async fn restore_snapshot(&self, snapshot: &Snapshot) {
        let Snapshot { stream, config, state, chunks } = snapshot;
        let client = self.client().await;
        let _ = self.jetstream().await.delete_stream(stream).await;
        let request = json!({"config": config, "state": state});
        let answer = ask(&client, format!("$JS.API.STREAM.RESTORE.{stream}"), request).await;
        let to = answer["deliver_subject"].as_str().unwrap().to_owned();
        for chunk in chunks {
            client.request(to.clone(), chunk.clone()).await.unwrap();
        }
        let done = client.request(to, bytes::Bytes::new()).await.unwrap();
        let done: Value = serde_json::from_slice(&done.payload).unwrap();
        assert!(done["error"].is_null(), "{done}");
    }
}

async fn ask(client: &Client, subject: String, request: Value) -> Value {
    let answer = client.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer
}
