//! Keys, and what was signed with them, held to roots that the tests compute themselves.

use std::path::PathBuf;

use tempfile::TempDir;
use tidings::audit::export::ExportFile;
use tidings::log::leaf::Statement;
use tidings::log::merkle::{Frontier, Hash};
use tidings::log::names::{CHECKPOINT_STREAM, CHECKPOINT_SUBJECT};
use tidings::log::{Epoch, RawMessage};
use tidings::notary::checkpoint::Checkpoint;
use tidings::notary::note::{Note, PublicKey, SecretKey};
use tidings::notary::stream::{CheckpointStream, StoredCheckpoint};

use super::Nats;

/// A key in a file, as `tidings admin keygen` makes one.
pub struct KeyFile {
    folder: TempDir,
    pub key: SecretKey,
}

impl KeyFile {
    /// The key of this name that a seed makes.
    pub fn of(name: &str, seed: u8) -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-key-").tempdir().unwrap();
        let file = Self { folder, key: SecretKey::new(name.parse().unwrap(), &[seed; 32]) };
        std::fs::write(file.path(), file.key.reveal() + "\n").unwrap();
        file
    }

    pub fn path(&self) -> PathBuf {
        self.folder.path().join("checkpoint.key")
    }

    pub fn public(&self) -> PublicKey {
        self.key.public().clone()
    }
}

/// A checkpoint as it stands in the stream.
#[derive(Clone, Debug)]
pub struct SignedCheckpoint {
    pub number: u64,
    pub note: Note,
    pub checkpoint: Checkpoint,
    /// As it stands there.
    pub text: String,
}

/// Every checkpoint that somebody signed, in order; none while the stream is not there. What is no checkpoint is left out.
pub async fn signed(nats: &Nats) -> Vec<SignedCheckpoint> {
    let Some(stream) = CheckpointStream::find(nats.jetstream().await).await.unwrap() else { return vec![] };
    let read = |number, text: String| {
        let note: Note = text.parse().ok()?;
        Some(SignedCheckpoint { number, checkpoint: note.text().parse().ok()?, note, text })
    };
    let all = in_stream(&stream).await.into_iter();
    all.filter_map(|noted| read(noted.number, noted.text)).collect()
}

/// Everything that stands in the stream of checkpoints.
pub async fn in_stream(checkpoints: &CheckpointStream) -> Vec<StoredCheckpoint> {
    let mut all = Vec::new();
    let take = |batch| {
        all.extend::<Vec<_>>(batch);
        Ok(())
    };
    checkpoints.each(take).await.unwrap();
    all
}

/// The same of an exported file.
pub fn of_file(export: &ExportFile) -> Vec<StoredCheckpoint> {
    let mut all = Vec::new();
    let take = |batch| {
        all.extend::<Vec<_>>(batch);
        Ok(())
    };
    export.each_checkpoint(take).unwrap();
    all
}

/// How many messages of whatever kind are in the stream of checkpoints.
pub async fn count(nats: &Nats) -> u64 {
    let mut stream = nats.jetstream().await.get_stream(CHECKPOINT_STREAM).await.unwrap();
    stream.info().await.unwrap().state.messages
}

/// Puts something into the stream of checkpoints, past the service. Returns its number there.
pub async fn put(nats: &Nats, text: String) -> u64 {
    let context = nats.jetstream().await;
    context.publish(CHECKPOINT_SUBJECT, text.into_bytes().into()).await.unwrap().await.unwrap().sequence
}

/// What a checkpoint that says this looks like.
pub fn note(keys: &[SecretKey], epoch: Epoch, size: u64, root: Hash) -> Note {
    let log = keys[0].public().name().clone();
    Note::sign(Checkpoint { log, epoch, size, root }.to_string(), keys)
}

/// The root of a log at each size, from none on. What is missing in it are holes.
pub fn roots(log: &[RawMessage]) -> Vec<Hash> {
    let (mut tree, mut roots) = (Frontier::default(), vec![Hash::empty()]);
    let mut push = |leaf| {
        tree.push(leaf);
        roots.push(tree.root());
        tree.size()
    };
    let mut size = 0;
    for message in log {
        while size + 1 < message.sequence {
            size = push(Statement::hole(size + 1).leaf());
        }
        size = push(message.leaf());
    }
    roots
}

/// What is wrong with the checkpoints of a log: one that is not true of it, or that does not go on from the one before.
pub fn faults(signed: &[SignedCheckpoint], epoch: Epoch, log: &[RawMessage]) -> Vec<String> {
    let roots = roots(log);
    let (mut faults, mut before) = (Vec::new(), 0);
    for SignedCheckpoint { number, checkpoint, .. } in signed.iter().filter(|s| s.checkpoint.epoch == epoch) {
        let Checkpoint { size, root, .. } = checkpoint;
        match usize::try_from(*size).ok().and_then(|size| roots.get(size)) {
            Some(true_root) if true_root == root => {}
            found => faults.push(format!("checkpoint {number} says {root} for size {size}, not {found:?}")),
        }
        if *size <= before {
            faults.push(format!("checkpoint {number} is of size {size}, after one of {before}"));
        }
        before = *size;
    }
    faults
}
