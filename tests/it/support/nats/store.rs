//! What a server has on disk: damaged, copied, put back or deleted while it does not run.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Nats;

impl Nats {
    /// The folder of the streams on disk.
    pub fn store(&self) -> PathBuf {
        self.store.clone()
    }

    /// Flips a bit of the first stored message that contains these words. It must not be running.
    pub fn damage(&self, words: &str) {
        assert!(self.child.is_none(), "stop it first");
        let stored = files_below(&self.store())
            .into_iter()
            .filter(|file| file.extension().is_some_and(|e| e == "blk"));
        for file in stored {
            let mut block = fs::read(&file).unwrap();
            if let Some(at) = block.windows(words.len()).position(|bytes| bytes == words.as_bytes()) {
                block[at] ^= 1;
                return fs::write(file, block).unwrap();
            }
        }
        panic!("no stored message contains {words}");
    }

    /// A copy of everything it stored. It must not be running.
    pub fn backup(&self) -> TempDir {
        assert!(self.child.is_none(), "stop it first");
        let backup = tempfile::Builder::new().prefix("tidings-backup-").tempdir().unwrap();
        copy_folder(&self.store(), backup.path());
        backup
    }

    /// Stores what a backup has, and nothing else. It must not be running.
    pub fn restore(&self, backup: &TempDir) {
        self.wipe();
        copy_folder(backup.path(), &self.store());
    }

    /// Has one stream as a backup has it, and all else as it is. It must not be running.
    pub fn restore_stream(&self, backup: &TempDir, name: &str) {
        assert!(self.child.is_none(), "stop it first");
        let folder = Path::new("jetstream/$G/streams").join(name);
        fs::remove_dir_all(self.store().join(&folder)).unwrap();
        copy_folder(&backup.path().join(&folder), &self.store().join(&folder));
    }

    /// Deletes everything it stored. It must not be running.
    pub fn wipe(&self) {
        assert!(self.child.is_none(), "stop it first");
        fs::remove_dir_all(self.store()).unwrap();
    }
}

pub fn copy_folder(from: &Path, to: &Path) {
    for file in files_below(from) {
        let copy = to.join(file.strip_prefix(from).unwrap());
        fs::create_dir_all(copy.parent().unwrap()).unwrap();
        fs::copy(file, copy).unwrap();
    }
}

/// Every file below a folder.
pub fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files_below(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}
