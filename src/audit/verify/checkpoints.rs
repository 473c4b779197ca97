//! The checkpoints that a log is held to: read once, in order, and kept as size and root alone.

use std::collections::BTreeMap;
use std::thread;

use crate::audit::finding::{Finding, FindingKind};
use crate::log::Epoch;
use crate::log::merkle::Hash;
use crate::notary::checkpoint::{Checkpoint, InvalidCheckpoint};
use crate::notary::note::{InvalidNote, Note, PublicKey, VerifyError};
use crate::notary::stream::StoredCheckpoint;

/// Different faults of checkpoints that are kept, and other logs that are named; the rest is counted.
const MAX_FAULTS: usize = 1_000;

/// A root that the log must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpectedRoot {
    pub(super) size: u64,
    pub(super) root: Hash,
    /// The number of the checkpoint that says so.
    pub(super) number: u64,
}

/// Checkpoints one after the other that have the same fault.
#[derive(Debug)]
struct CheckpointFault {
    first: u64,
    last: u64,
    what: String,
}

/// What the checkpoints of one log say. It keeps 48 bytes of each.
#[derive(Debug, Default)]
pub struct SignedRoots {
    /// Which log; `None`: nothing was read.
    epoch: Option<Epoch>,
    keys: Vec<PublicKey>,
    pub(super) roots: Vec<ExpectedRoot>,
    /// The newest checkpoint of this log: its size, its root, and its text in the stream.
    pub(super) newest: Option<(u64, Hash, String)>,
    /// The first and the last checkpoint of each other log.
    of_others: BTreeMap<Epoch, (u64, u64)>,
    faults: Vec<CheckpointFault>,
    more_faults: u64,
}

impl SignedRoots {
    /// For a log. Only what one of these keys has signed counts; without any keys, signatures are not checked.
    pub fn of(epoch: Epoch, keys: Vec<PublicKey>) -> Self {
        Self { epoch: Some(epoch), keys, ..Self::default() }
    }

    /// Whether no key was given.
    pub const fn checks_no_signature(&self) -> bool {
        self.keys.is_empty()
    }

    /// Which log it is of.
    pub(super) const fn epoch(&self) -> Option<Epoch> {
        self.epoch
    }

    /// Reads what stands next in the stream of checkpoints, on all cores.
    pub fn take(&mut self, batch: &[StoredCheckpoint]) {
        for (stored, read) in batch.iter().zip(read_all(batch, &self.keys)) {
            if let Err(what) = read.and_then(|checkpoint| self.take_one(stored, &checkpoint)) {
                self.fault(stored.number, what);
            }
        }
    }

    fn take_one(&mut self, stored: &StoredCheckpoint, checkpoint: &Checkpoint) -> Result<(), String> {
        let Checkpoint { size, root, epoch, .. } = *checkpoint;
        if Some(epoch) != self.epoch {
            // A log that was begun anew is said once, not once for each time that the old one was signed.
            if self.of_others.len() < MAX_FAULTS || self.of_others.contains_key(&epoch) {
                self.of_others.entry(epoch).or_insert((stored.number, stored.number)).1 = stored.number;
            } else {
                self.more_faults += 1;
            }
            return Ok(());
        }
        self.roots.push(ExpectedRoot { size, root, number: stored.number });
        match &mut self.newest {
            Some((before, _, _)) if size < *before => {
                Err(format!("it is of size {size}, and one of size {before} came before it"))
            }
            Some((before, other, _)) if size == *before && root != *other => Err(format!(
                "it forks the log: it signs {root} for size {size}, and the one before it {other}"
            )),
            Some((before, other, text)) => {
                (*before, *other) = (size, root);
                text.clone_from(&stored.text);
                Ok(())
            }
            newest => {
                *newest = Some((size, root, stored.text.clone()));
                Ok(())
            }
        }
    }

    fn fault(&mut self, number: u64, what: String) {
        let kept = self.faults.len();
        match self.faults.last_mut() {
            Some(last) if last.what == what => last.last = number,
            _ if kept < MAX_FAULTS => {
                self.faults.push(CheckpointFault { first: number, last: number, what });
            }
            _ => self.more_faults += 1,
        }
    }

    /// Reports what is wrong with the checkpoints, whatever the log is: once for those that follow each other.
    pub(super) fn report(&self, report: &mut impl FnMut(Finding)) {
        let mut find = |what: String| report(Finding::of_all(FindingKind::Checkpoint, what));
        for CheckpointFault { first, last, what } in &self.faults {
            find(if first == last {
                format!("checkpoint {first}: {what}")
            } else {
                format!("checkpoints {first} to {last}: {what}")
            });
        }
        for (epoch, (first, last)) in &self.of_others {
            let which = if first == last {
                format!("checkpoint {first} is")
            } else {
                format!("checkpoints {first} to {last} are")
            };
            let this = self.epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
            find(format!("{which} of another log, with the epoch {epoch}; this one has {this}"));
        }
        if self.more_faults > 0 {
            find(format!("{} more checkpoints have a fault", self.more_faults));
        }
    }
}

/// Reads each on its own. A signature takes longer to check than everything else of it.
fn read_all(batch: &[StoredCheckpoint], keys: &[PublicKey]) -> Vec<Result<Checkpoint, String>> {
    let read = |part: &[StoredCheckpoint]| part.iter().map(|stored| read(stored, keys)).collect::<Vec<_>>();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(8);
    let share = batch.len().div_ceil(threads).max(16);
    if keys.is_empty() || batch.len() <= share {
        return read(batch);
    }
    thread::scope(|scope| {
        let parts: Vec<_> = batch.chunks(share).map(|part| (part, scope.spawn(move || read(part)))).collect();
        // A thread that has panicked has read nothing: then it is read here, and panics here.
        let joined = parts.into_iter().map(|(part, thread)| thread.join().unwrap_or_else(|_| read(part)));
        joined.flatten().collect()
    })
}

fn read(stored: &StoredCheckpoint, keys: &[PublicKey]) -> Result<Checkpoint, String> {
    let note: Note = stored.text.parse().map_err(|error: InvalidNote| error.to_string())?;
    let checkpoint = note.text().parse().map_err(|error: InvalidCheckpoint| error.to_string())?;
    if !keys.is_empty() {
        match note.verified_by(keys) {
            Ok(_) => {}
            Err(unproven @ VerifyError::InvalidSignature(_)) => return Err(unproven.to_string()),
            Err(VerifyError::NoTrustedKey) => {
                return Err(
                    "signed by none of the keys given. If a key was replaced, give the old one, too: \
                     --key new.pub --key old.pub"
                        .to_owned(),
                );
            }
        }
    }
    Ok(checkpoint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notary::note::SecretKey;

    const EPOCH: Epoch = Epoch::from_bits(1);

    fn key(seed: u8) -> SecretKey {
        SecretKey::new("example.com/log".parse().unwrap(), &[seed; 32])
    }

    fn stored(number: u64, key: &SecretKey) -> StoredCheckpoint {
        let root = Hash::leaf(&number.to_be_bytes());
        let log = key.public().name().clone();
        let checkpoint = Checkpoint { log, epoch: EPOCH, size: number * 10, root };
        let text = Note::sign(checkpoint.to_string(), std::slice::from_ref(key)).to_string();
        StoredCheckpoint { number, time_ns: 0, text }
    }

    fn findings(signed: &SignedRoots) -> Vec<String> {
        let mut found = Vec::new();
        signed.report(&mut |finding| found.push(finding.what));
        found
    }

    #[test]
    fn checkpoints_of_a_retired_key_are_one_finding_and_none_when_it_is_given_too() {
        let (old, new) = (key(1), key(2));
        let all: Vec<_> =
            (1..=90).map(|number| stored(number, if number <= 80 { &old } else { &new })).collect();
        let mut signed = SignedRoots::of(EPOCH, vec![new.public().clone()]);
        all.chunks(64).for_each(|batch| signed.take(batch));
        let found = findings(&signed);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("checkpoints 1 to 80: signed by none of the keys given"), "{found:?}");
        assert!(found[0].contains("--key old.pub"), "{found:?}");
        assert_eq!(signed.roots.len(), 10);
        let mut signed = SignedRoots::of(EPOCH, vec![new.public().clone(), old.public().clone()]);
        signed.take(&all);
        assert_eq!((findings(&signed), signed.roots.len()), (vec![], 90));
    }

    #[test]
    fn what_is_wrong_with_checkpoints_is_bounded_and_the_rest_is_counted() {
        let mut signed = SignedRoots::of(EPOCH, vec![]);
        let junk = |number: u64| StoredCheckpoint {
            number,
            time_ns: 0,
            text: format!("a/{number}\n1\n\n— a AAAAAA==\n"),
        };
        signed.take(&(1..=5_000).map(junk).collect::<Vec<_>>());
        signed.take(&(5_001..=9_000).map(|number| stored(10_000 - number, &key(1))).collect::<Vec<_>>());
        let found = findings(&signed);
        assert!(found.len() <= MAX_FAULTS + 1, "{}", found.len());
        assert!(found.last().unwrap().ends_with("more checkpoints have a fault"), "{:?}", found.last());
    }
}
