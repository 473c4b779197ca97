//! Files and directories that only the user who runs Tidings can read: they hold messages, user ids, logins and keys.
//!
//! Every file is made here or with the process's umask, which [`restrict_new_files`] sets for the whole process and for
//! the nats-server that it starts. None of these functions follows a symbolic link in the last part of a path, so that
//! another user who can write to a shared directory cannot have a file elsewhere overwritten.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use rustix::fs::{Mode, OFlags};
use tempfile::NamedTempFile;
use tracing::{info, warn};

use super::{SMALL_FILE_BYTES, read_opened};

/// What a file is made with: its owner reads and writes it.
const FILE_MODE: u32 = 0o600;

/// What a directory is made with.
const DIRECTORY_MODE: u32 = 0o700;

/// The bits of a mode that concern everybody but the owner.
const OTHERS: u32 = 0o077;

/// Those of them that let somebody change a file.
const WRITING: u32 = 0o022;

/// Has every file that this process makes from now on, and every program that it starts, readable by its owner alone.
/// Called once, before any other thread runs.
pub fn restrict_new_files() {
    rustix::process::umask(Mode::RWXG | Mode::RWXO);
}

/// Creates a directory, with its parents, that its owner alone can enter. One that exists is left as it is.
pub fn create_directory(directory: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIRECTORY_MODE)
        .create(directory)
        .with_context(|| format!("creating {}", directory.display()))
}

/// Makes an existing directory one that its owner alone can enter. An error when it belongs to a user who is neither this
/// one nor root, or when it cannot be closed to others who can write there: they could replace any file in it.
pub fn secure_directory(directory: &Path) -> anyhow::Result<()> {
    let shown = directory.display();
    let found = fs::metadata(directory).with_context(|| format!("looking at {shown}"))?;
    let (owner, user) = (found.uid(), rustix::process::geteuid().as_raw());
    let mode = found.mode() & 0o7777;
    match exposure(owner, user, mode) {
        Exposure::None => {}
        Exposure::Closable => {
            fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY_MODE))
                .with_context(|| format!("closing {shown} to other users"))?;
            info!("{shown} was open to other users (mode {mode:04o}); its mode is {DIRECTORY_MODE:04o} now");
        }
        Exposure::Readable => warn!("{shown} belongs to root and is open to other users (mode {mode:04o})"),
        Exposure::Writable => {
            bail!(
                "{shown} belongs to root and everybody can write to it (mode {mode:04o}): `chmod o-w {shown}`"
            )
        }
        Exposure::Foreign => bail!(
            "{shown} belongs to the user with id {owner}, and this process runs as the one with id {user}: it has to \
             belong to the user that runs Tidings (`chown -R {user} {shown}`; --data-dir names another)"
        ),
    }
    Ok(())
}

/// Who besides this user has to do with a directory.
#[derive(Debug, PartialEq, Eq)]
enum Exposure {
    /// Nobody but root.
    None,
    /// Others can enter it, and this user can change that.
    Closable,
    /// Others can enter it; it is root's, as a volume of a container is that this process has by its group.
    Readable,
    /// Everybody can write to it, and this user cannot change that.
    Writable,
    /// Another user owns it.
    Foreign,
}

const fn exposure(owner: u32, user: u32, mode: u32) -> Exposure {
    if owner != user && owner != 0 {
        Exposure::Foreign
    } else if mode & OTHERS == 0 {
        Exposure::None
    } else if owner == user {
        Exposure::Closable
    } else if mode & 0o002 == 0 {
        Exposure::Readable
    } else {
        Exposure::Writable
    }
}

/// Opens a new, empty file to write to, in the place of one of that name. A link of that name is replaced, not followed.
pub fn create(file: &Path) -> io::Result<File> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(file),
    }
}

/// Opens a file to be added to, and makes it when it is missing. A symbolic link is an error.
pub fn append_to(file: &Path) -> io::Result<File> {
    unfollowed(OpenOptions::new().append(true).create(true)).open(file)
}

/// Opens a file to be written to as it is, and makes it when it is missing. A symbolic link is an error.
pub fn open_or_create(file: &Path) -> io::Result<File> {
    unfollowed(OpenOptions::new().write(true).create(true).truncate(false)).open(file)
}

fn unfollowed(options: &mut OpenOptions) -> &mut OpenOptions {
    options.mode(FILE_MODE).custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
}

/// Writes a file whole: whoever reads it finds what was there before, or all of this, whatever happens in between. What is
/// not finished has a name of its own in the same directory, and is deleted on an error.
pub fn write_private(file: &Path, contents: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let written = unfinished(file, contents.as_ref()).and_then(|unfinished| Ok(unfinished.persist(file)?));
    written.map(drop).with_context(|| format!("writing {}", file.display()))
}

/// The same for a file that must not be there yet: [`io::ErrorKind::AlreadyExists`] when it is. Of several processes that do
/// this at once one succeeds, and the others find its file whole.
pub fn write_new(file: &Path, contents: impl AsRef<[u8]>) -> io::Result<()> {
    unfinished(file, contents.as_ref())?.persist_noclobber(file)?;
    Ok(())
}

/// Beside `file`, under a random name that nothing had, for its owner alone, and synced.
fn unfinished(file: &Path, contents: &[u8]) -> io::Result<NamedTempFile> {
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let mut unfinished = tempfile::Builder::new()
        .prefix(".unfinished-")
        .permissions(fs::Permissions::from_mode(FILE_MODE))
        .tempfile_in(directory.unwrap_or_else(|| Path::new(".")))?;
    unfinished.write_all(contents)?;
    unfinished.as_file().sync_all()?;
    Ok(unfinished)
}

/// Reads a file that holds a secret, called `what` in messages: "the key". One of more than 64 KiB is an error, and one that
/// other users can read or change is used with a warning.
pub fn read_secret(file: &Path, what: &str) -> anyhow::Result<Vec<u8>> {
    let reading = || format!("reading {what} in {}", file.display());
    let opened = File::open(file).with_context(reading)?;
    let mode = opened.metadata().with_context(reading)?.mode() & 0o777;
    let bytes = read_opened(&opened, SMALL_FILE_BYTES).with_context(reading)?;
    warn_if_exposed(file, what, mode);
    Ok(bytes)
}

/// Warns when other users can read or change a file that holds a secret and that something else reads.
pub fn warn_of_readers(file: &Path, what: &str) {
    if let Ok(found) = fs::metadata(file) {
        warn_if_exposed(file, what, found.mode() & 0o777);
    }
}

fn warn_if_exposed(file: &Path, what: &str, mode: u32) {
    let (can, shown) = (if mode & WRITING != 0 { "change" } else { "read" }, file.display());
    if mode & OTHERS != 0 {
        warn!("other users can {can} {what} in {shown} (mode {mode:04o}): `chmod 600 {shown}`");
    }
}

/// Warns when other users can change a file that everybody may read. `so_they` says what whoever changes it can do.
pub fn warn_of_writers(file: &Path, what: &str, so_they: &str) {
    let shown = file.display();
    let mode = fs::metadata(file).map_or(0, |found| found.mode() & 0o777);
    if mode & WRITING != 0 {
        warn!(
            "other users can change {what} in {shown} (mode {mode:04o}), and so {so_they}: `chmod go-w {shown}`"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn what_is_made_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        create_directory(&inner).unwrap();
        assert_eq!((mode(&inner), mode(&folder.path().join("a"))), (0o700, 0o700));
        write_private(&inner.join("whole"), "text").unwrap();
        create(&inner.join("new")).unwrap();
        append_to(&inner.join("log")).unwrap();
        open_or_create(&inner.join("lock")).unwrap();
        for name in ["whole", "new", "log", "lock"] {
            assert_eq!(mode(&inner.join(name)), 0o600, "{name}");
        }
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 4, "nothing unfinished is left");
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, link) = (folder.path().join("elsewhere"), folder.path().join("link"));
        fs::write(&elsewhere, "precious").unwrap();
        let planted = || {
            let _ = fs::remove_file(&link);
            symlink(&elsewhere, &link).unwrap();
        };
        planted();
        write_private(&link, "ours").unwrap();
        planted();
        create(&link).unwrap().write_all(b"ours").unwrap();
        planted();
        append_to(&link).unwrap_err();
        open_or_create(&link).unwrap_err();
        write_new(&link, "ours").unwrap_err();
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
    }

    #[test]
    fn a_file_is_whole_or_as_before() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        write_private(&file, "before").unwrap();
        write_private(&file, "after").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
        let error = write_new(&file, "too late").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&file).unwrap(), "after");
        // A directory is in its place: nothing is written, and nothing is left over.
        let occupied = folder.path().join("occupied");
        fs::create_dir_all(occupied.join("inner")).unwrap();
        write_private(&occupied, "text").unwrap_err();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_secret_without_end_is_not_read() {
        let error = read_secret(Path::new("/dev/zero"), "the key").unwrap_err();
        assert_eq!(format!("{error:#}"), "reading the key in /dev/zero: it has more than 65536 bytes");
    }

    #[test]
    fn a_directory_is_trusted_to_its_owner_and_to_root_alone() {
        for (owner, user, mode, expected) in [
            (7, 7, 0o700, Exposure::None),
            (7, 7, 0o777, Exposure::Closable),
            (7, 7, 0o750, Exposure::Closable),
            (8, 7, 0o700, Exposure::Foreign),
            (8, 0, 0o777, Exposure::Foreign),
            (0, 0, 0o1777, Exposure::Closable),
            (0, 7, 0o2775, Exposure::Readable),
            (0, 7, 0o1777, Exposure::Writable),
        ] {
            assert_eq!(exposure(owner, user, mode), expected, "{owner} {user} {mode:o}");
        }
    }

    #[test]
    fn a_directory_that_others_can_enter_is_closed_to_them() {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        secure_directory(folder.path()).unwrap();
        assert_eq!(mode(folder.path()), 0o700);
    }
}
