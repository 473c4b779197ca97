//! What a replica keeps on disk is for the user who runs it alone, and no other user's link or directory is trusted.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reqwest::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::operations::replica::{stderr, tidings};
use crate::support::issuer::key_set;
use crate::support::operator::Operator;
use crate::support::tls::Authority;
use crate::support::{Issuer, Replica, Spec, eventually, nats_server};

/// Everything in a directory, itself included, with its mode.
fn modes_below(directory: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = vec![(directory.to_owned(), fs::symlink_metadata(directory).unwrap().mode() & 0o777)];
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(modes_below(&path));
        } else if let Ok(metadata) = fs::symlink_metadata(&path) {
            // What is temporary may be gone by now.
            found.push((path, metadata.mode() & 0o777));
        }
    }
    found
}

fn nats_pid(replica: &Replica) -> Pid {
    let text = fs::read_to_string(replica.data_dir().join("nats/nats-server.pid")).unwrap();
    Pid::from_raw(text.trim().parse().unwrap()).unwrap()
}

#[tokio::test]
async fn every_file_of_a_data_directory_is_for_its_owner_alone() {
    let spec = Spec::embedded().with(&["--append-timeout-ms", "300"]);
    let replica = Replica::start_with(spec).await;
    let posted = replica.post_broadcast("in the projection and in the log").await;
    replica.acknowledge(posted["id"].as_str().unwrap(), "ann").await;
    kill_process(nats_pid(&replica), Signal::STOP).unwrap();
    let post = replica.request(Method::POST, "").json(&json!({"message": "in the outbox"}));
    let (status, _) = replica.ask(post).await;
    let (entries, found) =
        (fs::read_to_string(replica.data_dir().join("outbox/entries")), modes_below(&replica.data_dir()));
    kill_process(nats_pid(&replica), Signal::CONT).unwrap();
    assert!(status == 202 && entries.unwrap().contains("in the outbox"), "{status}");
    for name in ["lock", "replica", "http.url", "nats.url", "checkpoint.key", "nats/nats-server.conf"]
        .iter()
        .chain(&["nats/nats-server.log", "outbox/entries", "projection/db", "nats/store/jetstream"])
    {
        assert!(found.iter().any(|(path, _)| path.ends_with(name)), "there is a {name}");
    }
    for (path, mode) in found {
        assert_eq!(mode & 0o077, 0, "others can reach {} ({mode:o})", path.display());
    }
}

#[tokio::test]
async fn a_data_directory_that_is_open_to_others_is_closed_with_a_line() {
    let mut replica = Replica::prepared(Spec::embedded());
    fs::create_dir(replica.data_dir()).unwrap();
    fs::set_permissions(replica.data_dir(), fs::Permissions::from_mode(0o777)).unwrap();
    replica.start_again().await;
    assert_eq!(fs::metadata(replica.data_dir()).unwrap().mode() & 0o777, 0o700);
    assert!(replica.log().contains("was open to other users (mode 0777)"), "{}", replica.log());
}

/// Needs root, who alone can give a directory away; another user finds that root's cannot be written to.
#[tokio::test]
async fn a_data_directory_of_another_user_is_refused() {
    let mut replica = Replica::prepared(Spec::embedded());
    fs::create_dir(replica.data_dir()).unwrap();
    let given_away = chown(replica.data_dir(), Some(65_534), None).is_ok();
    if !given_away {
        fs::remove_dir(replica.data_dir()).unwrap();
        symlink("/usr", replica.data_dir()).unwrap();
    }
    replica.spawn();
    assert!(!replica.ended().await.success());
    let expected = if given_away { "belongs to the user with id 65534" } else { "cannot be written to" };
    assert!(replica.log().contains(expected), "{}", replica.log());
}

#[tokio::test]
async fn links_in_a_data_directory_are_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let elsewhere = folder.path().join("elsewhere");
    fs::write(&elsewhere, "precious").unwrap();
    let mut replica = Replica::prepared(Spec::embedded());
    fs::create_dir(replica.data_dir()).unwrap();
    for name in ["http.url", "http.url.new", "replica.new", "nats.url", "nats.url.new", "checkpoint.pub"] {
        symlink(&elsewhere, replica.data_dir().join(name)).unwrap();
    }
    replica.start_again().await;
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");

    let mut locked = Replica::prepared(Spec::embedded());
    fs::create_dir(locked.data_dir()).unwrap();
    symlink(&elsewhere, locked.data_dir().join("lock")).unwrap();
    locked.spawn();
    assert!(!locked.ended().await.success());
    assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "precious");
}

#[test]
fn a_nats_server_is_found_on_absolute_folders_of_path_alone() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join(".tools")).unwrap();
    for place in ["nats-server", ".tools/nats-server"] {
        fs::hard_link(nats_server(), folder.path().join(place))
            .or_else(|_| fs::copy(nats_server(), folder.path().join(place)).map(drop))
            .unwrap();
    }
    let output = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .env("PATH", ":.:.tools")
        .env_remove("TIDINGS_NATS_SERVER")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("there is no nats-server on PATH"), "{said}");
}

#[tokio::test]
async fn a_key_that_others_can_read_or_change_is_used_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("checkpoint.key");
    let made = Command::new(env!("CARGO_BIN_EXE_tidings"))
        .args(["admin", "keygen", "--name", "example.com/tidings"])
        .arg(&key)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success());
    let mut replica =
        Replica::start_with(Spec::embedded().with(&["--checkpoint-key", key.to_str().unwrap()])).await;
    assert!(!replica.log().contains("other users can"), "{}", replica.log());
    for (mode, can) in [(0o644, "other users can read the key"), (0o666, "other users can change the key")] {
        fs::set_permissions(&key, fs::Permissions::from_mode(mode)).unwrap();
        replica.terminate().await;
        replica.start_again().await;
        assert!(replica.log().contains(can), "{can}: {}", replica.log());
    }
}

#[tokio::test]
async fn a_login_to_nats_that_others_can_read_and_keys_of_tokens_that_they_can_change_are_warned_of() {
    let (authority, operator) = (Authority::new("ours"), Operator::new());
    let client = authority.client("replica.example");
    let creds = operator.credentials();
    let keys = tempfile::NamedTempFile::new().unwrap();
    fs::write(keys.path(), key_set(&[&Issuer::edwards("e1")]).to_string()).unwrap();
    let options = [
        ("--nats", Path::new("nats://127.0.0.1:1")),
        ("--nats-creds", &creds),
        ("--nats-tls-cert", &client.certificate),
        ("--nats-tls-key", &client.key),
    ];
    let options: Vec<_> = options.iter().flat_map(|(name, value)| [*name, value.to_str().unwrap()]).collect();
    let of_serve = [
        &["--auth", "jwt", "--auth-audience", "a", "--auth-jwks-file", keys.path().to_str().unwrap()],
        &options[..],
    ];
    for (secrets, set, expected) in [
        (0o600, 0o644, [false, false, false]),
        (0o644, 0o664, [true, true, true]),
        (0o640, 0o602, [true, true, true]),
    ] {
        for (file, mode) in [(&*creds, secrets), (&*client.key, secrets), (keys.path(), set)] {
            fs::set_permissions(file, fs::Permissions::from_mode(mode)).unwrap();
        }
        let mut replica = Replica::prepared(Spec::default().with(&of_serve.concat()));
        replica.spawn();
        eventually("it has begun", || async { replica.log().contains("starting with what is on disk") })
            .await;
        replica.kill();
        let checked = tidings(&[&["serve", "--print-config"], &of_serve.concat()[..]].concat(), &[]).await;
        assert!(checked.status.success(), "{}", stderr(&checked));
        let asked = tidings(&[&["admin", "status"], &options[..]].concat(), &[]).await;
        for (who, said, read) in
            [("serve", replica.log(), 3), ("check", stderr(&checked), 3), ("admin", stderr(&asked), 2)]
        {
            let found = [
                "other users can read the NATS credentials in",
                "other users can read the key of this client's certificate in",
                "other users can change the keys of tokens in",
            ]
            .map(|words| said.matches(words).count());
            let expected = expected.map(usize::from);
            assert_eq!(found[..read], expected[..read], "{who} with {secrets:o} and {set:o}: {said}");
        }
    }
}

#[tokio::test]
async fn keygen_does_not_write_over_a_key() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("checkpoint.key");
    let keygen = ["admin", "keygen", "--name", "example.com/tidings", key.to_str().unwrap()];
    assert!(tidings(&keygen, &[]).await.status.success());
    let made = fs::read(&key).unwrap();
    let again = tidings(&keygen, &[]).await;
    let said = stderr(&again);
    assert!(
        !again.status.success() && said.contains("is there already, and a key is not written over"),
        "{said}"
    );
    assert_eq!(fs::read(&key).unwrap(), made);
}
