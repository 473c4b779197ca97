//! What a reader of a document has: a clone of the repository, a shell, and what they have started.
//!
//! A document names ports as a reader uses them; here each of them is another one, which the system chose.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use super::blocks::{Block, Kind, shows};
use crate::support::nats::{copy_folder, free_port, tail};
use crate::support::program::mortal;
use crate::support::{Http, PATIENCE, eventually, nats_server, shipped, within};

/// What the repository has and documents use as it is.
const SHARED: [&str; 6] = ["Cargo.toml", "Cargo.lock", "Makefile", "deploy", "schemas", "src"];

/// The program is built: `cargo test` did it. So `make run` only has to start it.
const CARGO: &str = "#!/bin/sh
case \"$*\" in
    'build --locked') ;;
    'run --quiet --locked -- '*) shift 4; exec tidings \"$@\" ;;
    *) echo \"documents are run without cargo $*\" >&2; exit 1 ;;
esac
";

/// An answer that is an error fails the command.
const CURLRC: &str = "fail-with-body\nno-progress-meter\nmax-time = 600\n";

/// What each block begins and ends with. What it sets and exports is there in the next one.
const BEFORE: &str = "set -euo pipefail; set -a; [ ! -e .session ] || . ./.session\n";
const AFTER: &str = "\nexport -p | grep -v '^declare -[a-z]*r' > .session\n";

/// A process that a block started and that runs until the document ends.
struct Background {
    child: Child,
    output: PathBuf,
}

pub struct Session {
    document: &'static str,
    folder: TempDir,
    /// The ports of the document, and those that stand for them.
    ports: BTreeMap<String, u16>,
    background: Vec<Background>,
    /// What the last block has printed, and whether it is still running.
    printed: (PathBuf, bool),
    number: usize,
}

impl Session {
    pub fn new(document: &'static str) -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-document-").tempdir().unwrap();
        let nats = shipped("nats/server.conf");
        let named = ports(&shipped(document)).into_iter().chain(ports(&nats));
        let ports = named.map(|port| (port, free_port())).collect();
        let session = Self {
            document,
            folder,
            ports,
            background: Vec::new(),
            printed: (PathBuf::new(), false),
            number: 0,
        };
        session.populate(&nats);
        session
    }

    fn populate(&self, nats: &str) {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in SHARED {
            symlink(repository.join(name), self.path(name)).unwrap();
        }
        copy_folder(&repository.join("nats"), &self.path("nats"));
        fs::write(self.path("nats/server.conf"), self.local(nats)).unwrap();
        for folder in ["bin", "target/debug"] {
            fs::create_dir_all(self.path(folder)).unwrap();
            symlink(env!("CARGO_BIN_EXE_tidings"), self.path(folder).join("tidings")).unwrap();
        }
        fs::write(self.path("bin/cargo"), CARGO).unwrap();
        fs::set_permissions(self.path("bin/cargo"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(self.path(".curlrc"), CURLRC).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A text of the document with the ports that are used here: each number that is one of its ports is replaced.
    pub fn local(&self, text: &str) -> String {
        let mut local = String::new();
        for part in text.split_inclusive(|c: char| !c.is_ascii_digit()) {
            let number = part.trim_end_matches(|c: char| !c.is_ascii_digit());
            let port = self.ports.get(number).map_or_else(|| number.to_owned(), u16::to_string);
            local.push_str(&port);
            local.push_str(&part[number.len()..]);
        }
        local
    }

    /// Whether a command ends without an error, whatever it prints.
    pub async fn succeeds(&self, command: &str) -> bool {
        let mut shell = tokio::process::Command::new("bash");
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        shell.args(["-c", command]).current_dir(self.folder.path()).env("PATH", path);
        shell.output().await.unwrap().status.success()
    }

    /// Runs a block, or does what else its info string asks for.
    pub async fn run(&mut self, block: &Block) {
        match &block.kind {
            Kind::Run { codes, seconds } => {
                let script = format!("{BEFORE}{}{AFTER}", self.local(&block.text));
                let mut child = self.spawn(&script);
                let status = self.ended(&mut child, *seconds, block).await;
                let code = status.code().unwrap_or(-1);
                assert!(
                    codes.contains(&code),
                    "{}: exit code {code}\n{}",
                    self.at(block),
                    self.all_printed()
                );
            }
            Kind::Background { until } => self.start(block, until).await,
            Kind::Output => self.compare(block).await,
            Kind::File(name) => {
                let path = self.path(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, self.local(&block.text)).unwrap();
            }
            Kind::Release | Kind::Skip | Kind::Shown => {}
        }
    }

    /// Starts a block in the background, and waits for words in its output and, of a replica, until it is ready.
    pub async fn start(&mut self, block: &Block, until: &str) {
        let script = format!("{BEFORE}{}", self.local(&block.text));
        let child = self.spawn(&script);
        let output = self.printed.0.clone();
        self.printed.1 = true;
        self.background.push(Background { child, output: output.clone() });
        let at = self.at(block);
        let process = self.background.last_mut().unwrap();
        eventually(&format!("{at} prints `{until}`"), || {
            let ended = process.child.try_wait().unwrap();
            let printed = format!("{}{}", read(&output), read(&errors(&output)));
            assert!(ended.is_none(), "{at} has ended\n{}", tail(&printed));
            async move { printed.contains(until) }
        })
        .await;
        if let Some((_, url)) = read(&output).split_once("Tidings listens at ") {
            let url = url.split_whitespace().next().unwrap().trim_end_matches('.').to_owned();
            let http = Http::patient(PATIENCE);
            eventually("the replica is ready", || async {
                let asked = http.request(Method::GET, format!("{url}/readyz")).send().await;
                asked.is_ok_and(|answer| answer.status() == StatusCode::OK)
            })
            .await;
        }
    }

    /// A shell on a script, with the environment of a reader: nothing of the test run but where programs are.
    fn spawn(&mut self, script: &str) -> Child {
        self.number += 1;
        self.printed = (self.path(&format!(".output-{}", self.number)), false);
        let output = fs::File::create(&self.printed.0).unwrap();
        let errors = fs::File::create(errors(&self.printed.0)).unwrap();
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        // It ends, with all that it has started, when this thread does, or after a time.
        let mut command = mortal("timeout");
        command.args(["--kill-after=5", "900", "bash", "-c", script]).current_dir(self.folder.path());
        command.env_clear().env("PATH", path).env("HOME", self.folder.path()).env("LANG", "C.UTF-8");
        command.env("NATS_SERVER", nats_server()).env("TIDINGS_NATS_SERVER", nats_server());
        command.env("TIDINGS_CHECKPOINT_EVERY_SECONDS", "1").env("TIDINGS_DRAIN_SECONDS", "0");
        if let Some(port) = self.ports.get("8000") {
            command.env("TIDINGS_LISTEN", format!("127.0.0.1:{port}"));
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors).spawn().unwrap()
    }

    async fn ended(&self, child: &mut Child, seconds: u64, block: &Block) -> ExitStatus {
        let mut status = None;
        let what = format!("{} has ended", self.at(block));
        within(Duration::from_secs(seconds), &what, || {
            status = child.try_wait().unwrap();
            let ended = status.is_some();
            async move { ended }
        })
        .await;
        status.unwrap()
    }

    async fn compare(&self, block: &Block) {
        let (output, running) = &self.printed;
        let what = format!("{} is what is printed", self.at(block));
        let expected = block.text.as_str();
        if *running {
            eventually(&what, async || shows(&read(output), expected, true)).await;
        } else {
            assert!(shows(&read(output), expected, false), "{what}, and not\n{}", read(output));
        }
    }

    fn at(&self, block: &Block) -> String {
        format!("{}:{}", self.document, block.line)
    }

    fn all_printed(&self) -> String {
        format!("{}{}", read(&self.printed.0), read(&errors(&self.printed.0)))
    }
}

fn errors(output: &Path) -> PathBuf {
    output.with_extension("errors")
}

/// What a process has written to a file.
fn read(output: &Path) -> String {
    fs::read_to_string(output).unwrap_or_default()
}

/// The ports of this machine that a text names.
fn ports(text: &str) -> Vec<String> {
    let after = ["127.0.0.1:", "localhost:"].into_iter().flat_map(|host| text.split(host).skip(1));
    let digits = |rest: &str| rest.chars().take_while(char::is_ascii_digit).collect::<String>();
    after.map(digits).filter(|port| port.len() == 4).collect()
}

impl Drop for Session {
    fn drop(&mut self) {
        for process in &mut self.background {
            let pid = Pid::from_raw(i32::try_from(process.child.id()).unwrap()).unwrap();
            let _ = kill_process_group(pid, Signal::TERM);
        }
        for process in &mut self.background {
            let _ = process.child.wait();
            if std::thread::panicking() {
                eprintln!("--- {} ---\n{}", self.document, tail(&read(&errors(&process.output))));
            }
        }
    }
}

#[test]
fn ports_of_a_document_are_replaced_where_they_are_whole_numbers() {
    let mut session = Session::new("README.md");
    session.ports = [("8000".to_owned(), 48_001), ("8001".to_owned(), 38_000)].into();
    let local = session.local("localhost:8000, 127.0.0.1:8001/a, 18000 and 8000");
    assert_eq!(local, "localhost:48001, 127.0.0.1:38000/a, 18000 and 48001");
    assert_eq!(ports("localhost:8000 127.0.0.1:4222/a localhost"), ["4222", "8000"]);
}
