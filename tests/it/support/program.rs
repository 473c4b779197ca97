//! A program that stands around a replica, such as a balancer: in a folder of its own, and ended with its value.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::nats::tail;

/// What the main configuration of an nginx says around ours, which is `nginx.conf`; it stays in the foreground and in its
/// folder.
pub const NGINX_AROUND: &str = "daemon off; master_process off; pid nginx.pid;
events { worker_connections 1024; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    include nginx.conf;
}
";

/// How an nginx is started on it.
pub const NGINX_ARGUMENTS: &[&str] = &["-e", "stderr", "-p", ".", "-c", "main.conf"];

/// A command whose process ends when the thread that starts it does, so that nothing outlives a test run that is killed.
pub fn mortal(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program).process_group(0);
    command
}

pub struct Program {
    name: &'static str,
    child: Child,
    directory: TempDir,
}

impl Program {
    /// Starts it in a folder that has these files.
    pub fn start(name: &'static str, arguments: &[&str], files: &[(&str, &str)]) -> Self {
        let directory = tempfile::Builder::new().prefix(&format!("tidings-{name}-")).tempdir().unwrap();
        for (file, text) in files {
            fs::write(directory.path().join(file), text).unwrap();
        }
        let log = fs::File::create(log_in(directory.path())).unwrap();
        let child = mortal(find(name))
            .args(arguments)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { name, child, directory }
    }
}

/// Debian keeps servers in a folder that is not on everybody's PATH.
fn find(name: &str) -> PathBuf {
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = path.split(':').chain(["/usr/sbin", "/sbin"]).map(PathBuf::from);
    let found = folders.map(|folder| folder.join(name)).find(|program| program.exists());
    found.unwrap_or_else(|| panic!("{name} is not here: tests/install.sh says how to get it"))
}

fn log_in(directory: &Path) -> PathBuf {
    directory.join("log")
}

/// Puts something in the place of what a configuration has exactly once.
pub fn replace(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from} is once in:\n{text}");
    *text = text.replace(from, to);
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(log_in(self.directory.path())).unwrap_or_default();
            eprintln!("--- {} ---\n{}", self.name, tail(&log));
        }
    }
}
