//! `tidings audit export`: the whole log in a file, and everything that an auditor asks answered from it as from the log.

mod case;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::Arc;

use async_nats::HeaderMap;
use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::audit::export::{ExportFile, export};
use tidings::audit::source::Source;
use tidings::domain::Timestamp;
use tidings::log::memory::MemoryLog;
use tidings::log::merkle::Hash;
use tidings::log::names::{CHECKPOINT_STREAM, LOG_STREAM, Subject};
use tidings::log::{EventLog as _, NewEvent};
use tidings::notary::stream::CheckpointStream;

use crate::support::checkpoints::{in_stream, of_file};
use crate::support::contract::schemas::Schemas;
use crate::support::log::{channel, created, expecting};
use crate::support::memory::peak_kib;
use crate::support::{Nats, Replica, Spec, eventually};
use case::{Case, LAST, command, found, notes, succeeded};

#[tokio::test]
async fn a_file_answers_everything_that_the_log_does() {
    let case = Case::new().await;
    let file = case.exported().await;
    let opened = ExportFile::open(&file, |_| {}).unwrap();
    assert_eq!((opened.faults(), opened.more_faults()), (&[][..], 0));
    let checkpoints = CheckpointStream::of(case.nats.jetstream().await).await.unwrap();
    assert_eq!(of_file(&opened), in_stream(&checkpoints).await);

    let (log, from_file) = case.both(&file, &["replay"]).await;
    assert_eq!(succeeded(&log).lines().count(), 7);
    let times: Vec<String> = succeeded(&log)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["recordedtime"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!((succeeded(&from_file), notes(&from_file)), (succeeded(&log), notes(&log)));
    assert!(notes(&log)[1].contains("lost its message"), "{log:?}");
    for options in [
        &["--format", "table"][..],
        &["--since", &times[2]],
        &["--until", &times[2]],
        &["--since", &times[1], "--until", &times[4]],
        &["--from-seq", "2", "--to-seq", "7"],
        &["--broadcast", &case.first],
        &["--user", "a.b c"],
        &["--since", "0s"],
    ] {
        let (log, from_file) = case.both(&file, &[&["replay"], options].concat()).await;
        assert_eq!((succeeded(&from_file), notes(&from_file)), (succeeded(&log), notes(&log)), "{options:?}");
    }
    for sequence in 0..=LAST {
        let (log, from_file) = case.both(&file, &["state", "--at-seq", &sequence.to_string()]).await;
        assert_eq!(succeeded(&from_file), succeeded(&log), "at {sequence}");
    }
    for moment in times.iter().map(String::as_str).chain(["1h", "0s"]) {
        let (log, from_file) = case.both(&file, &["state", "--at", moment]).await;
        assert_eq!(succeeded(&from_file), succeeded(&log), "at {moment}");
    }
    let (log, from_file) = case.both(&file, &["state", "--at-seq", "10"]).await;
    assert_eq!((log.status.code(), log.stderr), (Some(2), from_file.stderr));

    let key = case.file("checkpoint.pub");
    let (log, from_file) = case.both(&file, &["verify", "--key", key.to_str().unwrap()]).await;
    let ((of_log, log_end), (of_file, file_end)) = (found(&log), found(&from_file));
    assert_eq!(of_file, of_log);
    let kinds: Vec<_> = of_file.iter().map(|f| f["finding"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"hole") && kinds.contains(&"unknown"), "{of_file:?}");
    for same in ["epoch", "size", "root", "digest", "compared", "signed_up_to"] {
        assert_eq!(file_end[same], log_end[same], "{same}");
    }
    assert_eq!(file_end["root"], json!(opened.root()));
}

#[tokio::test]
async fn a_proof_is_made_of_a_file_as_of_the_log() {
    let mut nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, file, made) = (in_folder("key"), in_folder("log.ndjson"), in_folder("proof"));
    let public = succeeded(&command(&["admin", "keygen", "--name", "example.com/tidings", &key]).await);
    fs::write(in_folder("pub"), &public).unwrap();
    let signing = ["--checkpoint-key", &key, "--checkpoint-every-events", "1"];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&signing)).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    replica.acknowledge(&id, "eve").await;
    let prove = ["audit", "prove", "--broadcast", &id, "--user", "eve", "--key", public.trim()];
    eventually("it can be proven", || async { replica.tidings(&prove).await.status.success() }).await;
    succeeded(&replica.tidings(&["audit", "export", &file]).await);
    let of_log = succeeded(&replica.tidings(&prove).await);
    drop(replica);
    nats.kill();
    succeeded(&command(&[&prove[..], &["--file", &file, "--out", &made]].concat()).await);
    assert_eq!(fs::read_to_string(&made).unwrap(), of_log);
    let checked = succeeded(&command(&["audit", "check", &made, "--key", &in_folder("pub")]).await);
    assert!(checked.contains("\"user\":\"eve\""), "{checked}");
}

#[tokio::test]
async fn each_line_of_a_file_is_by_its_schema_and_each_header_in_it() {
    let case = Case::new().await;
    let text = fs::read_to_string(case.exported().await).unwrap();
    let schemas = Schemas::load();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for line in &lines {
        schemas.hold("export", line);
    }
    assert!(!text.contains(['\u{202E}', '\r']), "nothing in it steers a terminal");
    let places: Vec<_> = lines.iter().filter(|line| line["sequence"].is_u64()).collect();
    assert_eq!(places.len() as u64, LAST);
    assert_eq!(places[5], &json!({"sequence": 6, "hole": true}));
    let foreign = places[3];
    assert_eq!(
        (&foreign["body_base64"], &foreign["subject"]),
        (&json!("/wAH"), &json!("broadcasts.creator.other"))
    );
    let noted = json!([["x-note", "a \"b\" \\ c"], ["x-note", "née\u{202E}"]]);
    assert_eq!(foreign["headers"], noted);
    let names: Vec<_> = places[0]["headers"].as_array().unwrap().iter().map(|pair| &pair[0]).collect();
    assert!(names.contains(&&json!("Nats-Msg-Id")) && names.contains(&&json!("ce-id")), "{names:?}");
    assert_eq!(serde_json::from_str::<Value>(places[0]["body"].as_str().unwrap()).unwrap()["id"], case.first);
}

#[tokio::test]
async fn a_file_is_whole_or_is_not_there() {
    let case = Case::new().await;
    let (file, part) = (case.file("log.ndjson"), case.file("log.ndjson.part"));
    let name = file.to_str().unwrap();
    let url = case.nats.url();
    // No file may have more than a kilobyte: by default the signal for that kills, without it writing fails.
    for (before, ended) in [("ulimit -c 0", None), ("trap '' XFSZ", Some(3))] {
        let script = format!("{before}; ulimit -f 1; exec \"$@\"");
        let mut limited = tokio::process::Command::new("bash");
        limited.args([
            "-c",
            &script,
            "bash",
            env!("CARGO_BIN_EXE_tidings"),
            "audit",
            "export",
            name,
            "--nats",
            &url,
        ]);
        let output = limited.output().await.unwrap();
        assert_eq!(output.status.code(), ended, "{output:?}");
        assert!(!file.exists());
        assert_eq!(part.exists(), ended.is_none(), "only who was killed leaves it behind");
        if ended.is_none() {
            let begun = ExportFile::open(&part, |_| {}).unwrap();
            assert!(begun.faults().iter().any(|fault| fault.what.contains("the end line is missing")));
        }
    }
    case.exported().await;
    assert!(!part.exists());

    let whole = fs::read(&file).unwrap();
    let again = case.replica.tidings(&["audit", "export", name]).await;
    assert_eq!(again.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&again.stderr).contains("is there already; --force"), "{again:?}");
    assert_eq!(fs::read(&file).unwrap(), whole);
    fs::write(&file, "older").unwrap();
    succeeded(&case.replica.tidings(&["audit", "export", "--force", name]).await);
    let stdout = succeeded(&case.replica.tidings(&["audit", "export", "-"]).await);
    let after_header =
        |text: &[u8]| text.iter().skip_while(|byte| **byte != b'\n').copied().collect::<Vec<_>>();
    assert_eq!(after_header(&fs::read(&file).unwrap()), after_header(&whole));
    assert_eq!(after_header(stdout.as_bytes()), after_header(&whole));

    // While another export writes it, and where nothing can be written.
    let busy = fs::File::create(&part).unwrap();
    busy.lock().unwrap();
    for (target, words) in [
        (name, "another export writes"),
        (case.folder.path().to_str().unwrap(), "is a folder"),
        ("/nowhere/at/all", "writing /nowhere/at/all.part"),
    ] {
        let refused = case.replica.tidings(&["audit", "export", "--force", target]).await;
        assert_eq!(refused.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{refused:?}");
    }
    assert_eq!(after_header(&fs::read(&file).unwrap()), after_header(&whole));
    let away = command(&["audit", "export", case.file("x").to_str().unwrap(), "--nats", "127.0.0.1:1"]).await;
    assert_eq!(away.status.code(), Some(3));
    assert!(!case.file("x").exists() && !case.file("x.part").exists());
}

#[tokio::test]
async fn logs_without_checkpoints_and_without_anything_export_too() {
    let nats = Nats::start().await;
    let log = nats.log().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("log.ndjson");
    let auditor = Replica::prepared(Spec::joining(nats.url()));
    let export = ["audit", "export", "--force", file.to_str().unwrap()];
    succeeded(&auditor.tidings(&export).await);
    let empty = ExportFile::open(&file, |_| {}).unwrap();
    assert_eq!((empty.head().last_sequence, empty.root(), empty.faults()), (0, Hash::empty(), &[][..]));
    let replay = command(&["audit", "replay", "--file", file.to_str().unwrap()]).await;
    assert_eq!(
        (succeeded(&replay), String::from_utf8_lossy(&replay.stderr).trim()),
        (String::new(), "the log is empty")
    );

    nats.jetstream().await.delete_stream(CHECKPOINT_STREAM).await.unwrap();
    log.append(expecting(0, created("one"))).await.unwrap();
    let said = succeeded(&auditor.tidings(&export).await);
    assert!(said.contains("up to sequence 1; holes: 0, checkpoints: 0"), "{said}");
    let verified = command(&["audit", "verify", "--file", file.to_str().unwrap()]).await;
    let (findings, end) = found(&verified);
    assert_eq!((findings, &end["size"], &end["verified"]), (vec![], &json!(1), &json!(false)));
    assert_eq!(verified.status.code(), Some(4), "nobody has signed it");

    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    let gone = auditor.tidings(&export).await;
    assert_eq!(gone.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("BROADCASTS does not exist"), "{gone:?}");
    assert_eq!(ExportFile::open(&file, |_| {}).unwrap().head().last_sequence, 1, "the file is as it was");
}

#[tokio::test]
async fn an_export_takes_no_more_memory_for_a_long_log_than_for_a_short_one() {
    let nats = Nats::start().await;
    let _ = nats.log().await;
    let jetstream = nats.jetstream().await;
    let publish = async |messages: u64| {
        let sent = (0..messages).map(|n| {
            let body = format!("{n} {}", "x".repeat(8_000));
            jetstream.publish("broadcasts.creator.other", body.into())
        });
        let acknowledged = stream::iter(sent).then(|sent| async { sent.await.unwrap() });
        let places = acknowledged.map(|place| async { place.await.unwrap() }).buffered(256);
        places.for_each(|_| async {}).await;
    };
    let folder = tempfile::tempdir().unwrap();
    let export = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        command
            .args(["audit", "export", "--force", "--nats", &nats.url()])
            .arg(folder.path().join("log.ndjson"));
        command.stdout(Stdio::null());
        peak_kib(&mut command)
    };
    // More than is read ahead, so that every buffer is full in both.
    publish(4_000).await;
    let few = export();
    publish(8_000).await;
    let many = export();
    let exported = ExportFile::open(&folder.path().join("log.ndjson"), |_| {}).unwrap();
    assert_eq!((exported.head().last_sequence, exported.faults()), (12_000, &[][..]));
    assert!(few > 1_000 && many < few + 16 * 1_024, "{few} KiB for 32 MB, {many} KiB for 96 MB");
}

#[tokio::test]
async fn what_grows_meanwhile_is_not_part_of_it_and_another_log_is_an_error() {
    let log = MemoryLog::default();
    for n in 0..5 {
        log.inject("any", Vec::new(), format!("{n}").into());
    }
    let source = Source::Log(Arc::new(log.clone()));
    let at = Timestamp::from_unix_ms(0);
    let mut file = Vec::new();
    let grow = |_, _| {
        log.inject("any", Vec::new(), "more".into());
    };
    let exported = export(&source, None, at, &mut file, grow).await.unwrap();
    assert_eq!((exported.head.last_sequence, String::from_utf8(file).unwrap().lines().count()), (5, 7));
    assert_eq!(source.head().await.unwrap().last_sequence, 10);

    let mut file = Vec::new();
    let replace = |sequence, _| {
        if sequence == 10 {
            log.recreate();
        }
    };
    let failed = export(&source, None, at, &mut file, replace).await.unwrap_err();
    assert!(failed.to_string().contains("replaced by another one"), "{failed:#}");
    assert!(!String::from_utf8(file).unwrap().contains("\"end\""));
}

#[tokio::test]
async fn a_file_and_a_nats_are_not_both_named() {
    let case = Case::new().await;
    let file = case.exported().await;
    let name = file.to_str().unwrap();
    for wrong in [
        &["replay", "--nats", "x"][..],
        &["state", "--nats-creds", "x"],
        &["verify", "--nats-tls-ca", "x"],
        &["replay", "--follow"],
    ] {
        let output = command(&[&["audit"], wrong, &["--file", name]].concat()).await;
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(wrong[1]), "{output:?}");
    }
    // What is set for all commands is no argument of this one.
    let mut replay = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    replay.args(["audit", "replay", "--file", name]).env("TIDINGS_NATS", "nats://127.0.0.1:1");
    assert_eq!(succeeded(&replay.output().await.unwrap()).lines().count(), 7);
    for command in [["audit", "replay"], ["audit", "state"], ["audit", "export"], ["audit", "verify"]] {
        let help = self::command(&[&command[..], &["--help"]].concat()).await;
        assert!(succeeded(&help).contains("Exit codes: 0 "), "{command:?}");
    }
}
