//! Real replicas: processes of the built binary.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::crash_point::{self, CrashPoint};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;

use super::front::{self, Front};
use super::nats::{free_port, tail};
use super::{Client, Http, Nats, PATIENCE, Request, Spec, eventually, nats_server};

/// A replica; its data directory lives as long as this value, over restarts.
pub struct Replica {
    child: Option<Child>,
    directory: TempDir,
    spec: Spec,
    http: Http,
    front: Option<Front>,
    may_panic: bool,
}

impl Replica {
    /// Starts a replica on this NATS and waits until it is ready.
    pub async fn start(nats: &Nats) -> Self {
        Self::start_with(Spec::joining(nats.url())).await
    }

    /// Three of them.
    pub async fn three(nats: &Nats) -> [Self; 3] {
        Self::three_with(&Spec::joining(nats.url())).await
    }

    pub async fn three_with(spec: &Spec) -> [Self; 3] {
        [
            Self::start_with(spec.clone()).await,
            Self::start_with(spec.clone()).await,
            Self::start_with(spec.clone()).await,
        ]
    }

    pub async fn start_with(spec: Spec) -> Self {
        let mut replica = Self::prepared(spec);
        replica.start_again().await;
        replica
    }

    /// Not started yet.
    pub fn prepared(mut spec: Spec) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-replica-").tempdir().unwrap();
        let front = spec.behind.clone().or_else(front::everywhere).map(|nginx| {
            // One place over restarts, which nginx is told once.
            spec.port = if spec.port == 0 { free_port() } else { spec.port };
            Front::start(&nginx, spec.port)
        });
        Self { child: None, directory, spec, http: Http::patient(PATIENCE), front, may_panic: false }
    }

    /// From its next start on it ends itself at a point, the so many-th time that it reaches that; or does not.
    pub fn crash_at(&mut self, point: Option<(CrashPoint, u32)>) {
        self.spec.environment.retain(|(name, _)| name != crash_point::VARIABLE);
        let variable = point.map(|(point, times)| format!("{point}:{times}"));
        let named = |value| (crash_point::VARIABLE.to_owned(), value);
        self.spec.environment.extend(variable.map(named));
    }

    /// A task of it panics at a point, the first time that one reaches that.
    pub fn panic_at(&mut self, point: CrashPoint) {
        self.may_panic = true;
        self.spec.environment.push((crash_point::PANIC_VARIABLE.to_owned(), point.to_string()));
    }

    /// From now on it starts where it listens now, so that its clients find it again.
    pub fn keep_port(&mut self) {
        self.spec.port = self.own_url().rsplit(':').next().unwrap().parse().unwrap();
    }

    /// Starts it (again), on the same data directory, and waits until it is ready.
    pub async fn start_again(&mut self) {
        self.spawn();
        let started = Instant::now();
        while !self.is_ready().await {
            assert!(started.elapsed() < Duration::from_secs(30), "the replica is not ready");
            // Its port was free while it did not run, and may be somebody's outgoing connection for a moment.
            if self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_some())
                && self.log().lines().last().is_some_and(|line| line.contains("in use"))
            {
                self.spawn();
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Starts it (again) while it cannot reach NATS, and waits until it serves what it has on disk. It is not ready then.
    pub async fn start_alone(&mut self) {
        self.spawn();
        eventually("it serves without NATS", || async {
            let there = !self.url().is_empty() && self.listens().await;
            let asked = self.request(Method::GET, "/active").header("X-User-Id", "nobody").send();
            there && asked.await.is_ok_and(|answer| answer.status() == StatusCode::OK)
        })
        .await;
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self) {
        let _ = fs::remove_file(self.data_dir().join("http.url"));
        let log = fs::File::options().create(true).append(true).open(self.log_path()).unwrap();
        let built = Path::new(env!("CARGO_BIN_EXE_tidings"));
        let mut command = Command::new(self.spec.binary.as_deref().unwrap_or(built));
        command.arg("serve").arg("--data-dir").arg(self.data_dir());
        // Variables, so that a test can choose otherwise with a flag.
        let listen = format!("127.0.0.1:{}", self.spec.port);
        command.env("TIDINGS_LISTEN", listen).env("TIDINGS_DRAIN_SECONDS", "0");
        match &self.spec.nats {
            Some(url) => command.args(["--nats", url]),
            None => command.arg("--nats-server").arg(nats_server()),
        };
        command.args(&self.spec.arguments).envs(self.spec.environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    pub fn data_dir(&self) -> PathBuf {
        self.spec.data_dir.clone().unwrap_or_else(|| self.directory.path().join("data"))
    }

    /// The URL, with its login, of the NATS that it runs for itself.
    pub fn embedded_nats(&self) -> String {
        fs::read_to_string(self.data_dir().join("nats.url")).unwrap().trim().to_owned()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Everything that it wrote to stdout and stderr, over restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Where clients reach it; empty until it listens, unless that is known before.
    pub fn url(&self) -> String {
        self.front.as_ref().map_or_else(|| self.own_url(), |front| front.url().to_owned())
    }

    /// The nginx in front of it.
    pub fn front(&self) -> &Front {
        self.front.as_ref().expect("there is something in front of it")
    }

    /// Where it listens itself.
    fn own_url(&self) -> String {
        if self.spec.port != 0 {
            return format!("http://127.0.0.1:{}", self.spec.port);
        }
        fs::read_to_string(self.data_dir().join("http.url")).unwrap_or_default().trim().to_owned()
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.as_ref().expect("it runs").id()).unwrap()).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits for the end.
    pub async fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Whether the process has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        let child = self.child.as_mut().expect("it runs");
        eventually("the replica has ended", || {
            status = child.try_wait().unwrap();
            let ended = status.is_some();
            async move { ended }
        })
        .await;
        self.child = None;
        status.unwrap()
    }

    pub async fn is_ready(&self) -> bool {
        let asked = || self.raw_request(Method::GET, "/readyz").send();
        let there = !self.url().is_empty() && self.listens().await;
        there && asked().await.is_ok_and(|answer| answer.status() == StatusCode::OK)
    }

    /// Whether it takes connections, as far as that has to be known: something in front of it answers also when it does not.
    async fn listens(&self) -> bool {
        let own = self.own_url();
        self.front.is_none() || TcpStream::connect(own.trim_start_matches("http://")).await.is_ok()
    }

    /// What `/readyz` says: sequence, head, digest, epoch.
    pub async fn readyz(&self) -> Value {
        match self.raw_request(Method::GET, "/readyz").send().await {
            Ok(answer) => answer.json().await.unwrap_or(Value::Null),
            Err(_) => Value::Null,
        }
    }

    pub async fn metrics(&self) -> String {
        self.raw_request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap()
    }

    /// One number of `/metrics`, by its name with labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.metrics().await;
        metric_in(&text, name).unwrap_or_else(|| panic!("no metric {name} in:\n{text}"))
    }

    /// A number of `/metrics` that is a count.
    pub async fn count(&self, name: &str) -> u64 {
        self.metric(name).await.to_string().parse().unwrap_or_else(|_| panic!("{name} is not a count"))
    }

    /// A request to `/api/creator/broadcast{path}`, to be completed.
    pub fn request(&self, method: Method, path: &str) -> Request {
        self.http.request(method, format!("{}/api/creator/broadcast{path}", self.url()))
    }

    /// A request to any path of the replica.
    pub fn raw_request(&self, method: Method, path: &str) -> Request {
        self.http.request(method, format!("{}{path}", self.url()))
    }

    /// Posts a broadcast as the seed's checklist does, and returns the answer.
    pub async fn post_broadcast(&self, message: &str) -> Value {
        let sent =
            self.request(Method::POST, "").json(&json!({"message": message, "type": "info"})).send().await;
        let answer = sent.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, StatusCode::CREATED, "{body}");
        body
    }

    /// Posts under one key until the log has it: it takes effect once, however often NATS was away meanwhile.
    pub async fn post_until_taken(&self, message: &str) -> Value {
        let taken = std::sync::Mutex::new(Value::Null);
        eventually("the broadcast is taken", || async {
            let request = self.request(Method::POST, "").header("Idempotency-Key", message);
            let answer = request.json(&json!({"message": message})).send().await.unwrap();
            let (status, body) = (answer.status(), answer.json::<Value>().await.unwrap());
            let not_yet = [StatusCode::ACCEPTED, StatusCode::SERVICE_UNAVAILABLE];
            assert!(status == StatusCode::CREATED || not_yet.contains(&status), "{body}");
            *taken.lock().unwrap() = body;
            status == StatusCode::CREATED
        })
        .await;
        taken.into_inner().unwrap()
    }

    /// Sends a request of the creator, or of a user, and returns the status and the body.
    pub async fn ask(&self, request: Request) -> (u16, Value) {
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Waits until it works in a mode, as `/readyz` says.
    pub async fn in_mode(&self, mode: &str) {
        eventually(&format!("the mode is {mode}"), || async { self.readyz().await["mode"] == mode }).await;
    }

    pub async fn clear(&self) -> Value {
        let answer = self.request(Method::POST, "/clear").send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        answer.json().await.unwrap()
    }

    pub async fn acknowledge(&self, id: &str, user: &str) -> Value {
        let request = self.request(Method::POST, "/acknowledge").header("X-User-Id", user);
        let answer = request.json(&json!({"broadcast_id": id})).send().await.unwrap();
        let status = answer.status();
        let body: Value = answer.json().await.unwrap();
        assert_eq!(status, StatusCode::OK, "{body}");
        body
    }

    /// The active broadcast for a user.
    pub async fn active(&self, user: &str) -> Value {
        let answer = self.request(Method::GET, "/active").header("X-User-Id", user).send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        body["broadcast"].clone()
    }

    /// `GET /stats` → `stats`.
    pub async fn stats(&self) -> Value {
        let answer = self.request(Method::GET, "/stats").send().await.unwrap();
        let body: Value = answer.json().await.unwrap();
        body["stats"].clone()
    }

    /// A WebSocket client, as the seed's checklist connects one.
    pub async fn connect(&self, user: &str) -> Client {
        self.connect_with(&format!("?user_id={user}")).await
    }

    pub async fn connect_with(&self, query: &str) -> Client {
        Client::connect(&format!("{}/api/creator/broadcast/ws{query}", self.url().replace("http", "ws")))
            .await
    }

    /// A WebSocket client with a token in the header `Authorization`.
    pub async fn connect_as(&self, token: &str) -> Client {
        let connected = self.try_connect("", &[("Authorization", &format!("Bearer {token}"))]).await;
        connected.unwrap_or_else(|error| panic!("not connected: {error}"))
    }

    /// A WebSocket client with these headers, if it is let in.
    pub async fn try_connect(&self, query: &str, headers: &[(&'static str, &str)]) -> Result<Client, Error> {
        let url = format!("{}/api/creator/broadcast/ws{query}", self.url().replace("http", "ws"));
        Client::try_connect_with(&url, headers).await
    }

    /// The digest once it has read the log up to a sequence.
    pub async fn digest_at(&self, sequence: u64) -> String {
        eventually(&format!("the replica has read up to {sequence}"), || async {
            self.readyz().await["sequence"].as_u64() >= Some(sequence)
        })
        .await;
        let ready = self.readyz().await;
        assert_eq!(ready["sequence"].as_u64(), Some(sequence), "{ready}");
        ready["digest"].as_str().unwrap().to_owned()
    }

    /// Runs a command of the binary against this replica's NATS and returns its output.
    pub async fn tidings(&self, arguments: &[&str]) -> std::process::Output {
        self.command(arguments).output().await.unwrap()
    }

    /// A command of the binary against this replica's NATS, to be run.
    pub fn command(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(arguments).arg("--data-dir").arg(self.data_dir()).stdin(Stdio::null());
        if let Some(url) = &self.spec.nats {
            command.args(["--nats", url]);
        }
        command
    }
}

/// A number in the text of `/metrics`.
pub fn metric_in(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|number| number.parse().unwrap())
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
        let log = self.log();
        if std::thread::panicking() {
            eprintln!("--- replica {} ---\n{}", self.data_dir().display(), tail(&log));
        } else {
            assert!(self.may_panic || !log.contains("panicked at"), "a replica panicked:\n{}", tail(&log));
        }
    }
}
