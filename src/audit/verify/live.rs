//! What live replicas say of themselves in their heartbeats, which are asked for over NATS, and only read.

use anyhow::Context as _;
use async_nats::jetstream;

use super::bucket;
use crate::audit::finding::{Finding, FindingKind};
use crate::audit::log_head::LogHead;
use crate::domain::Digest;
use crate::log::Epoch;
use crate::log::provision::replicas_stream;
use crate::push::heartbeat::{self, Heartbeat};

/// What a live replica says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaReport {
    /// Its name.
    pub name: String,
    /// The log that it has read.
    pub epoch: Option<Epoch>,
    /// The last sequence that it has read, and the last multiple of 256, each with the digest there.
    pub digests: [(u64, Digest); 2],
}

/// What each live replica says of itself. Nobody is alive where there is no bucket of heartbeats.
pub async fn replicas(context: &jetstream::Context) -> anyhow::Result<Vec<ReplicaReport>> {
    let bucket = bucket::find(context, replicas_stream()).await.context("reading the heartbeats")?;
    let Some(bucket) = bucket else { return Ok(vec![]) };
    let heartbeats = heartbeat::heartbeats(&bucket).await?.into_iter();
    Ok(heartbeats.map(|(heartbeat, _)| ReplicaReport::from(heartbeat)).collect())
}

impl From<Heartbeat> for ReplicaReport {
    fn from(said: Heartbeat) -> Self {
        Self {
            name: said.replica,
            epoch: said.epoch,
            digests: [(said.sequence, said.digest), said.milestone],
        }
    }
}

/// A replica that has read further than the log goes has read what is no more; one of another log serves that.
pub(super) fn compare_ends(head: LogHead, replicas: &[ReplicaReport], report: &mut impl FnMut(Finding)) {
    for replica in replicas {
        let what = match replica.epoch {
            Some(epoch) if epoch != head.epoch => format!("it reads another log, with the epoch {epoch}"),
            Some(_) if replica.digests[0].0 > head.last_sequence => {
                format!(
                    "it has read up to {}, and the log ends at {}",
                    replica.digests[0].0, head.last_sequence
                )
            }
            _ => continue,
        };
        report(Finding::of_all(FindingKind::Replica, format!("replica {}: {what}", replica.name)));
    }
}
