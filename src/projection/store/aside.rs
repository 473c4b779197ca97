//! States that were moved aside: a store that was damaged, or belongs to another log, is kept for a look.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// States that were moved aside and are kept for a look; the oldest beyond that are deleted.
const KEPT_ASIDE: usize = 3;

/// The place of a state that was moved aside; 1 is the newest.
fn aside(directory: &Path, n: usize) -> PathBuf {
    let mut name = directory.file_name().unwrap_or_default().to_owned();
    name.push(format!(".aside-{n}"));
    directory.with_file_name(name)
}

/// Deletes what was moved aside. Returns how many states that were.
pub fn delete_aside(directory: &Path) -> usize {
    let kept = (1..=KEPT_ASIDE).map(|n| aside(directory, n));
    kept.filter(|kept| fs::remove_dir_all(kept).is_ok()).count()
}

/// Moves the state in `directory` aside, keeping the three newest, and leaves room for a new one. Returns where it is
/// now; `None` when there was none.
pub fn set_aside(directory: &Path) -> anyhow::Result<Option<PathBuf>> {
    let aside = |n| aside(directory, n);
    if !directory.exists() {
        return Ok(None);
    }
    if aside(KEPT_ASIDE).exists() {
        fs::remove_dir_all(aside(KEPT_ASIDE)).context("deleting the oldest state that was moved aside")?;
    }
    for n in (1..KEPT_ASIDE).rev().filter(|n| aside(*n).exists()) {
        fs::rename(aside(n), aside(n + 1)).context("making room for state to be moved aside")?;
    }
    fs::rename(directory, aside(1)).context("moving the projection aside")?;
    Ok(Some(aside(1)))
}
