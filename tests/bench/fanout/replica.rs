//! A replica of the release build on real nats-servers, each a process with a folder of its own.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::cores::Cores;
use super::identity::{BELIEVING, SECRET};

const TIDINGS: &str = env!("CARGO_BIN_EXE_tidings");

/// How long a start may take. One that reads a long log takes longest.
const PATIENCE: Duration = Duration::from_mins(10);

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

    /// SIGTERM, and waits for the end.
    fn terminate(&mut self) -> anyhow::Result<()> {
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

/// A folder on the disk of the build, which is a disk even where `/tmp` is none.
pub fn folder() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR"))?)
}

/// Nodes of NATS with JetStream, on ports that the system chose.
pub struct Nats {
    _nodes: Vec<Node>,
    /// Where the first one listens.
    pub url: String,
    /// How many copies a stream on it has.
    pub copies: usize,
}

/// A nats-server.
struct Node {
    running: Running,
    folder: TempDir,
}

impl Nats {
    /// Starts one node that syncs every message before it says that it has it, as Tidings wants it.
    pub fn start(cores: &Cores) -> anyhow::Result<Self> {
        Self::of(vec![Node::start(cores, "always", "")?])
    }

    /// The same that syncs now and then: to fill a log sooner.
    pub fn start_lazy(cores: &Cores) -> anyhow::Result<Self> {
        Self::of(vec![Node::start(cores, "2m", "")?])
    }

    /// Starts three nodes that sync every message.
    pub fn start_cluster(cores: &Cores) -> anyhow::Result<Self> {
        // Each node has to be told where the others listen before they do. A port that was free a moment ago still is.
        let held: Vec<_> = (0..3).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
        let addresses: Vec<_> = held.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
        drop(held);
        let routes: Vec<_> = addresses.iter().map(|address| format!("nats://{address}")).collect();
        let routes = routes.join(", ");
        let nodes = addresses.iter().enumerate().map(|(number, address)| {
            let cluster = format!(
                "server_name: node-{number}\ncluster {{ name: bench, listen: \"{address}\", routes: [{routes}] }}\n"
            );
            Node::start(cores, "always", &cluster)
        });
        Self::of(nodes.collect::<Result<_, _>>()?)
    }

    fn of(nodes: Vec<Node>) -> anyhow::Result<Self> {
        let url = nodes.first().and_then(Node::url).context("it says where it listens")?;
        Ok(Self { url, copies: nodes.len(), _nodes: nodes })
    }
}

impl Node {
    fn start(cores: &Cores, sync_interval: &str, also: &str) -> anyhow::Result<Self> {
        let server =
            env::var_os("NATS_SERVER").context("NATS_SERVER names a nats-server; `make bench` sets it")?;
        let folder = folder()?;
        let (store, ports) = (folder.path().join("store"), ports_of(&folder));
        fs::create_dir(&ports)?;
        let configuration = folder.path().join("nats.conf");
        let text = format!(
            "host: 127.0.0.1\nport: -1\nports_file_dir: \"{}\"\nmax_payload: 512KB\njetstream {{ store_dir: \"{}\", \
             max_file_store: 20GB, max_memory_store: 1GB, sync_interval: {sync_interval} }}\n{also}",
            ports.display(),
            store.display()
        );
        fs::write(&configuration, text)?;
        let mut command = Running::command(server, &folder.path().join("log"))?;
        let running = Running(cores.spawn_anywhere(command.arg("-c").arg(configuration))?);
        let mut node = Self { running, folder };
        until("nats-server listens", || {
            if node.running.has_ended() {
                bail!("nats-server ended: {}", fs::read_to_string(node.folder.path().join("log"))?);
            }
            Ok(node.url())
        })?;
        Ok(node)
    }

    /// Where it wrote that it listens.
    fn url(&self) -> Option<String> {
        let file = fs::read_dir(ports_of(&self.folder)).ok()?.next()?.ok()?;
        let ports: Value = serde_json::from_slice(&fs::read(file.path()).ok()?).ok()?;
        Some(ports["nats"][0].as_str()?.to_owned())
    }
}

fn ports_of(folder: &TempDir) -> PathBuf {
    folder.path().join("ports")
}

/// A replica.
pub struct Replica {
    running: Option<Running>,
    folder: TempDir,
    /// Where it listens.
    pub address: SocketAddrV4,
    /// From its start until it was ready.
    pub took: Duration,
}

impl Replica {
    /// Starts one with a data directory of its own on the server's core, and waits until it is ready.
    pub fn start(nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut replica = Self::prepared()?;
        replica.begin(nats, arguments, |command| cores.spawn_server(command))?;
        Ok(replica)
    }

    /// The same with all cores.
    pub fn start_anywhere(nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut replica = Self::prepared()?;
        replica.start_again(nats, cores, arguments)?;
        Ok(replica)
    }

    /// Starts it again with all cores, on what it has on disk.
    pub fn start_again(&mut self, nats: &Nats, cores: &Cores, arguments: &[&str]) -> anyhow::Result<()> {
        self.begin(nats, arguments, |command| cores.spawn_anywhere(command))
    }

    fn prepared() -> anyhow::Result<Self> {
        let address = SocketAddrV4::new([127, 0, 0, 1].into(), 0);
        Ok(Self { running: None, folder: folder()?, address, took: Duration::ZERO })
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn begin(
        &mut self,
        nats: &Nats,
        arguments: &[&str],
        spawn: impl FnOnce(&mut Command) -> anyhow::Result<Child>,
    ) -> anyhow::Result<()> {
        let (data, log) = (self.data_dir(), self.folder.path().join("log"));
        let _ = fs::remove_file(data.join("http.url"));
        let mut command = Running::command(TIDINGS, &log)?;
        command.args(["serve", "--listen", "127.0.0.1:0", "--nats", &nats.url]).arg("--data-dir").arg(&data);
        let secret = self.folder.path().join("secret");
        fs::write(&secret, SECRET)?;
        command.args(BELIEVING).arg("--auth-secret-file").arg(secret);
        let begun = Instant::now();
        let mut running = Running(spawn(command.args(arguments).env("TIDINGS_LOG", "warn"))?);
        self.address = until("the replica is ready", || {
            if running.has_ended() {
                bail!("the replica ended: {}", fs::read_to_string(&log)?);
            }
            let url = fs::read_to_string(data.join("http.url")).unwrap_or_default();
            let address = url.trim().trim_start_matches("http://").parse().ok();
            Ok(address.filter(|address| is_ready(*address)))
        })?;
        self.took = begun.elapsed();
        self.running = Some(running);
        Ok(())
    }

    /// The id of its process.
    pub fn pid(&self) -> anyhow::Result<u32> {
        Ok(self.running.as_ref().context("it runs")?.pid())
    }

    /// SIGTERM, and waits for the end.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), |mut running| running.terminate())
    }
}

fn is_ready(address: SocketAddrV4) -> bool {
    get(address, "/readyz").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// What a replica's metric says; 0 before there is anything to count.
pub fn metric(address: SocketAddrV4, name: &str) -> anyhow::Result<f64> {
    let metrics = get(address, "/metrics")?;
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(value.map(str::parse).transpose()?.unwrap_or_default())
}

/// The whole answer.
fn get(address: SocketAddrV4, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Looks until there is something, for as long as a start may take.
pub fn until<T>(what: &str, mut look: impl FnMut() -> anyhow::Result<Option<T>>) -> anyhow::Result<T> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(found) = look()? {
            return Ok(found);
        }
        sleep(Duration::from_millis(2));
    }
    bail!("not after {} s: {what}", PATIENCE.as_secs())
}
