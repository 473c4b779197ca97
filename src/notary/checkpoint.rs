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

use thiserror::Error;

use super::note::{InvalidKey, InvalidNote, KeyName, Note, PublicKey, VerifyError};
use crate::log::epoch::{Epoch, InvalidEpoch};
use crate::log::merkle::{Hash, InvalidHash};

/// The statement that is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The name of the log, which is that of its key.
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

/// A text is not a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidCheckpoint {
    /// The last newline is missing.
    #[error("its last line has no newline")]
    NoNewline,
    /// Fewer than three lines, or an empty one among them.
    #[error("a checkpoint has three lines: origin, size and root")]
    Lines,
    /// The origin is not a key's name, a slash and an epoch.
    #[error(
        "its origin is not the name of a log and its epoch, such as example.com/tidings/9f2c41d07be3a865"
    )]
    Origin,
    /// The name in the origin is not one of a key.
    #[error("in its origin, {0}")]
    Name(#[from] InvalidKey),
    /// The epoch in the origin is none.
    #[error("in its origin, {0}")]
    Epoch(#[from] InvalidEpoch),
    /// The size is not a decimal number in its shortest form.
    #[error("its size is not a decimal number")]
    Size,
    /// The root is no hash.
    #[error("its root is invalid: {0}")]
    Root(#[from] InvalidHash),
}

/// Why a text is not accepted as a signed checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CheckpointError {
    /// It is not a signed note.
    #[error(transparent)]
    Note(#[from] InvalidNote),
    /// No trusted key has signed it.
    #[error(transparent)]
    Signature(#[from] VerifyError),
    /// What was signed is not a checkpoint.
    #[error(transparent)]
    Checkpoint(#[from] InvalidCheckpoint),
}

impl FromStr for Checkpoint {
    type Err = InvalidCheckpoint;

    /// Lines after the third are extensions, which are ignored.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut lines = text.strip_suffix('\n').ok_or(InvalidCheckpoint::NoNewline)?.split('\n');
        let mut line = || lines.next().filter(|line| !line.is_empty()).ok_or(InvalidCheckpoint::Lines);
        let (origin, size, root) = (line()?, line()?, line()?);
        let (log, epoch) = origin.rsplit_once('/').ok_or(InvalidCheckpoint::Origin)?;
        let number: u64 = size.parse().map_err(|_| InvalidCheckpoint::Size)?;
        // One spelling: neither `+1` nor `01`.
        if number.to_string() != size {
            return Err(InvalidCheckpoint::Size);
        }
        Ok(Self { log: log.parse()?, epoch: epoch.parse()?, size: number, root: root.parse()? })
    }
}

/// A checkpoint, and the note that carries it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedCheckpoint {
    /// What was signed.
    pub checkpoint: Checkpoint,
    /// With its signatures, as it is in the stream.
    pub note: Note,
}

impl SignedCheckpoint {
    /// Reads a note that one of these keys has signed; without keys, signatures are not checked.
    pub fn read(text: &str, trusted: &[PublicKey]) -> Result<Self, CheckpointError> {
        let note: Note = text.parse()?;
        if !trusted.is_empty() {
            note.verified_by(trusted)?;
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
        assert!(
            read(&signed(&stranger), &trusted).is_err_and(|why| why.to_string().contains("none of the keys"))
        );
        assert_eq!(read(&signed(&stranger), &[]).as_ref(), Ok(&checkpoint));
        let forged = signed(&ours).replace("\n3\n", "\n4\n");
        assert!(read(&forged, &trusted).is_err_and(|why| why.to_string().contains("not of this text")));
        assert!(read("garbage", &[]).is_err());
        let other = Note::sign("hello\n".to_owned(), std::slice::from_ref(&ours)).to_string();
        assert!(read(&other, &trusted).is_err_and(|why| why.to_string().contains("three lines")));
    }
}
