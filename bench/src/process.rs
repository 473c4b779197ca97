//! The processes that a benchmark starts, where their programs are, and where they may write.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a start may take. One that reads a long log takes longest.
const START_TIMEOUT: Duration = Duration::from_mins(10);

/// The program `tidings` of the same build, `target/release` for a benchmark and `target/debug` for a unit test. Cargo builds no
/// program for a package that depends on its library, so `make` builds it first.
pub fn tidings() -> anyhow::Result<PathBuf> {
    let program = build_folder()?.join("tidings");
    ensure!(program.is_file(), "{} is missing; `make bench` builds it first", program.display());
    Ok(program)
}

/// A new folder below `target/`, which is on a disk even where `/tmp` is in memory.
pub fn folder() -> anyhow::Result<TempDir> {
    let parent = target()?.join("tmp");
    fs::create_dir_all(&parent)?;
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(parent)?)
}

/// Cargo's target directory.
pub fn target() -> anyhow::Result<PathBuf> {
    Ok(build_folder()?.parent().context("the folder of a build is in the target directory")?.to_owned())
}

/// The folder of this program, or the one above for a unit test, which Cargo puts into `deps`.
fn build_folder() -> anyhow::Result<PathBuf> {
    let program = env::current_exe()?;
    let folder = program.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    Ok(folder.context("a program is in a folder")?.to_owned())
}

/// A process that does not outlive this value, nor the benchmark.
pub struct Running(Child);

impl Running {
    /// It ends when the thread that starts it does.
    pub fn command(program: impl AsRef<OsStr>, log: &Path) -> anyhow::Result<Command> {
        let log = fs::File::options().create(true).append(true).open(log)?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--"]).arg(program).process_group(0);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(command)
    }

    /// One that was started a moment ago.
    pub const fn of(child: Child) -> Self {
        Self(child)
    }

    /// Its id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends SIGTERM and waits until the process has ended.
    pub fn terminate(&mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("it has an id")?;
        kill_process(pid, Signal::TERM)?;
        self.0.wait()?;
        Ok(())
    }

    /// Whether it is over.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Looks until there is something, for as long as a start may take.
pub fn until<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < START_TIMEOUT {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(Duration::from_millis(2));
    }
    bail!("not after {} s: {what}", START_TIMEOUT.as_secs())
}
