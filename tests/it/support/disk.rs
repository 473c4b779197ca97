//! A disk of a few megabytes that a test has to itself, to be filled up or made read-only. It takes root to mount one.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Unmounted when this value goes, also when a test fails. What runs on it must go before.
pub struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// One of so many megabytes.
    pub fn of_megabytes(megabytes: usize) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-disk-").tempdir().unwrap();
        let size = format!("size={megabytes}m");
        let place = directory.path().to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", &size, "tidings-test", place]);
        Self { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filling(&self) -> PathBuf {
        self.path().join("filling")
    }

    /// Leaves no room at all.
    pub fn fill(&self) {
        let mut file = File::options().create(true).append(true).open(self.filling()).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&[0xA5; 4_096]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
    }

    /// Gives the room back that was taken by filling it.
    pub fn make_room(&self) {
        fs::remove_file(self.filling()).unwrap();
    }

    /// Lets nobody write any more, or again. Nobody may have a file open for writing.
    pub fn become_read_only(&self, read_only: bool) {
        let how = if read_only { "remount,ro" } else { "remount,rw" };
        run("mount", &["-o", how, self.path().to_str().unwrap()]);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that was killed a moment ago may still be on its way out.
        let _ = Command::new("umount").arg("--lazy").arg(self.path()).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "this test takes root, to mount a small disk (tmpfs): {program}: {said}"
    );
}
