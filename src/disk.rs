//! The disk: whether it takes anything, told from every other trouble with files; and files for their owner alone.

pub mod private;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

/// Bytes of a key, a password, a credentials file, an address or another small file at most.
const SMALL_FILE_BYTES: usize = 64 << 10;

/// What a disk must take to count as having room: two segments of the projection's store.
const ROOM_BYTES: usize = 1 << 20;

/// Whether this happened because the disk takes nothing: it is full, or cannot be written to at all. What is on it is
/// none the worse for that.
pub fn is_full(error: &anyhow::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| matches!(cause.kind(), StorageFull | QuotaExceeded | ReadOnlyFilesystem))
}

/// Reads a small file of text, such as a key: 64 KiB at most, whatever the path leads to.
pub fn read_small(file: &Path) -> io::Result<String> {
    let bytes = read_bounded(file, SMALL_FILE_BYTES)?;
    String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Reads a file, whatever the path leads to. One of more than `bound` bytes is an error, and is not read further.
pub fn read_bounded(file: &Path, bound: usize) -> io::Result<Vec<u8>> {
    read_opened(&File::open(file)?, bound)
}

fn read_opened(file: &File, bound: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bound as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bound {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {bound} bytes")));
    }
    Ok(bytes)
}

/// Refuses what cannot be read again at any time: whoever opens a named pipe waits until somebody writes to it, and a device
/// may have no end. A link counts as what it leads to.
pub fn check_regular(file: &Path) -> io::Result<()> {
    if fs::metadata(file)?.is_file() {
        return Ok(());
    }
    let what = "it is not a regular file, so it cannot be read again";
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// Reads a regular file that is read again and again. One of more than `bound` bytes is an error.
pub fn read_regular(file: &Path, bound: usize) -> io::Result<Vec<u8>> {
    check_regular(file)?;
    read_bounded(file, bound)
}

/// Looks whether there is room, by writing a file and deleting it again: free blocks that are not for this user, and
/// quotas, are found in no other way.
pub fn has_room(file: &Path) -> anyhow::Result<()> {
    let written = private::create(file).and_then(|mut file| {
        file.write_all(&vec![0; ROOM_BYTES])?;
        file.sync_all()
    });
    let _ = fs::remove_file(file);
    Ok(written?)
}

/// Detects that a full disk has free space again, by its free blocks: cheap enough to poll.
#[derive(Debug, Default)]
pub struct FreeSpaceWatch {
    full: bool,
}

impl FreeSpaceWatch {
    /// Whether there is room now, and was none when this was asked last. Room must be more than what counts as none,
    /// so that a disk on the brink is not taken for one that comes and goes.
    pub fn is_over(&mut self, folder: &Path) -> bool {
        let Ok(found) = rustix::fs::statvfs(folder) else { return false };
        self.notes(found.f_bavail.saturating_mul(found.f_frsize))
    }

    const fn notes(&mut self, free_bytes: u64) -> bool {
        let over = self.full && free_bytes >= 4 * ROOM_BYTES as u64;
        self.full = !over && (self.full || free_bytes < ROOM_BYTES as u64);
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_file_is_read_up_to_its_bound_whatever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        fs::write(&file, "a key\n").unwrap();
        assert_eq!(read_small(&file).unwrap(), "a key\n");
        assert_eq!(read_small(Path::new("/dev/zero")).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn a_file_that_is_read_again_is_a_regular_one_and_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, pipe] = ["file", "link", "pipe"].map(|name| folder.path().join(name));
        fs::write(&file, "1234").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        assert_eq!(read_regular(&link, 4).unwrap(), b"1234");
        assert_eq!(read_regular(&file, 3).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        for other in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(read_regular(other, 4).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{other:?}");
        }
    }

    #[test]
    fn a_full_disk_is_over_once_and_with_room_to_spare() {
        let mut fullness = FreeSpaceWatch::default();
        let megabytes = [9, 3, 0, 2, 3, 5, 9, 3, 5, 0, 0, 9];
        let over: Vec<_> = megabytes.map(|free| fullness.notes(free * (1 << 20))).into();
        assert_eq!(over.iter().filter(|over| **over).count(), 2, "{over:?}");
        assert!(over[5] && over[11], "{over:?}");
    }
}
