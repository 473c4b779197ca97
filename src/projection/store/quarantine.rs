//! Quarantine: a store that was damaged, or belongs to another log, is kept beside the new one for inspection.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Stores that are kept. The oldest beyond that is deleted.
const KEPT: usize = 3;

/// The directory of a quarantined store; 1 is the newest.
fn quarantined(directory: &Path, number: usize) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".quarantine-{number}"));
    directory.with_file_name(name)
}

/// Deletes all quarantined stores, and returns how many there were.
pub fn delete_quarantined(directory: &Path) -> usize {
    let kept = (1..=KEPT).map(|number| quarantined(directory, number));
    kept.filter(|kept| fs::remove_dir_all(kept).is_ok()).count()
}

/// Moves the store in `directory` into quarantine, keeping the newest three, and returns where it is now; `None` if there was
/// none.
pub fn quarantine(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    let kept = |number| quarantined(directory, number);
    if !directory.exists() {
        return Ok(None);
    }
    if kept(KEPT).exists() {
        fs::remove_dir_all(kept(KEPT)).context("deleting the oldest quarantined store")?;
    }
    for number in (1..KEPT).rev().filter(|number| kept(*number).exists()) {
        fs::rename(kept(number), kept(number + 1)).context("making room for a quarantined store")?;
    }
    fs::rename(directory, kept(1)).context("moving the projection's store into quarantine")?;
    Ok(Some(kept(1)))
}
