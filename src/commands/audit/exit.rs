//! The exit codes of all audit commands: a cron job can tell a changed log from a mistyped path.

use thiserror::Error;

use crate::audit::proof::ProofError;

/// Something is wrong with the log, nothing is proven, or there is no such thing to prove.
pub(super) const FOUND: u8 = 1;
/// The arguments are wrong.
pub(super) const USAGE: u8 = 2;
/// The log, a file or a key could not be read, or the result could not be written: nothing is known.
pub(super) const NOT_READ: u8 = 3;
/// Nothing is wrong with it, but nobody has signed it, or not as far as asked for.
pub(super) const UNSIGNED: u8 = 4;

/// Arguments that can be parsed, but do not make sense.
#[derive(Debug, Error)]
#[error("{0}")]
pub(super) struct WrongUsage(pub(super) String);

/// The code for what made a command fail.
pub(super) fn code_of(error: &anyhow::Error) -> u8 {
    match error.downcast_ref::<ProofError>() {
        Some(ProofError::NoCheckpoint | ProofError::NotSigned(..)) => UNSIGNED,
        Some(_) => FOUND,
        None if error.is::<WrongUsage>() => USAGE,
        None => NOT_READ,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_apart_by_exit_code() {
        assert_eq!(code_of(&ProofError::NoCheckpoint.into()), UNSIGNED);
        assert_eq!(code_of(&ProofError::NotSigned(2, 1).into()), UNSIGNED);
        assert_eq!(code_of(&ProofError::Differs(2).into()), FOUND);
        assert_eq!(code_of(&WrongUsage("a key".to_owned()).into()), USAGE);
        assert_eq!(code_of(&anyhow::anyhow!("NATS does not answer")), NOT_READ);
    }
}
