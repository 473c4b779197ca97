//! The ways to install that build a release, as docs/deployment.md shows them. A release takes minutes to build: `make release`.

use std::path::Path;
use std::process::Command;

use super::blocks::Kind;
use super::blocks_of;

#[test]
#[ignore = "builds a release, which takes minutes: make release"]
fn a_release_is_built_and_installed_as_it_is_shown() {
    let installed = tempfile::Builder::new().prefix("tidings-installed-").tempdir().unwrap();
    let blocks = blocks_of("docs/deployment.md").into_iter().filter(|block| block.kind == Kind::Release);
    let blocks: Vec<_> = blocks.collect();
    assert_eq!(blocks.len(), 2, "as a program, and as a file");
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", installed.path().join("bin").display());
    for block in blocks {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &block.text]).current_dir(env!("CARGO_MANIFEST_DIR"));
        // Where a user's programs go; here they are thrown away.
        shell.env("CARGO_INSTALL_ROOT", installed.path()).env("PATH", &path);
        let output = shell.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}{errors}", block.text);
        let version = format!("tidings {}\n", env!("CARGO_PKG_VERSION"));
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(&version), "{output:?}");
    }
    assert!(Path::new(&installed.path().join("bin/tidings")).exists());
}
