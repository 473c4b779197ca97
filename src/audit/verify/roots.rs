//! What was signed of the log, and what this auditor has kept of it: roots that the log must have at certain sizes.

use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::checkpoints::{ExpectedRoot, SignedRoots};
use crate::audit::finding::{Finding, FindingKind};
use crate::audit::log_head::LogHead;
use crate::disk::private::write_private;
use crate::disk::read_small;
use crate::log::Epoch;
use crate::log::merkle::Hash;

/// What an auditor keeps between two verifications, in a file of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// Which log it was.
    pub epoch: Epoch,
    /// How far it went.
    pub size: u64,
    /// Its root there, as the auditor's own tool computed it.
    pub root: Hash,
    /// The newest checkpoint in it that was signed by a key that the auditor knows.
    pub checkpoint: Option<String>,
}

impl Baseline {
    /// Reads the file; `None` when there is none yet.
    pub fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        match read_small(file) {
            Ok(json) => serde_json::from_str(&json)
                .with_context(|| format!("{} is not what `audit verify` keeps", file.display()))
                .map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes the file whole.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let json = serde_json::to_string_pretty(self)?;
        write_private(file, json + "\n")
    }
}

/// Roots that differ which are kept; the rest is counted.
const MOST_DIFFERENT: usize = 1_000;

/// The number of what this auditor has kept: checkpoints count from 1.
const KEPT: u64 = 0;

fn kind(expected: ExpectedRoot) -> FindingKind {
    if expected.number == KEPT { FindingKind::Known } else { FindingKind::Checkpoint }
}

fn name(expected: ExpectedRoot) -> String {
    match expected.number {
        KEPT => "what this auditor kept".to_owned(),
        number => format!("checkpoint {number}"),
    }
}

/// Roots that the log must have, by size.
#[derive(Debug, Default)]
pub(super) struct ExpectedRoots {
    expected: Vec<ExpectedRoot>,
    /// How many of them were compared.
    compared: usize,
    /// How many of these were signed.
    compared_signed: u64,
    /// The newest checkpoint of this log.
    newest: Option<String>,
    /// The last size at which the log was as it should be.
    verified_up_to: u64,
    /// What the log differs from since then, with the log's root there. If something later is right again, it was
    /// these that were false; if not, it is the log.
    differs: Vec<(Hash, ExpectedRoot)>,
    differs_more: u64,
}

impl ExpectedRoots {
    /// Puts what was signed and what was kept in order, and reports what cannot be right whatever the log is.
    pub(super) fn of(
        head: LogHead,
        signed: &SignedRoots,
        known: Option<&Baseline>,
        report: &mut impl FnMut(Finding),
    ) -> Self {
        signed.report(report);
        let mut expected = signed.roots.clone();
        match known {
            Some(known) if known.epoch == head.epoch => {
                expected.push(ExpectedRoot { size: known.size, root: known.root, number: KEPT });
            }
            Some(known) => {
                let what = format!(
                    "the log has the epoch {}; the one verified before had {}",
                    head.epoch, known.epoch
                );
                report(Finding::of_all(FindingKind::Known, what));
            }
            None => {}
        }
        expected.sort_by_key(|expected| expected.size);
        let newest = signed.newest.as_ref().map(|(_, _, text)| text.clone());
        Self { expected, newest, ..Self::default() }
    }

    /// The next size at which there is something to compare.
    pub(super) fn next(&self) -> Option<u64> {
        self.expected.get(self.compared).map(|expected| expected.size)
    }

    /// Compares the log's root at a size with what is wanted there.
    pub(super) fn compare(&mut self, size: u64, root: Hash, report: &mut impl FnMut(Finding)) {
        let mut right = false;
        while let Some(expected) =
            self.expected.get(self.compared).copied().filter(|expected| expected.size == size)
        {
            self.compared += 1;
            self.compared_signed += u64::from(expected.number != KEPT);
            if expected.root == root {
                right = true;
            } else if self.differs.len() < MOST_DIFFERENT {
                self.differs.push((root, expected));
            } else {
                self.differs_more += 1;
            }
        }
        if !right {
            return;
        }
        self.verified_up_to = size;
        for (root, expected) in self.differs.drain(..) {
            let what = format!(
                "{} is false: it says {} for size {}, and the log has {root}, which is right as something else shows",
                name(expected),
                expected.root,
                expected.size
            );
            report(Finding::at(expected.size, kind(expected), what));
        }
        match std::mem::take(&mut self.differs_more) {
            0 => {}
            more => {
                report(Finding::of_all(
                    FindingKind::Checkpoint,
                    format!("{more} more checkpoints are false"),
                ));
            }
        }
    }

    /// The log has ended: whatever it still differs from was changed, and whatever is still wanted was cut off.
    pub(super) fn end(&mut self, last_sequence: u64, report: &mut impl FnMut(Finding)) {
        let later = self.differs.len().saturating_sub(1) as u64 + self.differs_more;
        if let Some((root, expected)) = self.differs.drain(..).next() {
            let more = if later == 0 {
                String::new()
            } else {
                format!(" ({later} later ones differ too, as they must)")
            };
            let what = format!(
                "something from {} to {} was changed: {} says {} for that size, and the log has {root}{more}",
                self.verified_up_to + 1,
                expected.size,
                name(expected),
                expected.root
            );
            report(Finding::at(expected.size, kind(expected), what));
        }
        let cut_off = self.expected.split_off(self.compared);
        let (kept, signed): (Vec<_>, Vec<_>) =
            cut_off.into_iter().partition(|expected| expected.number == KEPT);
        for expected in [kept, signed] {
            let Some(largest) = expected.last().copied() else { continue };
            let more = match expected.len() - 1 {
                0 => String::new(),
                more => format!(" ({more} earlier ones are of more than the log has, too)"),
            };
            let what = format!(
                "the tail is missing: {} is of {} places, and the log ends at {last_sequence}{more}",
                name(largest),
                largest.size
            );
            report(Finding::at(last_sequence, kind(largest), what));
        }
    }

    /// How many roots the log was compared with.
    pub(super) const fn compared(&self) -> u64 {
        self.compared as u64
    }

    /// How many of them were signed.
    pub(super) const fn compared_signed(&self) -> u64 {
        self.compared_signed
    }

    /// Up to where it is as it should be, by what was signed and kept.
    pub(super) const fn verified_up_to(&self) -> u64 {
        self.verified_up_to
    }

    /// The newest checkpoint of this log, as it stands there.
    pub(super) fn newest(&self) -> Option<&str> {
        self.newest.as_deref()
    }
}
