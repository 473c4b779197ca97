//! The walk: one pass over the log that folds it as a replica does, grows its tree, and looks at every place.

use std::collections::BTreeMap;
use std::time::Duration;

use tempfile::TempDir;

use super::checks::MessageChecks;
use super::live::ReplicaReport;
use super::roots::ExpectedRoots;

use crate::audit::finding::{Finding, FindingKind};
use crate::audit::log_head::LogHead;
use crate::domain::{Change, Digest, Event, Recorded, State};
use crate::log::merkle::Hash;
use crate::log::reader::{LogEntry, MAX_BATCH};
use crate::projection::cursor::CursorRecord;
use crate::projection::decoded_entry::DecodedEntry;
use crate::projection::materializer::{Applied, Materializer};
use crate::projection::store::Store;

/// The folder that the log is folded into is new and empty.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that one pass carries along. Memory stays flat: what was folded is on disk, in a folder of its own.
pub(super) struct LogPass {
    checks: MessageChecks,
    pub(super) roots: ExpectedRoots,
    /// What replicas say of certain places.
    claimed: BTreeMap<u64, Vec<(String, Digest)>>,
    materializer: Materializer,
    /// Checked, and not applied yet.
    entries: Vec<DecodedEntry>,
    pub(super) store: Store,
    /// The first and the last of the lost messages before the next place.
    holes: Option<(u64, u64)>,
    /// Events without an effect that is not a fault: a user who had acknowledged.
    pub(super) repeats: u64,
    /// Goes last, when the store is closed.
    _folder: TempDir,
}

impl LogPass {
    pub(super) fn new(
        head: LogHead,
        roots: ExpectedRoots,
        replicas: &[ReplicaReport],
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("tidings-verify-")?;
        let cursor = CursorRecord::of(head.epoch);
        let mut claimed = BTreeMap::<u64, Vec<_>>::new();
        for replica in replicas.iter().filter(|replica| replica.epoch == Some(head.epoch)) {
            for (sequence, digest) in replica.digests {
                claimed.entry(sequence).or_default().push((replica.name.clone(), digest));
            }
        }
        Ok(Self {
            checks: MessageChecks::new()?,
            roots,
            claimed,
            materializer: Materializer::new(State::default(), cursor),
            entries: Vec::new(),
            store: Store::open_scratch(folder.path(), OPEN_TIMEOUT)?,
            holes: None,
            repeats: 0,
            _folder: folder,
        })
    }

    /// Looks at the next place.
    pub(super) fn visit(&mut self, entry: &LogEntry, report: &mut impl FnMut(Finding)) -> anyhow::Result<()> {
        let decoded = DecodedEntry::of(entry);
        match entry {
            LogEntry::Message(raw) => {
                self.report_holes(report);
                self.checks.check(raw, &decoded.kind, report);
            }
            LogEntry::Hole(sequence) => {
                self.holes = Some((self.holes.map_or(*sequence, |(first, _)| first), *sequence));
            }
        }
        let sequence = decoded.sequence;
        self.entries.push(decoded);
        // What is compared at a place is compared when everything up to it, and nothing after it, is folded.
        if self.entries.len() >= MAX_BATCH || self.claimed.contains_key(&sequence) {
            self.fold(report)?;
        }
        Ok(())
    }

    /// Reports lost messages that follow each other, once.
    fn report_holes(&mut self, report: &mut impl FnMut(Finding)) {
        if let Some((first, last)) = self.holes.take() {
            report(Finding::hole(first, last));
        }
    }

    /// The log has ended.
    pub(super) fn end(&mut self, last_sequence: u64, report: &mut impl FnMut(Finding)) -> anyhow::Result<()> {
        self.fold(report)?;
        self.report_holes(report);
        self.roots.end(last_sequence, report);
        Ok(())
    }

    /// Folds what has been looked at.
    fn fold(&mut self, report: &mut impl FnMut(Finding)) -> anyhow::Result<()> {
        let entries = std::mem::take(&mut self.entries);
        let Self { materializer, store, repeats, .. } = self;
        let on_applied = |state: &State, applied: Applied| match without_effect(state, &applied) {
            Effect::Missing(why) => report(Finding::at(applied.recorded.sequence, FindingKind::Order, why)),
            Effect::Repeated => *repeats += 1,
            Effect::Applied => {}
        };
        materializer.apply_and_write(store, entries, on_applied)?;
        let sequence = self.sequence();
        while let Some(size) = self.roots.next().filter(|size| *size <= sequence) {
            let Some(root) = self.materializer.tree.root_at(size) else { break };
            self.roots.compare(size, root, report);
        }
        for (name, digest) in self.claimed.remove(&sequence).into_iter().flatten() {
            if digest != self.state().digest {
                let what = format!(
                    "replica {name} has the digest {digest}, and the log gives {}",
                    self.state().digest
                );
                report(Finding::at(sequence, FindingKind::Replica, what));
            }
        }
        Ok(())
    }

    /// The state of the log up to there.
    pub(super) const fn state(&self) -> &State {
        &self.materializer.state
    }

    /// How far it has come.
    pub(super) const fn sequence(&self) -> u64 {
        self.materializer.tree.now().size()
    }

    /// The root of what was walked over.
    pub(super) fn root(&self) -> Hash {
        self.materializer.tree.now().root()
    }
}

/// What an event did.
enum Effect {
    Applied,
    /// Nothing, and that can be: several replicas took the same thing in.
    Repeated,
    /// Nothing, and that cannot be where every guard was held.
    Missing(String),
}

fn without_effect(state: &State, Applied { recorded, change, .. }: &Applied) -> Effect {
    let Recorded { late, event, channel, .. } = recorded;
    let id = event.broadcast_id();
    let is_known = state.broadcast(id).is_some_and(|known| known.channel == *channel);
    match (change, event) {
        (Change::Nothing, Event::Acknowledged(_)) if !is_known => {
            Effect::Missing(format!("it acknowledges {id}, which was not created before it in {channel}"))
        }
        (Change::Nothing, Event::Acknowledged(_)) => Effect::Repeated,
        (Change::Nothing, _) if *late => Effect::Repeated,
        (Change::Nothing, Event::Created(_)) => Effect::Missing(format!("it creates {id} once more")),
        (Change::Nothing, Event::Cleared(_)) => {
            Effect::Missing(format!("it clears {id}, which was not active"))
        }
        _ => Effect::Applied,
    }
}
