//! The data directory: one process at a time, and the few small files by which others find it.

use std::fs::{self, File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use thiserror::Error;
use tracing::warn;

use crate::clock::Clock;
use crate::disk::private;

/// Where the replica listens.
pub(super) const HTTP_URL: &str = "http.url";

/// Where its embedded NATS listens, with the login.
pub(super) const NATS_URL: &str = "nats.url";

/// The key that its checkpoints are signed with, if it made one itself, and the public half for auditors.
pub(super) const CHECKPOINT_KEY: &str = "checkpoint.key";
pub(super) const CHECKPOINT_PUBLIC_KEY: &str = "checkpoint.pub";

/// Locked by the process that has the directory, whose id stands in it.
const LOCK: &str = "lock";

/// The replica's name, when none was given.
const REPLICA: &str = "replica";

/// A data directory that this process has to itself.
pub(super) struct DataDir {
    path: PathBuf,
    /// Held until the process ends; the system releases it, however that happens.
    _lock: File,
}

/// Another process holds the lock of the directory.
#[derive(Debug, Error)]
#[error("another process uses the data directory {}; give this one its own with --data-dir", .path.display())]
pub(super) struct InUse {
    /// The directory.
    pub(super) path: PathBuf,
    /// The id of that process, if the lock file has it.
    pub(super) process: Option<String>,
}

impl DataDir {
    /// Creates the directory when it is missing, closes it to other users, and takes it. A directory of another user, and
    /// one that another process has, are errors.
    pub(super) fn take(path: &Path) -> anyhow::Result<Self> {
        private::create_directory(path).context("making the data directory")?;
        let path = canonical(path)?;
        private::secure_directory(&path)?;
        Self::lock(path)
    }

    /// Takes a directory that exists, whoever owns it: root looks after the directory of a service that is stopped.
    pub(super) fn take_existing(path: &Path) -> anyhow::Result<Self> {
        Self::lock(canonical(path)?)
    }

    fn lock(path: PathBuf) -> anyhow::Result<Self> {
        let lock = private::open_or_create(&path.join(LOCK));
        let mut lock = lock.with_context(|| {
            format!(
                "the data directory {} cannot be written to; --data-dir names another one",
                path.display()
            )
        })?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let process = read(&path, LOCK);
                bail!(InUse { path, process });
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("locking the data directory {}", path.display()));
            }
        }
        // For whoever wants to know: on a full disk the replica does without.
        if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
            warn!("the process id cannot be written into the lock: {error}");
        }
        let taken = Self { path, _lock: lock };
        taken.forget();
        Ok(taken)
    }

    /// Where the projection keeps its store.
    pub(super) fn projection(&self) -> PathBuf {
        self.join("projection")
    }

    /// A path inside.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The replica's name: the one given, else the one kept here, else a new one to keep.
    pub(super) fn replica(&self, given: Option<&str>, clock: &impl Clock) -> String {
        if let Some(name) = given.map(str::to_owned).or_else(|| read(&self.path, REPLICA)) {
            return name;
        }
        let id = clock.new_id().simple().to_string();
        // The last digits of a UUIDv7 are random, the first ones are the time.
        let name = format!("replica-{}", &id[20..]);
        if let Err(error) = self.write(REPLICA, &name) {
            warn!("the next start chooses another name: {error:#}");
        }
        name
    }

    /// Writes one of the small files whole.
    pub(super) fn write(&self, name: &str, line: &str) -> anyhow::Result<()> {
        private::write_private(&self.join(name), format!("{line}\n"))
    }

    /// Removes the addresses: nobody listens there any more.
    pub(super) fn forget(&self) {
        for name in [HTTP_URL, NATS_URL] {
            let _ = fs::remove_file(self.path.join(name));
        }
    }
}

fn canonical(path: &Path) -> anyhow::Result<PathBuf> {
    path.canonicalize().with_context(|| format!("finding the data directory {}", path.display()))
}

/// The line in one of the small files.
pub(super) fn read(directory: &Path, name: &str) -> Option<String> {
    let line = fs::read_to_string(directory.join(name)).ok()?.trim().to_owned();
    (!line.is_empty()).then_some(line)
}
