//! The users that are shipped, and a service that works with them.

use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tidings::log::names::{
    ACKS_BUCKET, ACTIVE_BUCKET, CHECKPOINT_STREAM, LOG_STREAM, REPLICAS_BUCKET, bucket_stream,
};

use super::checkpoints::{KeyFile, count};
use super::wire::Wire;
use super::{Nats, Replica, Spec, eventually};

/// A user and their password.
pub type Login = (&'static str, &'static str);

/// Everything that is kept.
pub fn streams() -> [String; 5] {
    let [active, acks, replicas] = [ACTIVE_BUCKET, ACKS_BUCKET, REPLICAS_BUCKET].map(bucket_stream);
    [LOG_STREAM.to_owned(), CHECKPOINT_STREAM.to_owned(), active, acks, replicas]
}

/// A server with the users that are shipped, and a replica that has written a bit of everything.
pub struct World {
    pub nats: Nats,
    pub key: KeyFile,
    pub replica: Replica,
}

impl World {
    pub async fn new() -> Self {
        Self::on(Nats::start_with_users().await).await
    }

    /// One whose server says what is sent to it.
    pub async fn telling() -> Self {
        Self::on(Nats::telling_with_users().await).await
    }

    async fn on(nats: Nats) -> Self {
        let key = KeyFile::of("example.com/tidings", 1);
        let file = key.path();
        let signing = ["--checkpoint-every-events", "1", "--checkpoint-key", file.to_str().unwrap()];
        let replica = Replica::start_with(Spec::joining(nats.url()).with(&signing)).await;
        for n in 0..3 {
            let id = replica.post_broadcast(&format!("number {n} – „Ä“ 🎉")).await["id"].clone();
            for user in ["ann", "a.b c"] {
                replica.acknowledge(id.as_str().unwrap(), user).await;
            }
        }
        let world = Self { nats, key, replica };
        eventually("it is signed", || async { count(&world.nats).await > 0 }).await;
        eventually("it is mirrored", || async {
            world.replica.count("tidings_mirror_lag_events").await == 0
        })
        .await;
        world
    }

    pub async fn auditor(&self) -> Wire {
        Wire::connect(&self.nats, "auditor", "rotidua").await
    }

    /// A command of the auditor's, whose login is in the URL.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).args(["--nats", &self.nats.url_of("auditor", "rotidua")]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        output
    }

    /// Settings, sizes and ends of all streams; of heartbeats, which come and go, the settings alone.
    pub async fn everything(&self) -> Vec<Value> {
        let context = self.nats.jetstream().await;
        let mut all = Vec::new();
        for name in streams() {
            let stream = context.get_stream(&name).await.unwrap();
            let info = stream.cached_info();
            let config = serde_json::to_value(&info.config).unwrap();
            let state = (info.state.messages, info.state.first_sequence, info.state.last_sequence);
            let consumers = info.state.consumer_count;
            let of_heartbeats = name == bucket_stream(REPLICAS_BUCKET);
            all.push(json!([config, if of_heartbeats { None } else { Some((state, consumers)) }]));
        }
        all
    }
}
