//! Snapshots of a stream, as `nats stream backup` makes them and `nats stream restore` brings them back.

use std::time::{Duration, Instant};

use async_nats::{Client, Message, RequestErrorKind};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::Nats;

/// How long the server may be silent about a snapshot.
const SILENCE: Duration = Duration::from_secs(10);

/// A stream with its configuration and its messages.
pub struct Snapshot {
    stream: String,
    config: Value,
    state: Value,
    chunks: Vec<Bytes>,
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
                client.publish(reply, Bytes::new()).await.unwrap();
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
            deliver(&client, &to, chunk.clone()).await;
        }
        let done = deliver(&client, &to, Bytes::new()).await;
        let done: Value = serde_json::from_slice(&done.payload).unwrap();
        assert!(done["error"].is_null(), "{done}");
    }
}

/// Sends a chunk to the node that restores. In a cluster this one may hear a moment later that somebody listens there.
async fn deliver(client: &Client, to: &str, chunk: Bytes) -> Message {
    let started = Instant::now();
    loop {
        match client.request(to.to_owned(), chunk.clone()).await {
            Err(error) if error.kind() == RequestErrorKind::NoResponders && started.elapsed() < SILENCE => {
                sleep(Duration::from_millis(20)).await;
            }
            answer => return answer.unwrap(),
        }
    }
}

async fn ask(client: &Client, subject: String, request: Value) -> Value {
    let answer = client.request(subject, request.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
    answer
}
