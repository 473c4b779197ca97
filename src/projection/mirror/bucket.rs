//! A KV bucket whose values know their place in the log.

use anyhow::{Context as _, bail, ensure};
use async_nats::HeaderMap;
use async_nats::jetstream;
use async_nats::jetstream::stream::{self, LastRawMessageErrorKind};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

use crate::log::Epoch;
use crate::log::jetstream::is_conflict;
use crate::log::names::{bucket_stream, bucket_subject, header};
use crate::log::provision::{Provision, epoch_now};

/// What KV clients know deletions by.
const KV_OPERATION: &str = "KV-Operation";

/// Two holders at once fight over a key at most this often.
const TRIES: u32 = 8;

/// The place in the log that a value reflects. Within an epoch the later one wins; of two epochs the log's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
}

/// What to do to a key.
#[derive(Clone, Debug)]
pub(super) enum Write {
    Put(Bytes),
    Delete,
}

/// What is at a key: a value, or the mark of a deletion.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) place: Option<Place>,
    pub(super) value: Option<Bytes>,
}

impl Entry {
    /// The sequence of its place; 0 when it has none.
    pub(super) fn sequence(&self) -> u64 {
        self.place.map_or(0, |place| place.sequence)
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

    /// What the leader has at a key.
    pub(super) async fn get(&self, key: &str) -> anyhow::Result<Option<Entry>> {
        match self.stream.get_last_raw_message_by_subject(&bucket_subject(self.name, key)).await {
            Ok(found) => {
                let number = |name| found.headers.get(name).and_then(|v| v.as_str().parse::<u64>().ok());
                let epoch = found.headers.get(header::EPOCH).and_then(|v| v.as_str().parse::<Epoch>().ok());
                let place =
                    epoch.zip(number(header::SEQUENCE)).map(|(epoch, sequence)| Place { epoch, sequence });
                let value = found.headers.get(KV_OPERATION).is_none().then_some(found.payload);
                Ok(Some(Entry { revision: found.sequence, place, value }))
            }
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {key} of the bucket {}", self.name)),
        }
    }

    /// Writes a key, unless it already reflects this place or a later one.
    pub(super) async fn write(&self, key: &str, place: Place, write: Write) -> anyhow::Result<()> {
        self.write_unless(key, place, write, |known| known >= place.sequence).await
    }

    /// Writes a key, also when it already reflects this place: the bucket forgets by age.
    pub(super) async fn refresh(&self, key: &str, place: Place, write: Write) -> anyhow::Result<()> {
        self.write_unless(key, place, write, |known| known > place.sequence).await
    }

    async fn write_unless(
        &self,
        key: &str,
        place: Place,
        write: Write,
        stays: impl Fn(u64) -> bool,
    ) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            let entry = self.get(key).await?;
            // A delete of a key that was never written leaves a marker too: a write of that key that was sent before, and
            // arrives later, is then refused, since it expects that there is nothing.
            let known = entry.as_ref().and_then(|entry| entry.place);
            let foreign = known.is_some_and(|known| known.epoch != place.epoch);
            if known.is_some_and(|known| !foreign && stays(known.sequence)) {
                return Ok(());
            }
            // Either the key is left over from another log, or this holder has missed that the log was replaced.
            if foreign {
                let now = epoch_now(&self.context).await?;
                ensure!(
                    now == place.epoch,
                    "the log has another epoch, {now}, than this mirror, {}",
                    place.epoch
                );
            }
            let revision = entry.map_or(0, |entry| entry.revision);
            if self.publish(key, Some(place), &write, revision).await? {
                return Ok(());
            }
        }
        bail!("another holder keeps writing {key} of the bucket {}", self.name)
    }

    /// Writes a key that is most likely not there yet.
    pub(super) async fn create(&self, key: &str, place: Place, value: Bytes) -> anyhow::Result<()> {
        let write = Write::Put(value);
        if self.publish(key, Some(place), &write, 0).await? {
            Ok(())
        } else {
            self.write(key, place, write).await
        }
    }

    /// Every key that there is or that was deleted.
    pub(super) async fn keys(&self) -> anyhow::Result<impl Stream<Item = anyhow::Result<String>>> {
        let subjects = self.stream.info_with_subjects(bucket_subject(self.name, ">")).await?;
        let prefix = bucket_subject(self.name, "");
        Ok(subjects.map(move |subject| {
            let (subject, _) = subject?;
            let key = subject.strip_prefix(&prefix).with_context(|| format!("{subject} is not a key"))?;
            Ok(key.to_owned())
        }))
    }

    /// `false` when the key has another revision.
    pub(super) async fn publish(
        &self,
        key: &str,
        place: Option<Place>,
        write: &Write,
        revision: u64,
    ) -> anyhow::Result<bool> {
        let subject = bucket_subject(self.name, key);
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Expected-Last-Subject-Sequence", revision.to_string());
        if let Some(place) = place {
            headers.insert(header::EPOCH, place.epoch.to_string());
            headers.insert(header::SEQUENCE, place.sequence.to_string());
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
