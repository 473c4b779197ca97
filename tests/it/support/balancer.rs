//! Real balancers, with the configurations of `tests/balancer/`: only addresses differ from what is shipped.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::nats::{free_port, tail};
use super::{Replica, eventually, shipped};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Haproxy,
    Nginx,
}

pub struct Balancer {
    child: Child,
    directory: TempDir,
    port: u16,
}

impl Balancer {
    /// Starts one in front of three replicas and waits until it finds one of them ready.
    pub async fn start(kind: Kind, replicas: &[Replica; 3]) -> Self {
        let directory = tempfile::Builder::new().prefix("tidings-balancer-").tempdir().unwrap();
        let port = free_port();
        let (file, listening, arguments) = match kind {
            Kind::Haproxy => ("haproxy.cfg", "bind :8000", &["-db", "-f", "haproxy.cfg"][..]),
            Kind::Nginx => ("nginx.conf", "listen 8000", &["-e", "stderr", "-p", ".", "-c", "main.conf"][..]),
        };
        let mut shipped = shipped(&format!("tests/balancer/{file}"));
        let listen = listening.replace(":8000", "8000").replace("8000", &format!("127.0.0.1:{port}"));
        replace(&mut shipped, listening, &listen);
        for (n, replica) in (1..).zip(replicas) {
            replace(&mut shipped, &format!(" replica-{n}:8000"), &format!(" {}", address(replica)));
        }
        fs::write(directory.path().join(file), shipped).unwrap();
        fs::write(directory.path().join("main.conf"), NGINX_AROUND).unwrap();
        let log = fs::File::create(directory.path().join("log")).unwrap();
        // By the binary's command for children, so that nothing outlives a test run that is killed.
        let child = Command::new(env!("CARGO_BIN_EXE_tidings"))
            .arg("nats-child")
            .arg(program(kind))
            .arg("--")
            .args(arguments)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let balancer = Self { child, directory, port };
        let ready = format!("{}/readyz", balancer.url());
        eventually("the balancer finds a replica that is ready", || async {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        balancer
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// What the main configuration of an nginx says around ours; it stays in the foreground and in its folder.
const NGINX_AROUND: &str = "daemon off; master_process off; pid nginx.pid;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include nginx.conf;
}
";

fn replace(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from} is once in:\n{text}");
    *text = text.replace(from, to);
}

fn address(replica: &Replica) -> String {
    replica.url().trim_start_matches("http://").to_owned()
}

/// Debian keeps servers in a folder that is not on everybody's PATH.
fn program(kind: Kind) -> PathBuf {
    let name = if kind == Kind::Haproxy { "haproxy" } else { "nginx" };
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]).map(PathBuf::from);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.exists());
    found.unwrap_or_else(|| panic!("{name} is not here: tests/install.sh says how to get it"))
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("--- balancer ---\n{}", tail(&log));
        }
    }
}
