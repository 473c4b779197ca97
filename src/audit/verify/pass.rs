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
use crate::projection::ledger::{Folded, Ledger, Step};
use crate::projection::store::Store;
use crate::projection::tree::Tree;

/// The folder that the log is folded into is new and empty.
const OPEN_TIMEOUT: Duration = Duration::from_mins(1);

/// Everything that one pass carries along. Memory stays flat: what was folded is on disk, in a folder of its own.
pub(super) struct LogPass {
    checks: MessageChecks,
    pub(super) roots: ExpectedRoots,
    /// What replicas say of certain places.
    claimed: BTreeMap<u64, Vec<(String, Digest)>>,
    ledger: Ledger,
    pub(super) state: State,
    tree: Tree,
    steps: Vec<Step>,
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
            ledger: Ledger::from(cursor),
            state: State::default(),
            tree: Tree::default(),
            steps: Vec::new(),
            store: Store::open_scratch(folder.path(), OPEN_TIMEOUT)?,
            holes: None,
            repeats: 0,
            _folder: folder,
        })
    }

    /// Looks at the next place.
    pub(super) fn visit(&mut self, entry: &LogEntry, report: &mut impl FnMut(Finding)) -> anyhow::Result<()> {
        let step = Step::of(entry);
        match entry {
            LogEntry::Message(raw) => {
                self.report_holes(report);
                self.checks.check(raw, &step.what, report);
            }
            LogEntry::Hole(sequence) => {
                self.holes = Some((self.holes.map_or(*sequence, |(first, _)| first), *sequence));
            }
        }
        let sequence = step.sequence;
        self.steps.push(step);
        // What is compared at a place is compared when everything up to it, and nothing after it, is folded.
        if self.steps.len() >= MAX_BATCH || self.claimed.contains_key(&sequence) {
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
        let steps = std::mem::take(&mut self.steps);
        let Self { ledger, store, state, tree, repeats, .. } = self;
        let tell = |state: &State, folded: Folded| match without_effect(state, &folded) {
            Effect::Missing(why) => report(Finding::at(folded.recorded.sequence, FindingKind::Order, why)),
            Effect::Repeated => *repeats += 1,
            Effect::Applied => {}
        };
        ledger.fold_and_write(store, state, tree, steps, tell)?;
        let sequence = self.sequence();
        while let Some(size) = self.roots.next().filter(|size| *size <= sequence) {
            let Some(root) = self.tree.root_at(size) else { break };
            self.roots.compare(size, root, report);
        }
        for (name, digest) in self.claimed.remove(&sequence).into_iter().flatten() {
            if digest != self.state.digest {
                let what = format!(
                    "replica {name} has the digest {digest}, and the log gives {}",
                    self.state.digest
                );
                report(Finding::at(sequence, FindingKind::Replica, what));
            }
        }
        Ok(())
    }

    /// How far it has come.
    pub(super) const fn sequence(&self) -> u64 {
        self.tree.now().size()
    }

    /// The root of what was walked over.
    pub(super) fn root(&self) -> Hash {
        self.tree.now().root()
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

fn without_effect(state: &State, Folded { recorded, change, .. }: &Folded) -> Effect {
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
