//! A KV bucket whose values know their position in the log.

use anyhow::{Context as _, bail, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::log::jetstream::is_conflict;
use crate::log::names::{bucket_stream, bucket_subject, header};
use crate::log::provision::{Provision, epoch_now};
use crate::log::{Epoch, Position};

/// The header by which KV clients recognise a deletion.
const KV_OPERATION: &str = "KV-Operation";

/// Attempts to write a key that another holder writes at the same time.
const ATTEMPTS: u32 = 8;

/// A change of a key.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put(Bytes),
    Delete,
}

/// What a key has: a value, or the marker of a deletion.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) position: Option<Position>,
    pub(super) value: Option<Bytes>,
}

impl Entry {
    /// The sequence of its position; 0 if it has none.
    pub(super) fn sequence(&self) -> u64 {
        self.position.map_or(0, |position| position.sequence)
    }
}

pub(super) struct Bucket {
    name: &'static str,
    context: jetstream::Context,
    stream: stream::Stream,
}

impl Bucket {
    /// The bucket, created when it is missing.
    pub(super) async fn open(
        context: &jetstream::Context,
        provision: &Provision,
        name: &'static str,
    ) -> anyhow::Result<Self> {
        let stream = provision.stream(context, &bucket_stream(name)).await?;
        Ok(Self { name, context: context.clone(), stream })
    }

    /// The bucket if it is there.
    pub(super) async fn existing(context: &jetstream::Context, name: &'static str) -> anyhow::Result<Self> {
        let stream = context.get_stream(bucket_stream(name)).await?;
        Ok(Self { name, context: context.clone(), stream })
    }

    pub(super) const fn name(&self) -> &'static str {
        self.name
    }

    /// What the leader of the stream has for a key.
    pub(super) async fn get(&self, key: &str) -> anyhow::Result<Option<Entry>> {
        match self.stream.get_last_raw_message_by_subject(&bucket_subject(self.name, key)).await {
            Ok(found) => {
                let number = |name| found.headers.get(name).and_then(|v| v.as_str().parse::<u64>().ok());
                let epoch = found.headers.get(header::EPOCH).and_then(|v| v.as_str().parse::<Epoch>().ok());
                let position =
                    epoch.zip(number(header::SEQUENCE)).map(|(epoch, sequence)| Position { epoch, sequence });
                let value = found.headers.get(KV_OPERATION).is_none().then_some(found.payload);
                Ok(Some(Entry { revision: found.sequence, position, value }))
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {key} of the bucket {}", self.name)),
        }
    }

    /// Writes a key, unless it already reflects this position or a later one.
    pub(super) async fn write(&self, key: &str, position: Position, write: Write) -> anyhow::Result<()> {
        self.write_unless(key, position, write, |known| known >= position.sequence).await
    }

    /// Writes a key, also when it already reflects this position: the bucket forgets by age.
    pub(super) async fn refresh(&self, key: &str, position: Position, write: Write) -> anyhow::Result<()> {
        self.write_unless(key, position, write, |known| known > position.sequence).await
    }

    async fn write_unless(
        &self,
        key: &str,
        position: Position,
        write: Write,
        stays: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            let entry = self.get(key).await?;
            // A delete marker is written even where there is no key: a put that the holder before sent, and that arrives late,
            // then finds a revision to fail on.
            let known = entry.as_ref().and_then(|entry| entry.position);
            let foreign = known.is_some_and(|known| known.epoch != position.epoch);
            if known.is_some_and(|known| !foreign && stays(known.sequence)) {
                return Ok(());
            }
            // Either the key is left over from another log, or the log was replaced and this holder has not noticed yet.
            if foreign {
                let now = epoch_now(&self.context).await?;
                ensure!(
                    now == position.epoch,
                    "the log has another epoch, {now}, than this mirror, {}",
                    position.epoch
                );
            }
            let revision = entry.map_or(0, |entry| entry.revision);
            if self.publish(key, Some(position), &write, revision).await? {
                return Ok(());
            }
        }
        bail!("another holder keeps writing {key} of the bucket {}", self.name)
    }

    /// Writes a key that most likely does not exist yet.
    pub(super) async fn create(&self, key: &str, position: Position, value: Bytes) -> anyhow::Result<()> {
        let write = Write::Put(value);
        if self.publish(key, Some(position), &write, 0).await? {
            Ok(())
        } else {
            self.write(key, position, write).await
        }
    }

    /// Every key that exists or was deleted.
    pub(super) async fn keys(&self) -> anyhow::Result<impl Stream<Item = anyhow::Result<String>>> {
        let subjects = self.stream.info_with_subjects(bucket_subject(self.name, ">")).await?;
        let prefix = bucket_subject(self.name, "");
        Ok(subjects.map(move |subject| {
            let (subject, _) = subject?;
            let key = subject.strip_prefix(&prefix).with_context(|| format!("{subject} is not a key"))?;
            Ok(key.to_owned())
        }))
    }

    /// Writes a key; `false` if it has another revision.
    pub(super) async fn publish(
        &self,
        key: &str,
        position: Option<Position>,
        write: &Write,
        revision: u64,
    ) -> anyhow::Result<bool> {
        let subject = bucket_subject(self.name, key);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-LastEntry-Subject-Sequence", revision.to_string());
        if let Some(position) = position {
            headers.insert(header::EPOCH, position.epoch.to_string());
            headers.insert(header::SEQUENCE, position.sequence.to_string());
        }
        let value = match write {
            Write::Put(value) => value.clone(),
            Write::Delete => {
                headers.insert(KV_OPERATION, "DEL");
                Bytes::new()
            }
        };
        match self.context.publish_with_headers(subject, headers, value).await?.await {
            Ok(_) => Ok(true),
            Err(error) if is_conflict(&error) => Ok(false),
            Err(error) => Err(error).with_context(|| format!("writing {key} of the bucket {}", self.name)),
        }
    }
}
