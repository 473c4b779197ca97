//! The notary: holds this replica's Merkle tree to every checkpoint, and signs new ones if it has a key.
//!
//! A checkpoint states the root of the log at a size. Once it is signed and kept by an auditor, no earlier entry can be changed
//! without detection. Any number of replicas may have a key. What holds of what they sign, and why:
//!
//! - **One line.** A checkpoint is appended only if the stream still ends where it was read to, and only behind one that this
//!   tree agrees with. So sizes rise, no two are of one size, and each goes on from the one before it. An append whose answer
//!   was lost may still land: then it stands where it was meant to, or is refused because another one does.
//! - **Its own tree, from the log.** A tree that goes on from disk is held to the roots that the store keeps beside it, and to
//!   the log for the rest, before anything is signed: a damaged one is rebuilt, not signed.
//! - **The log as it is.** Right before, the leader is asked whether this is still the log, and as long. Whoever restores an
//!   older log with its checkpoints does not get one of the lost part behind them.
//! - **In one generation of the projection.** After a rebuild, or a change of the log, everything is compared again. What was
//!   computed across that is discarded.
//! - **Nothing over a difference.** A tree that disagrees is rebuilt once for that checkpoint, then it is for people to say
//!   which of the two is false: it is said once, nothing is signed, and the replica serves on. The same when the log ends
//!   before what was signed of it.
//!
//! Only the newest checkpoint of a log is compared: its root is over everything that earlier ones are over. `audit verify`
//! looks at all of them.

pub mod checkpoint;
mod state;
mod read;
mod failures;
pub mod note;
pub mod ranges;
pub mod stream;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::Client;
use async_nats::connection::State;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, info, warn};

use crate::clock::Clock;
use crate::log::merkle::Hash;
use crate::log::names::CHECKPOINT_STREAM;
use crate::log::provision::Provision;
use crate::log::{Epoch, EventLog};
use crate::metrics::Metrics;
use crate::projection::Projection;
use crate::warnings::{Warning, Warnings};
use checkpoint::{Checkpoint, SignedCheckpoint};
use failures::FailureLog;
use note::{Note, PublicKey, SecretKey};
use ranges::{LeafReader, hash_of};
use state::{CheckpointState, ReadCheckpoint};
use stream::CheckpointStream;

/// The interval of polling for new checkpoints, and the minimum pause.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// How many times the leader must report that the log is too short: a deposed leader can answer once from stale state.
const CONFIRMATIONS: u32 = 3;

/// How far the clocks of two NATS nodes may be apart: a checkpoint noted so long before the first event of the log is not of it.
const MAX_CLOCK_SKEW_NS: i64 = 600_000_000_000;

/// What a notary needs to know.
#[derive(Clone, Debug)]
pub struct NotaryOptions {
    /// The keys that this replica signs with. The name of the first is the name of the log. Empty: it does not sign.
    pub keys: Vec<SecretKey>,
    /// Further trusted keys. Without any key, every checkpoint is accepted.
    pub trusted: Vec<PublicKey>,
    /// A checkpoint is signed after this many events,
    pub every_events: u64,
    /// and after this long, if there are any.
    pub every: Duration,
}

impl NotaryOptions {
    /// All trusted keys. Empty: every checkpoint is accepted.
    pub fn trusted(&self) -> Vec<PublicKey> {
        let own = self.keys.iter().map(|key| key.public().clone());
        own.chain(self.trusted.iter().cloned()).collect()
    }
}

/// The notary of one replica.
pub struct Notary {
    /// The tree.
    pub projection: Projection,
    /// The log of the tree.
    pub log: Arc<dyn EventLog>,
    /// The connection to NATS.
    pub client: Client,
    /// How to create the stream of checkpoints.
    pub provision: Provision,
    /// Who signs, and when.
    pub options: NotaryOptions,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: Metrics,
    /// The warnings that it sets.
    pub warnings: Warnings,
    /// The newest checkpoint, for others to read.
    pub newest: watch::Sender<Option<NewestCheckpoint>>,
}

/// The newest checkpoint of a log that counts, as the notary has found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewestCheckpoint {
    /// Which log.
    pub epoch: Epoch,
    /// The checkpoint; `None`: no trusted key has signed one.
    pub signed: Option<SignedCheckpoint>,
}

impl Notary {
    /// Runs until it is aborted. Failures are retried.
    pub async fn run(self) {
        let trusted = self.options.trusted();
        let mut state = CheckpointState::default();
        let mut failures = FailureLog::default();
        loop {
            let Err(error) = self.work(&mut state, &trusted, &mut failures).await;
            debug!("the checkpoints cannot be read or signed now, trying again: {error:#}");
            // An outage of NATS is reported by the connection.
            if self.client.connection_state() == State::Connected {
                self.warnings.set(Warning::CheckpointsFailing, failures.has(&error));
            }
            self.measure(&state, &mut failures);
            sleep(POLL_INTERVAL).await;
        }
    }

    async fn open(&self) -> anyhow::Result<CheckpointStream> {
        let context = self.provision.context(&self.client);
        self.provision.stream(&context, CHECKPOINT_STREAM).await?;
        CheckpointStream::of(context).await
    }

    /// How long events have been in the log that no checkpoint covers.
    fn measure(&self, state: &CheckpointState, failures: &mut FailureLog) {
        let signed = state.newest.as_ref().map_or(0, |seen| seen.checkpoint.size);
        let age = failures.unsigned(signed, self.projection.position().sequence);
        self.metrics.checkpoint_age.set(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
        let position = self.projection.position();
        self.warnings.set(Warning::Diverged, position.diverged);
        // Another replica that signs has had time to.
        let is_unsigned =
            self.options.keys.is_empty() && state.newest.is_none() && age >= 2 * self.options.every;
        self.warnings.set(Warning::LogUnsigned, is_unsigned);
        let reported_short = state
            .newest
            .as_ref()
            .map(|seen| &seen.checkpoint)
            .filter(|newest| newest.size > position.sequence);
        let is_too_short = reported_short.is_some() && reported_short == state.reported_short.as_ref();
        self.warnings.set(Warning::LogTooShort, is_too_short);
    }

    async fn work(
        &self,
        state: &mut CheckpointState,
        trusted: &[PublicKey],
        failures: &mut FailureLog,
    ) -> anyhow::Result<Infallible> {
        let checkpoints = self.open().await?;
        loop {
            if let Some(epoch) = self.projection.position().epoch {
                state.switch_to(epoch);
                self.read(&checkpoints, state, epoch, trusted).await?;
                self.compare(state).await?;
                self.sign_when_due(&checkpoints, state).await?;
            }
            failures.is_over();
            self.warnings.set(Warning::CheckpointsFailing, false);
            self.measure(state, failures);
            let mut position = self.projection.watch();
            let work = position.wait_for(|position| state.has_work(position, self.signs_every()));
            // Or whatever others have signed, or time alone has made due.
            let _ = timeout(POLL_INTERVAL, work).await;
            sleep(PAUSE).await;
        }
    }

    /// After how many events it signs, if it does.
    fn signs_every(&self) -> Option<u64> {
        (!self.options.keys.is_empty()).then_some(self.options.every_events)
    }

    /// Holds the tree to the newest checkpoint, once it is large enough.
    async fn compare(&self, state: &mut CheckpointState) -> anyhow::Result<()> {
        let position = self.projection.position();
        let Some(seen) = &mut state.newest else { return Ok(()) };
        let Checkpoint { epoch, size, root, .. } = seen.checkpoint;
        // It may be of a log that is no more, or be people's turn, or nothing can be rebuilt now.
        let idle = position.diverged || position.halt.is_some();
        if position.epoch != Some(epoch) || seen.agreed_in == Some(position.generation) || idle {
            return Ok(());
        }
        if size > position.sequence {
            return if position.caught_up { self.check_length(state).await } else { Ok(()) };
        }
        let ours = match self.projection.root_at(size).await {
            Some(root) => root,
            None => self.kept_root(size).await?,
        };
        if self.projection.position().generation != position.generation {
            return Ok(());
        }
        if ours == root {
            seen.agreed_in = Some(position.generation);
            self.metrics.checkpoint_size.set(i64::try_from(size).unwrap_or(i64::MAX));
        } else {
            self.disagree(state, ours).await;
        }
        Ok(())
    }

    /// The root at a size, by what the store keeps of the tree, and by the log for the rest.
    async fn kept_root(&self, size: u64) -> anyhow::Result<Hash> {
        let mut leaves = LeafReader::of_leader(&*self.log);
        hash_of(&mut leaves, &self.projection, 0..size).await.context("finding a root")
    }

    /// Checks whether the log is shorter than a checkpoint, or this replica has not yet read its last events.
    async fn check_length(&self, state: &mut CheckpointState) -> anyhow::Result<()> {
        let Some(ReadCheckpoint { checkpoint, .. }) = &state.newest else { return Ok(()) };
        if state.reported_short.as_ref() == Some(checkpoint) {
            return Ok(());
        }
        for asked in 1.. {
            let info = self.log.info().await.context("asking the log how long it is")?;
            if info.epoch != checkpoint.epoch || info.last_sequence >= checkpoint.size {
                return Ok(());
            }
            if asked >= CONFIRMATIONS {
                error!(
                    log.sequence = info.last_sequence,
                    checkpoint.size = checkpoint.size,
                    "the log ends before what was signed of it: it has lost events, or an older one was restored without \
                     its checkpoints. Nothing is signed any more"
                );
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        state.reported_short = Some(checkpoint.clone());
        Ok(())
    }

    /// The projection may be damaged: it is rebuilt, once for a checkpoint. If it differs again, the log was changed, or the
    /// checkpoint is false; then only people can tell.
    async fn disagree(&self, state: &mut CheckpointState, ours: Hash) {
        let Some(ReadCheckpoint { checkpoint, .. }) = &state.newest else { return };
        let Checkpoint { size, root, .. } = *checkpoint;
        let position = self.projection.position();
        if position.rebuilt_for != Some((size, root)) {
            if state.rebuild_requested_in != Some(position.generation) {
                warn!(
                    checkpoint.size = size,
                    "this replica's tree disagrees with a checkpoint: reading the log anew"
                );
            }
            state.rebuild_requested_in = Some(position.generation);
            self.projection.rebuild_for((size, root)).await;
            return;
        }
        self.projection.note_divergence().await;
        if state.reported_diverged.as_ref() != Some(checkpoint) {
            error!(
                checkpoint.size = size,
                "DIVERGED: what this replica has read up to there has the root {ours}, and {root} was signed. The log was \
                 changed, or the checkpoint is false: run `tidings audit verify`"
            );
            state.reported_diverged = Some(checkpoint.clone());
        }
    }

    /// Signs how the log is now, if there is a key and enough is new.
    async fn sign_when_due(
        &self,
        checkpoints: &CheckpointStream,
        state: &mut CheckpointState,
    ) -> anyhow::Result<()> {
        let (Some(key), Some(read)) = (self.options.keys.first(), state.read) else { return Ok(()) };
        let position = self.projection.position();
        let Some((epoch, size, root)) = self.projection.tree().await else { return Ok(()) };
        let generation = self.projection.position().generation;
        let same = generation == position.generation && state.epoch == Some(epoch);
        let due = state.is_due(generation, size, self.options.every_events, |time_ns| self.is_past(time_ns));
        if !same || !position.caught_up || position.diverged || !due {
            return Ok(());
        }
        if !self.verify_own_tree(state, generation, size, root).await?
            || !self.log_is_unchanged(epoch, size).await?
        {
            return Ok(());
        }
        let checkpoint = Checkpoint { log: key.public().name().clone(), epoch, size, root };
        let note = Note::sign(checkpoint.to_string(), &self.options.keys);
        // Another replica was faster: what it signed is read and compared next.
        if let Some(number) = checkpoints.append(&note, read.last).await? {
            info!(checkpoint.number = number, checkpoint.size = size, "signed a checkpoint");
            self.metrics.checkpoints_signed.inc();
        }
        Ok(())
    }

    /// Whether the tree is the one of the projection's own records: compared once in a generation, since it may have come from disk.
    async fn verify_own_tree(
        &self,
        state: &mut CheckpointState,
        generation: u64,
        size: u64,
        root: Hash,
    ) -> anyhow::Result<bool> {
        if state.verified_in == Some(generation) {
            return Ok(true);
        }
        let kept = self.kept_root(size).await?;
        if self.projection.position().generation != generation {
            return Ok(false);
        }
        if kept == root {
            state.verified_in = Some(generation);
        } else {
            error!(
                log.sequence = size,
                "this replica's tree is not the one of its own records: nothing is signed"
            );
            self.projection.report_damage().await;
        }
        Ok(kept == root)
    }

    /// Whether the log is still this one, and as long, by its leader.
    async fn log_is_unchanged(&self, epoch: Epoch, size: u64) -> anyhow::Result<bool> {
        let info = self.log.info().await.context("asking the log how long it is")?;
        Ok(info.epoch == epoch && info.last_sequence >= size)
    }

    fn is_past(&self, time_ns: i64) -> bool {
        state::is_past(time_ns, self.clock.now().as_unix_ms(), self.options.every)
    }
}
