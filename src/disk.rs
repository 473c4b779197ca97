//! The disk: whether it takes anything, told from every other trouble with files.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

/// What a disk must take to count as having room: two segments of the projection's store.
const ROOM_BYTES: usize = 1 << 20;

/// Whether this happened because the disk takes nothing: it is full, or cannot be written to at all. What is on it is
/// none the worse for that.
pub fn takes_nothing(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}

/// Looks whether there is room, by writing a file and deleting it again: free blocks that are not for this user, and
/// quotas, are found in no other way.
pub fn has_room(file: &Path) -> anyhow::Result<()> {
    let written = File::create(file).and_then(|mut file| {
        file.write_all(&vec![0; ROOM_BYTES])?;
        file.sync_all()
    });
    let _ = fs::remove_file(file);
    Ok(written?)
}
