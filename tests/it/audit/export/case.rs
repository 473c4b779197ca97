//! A log to export, and what is said of it.

use super::*;

/// A log with a bit of everything in it, and what was exported of it.
pub(super) struct Case {
    pub(super) nats: Nats,
    pub(super) replica: Replica,
    pub(super) folder: TempDir,
    pub(super) first: String,
}

pub(super) const LAST: u64 = 9;

impl Case {
    pub(super) async fn new() -> Self {
        let mut nats = Nats::start().await;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("checkpoint.key");
        let keygen = ["admin", "keygen", "--name", "example.com/tidings", key.to_str().unwrap()];
        fs::write(folder.path().join("checkpoint.pub"), succeeded(&command(&keygen).await)).unwrap();
        let signing =
            ["--replica", "r1", "--checkpoint-key", key.to_str().unwrap(), "--checkpoint-every-events", "3"];
        let mut replica = Replica::start_with(Spec::joining(nats.url()).with(&signing)).await;
        let first = replica.post_broadcast("one “and” 🦀…").await["id"].as_str().unwrap().to_owned(); // 1
        replica.acknowledge(&first, "eve").await; // 2
        replica.acknowledge(&first, "a.b c").await; // 3
        let mut headers = HeaderMap::new();
        headers.append("x-note", "a \"b\" \\ c");
        headers.append("x-note", "née\u{202E}");
        let foreign = nats.jetstream().await;
        let sent = foreign.publish_with_headers("broadcasts.creator.other", headers, vec![0xff, 0, 7].into());
        assert_eq!(sent.await.unwrap().await.unwrap().sequence, 4);
        let late = NewEvent { subject: Subject::Late(channel()), ..created("overtaken") };
        nats.log().await.append(expecting(0, late)).await.unwrap(); // 5
        replica.digest_at(5).await;
        replica.post_broadcast("this one is lost").await; // 6
        replica.clear().await; // 7
        let id = replica.post_broadcast("three").await["id"].as_str().unwrap().to_owned(); // 8
        assert_eq!(replica.acknowledge(&id, "eve").await["sequence"], LAST);
        let checkpoints = CheckpointStream::of(nats.jetstream().await).await.unwrap();
        eventually("it is signed", || async { checkpoints.extent().await.unwrap().last >= 1 }).await;
        replica.kill();
        nats.stop();
        nats.damage("this one is lost");
        nats.start_again().await;
        Self { nats, replica, folder, first }
    }

    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) async fn exported(&self) -> PathBuf {
        let file = self.file("log.ndjson");
        let said = self.replica.tidings(&["audit", "export", file.to_str().unwrap()]).await;
        assert!(succeeded(&said).contains("up to sequence 9; holes: 1, checkpoints: "), "{said:?}");
        file
    }

    /// What the command says of the log itself, and what it says of the file.
    pub(super) async fn both(&self, file: &Path, arguments: &[&str]) -> (Output, Output) {
        let arguments = [&["audit"], arguments].concat();
        let log = self.replica.tidings(&arguments).await;
        let file = command(&[&arguments[..], &["--file", file.to_str().unwrap()]].concat()).await;
        assert_eq!(log.status.code(), file.status.code(), "{arguments:?}: {log:?} {file:?}");
        (log, file)
    }
}

/// Runs the binary where there is no NATS.
pub(super) async fn command(arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).env_remove("TIDINGS_NATS").stdin(Stdio::null());
    command.current_dir(std::env::temp_dir()).output().await.unwrap()
}

#[track_caller]
pub(super) fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(super) fn notes(output: &Output) -> Vec<String> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr.lines().filter(|line| line.starts_with("sequence ")).map(str::to_owned).collect()
}

/// What a verification found, without what only a live log has, and its end.
pub(super) fn found(output: &Output) -> (Vec<Value>, Value) {
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = lines.pop().unwrap_or_else(|| panic!("{output:?}"));
    lines.retain(|finding| finding["finding"] != "mirror" && finding["finding"] != "replica");
    (lines, end)
}
