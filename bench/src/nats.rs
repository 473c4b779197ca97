//! One nats-server or a cluster of three, each a process with a folder of its own.

use std::env;
use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tempfile::TempDir;

use crate::cores::Cores;
use crate::process::{Running, folder, until};

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
        let running = Running::of(cores.spawn_anywhere(command.arg("-c").arg(configuration))?);
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
