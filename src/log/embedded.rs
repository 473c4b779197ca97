//! The embedded nats-server: a child process that is started, supervised, restarted and stopped with the replica.
//!
//! Two servers on one store both acknowledge and lose messages (measured), so there is never a second one: the data
//! directory's lock is held before anything starts, the child asks the kernel to die with its parent, and an orphan
//! that is alive all the same is ended by its pid file before a new child is started.
//!
//! It listens on loopback, which every user of the machine can reach, and lets nobody in without the login that it makes.

mod login;

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{
    Pid, Signal, getppid, kill_process, set_parent_process_death_signal, setpgid, test_kill_process,
};
use tracing::{error, info, warn};

use crate::disk::{FreeSpaceWatch, private};
use login::{Login, USER};

/// The hidden subcommand through which the child is started, see [`exec_child`].
pub const CHILD_COMMAND: &str = "nats-child";

/// The server's configuration, with the deployment's values to be put in.
const CONFIGURATION: &str = include_str!("../../nats/embedded.conf");

/// The longest a server may take to open its store and say which port it has.
const START_TIMEOUT: Duration = Duration::from_mins(1);

/// The longest a server may take to stop before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Between two looks at a child, and before the restart of one that died.
const POLL_INTERVAL: Duration = Duration::from_millis(50);
const RESTART_AFTER: Duration = Duration::from_millis(500);

/// A running nats-server of this process's own.
#[derive(Debug)]
pub struct EmbeddedNats {
    port: u16,
    login: Login,
    stop: Option<SyncSender<()>>,
    supervisor: Option<JoinHandle<()>>,
}

/// What the embedded server needs to know.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The `nats-server` to run.
    pub binary: PathBuf,
    /// Its own folder, inside the data directory whose lock is held.
    pub directory: PathBuf,
    /// The port that it listens on; `None` lets the system choose one at each start. With a fixed port the login stays the
    /// same over starts too, so that other programs that were given its URL get in again after a restart.
    pub port: Option<u16>,
    /// Bytes that its streams on disk may take together.
    pub max_file_store: u64,
}

impl EmbeddedNats {
    /// Starts a server and waits until it listens on loopback.
    pub fn start(options: &EmbeddedOptions) -> anyhow::Result<Self> {
        private::create_directory(&options.directory)?;
        end_orphan(&pid_file(options))?;
        keep_previous_log(options)?;
        let login = match options.port {
            None => Login::random()?,
            Some(port) => {
                require_free(port)?;
                Login::kept_in(&options.directory.join("password"))?
            }
        };
        // The child dies with the *thread* that made it (PR_SET_PDEATHSIG), so one thread makes every child and lives
        // as long as the process.
        let (stop, stopped) = sync_channel(1);
        let (started, start) = sync_channel(1);
        let supervised = Server { options: options.clone(), login: login.clone() };
        let supervisor = std::thread::Builder::new().name("nats-server".into()).spawn(move || {
            match run(&supervised, supervised.options.port) {
                Ok((child, port)) => {
                    if started.send(Ok(port)).is_ok() {
                        supervise(&supervised, child, port, &stopped);
                    }
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        let port = start.recv().context("the thread that starts nats-server ended")??;
        Ok(Self { port, login, stop: Some(stop), supervisor: Some(supervisor) })
    }

    /// Where it listens, the same over restarts of the server, without the login: for people and diagnostics.
    pub fn address(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The URL with the login, by which clients get in. A secret.
    pub fn url_with_login(&self) -> String {
        self.login.url(self.port)
    }

    /// Stops the server and waits for its end. Blocks.
    pub fn stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(supervisor) = self.supervisor.take()
            && supervisor.join().is_err()
        {
            error!("the thread that supervises nats-server panicked");
        }
    }
}

impl Drop for EmbeddedNats {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Finds a `nats-server`: the one named, else the first on `PATH`. Folders of `PATH` that are not absolute do not count: what
/// is in them depends on where the command is typed, and may be another user's.
pub fn find(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        if !path.is_file() {
            bail!("{} is no file: --nats-server names the nats-server to run", path.display());
        }
        return path.canonicalize().with_context(|| format!("finding {}", path.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).filter(|folder| folder.is_absolute());
    let mut files = folders.map(|folder| folder.join("nats-server"));
    files.find(|file| file.is_file()).context(
        "there is no nats-server on PATH: name one with --nats-server (nats/install.sh fetches one and prints where it \
         is), or join a running NATS with --nats",
    )
}

/// What the child does first: it asks to be told when its parent dies, leaves the parent's process group so that a
/// Ctrl-C reaches the parent alone, and becomes the server. Returns only when that failed. Nobody but a running Tidings starts
/// it: typed by hand it is refused.
pub fn exec_child(binary: &Path, configuration: &Path) -> anyhow::Error {
    if let Err(error) = require_own_parent() {
        return error;
    }
    let prepared = set_parent_process_death_signal(Some(Signal::TERM))
        .and_then(|()| setpgid(None, None))
        .context("preparing the nats-server child");
    match prepared {
        Ok(()) => {
            let mut server = Command::new(binary);
            // It needs nothing of ours, and there are secrets among it.
            for (name, _) in std::env::vars_os() {
                if name.as_encoded_bytes().starts_with(b"TIDINGS_") {
                    server.env_remove(name);
                }
            }
            let error = server.arg("-c").arg(configuration).exec();
            anyhow::Error::from(error).context(format!("running {}", binary.display()))
        }
        Err(error) => error,
    }
}

/// An error unless the parent runs the very file that this process runs.
fn require_own_parent() -> anyhow::Result<()> {
    let running = |process: &str| {
        let found = fs::metadata(format!("/proc/{process}/exe"))?;
        Ok::<_, std::io::Error>((found.dev(), found.ino()))
    };
    let parent = getppid().map(|parent| parent.as_raw_nonzero().to_string()).unwrap_or_default();
    if running(&parent).ok() == Some(running("self").context("looking at this process")?) {
        return Ok(());
    }
    bail!("`{CHILD_COMMAND}` is how `tidings serve` starts its nats-server; it is not for anything else")
}

/// nats-server itself would end with a line in its own log.
fn require_free(port: u16) -> anyhow::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(drop).with_context(|| {
        format!("the embedded NATS cannot listen on 127.0.0.1:{port} (--nats-port names another port)")
    })
}

fn pid_file(options: &EmbeddedOptions) -> PathBuf {
    options.directory.join("nats-server.pid")
}

fn log_file(options: &EmbeddedOptions) -> PathBuf {
    options.directory.join("nats-server.log")
}

/// What the servers of the last run said stays beside what those of this run say, and no longer than that.
fn keep_previous_log(options: &EmbeddedOptions) -> anyhow::Result<()> {
    let log = log_file(options);
    if log.exists() {
        let kept = options.directory.join("nats-server.log.1");
        fs::rename(&log, kept).with_context(|| format!("moving {} aside", log.display()))?;
    }
    Ok(())
}

/// The program that runs, to be run once more. Linux knows it by this name even when its file was replaced or removed,
/// as every rebuild does; its own path would name the new file then, or none.
fn this_program() -> std::io::Result<PathBuf> {
    if cfg!(target_os = "linux") { Ok(PathBuf::from("/proc/self/exe")) } else { std::env::current_exe() }
}

/// What every child of one start is run with.
struct Server {
    options: EmbeddedOptions,
    login: Login,
}

/// Starts one child and waits for its port.
fn run(server: &Server, port: Option<u16>) -> anyhow::Result<(Child, u16)> {
    let options = &server.options;
    let ports = options.directory.join("ports");
    let _ = fs::remove_dir_all(&ports);
    private::create_directory(&ports)?;
    let configuration = options.directory.join("nats-server.conf");
    private::write_private(&configuration, configuration_text(server, &ports, port))?;
    // Appended to, since what a server said before it died is what one wants to know.
    let log = private::append_to(&log_file(options))?;
    let mut child = Command::new(this_program()?)
        .arg(CHILD_COMMAND)
        .arg(&options.binary)
        .arg(&configuration)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting the nats-server child")?;
    match await_port(&mut child, &ports) {
        Ok(port) => Ok((child, port)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            let log = log_file(options);
            Err(error.context(format!("nats-server did not start; its words are in {}", log.display())))
        }
    }
}

fn configuration_text(server: &Server, ports: &Path, port: Option<u16>) -> String {
    let quoted = |path: &Path| {
        format!("\"{}\"", path.display().to_string().replace('\\', "\\\\").replace('"', "\\\""))
    };
    let options = &server.options;
    CONFIGURATION
        .replace("@USER@", USER)
        .replace("@PASSWORD@", server.login.password())
        .replace("@PORT@", &port.map_or_else(|| "-1".to_owned(), |port| port.to_string()))
        .replace("@STORE@", &quoted(&options.directory.join("store")))
        .replace("@PORTS@", &quoted(ports))
        .replace("@PID_FILE@", &quoted(&pid_file(options)))
        .replace("@MAX_FILE_STORE@", &options.max_file_store.to_string())
}

/// nats-server writes a file with its ports once it listens.
fn await_port(child: &mut Child, ports: &Path) -> anyhow::Result<u16> {
    let looks = START_TIMEOUT.as_millis() / POLL_INTERVAL.as_millis();
    for _ in 0..looks {
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once ({status})");
        }
        for entry in fs::read_dir(ports)? {
            if let Some(port) = port_in(&fs::read_to_string(entry?.path())?) {
                return Ok(port);
            }
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    bail!("it did not listen within {} s", START_TIMEOUT.as_secs())
}

fn port_in(file: &str) -> Option<u16> {
    let ports: serde_json::Value = serde_json::from_str(file).ok()?;
    ports["nats"][0].as_str()?.rsplit(':').next()?.parse().ok()
}

/// Keeps one child going until it is told to stop.
fn supervise(server: &Server, mut child: Child, port: u16, stopped: &Receiver<()>) {
    let mut unwatched = false;
    let mut full_disk = FreeSpaceWatch::default();
    while goes_on(stopped, POLL_INTERVAL) {
        match child.try_wait() {
            Ok(Some(status)) => error!("the embedded nats-server ended ({status}); starting it again"),
            // One that met a full disk does not write again, whatever room there is (measured).
            Ok(None) if full_disk.is_over(&server.options.directory) => {
                warn!("the disk has room again: starting the embedded nats-server anew");
                end(&mut child);
            }
            // It may well run, and a second one on its store would lose messages.
            Err(error) if !unwatched => {
                unwatched = true;
                error!("the embedded nats-server cannot be watched, and is taken to be running: {error}");
                continue;
            }
            Ok(None) | Err(_) => continue,
        }
        let Some(restarted) = restart(server, port, stopped) else { return };
        child = restarted;
    }
    end(&mut child);
}

/// Tries until there is a child again. `None` when it was told to stop meanwhile.
fn restart(server: &Server, port: u16, stopped: &Receiver<()>) -> Option<Child> {
    while goes_on(stopped, RESTART_AFTER) {
        match run(server, Some(port)) {
            Ok((child, _)) => {
                info!("the embedded nats-server is back");
                return Some(child);
            }
            Err(error) => error!("the embedded nats-server cannot be started: {error:#}"),
        }
    }
    None
}

/// Waits, and says whether nobody asked for an end meanwhile.
fn goes_on(stopped: &Receiver<()>, wait: Duration) -> bool {
    matches!(stopped.recv_timeout(wait), Err(RecvTimeoutError::Timeout))
}

fn end(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _ = kill_process(pid, Signal::TERM);
    }
    for _ in 0..STOP_TIMEOUT.as_millis() / POLL_INTERVAL.as_millis() {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    warn!("the embedded nats-server did not stop in time; killing it");
    let _ = child.kill();
    let _ = child.wait();
}

/// Ends the server of a replica that died so hard that its child survived it. The caller holds the directory's lock,
/// so whoever the pid file names is nobody's child any more; another program that got its number is left alone.
fn end_orphan(pid_file: &Path) -> anyhow::Result<()> {
    let Ok(text) = fs::read_to_string(pid_file) else { return Ok(()) };
    let Some(pid) = text.trim().parse().ok().and_then(Pid::from_raw) else { return Ok(()) };
    let ours = pid_file.parent().unwrap_or(pid_file).join("nats-server.conf");
    let is_ours = || {
        let line = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).unwrap_or_default();
        line.split(|b| *b == 0).any(|argument| argument == ours.as_os_str().as_encoded_bytes())
    };
    if !is_ours() {
        return Ok(());
    }
    warn!(nats.pid = pid.as_raw_nonzero().get(), "an orphaned nats-server still has the store; ending it");
    let _ = kill_process(pid, Signal::TERM);
    for _ in 0..STOP_TIMEOUT.as_millis() / POLL_INTERVAL.as_millis() {
        if test_kill_process(pid).is_err() || !is_ours() {
            return Ok(());
        }
        std::thread::sleep(POLL_INTERVAL);
    }
    let _ = kill_process(pid, Signal::KILL);
    std::thread::sleep(POLL_INTERVAL * 4);
    if is_ours() {
        bail!("the nats-server with pid {} does not end; end it by hand", pid.as_raw_nonzero());
    }
    Ok(())
}
