//! The notary: holds this replica's Merkle tree to every checkpoint, and signs new ones if it has a key.
//!
//! A checkpoint says what the log was up to a place. Once it is signed and somebody has kept it, nobody can change what came
//! before without that being seen. Any number of replicas may have a key: each appends only behind the checkpoint that it
//! has compared last, so none ever signs what does not go on from there.

pub mod checkpoint;
pub mod note;
pub mod ranges;
pub mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Client;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::log::EventLog;
use crate::log::merkle::Hash;
use crate::log::names::CHECKPOINT_STREAM;
use crate::log::provision::Provision;
use crate::metrics::Metrics;
use crate::projection::Projection;
use checkpoint::Checkpoint;
use note::{Note, PublicKey, SecretKey};
use ranges::hash_of;
use stream::{Checkpoints, Noted};

/// How often it looks for new checkpoints, at least and at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const BREATH: Duration = Duration::from_millis(50);

/// What a notary needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who signs here. The first one's name is the name of the log. Empty: nobody.
    pub keys: Vec<SecretKey>,
    /// Whose checkpoints count, besides. When nobody is known at all, everybody's do.
    pub trusted: Vec<PublicKey>,
    /// A checkpoint is signed after this many events,
    pub every_events: u64,
    /// and after this long, if there are any.
    pub every: Duration,
}

/// The notary of one replica.
pub struct Notary {
    /// The tree.
    pub projection: Projection,
    /// What the tree is of.
    pub log: Arc<dyn EventLog>,
    /// The connection to NATS.
    pub client: Client,
    /// How to create the stream of checkpoints.
    pub provision: Provision,
    /// Who signs, and when.
    pub options: Options,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
}

/// A checkpoint of this log, and where it stands among the others.
#[derive(Clone, Debug)]
struct Seen {
    checkpoint: Checkpoint,
    time_ns: i64,
    /// Whether this replica's tree was held to it.
    compared: bool,
}

/// What the notary has read so far.
#[derive(Debug, Default)]
struct Desk {
    /// The last place of the stream of checkpoints.
    read: u64,
    /// The newest checkpoint of the log that the projection is of.
    newest: Option<Seen>,
    /// What has been said of the log being shorter than that, or different.
    said: Option<Checkpoint>,
}

impl Desk {
    /// Takes a checkpoint up if it is of this log and of somebody who counts.
    fn take(&mut self, noted: &Noted, trusted: &[PublicKey]) {
        let read = || -> Result<Checkpoint, String> {
            let note: Note = noted.text.parse()?;
            if !trusted.is_empty() {
                note.verified_by(trusted).map_err(|e| e.to_string())?;
            }
            note.text().parse()
        };
        match read() {
            Ok(checkpoint) => {
                let known =
                    self.newest.as_ref().is_some_and(|seen| seen.checkpoint == checkpoint && seen.compared);
                self.newest = Some(Seen { checkpoint, time_ns: noted.time_ns, compared: known });
            }
            Err(why) => warn!(checkpoint.number = noted.number, "passed over a checkpoint: {why}"),
        }
    }
}

impl Notary {
    /// Runs until it is aborted. Whatever fails is tried again.
    pub async fn run(self) {
        let trusted = self.options.keys.iter().map(|key| key.public().clone());
        let trusted: Vec<_> = trusted.chain(self.options.trusted.iter().cloned()).collect();
        let mut desk = Desk::default();
        loop {
            let Err(error) = self.work(&mut desk, &trusted).await;
            debug!("the checkpoints cannot be had now, trying again: {error:#}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn open(&self) -> anyhow::Result<Checkpoints> {
        let context = self.provision.context(&self.client);
        self.provision.stream(&context, CHECKPOINT_STREAM).await?;
        Checkpoints::of(context).await
    }

    async fn work(&self, desk: &mut Desk, trusted: &[PublicKey]) -> anyhow::Result<Infallible> {
        let checkpoints = self.open().await?;
        // It may be another stream by now.
        desk.read = 0;
        loop {
            while let Some(noted) = checkpoints.after(desk.read).await? {
                desk.read = noted.number;
                desk.take(&noted, trusted);
            }
            self.compare(desk).await?;
            self.sign_when_due(&checkpoints, desk).await?;
            let signed = desk.newest.as_ref().map_or(0, |seen| seen.checkpoint.size);
            self.projection.reached(signed + self.options.every_events, LOOK_EVERY).await;
            sleep(BREATH).await;
        }
    }

    /// Holds the tree to the newest checkpoint, once it is large enough.
    async fn compare(&self, desk: &mut Desk) -> anyhow::Result<()> {
        let position = self.projection.position();
        let Some(seen) = desk.newest.as_mut().filter(|seen| position.epoch == Some(seen.checkpoint.epoch))
        else {
            // Of a log that is no more, or not the one that this replica has yet.
            return Ok(());
        };
        let Checkpoint { size, root, .. } = seen.checkpoint;
        if seen.compared {
            return Ok(());
        }
        if size > position.sequence {
            let head = self.projection.seen().head;
            if position.caught_up && head < size && desk.said.as_ref() != Some(&seen.checkpoint) {
                error!(
                    log.sequence = head,
                    checkpoint.size = size,
                    "the log ends before what was signed of it: it has lost events"
                );
                desk.said = Some(seen.checkpoint.clone());
            }
            return Ok(());
        }
        let ours = match self.projection.root_at(size) {
            Some(root) => root,
            None => {
                hash_of(&*self.log, &self.projection, 0..size).await.context("finding an earlier root")?
            }
        };
        // The log may have become another one while that was found out.
        if self.projection.position().epoch != position.epoch {
            return Ok(());
        }
        if ours == root {
            seen.compared = true;
            self.metrics.checkpoint_size.set(i64::try_from(size).unwrap_or(i64::MAX));
            return Ok(());
        }
        self.disagree(desk, ours);
        Ok(())
    }

    /// The projection may be damaged: it is rebuilt, once for a checkpoint. If it differs again, the log was changed, or the
    /// checkpoint is false; then only people can tell.
    fn disagree(&self, desk: &mut Desk, ours: Hash) {
        let Some(Seen { checkpoint, .. }) = &desk.newest else { return };
        let Checkpoint { size, root, .. } = *checkpoint;
        if desk.said.as_ref() == Some(checkpoint) {
            return;
        }
        if self.projection.position().rebuilt_for == Some((size, root)) {
            error!(
                checkpoint.size = size,
                "DIVERGED: what this replica has read up to there has the root {ours}, and {root} was signed. The log was \
                 changed, or the checkpoint is false: run `tidings audit verify`"
            );
            self.projection.note_divergence();
            desk.said = Some(checkpoint.clone());
        } else {
            warn!(
                checkpoint.size = size,
                "this replica's tree disagrees with a checkpoint: reading the log anew"
            );
            self.projection.rebuild_for((size, root));
        }
    }

    /// Signs how the log is now, if there is a key and enough is new.
    async fn sign_when_due(&self, checkpoints: &Checkpoints, desk: &mut Desk) -> anyhow::Result<()> {
        let Some(key) = self.options.keys.first() else { return Ok(()) };
        let position = self.projection.position();
        let Some((epoch, size, root)) = self.projection.tree() else { return Ok(()) };
        if !position.caught_up || position.diverged {
            return Ok(());
        }
        let of_this_log = desk.newest.as_ref().filter(|seen| seen.checkpoint.epoch == epoch);
        let due = match of_this_log {
            Some(seen) if !seen.compared => false,
            Some(seen) => {
                let new = size.saturating_sub(seen.checkpoint.size);
                new >= self.options.every_events || (new > 0 && self.is_old(seen.time_ns))
            }
            None => size > 0,
        };
        if !due {
            return Ok(());
        }
        let checkpoint = Checkpoint { log: key.public().name().clone(), epoch, size, root };
        let note = Note::sign(checkpoint.to_string(), &self.options.keys);
        // Another replica was faster: what it signed is read and compared next.
        if let Some(number) = checkpoints.append(&note, desk.read).await? {
            info!(checkpoint.number = number, checkpoint.size = size, "signed a checkpoint");
            self.metrics.checkpoints_signed.inc();
        }
        Ok(())
    }

    fn is_old(&self, time_ns: i64) -> bool {
        let age_ms = self.clock.now().as_unix_ms().saturating_sub(time_ns / 1_000_000);
        u64::try_from(age_ms).is_ok_and(|age| u128::from(age) >= self.options.every.as_millis())
    }
}
