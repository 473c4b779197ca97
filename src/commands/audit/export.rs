//! `audit export`: writes the log into a file that is whole or is not there.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{BufWriter, Write as _, stdout};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use rustix::fs::OFlags;

use super::log_behind;
use crate::audit::export::{ExportSummary, export};
use crate::audit::source::Source;
use crate::audit::terminal::printable;
use crate::clock::{Clock as _, SystemClock};
use crate::commands::progress::Progress;
use crate::commands::{connect_read_only, print};
use crate::config;
use crate::log::provision;
use crate::notary::stream::CheckpointStream;

/// Exports to a file, or to stdout, and says what is in the file.
pub(super) async fn run(options: config::Export) -> anyhow::Result<()> {
    if options.out.as_os_str() == "-" {
        return write(&options, &mut BufWriter::new(stdout().lock())).await.map(drop);
    }
    let mut file = PartialExport::create(&options.out, options.force)?;
    let exported = write(&options, &mut file.out).await?;
    file.finish(options.force)?;
    let ExportSummary { head, root, holes, checkpoints } = exported;
    let name = options.out.display().to_string();
    print(&format!(
        "{}: the log {} up to sequence {}; holes: {holes}, checkpoints: {checkpoints}\nroot {root}\n",
        printable(&name),
        head.epoch,
        head.last_sequence,
    ))
}

async fn write(options: &config::Export, out: &mut impl std::io::Write) -> anyhow::Result<ExportSummary> {
    let connection = connect_read_only(&options.nats).await?;
    let checkpoints = CheckpointStream::find(provision::context(&connection.client)).await?;
    let source = Source::Log(log_behind(&connection));
    let progress = Progress::over(0);
    let at = |sequence, of| progress.at_of(sequence, of);
    export(&source, checkpoints.as_ref(), SystemClock.now(), out, at).await
}

/// A file under another name until it is whole.
struct PartialExport {
    out: BufWriter<File>,
    /// Its name until then; removed when it does not come to be whole.
    part: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl PartialExport {
    fn create(target: &Path, force: bool) -> anyhow::Result<Self> {
        refuse_to_overwrite(target, force)?;
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let writing = || format!("writing {}", part.display());
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(i32::try_from(OFlags::NOFOLLOW.bits())?)
            .open(&part);
        let file = opened.with_context(writing)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!("another export writes {} at this moment", part.display()),
            Err(TryLockError::Error(error)) => return Err(error).with_context(writing),
        }
        // An export that ended while the file was opened here has given it its name.
        let named = fs::metadata(&part).with_context(writing)?;
        let locked = file.metadata().with_context(writing)?;
        if (named.dev(), named.ino()) != (locked.dev(), locked.ino()) {
            bail!("another export wrote {} a moment ago", target.display());
        }
        // What an export that was killed has left there.
        file.set_len(0).with_context(writing)?;
        Ok(Self { out: BufWriter::new(file), part, target: target.to_owned(), finished: false })
    }

    /// Gives it its name, once the disk has it.
    fn finish(mut self, force: bool) -> anyhow::Result<()> {
        let writing = || format!("writing {}", self.target.display());
        self.out.flush().with_context(writing)?;
        self.out.get_ref().sync_all().with_context(writing)?;
        refuse_to_overwrite(&self.target, force)?;
        fs::rename(&self.part, &self.target).with_context(writing)?;
        let folder = self.target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = File::open(folder.unwrap_or(Path::new(".")));
        folder.and_then(|folder| folder.sync_all()).with_context(writing)?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for PartialExport {
    fn drop(&mut self) {
        if !self.finished {
            let _ = fs::remove_file(&self.part);
        }
    }
}

fn refuse_to_overwrite(target: &Path, force: bool) -> anyhow::Result<()> {
    let name = target.display();
    if target.is_dir() {
        bail!("{name} is a folder");
    }
    if !force && target.symlink_metadata().is_ok() {
        bail!("{name} is there already; --force writes over it");
    }
    Ok(())
}
