//! The files of an outbox: how they are written whole, and what goes where no entry is read any more.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::disk::private;

/// The file of what waits, and the one of what the log will never take.
pub(super) const ENTRIES: &str = "entries";
pub(super) const REJECTED: &str = "rejected";

/// Opens what waits, to be added to.
pub(super) fn open(directory: &Path) -> anyhow::Result<File> {
    private::create_directory(directory)?;
    let opened = append_to(directory, ENTRIES)?;
    sync_directory(directory)?;
    Ok(opened)
}

/// Puts these lines in the place of what waits, and opens it to be added to.
pub(super) fn replace(directory: &Path, lines: &[u8]) -> anyhow::Result<File> {
    private::create_directory(directory)?;
    let unfinished = directory.join(format!("{ENTRIES}.new"));
    let written = private::create(&unfinished).and_then(|mut file| {
        file.write_all(lines)?;
        file.sync_all()
    });
    if let Err(error) = written {
        // It may take the room that something else needs.
        let _ = fs::remove_file(&unfinished);
        return Err(error).with_context(|| format!("writing {}", unfinished.display()));
    }
    fs::rename(&unfinished, directory.join(ENTRIES)).context("replacing the outbox")?;
    open(directory)
}

/// Keeps lines that the log will never take, or that are none, each with the reason; all or none.
pub(super) fn reject<'a>(
    directory: &Path,
    lines: impl IntoIterator<Item = (&'a [u8], &'a str)>,
) -> anyhow::Result<()> {
    let lines = lines.into_iter().map(|(line, why)| {
        let shown = String::from_utf8_lossy(line);
        let rejected = serde_json::json!({"why": why, "entry": shown.trim_end_matches('\n')});
        format!("{rejected}\n")
    });
    let text = lines.collect::<String>();
    let mut file = append_to(directory, REJECTED)?;
    let before = file.metadata()?.len();
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .inspect_err(|_| drop(file.set_len(before)))
        .with_context(|| format!("writing {}", directory.join(REJECTED).display()))
}

fn append_to(directory: &Path, name: &str) -> anyhow::Result<File> {
    let path = directory.join(name);
    private::append_to(&path).with_context(|| format!("opening {}", path.display()))
}

/// A new name is on disk when its directory is.
fn sync_directory(directory: &Path) -> anyhow::Result<()> {
    let synced = File::open(directory).and_then(|opened| opened.sync_all());
    synced.with_context(|| format!("syncing {}", directory.display()))
}
