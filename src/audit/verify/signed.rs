//! What was signed of the log, and what this auditor has kept of it: roots that the log must have at certain sizes.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::audit::finding::{Finding, Kind};
use crate::audit::source::Head;
use crate::log::Epoch;
use crate::log::merkle::Hash;
use crate::notary::checkpoint::Checkpoint;
use crate::notary::note::{Note, PublicKey, Unproven};
use crate::notary::stream::Noted;

/// What an auditor keeps between two verifications, in a file of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Known {
    /// Which log it was.
    pub epoch: Epoch,
    /// How far it went.
    pub size: u64,
    /// Its root there, as the auditor's own tool computed it.
    pub root: Hash,
    /// The newest checkpoint in it that was signed by a key that the auditor knows.
    pub checkpoint: Option<String>,
}

impl Known {
    /// Reads the file; `None` when there is none yet.
    pub fn read(file: &Path) -> anyhow::Result<Option<Self>> {
        match fs::read(file) {
            Ok(json) => serde_json::from_slice(&json)
                .with_context(|| format!("{} is not what `audit verify` keeps", file.display()))
                .map(Some),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", file.display())),
        }
    }

    /// Writes the file whole.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let unfinished = file.with_extension("new");
        let json = serde_json::to_string_pretty(self)?;
        fs::write(&unfinished, json + "\n")
            .and_then(|()| fs::rename(&unfinished, file))
            .with_context(|| format!("writing {}", file.display()))
    }
}

/// A root that the log must have, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    root: Hash,
    /// The number of the checkpoint that was signed; `None`: this auditor has kept it.
    signed: Option<u64>,
}

impl Wanted {
    fn kind(&self) -> Kind {
        if self.signed.is_some() { Kind::Checkpoint } else { Kind::Known }
    }

    fn who(&self) -> String {
        self.signed
            .map_or_else(|| "what this auditor kept".to_owned(), |number| format!("checkpoint {number}"))
    }
}

/// Roots that the log must have, by size.
#[derive(Debug, Default)]
pub(super) struct Roots {
    wanted: BTreeMap<u64, Vec<Wanted>>,
    /// The newest checkpoint of this log: its size, its root, and how it stands there.
    newest: Option<(u64, Hash, String)>,
    /// The last size at which the log was as it should be.
    right_up_to: u64,
    /// What the log differs from since then, with its size and the log's root there. If something later is right again, it was
    /// these that were false; if not, it is the log.
    differs: Vec<(u64, Hash, Wanted)>,
    compared: u64,
}

impl Roots {
    /// Reads what was signed and what was kept, and tells of what cannot be right whatever the log says.
    pub(super) fn of(
        head: Head,
        checkpoints: &[Noted],
        keys: &[PublicKey],
        known: Option<&Known>,
        report: &mut impl FnMut(Finding),
    ) -> Self {
        let mut roots = Self::default();
        let mut of_others = BTreeMap::<Epoch, (u64, u64)>::new();
        for noted in checkpoints {
            if let Err(why) = roots.take(head, noted, keys, &mut of_others) {
                report(Finding::of_all(Kind::Checkpoint, format!("checkpoint {}: {why}", noted.number)));
            }
        }
        for (epoch, (first, last)) in of_others {
            let which = if first == last {
                format!("checkpoint {first} is")
            } else {
                format!("checkpoints {first} to {last} are")
            };
            let what = format!("{which} of another log, with the epoch {epoch}; this one has {}", head.epoch);
            report(Finding::of_all(Kind::Checkpoint, what));
        }
        if let Some(known) = known {
            if known.epoch == head.epoch {
                roots.want(known.size, Wanted { root: known.root, signed: None });
            } else {
                let what = format!(
                    "the log has the epoch {}; the one verified before had {}",
                    head.epoch, known.epoch
                );
                report(Finding::of_all(Kind::Known, what));
            }
        }
        roots
    }

    fn take(
        &mut self,
        head: Head,
        noted: &Noted,
        keys: &[PublicKey],
        of_others: &mut BTreeMap<Epoch, (u64, u64)>,
    ) -> Result<(), String> {
        let note: Note = noted.text.parse()?;
        let checkpoint: Checkpoint = note.text().parse()?;
        if !keys.is_empty() {
            match note.verified_by(keys) {
                Ok(_) => {}
                Err(unproven @ Unproven::Forged(_)) => return Err(unproven.to_string()),
                Err(Unproven::NobodyKnown) => return Err("it is signed by none of the keys given".to_owned()),
            }
        }
        if checkpoint.epoch != head.epoch {
            // A log that was begun anew is said once, not once for each time that the old one was signed.
            of_others.entry(checkpoint.epoch).or_insert((noted.number, noted.number)).1 = noted.number;
            return Ok(());
        }
        let Checkpoint { size, root, .. } = checkpoint;
        self.want(size, Wanted { root, signed: Some(noted.number) });
        match self.newest {
            Some((before, _, _)) if size < before => {
                return Err(format!("it is of size {size}, and one of size {before} came before it"));
            }
            Some((before, other, _)) if size == before && root != other => {
                return Err(format!(
                    "it forks the log: it signs {root} for size {size}, and the one before it {other}"
                ));
            }
            _ => self.newest = Some((size, root, noted.text.clone())),
        }
        Ok(())
    }

    fn want(&mut self, size: u64, wanted: Wanted) {
        self.wanted.entry(size).or_default().push(wanted);
    }

    /// The next size at which there is something to compare.
    pub(super) fn next(&self) -> Option<u64> {
        self.wanted.keys().next().copied()
    }

    /// Holds the log to what is wanted at a size.
    pub(super) fn compare(&mut self, size: u64, root: Hash, report: &mut impl FnMut(Finding)) {
        let wanted = self.wanted.remove(&size).unwrap_or_default();
        self.compared += wanted.len() as u64;
        let (right, wrong): (Vec<_>, Vec<_>) = wanted.into_iter().partition(|wanted| wanted.root == root);
        self.differs.extend(wrong.into_iter().map(|wanted| (size, root, wanted)));
        if right.is_empty() {
            return;
        }
        self.right_up_to = size;
        for (size, root, wanted) in self.differs.drain(..) {
            let what = format!(
                "{} is false: it says {} for size {size}, and the log has {root}, which is right as something else shows",
                wanted.who(),
                wanted.root
            );
            report(Finding { kind: wanted.kind(), sequence: Some(size), what });
        }
    }

    /// The log has ended: whatever it still differs from was changed, and whatever is still wanted was cut off.
    pub(super) fn end(&mut self, last_sequence: u64, report: &mut impl FnMut(Finding)) {
        let later = self.differs.len().saturating_sub(1);
        if let Some((size, root, wanted)) = self.differs.drain(..).next() {
            let more = if later == 0 {
                String::new()
            } else {
                format!(" ({later} later ones differ too, as they must)")
            };
            let what = format!(
                "something from {} to {size} was changed: {} says {} for size {size}, and the log has {root}{more}",
                self.right_up_to + 1,
                wanted.who(),
                wanted.root
            );
            report(Finding { kind: wanted.kind(), sequence: Some(size), what });
        }
        for (size, wanted) in std::mem::take(&mut self.wanted) {
            for wanted in wanted {
                let what = format!(
                    "the tail is missing: {} is of {size} places, and the log ends at {last_sequence}",
                    wanted.who()
                );
                report(Finding { kind: wanted.kind(), sequence: Some(last_sequence), what });
            }
        }
    }

    /// How many roots the log was held to.
    pub(super) const fn compared(&self) -> u64 {
        self.compared
    }

    /// Up to where it is as it should be, by what was signed and kept.
    pub(super) const fn right_up_to(&self) -> u64 {
        self.right_up_to
    }

    /// The newest checkpoint of this log, as it stands there.
    pub(super) fn newest(&self) -> Option<&str> {
        self.newest.as_ref().map(|(_, _, text)| text.as_str())
    }
}
