//! Checkpoints: the root of the log's tree at a size, in the C2SP form (tlog-checkpoint) that a signed note carries.
//!
//! ```text
//! {log}/{epoch}       the origin: the name of the key that signs, and the identity of the log
//! {size}              leaves: the last sequence
//! {root}              in base64
//! ```
//!
//! The form wants an origin for each log, and a log whose stream was provisioned anew is another one; so the epoch is part of it, while the
//! key keeps its name.

use std::fmt;
use std::str::FromStr;

use super::note::{KeyName, Note, PublicKey};
use crate::log::Epoch;
use crate::log::merkle::Hash;

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log, by the name of its key.
    pub log: KeyName,
    /// The identity of the log.
    pub epoch: Epoch,
    /// Leaves of the tree.
    pub size: u64,
    /// Its root.
    pub root: Hash,
}

impl Checkpoint {
    /// The first line.
    pub fn origin(&self) -> String {
        format!("{}/{}", self.log.as_str(), self.epoch)
    }
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n{}\n", self.origin(), self.size, self.root)
    }
}

impl FromStr for Checkpoint {
    type Err = String;

    /// Lines after the third are extensions, which say nothing about the tree.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.strip_suffix('\n').ok_or("its last line has no end")?.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty()).ok_or("a checkpoint has three lines");
        let (origin, size, root) = (line()?, line()?, line()?);
        let (log, epoch) = origin.rsplit_once('/').ok_or("its origin does not end in an epoch")?;
        let number: u64 = size.parse().map_err(|_| "its size is no number")?;
        // One spelling: neither `+1` nor `01`.
        if number.to_string() != size {
            return Err("its size is no number".to_owned());
        }
        Ok(Self { log: log.parse()?, epoch: epoch.parse()?, size: number, root: root.parse()? })
    }
}

/// A checkpoint, and the note that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// With its signatures, as it stands in the stream.
    pub note: Note,
}

impl SignedCheckpoint {
    /// Reads a note that one of these keys has signed; without any keys, whoever signed it.
    pub fn read(text: &str, trusted: &[PublicKey]) -> Result<Self, String> {
        let note: Note = text.parse()?;
        if !trusted.is_empty() {
            note.verified_by(trusted).map_err(|e| e.to_string())?;
        }
        Ok(Self { checkpoint: note.text().parse()?, note })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notary::note::SecretKey;

    #[test]
    fn a_checkpoint_is_written_and_read() {
        let checkpoint = Checkpoint {
            log: "example.com/tidings".parse().unwrap(),
            epoch: Epoch::from_bits(0x1f),
            size: 20_852_163,
            root: Hash::empty(),
        };
        let text = checkpoint.to_string();
        assert_eq!(
            text,
            "example.com/tidings/000000000000001f\n20852163\n\
             47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n"
        );
        assert_eq!(text.parse(), Ok(checkpoint.clone()));
        assert_eq!(format!("{text}more\n").parse(), Ok(checkpoint));
        for bad in [
            "",
            "a/0000000000000001\n1\n",
            &text.replace("20852163", "020852163"),
            &text.replace("20852163", "-1"),
            &text.replace("1f\n", "1F\n"),
            &text.replace("SuFU=", "="),
            text.trim_end(),
        ] {
            assert!(bad.parse::<Checkpoint>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_those_who_are_known_count_and_everybody_when_nobody_is() {
        let [ours, stranger] = [1, 2].map(|seed| SecretKey::new("a.example".parse().unwrap(), &[seed; 32]));
        let checkpoint = Checkpoint {
            log: "a.example".parse().unwrap(),
            epoch: Epoch::from_bits(1),
            size: 3,
            root: Hash::empty(),
        };
        let signed =
            |key: &SecretKey| Note::sign(checkpoint.to_string(), std::slice::from_ref(key)).to_string();
        let trusted = [ours.public().clone()];
        let read = |text: &str, keys: &[PublicKey]| {
            SignedCheckpoint::read(text, keys).map(|signed| signed.checkpoint)
        };
        assert_eq!(read(&signed(&ours), &trusted).as_ref(), Ok(&checkpoint));
        assert!(read(&signed(&stranger), &trusted).is_err_and(|why| why.contains("none of the keys")));
        assert_eq!(read(&signed(&stranger), &[]).as_ref(), Ok(&checkpoint));
        let forged = signed(&ours).replace("\n3\n", "\n4\n");
        assert!(read(&forged, &trusted).is_err_and(|why| why.contains("not of this text")));
        assert!(read("garbage", &[]).is_err());
        let other = Note::sign("hello\n".to_owned(), std::slice::from_ref(&ours)).to_string();
        assert!(read(&other, &trusted).is_err_and(|why| why.contains("three lines")));
    }
}
