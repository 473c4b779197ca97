//! Real nats-server processes on ports that the system chose.

mod cluster;
mod snapshot;
mod store;

use std::collections::HashMap;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tidings::log::Epoch;
use tidings::log::connection::{NatsAddress, NatsConnection, connect};
use tidings::log::jetstream::JetStreamLog;
use tidings::log::names::EPOCH_METADATA;
use tidings::log::provision::Provision;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::operator::Operator;
use super::program::mortal;
use super::tls::Identity;
use super::{PATIENCE, Replica, eventually, nats_server, shipped};
pub use cluster::Cluster;
pub use store::{copy_folder, files_below};

/// One server; its store lives as long as this value, over restarts.
pub struct Nats {
    child: Option<Child>,
    directory: TempDir,
    /// The folder of the streams.
    store: PathBuf,
    port: u16,
    /// What it calls itself: by this it is told from whatever else listens on a port.
    pub name: String,
    configuration: PathBuf,
    environment: Vec<(&'static str, String)>,
    extra: Vec<String>,
    /// Of its one user, `tidings`, if it asks for one.
    password: Option<String>,
}

impl Nats {
    /// Starts a server of its own, with JetStream.
    pub async fn start() -> Self {
        Self::start_with(Self::prepared(), "").await
    }

    /// The same for those who know a password, which is in its URLs.
    pub async fn start_with_password(password: &str) -> Self {
        Self::prepared().with_password(password).await
    }

    /// The same for one user, `tidings`, who may not publish to these subjects.
    pub async fn start_denying(subjects: &[&str]) -> Self {
        let mut nats = Self::prepared();
        nats.password = Some("sgnidit".to_owned());
        let denied = format!("permissions: {{ publish: {{ deny: {subjects:?} }} }}");
        let user = format!("{{ user: tidings, password: \"sgnidit\", {denied} }}");
        Self::start_with(nats, &format!("authorization {{ users: [{user}] }}\n")).await
    }

    /// The same with the users that are shipped, whose passwords are their names backwards.
    pub async fn start_with_users() -> Self {
        let mut nats = Self::prepared();
        nats.know_users();
        Self::start_with(nats, "include users.conf\n").await
    }

    /// The same, and what it says of itself has every line that is sent to it.
    pub async fn telling_with_users() -> Self {
        let mut nats = Self::prepared();
        nats.know_users();
        nats.extra = vec!["-V".to_owned()];
        Self::start_with(nats, "include users.conf\n").await
    }

    /// The same for those whose credentials this operator has made. Who is ready is seen without any.
    pub async fn start_with_operator(operator: &Operator) -> Self {
        Self::start_with(Self::prepared(), &operator.configuration()).await
    }

    /// The same over TLS: it shows a certificate, and wants to see one of this authority's.
    pub async fn start_with_tls(ca: &Path, server: &Identity) -> Self {
        let mut nats = Self::prepared();
        nats.know_users();
        fs::write(nats.directory.path().join("tls.conf"), shipped("nats/tls.conf")).unwrap();
        let files =
            [("NATS_TLS_CERT", &*server.certificate), ("NATS_TLS_KEY", &*server.key), ("NATS_TLS_CA", ca)];
        nats.environment.extend(files.map(|(name, file)| (name, file.display().to_string())));
        Self::start_with(nats, "include users.conf\ninclude tls.conf\n").await
    }

    fn know_users(&mut self) {
        fs::write(self.directory.path().join("users.conf"), shipped("nats/users.conf")).unwrap();
        let passwords = [
            ("REPLICA_PASSWORD", "sgnidit"),
            ("ADMIN_PASSWORD", "nimda-sgnidit"),
            ("AUDITOR_PASSWORD", "rotidua"),
            ("READER_PASSWORD", "redaer"),
        ];
        self.environment.extend(passwords.map(|(name, password)| (name, format!("\"{password}\""))));
        self.password = Some("sgnidit".to_owned());
    }

    /// From its next start on it asks who is there, and has what it stored in the account of the replicas. It must not be
    /// running.
    pub fn take_users_in(&mut self) {
        assert!(self.child.is_none(), "stop it first");
        self.know_users();
        let configuration = fs::read_to_string(&self.configuration).unwrap();
        fs::write(&self.configuration, format!("{configuration}include users.conf\n")).unwrap();
        let accounts = self.store().join("jetstream");
        fs::rename(accounts.join("$G"), accounts.join("TIDINGS")).unwrap();
    }

    /// The same with its streams in a folder that others look after.
    pub async fn start_in(store: PathBuf, password: &str) -> Self {
        let mut nats = Self::prepared();
        nats.store = store;
        nats.with_password(password).await
    }

    /// The one that a replica runs for itself, and looks after.
    pub fn of(replica: &Replica) -> Self {
        let url = replica.embedded_nats();
        let (login, address) = url.strip_prefix("nats://tidings:").unwrap().split_once('@').unwrap();
        let (_, port) = address.rsplit_once(':').unwrap();
        let mut nats = Self::prepared();
        nats.port = port.parse().unwrap();
        nats.password = Some(login.to_owned());
        nats
    }

    async fn with_password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        Self::start_with(self, &format!("authorization {{ user: tidings, password: \"{password}\" }}\n"))
            .await
    }

    async fn start_with(mut nats: Self, more: &str) -> Self {
        let configuration = format!(
            "server_name: {}\nhost: 127.0.0.1\nmax_payload: 1MB\n{more}\
             jetstream {{ store_dir: \"{}\", max_file_store: 20GB, max_memory_store: 1GB, sync_interval: always }}\n",
            nats.name,
            nats.store().display()
        );
        fs::write(&nats.configuration, configuration).unwrap();
        nats.spawn();
        nats.ready(true).await;
        nats
    }

    fn prepared() -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-nats-").tempdir().unwrap();
        let configuration = directory.path().join("nats.conf");
        let (environment, extra) = (Vec::new(), Vec::new());
        let (port, password) = (free_port(), None);
        let name = directory.path().file_name().unwrap().to_str().unwrap().to_owned();
        let store = directory.path().join("store");
        Self { child: None, directory, store, port, name, configuration, environment, extra, password }
    }

    fn spawn(&mut self) {
        let log =
            fs::File::options().create(true).append(true).open(self.directory.path().join("log")).unwrap();
        let child = mortal(nats_server())
            .args(["-c".as_ref(), self.configuration.as_os_str()])
            .args(["-p", &self.port.to_string()])
            .args(&self.extra)
            .envs(self.environment.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    /// A port that was free a moment ago can be somebody else's by now: then nats-server ends at once, and is started
    /// again, on another port while nobody knows this one.
    async fn ready(&mut self, may_move: bool) {
        let started = Instant::now();
        while !self.answers().await {
            assert!(started.elapsed() < PATIENCE, "nats-server does not listen");
            if self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some()) {
                if may_move {
                    self.port = free_port();
                }
                self.spawn();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether what listens on the port is this server, by what it says of itself on connect.
    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut greeting = vec![0; 16 * 1024];
        let Ok(Ok(read)) = timeout(Duration::from_secs(2), stream.read(&mut greeting)).await else {
            return false;
        };
        String::from_utf8_lossy(&greeting[..read]).contains(&format!("\"server_name\":\"{}\"", self.name))
    }

    pub fn url(&self) -> String {
        self.url_through(SocketAddr::from(([127, 0, 0, 1], self.port)))
    }

    /// As it is reached by a link that listens there.
    pub fn url_through(&self, address: SocketAddr) -> String {
        let login = self.password.as_ref().map(|password| format!("tidings:{password}@"));
        format!("nats://{}{address}", login.unwrap_or_default())
    }

    /// As somebody else reaches it, with their password.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        format!("nats://{user}:{password}@127.0.0.1:{}", self.port)
    }

    /// What it wrote of itself.
    pub fn said(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    pub const fn port(&self) -> u16 {
        self.port
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// An orderly stop.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let _ = self.child.take().unwrap().wait();
    }

    /// Starts it again, on the same port and the same store.
    pub async fn start_again(&mut self) {
        self.spawn();
        self.ready(false).await;
    }

    pub async fn restart(&mut self) {
        self.kill();
        self.start_again().await;
    }

    /// SIGSTOP, and waits until none of its threads runs: the process stays, and answers nothing.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.child.as_ref().expect("it runs").id());
        let is_stopped = |thread: std::io::Result<fs::DirEntry>| {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap_or_default();
            status.contains("State:\tT")
        };
        let started = Instant::now();
        while !fs::read_dir(&threads).unwrap().all(is_stopped) {
            assert!(started.elapsed() < PATIENCE, "nats-server does not stop");
            std::thread::yield_now();
        }
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// A connection as a replica makes it.
    pub async fn connection(&self) -> NatsConnection {
        let address = NatsAddress { servers: vec![self.url()], ..NatsAddress::default() };
        connect(&address, "test").await.unwrap()
    }

    pub async fn client(&self) -> async_nats::Client {
        let mut options = async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(3)));
        if let Some(password) = &self.password {
            options = options.user_and_password("tidings".to_owned(), password.clone());
        }
        options.connect(self.url()).await.unwrap()
    }

    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// The log on this server, provisioned.
    pub async fn log(&self) -> JetStreamLog {
        provisioned(self.client().await, 1).await
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        // A server with a data race or a panic of its own would make every other failure a riddle.
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        if std::thread::panicking() {
            eprintln!("--- nats-server {} ---\n{}", self.port, tail(&log));
        }
    }
}

async fn provisioned(client: async_nats::Client, replicas: usize) -> JetStreamLog {
    let provision = provision(replicas);
    let context = provision.context(&client);
    eventually("the streams are there", || async { provision.everything(&context).await.is_ok() }).await;
    JetStreamLog::new(client, provision)
}

pub fn provision(replicas: usize) -> Provision {
    Provision {
        replicas,
        log_max_bytes: 1 << 30,
        acks_max_age: Duration::from_hours(1),
        acks_max_bytes: 64 << 20,
    }
}

/// Metadata of a log's stream that was not made from the definition.
pub fn epoch_metadata() -> HashMap<String, String> {
    HashMap::from([(EPOCH_METADATA.to_owned(), Epoch::from_bits(7).to_string())])
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
