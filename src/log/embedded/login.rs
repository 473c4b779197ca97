//! The login of the embedded nats-server: one user with a random password, so that of the users of a machine only those get
//! in who can read the data directory.

use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::Context as _;

use crate::clock::SystemClock;
use crate::disk::private;

/// The one user of the server.
pub(super) const USER: &str = "tidings";

/// The characters of a password: 256 bits in hexadecimal.
const PASSWORD_LENGTH: usize = 64;

/// A login, which diagnostics do not show.
#[derive(Clone)]
pub(super) struct Login {
    password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl Login {
    /// A new one, which nobody can guess.
    pub(super) fn random() -> anyhow::Result<Self> {
        let mut password = String::with_capacity(PASSWORD_LENGTH);
        for byte in SystemClock::new_seed()? {
            write!(password, "{byte:02x}")?;
        }
        Ok(Self { password })
    }

    /// The one in this file, else a new one that is kept there.
    pub(super) fn kept_in(file: &Path) -> anyhow::Result<Self> {
        if file.exists() {
            let text = String::from_utf8(private::read_secret(file, "the password of the embedded NATS")?);
            let password = text.unwrap_or_default().trim_end().to_owned();
            if password.len() == PASSWORD_LENGTH && password.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Ok(Self { password });
            }
        }
        let login = Self::random()?;
        private::write_private(file, format!("{}\n", login.password))
            .context("keeping the password of the embedded NATS")?;
        Ok(login)
    }

    /// As the server's configuration has it.
    pub(super) fn password(&self) -> &str {
        &self.password
    }

    /// The URL by which clients get in on this port of this machine.
    pub(super) fn url(&self, port: u16) -> String {
        format!("nats://{USER}:{}@127.0.0.1:{port}", self.password)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_login_is_random_and_is_not_shown() {
        let (one, other) = (Login::random().unwrap(), Login::random().unwrap());
        assert_ne!(one.password, other.password);
        assert_eq!(one.password.len(), PASSWORD_LENGTH);
        assert!(!format!("{one:?}").contains(&one.password));
    }

    #[test]
    fn a_kept_login_is_the_same_until_its_file_is_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let first = Login::kept_in(&file).unwrap();
        assert_eq!(Login::kept_in(&file).unwrap().password, first.password);
        for damaged in ["", "short", "\u{fffd}\"}"] {
            fs::write(&file, damaged).unwrap();
            let next = Login::kept_in(&file).unwrap();
            assert_eq!(next.password.len(), PASSWORD_LENGTH);
            assert_ne!(next.password, first.password);
        }
    }
}
