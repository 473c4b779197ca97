//! SIGHUP: a replica reads the keys of tokens again, without a restart.

use std::fs;
use std::path::Path;

use reqwest::Method;
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::Signal;

use crate::support::issuer::{SECRET, key_set};
use crate::support::{Issuer, Nats, Replica, Spec, eventually};

async fn status(replica: &Replica, issuer: &Issuer) -> u16 {
    let token = format!("Bearer {}", issuer.token("ann", &["team"]));
    let request = replica.request(Method::GET, "/stats").header("Authorization", token);
    request.send().await.unwrap().status().as_u16()
}

/// SIGHUP, and waits until this line is in the log once more.
async fn reload(replica: &Replica, line: &str) {
    let lines = || replica.log().matches(line).count();
    let before = lines();
    replica.signal(Signal::HUP);
    eventually(line, || async { lines() > before }).await;
}

async fn start(nats: &Nats, option: &str, files: &str) -> Replica {
    Replica::start_with(Spec::joining(nats.url()).with(&["--auth", "jwt", option, files])).await
}

fn write(file: &Path, secret: &str) {
    fs::write(file, secret).unwrap();
}

#[tokio::test]
async fn a_secret_is_rotated_by_sighup_without_a_restart() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let [current, next] = ["current", "next"].map(|name| folder.path().join(name));
    let new_secret = SECRET.replace("tests", "future");
    let (old, new) = (Issuer::secret(SECRET), Issuer::secret(new_secret.as_bytes()));
    write(&current, SECRET);
    write(&next, SECRET);
    let files = format!("{},{}", current.display(), next.display());
    let replica = start(&nats, "--auth-secret-file", &files).await;
    let mut client = replica.connect_as(&old.token("bob", &[])).await;
    client.greeted().await;

    write(&next, &new_secret);
    assert_eq!(
        (status(&replica, &old).await, status(&replica, &new).await),
        (200, 401),
        "not asked to read it"
    );
    let read =
        format!("SIGHUP: the keys of tokens were read again from {}, {}", current.display(), next.display());
    reload(&replica, &read).await;
    assert_eq!((status(&replica, &old).await, status(&replica, &new).await), (200, 200), "both files count");

    write(&current, &new_secret);
    reload(&replica, &read).await;
    assert_eq!((status(&replica, &old).await, status(&replica, &new).await), (401, 200));
    client.send_text("ping").await;
    assert_eq!(client.next_text().await, Ok("pong".to_owned()), "an open connection stays");

    // What cannot be read changes nothing, not even the file that can be.
    write(&current, "short");
    write(&next, SECRET);
    reload(&replica, "SIGHUP: the keys of tokens were not read again").await;
    assert!(
        replica.log().contains(&format!("{}: the secret has 5 bytes", current.display())),
        "{}",
        replica.log()
    );
    assert_eq!((status(&replica, &old).await, status(&replica, &new).await), (401, 200));
    assert!(!replica.log().contains(SECRET) && !replica.log().contains(&new_secret));
}

#[tokio::test]
async fn published_keys_are_read_at_once_by_sighup_and_a_secret_of_the_environment_is_not() {
    let nats = Nats::start().await;
    let (old, new) = (Issuer::edwards("old"), Issuer::edwards("new"));
    let file = tempfile::NamedTempFile::new().unwrap();
    let publish = |issuer: &Issuer| write(file.path(), &key_set(&[issuer]).to_string());
    publish(&old);
    let path = file.path().display().to_string();
    let replica = start(&nats, "--auth-jwks-file", &path).await;
    assert_eq!(status(&replica, &old).await, 200);
    publish(&new);
    reload(
        &replica,
        &format!("SIGHUP: the keys of tokens were read again from {path}; keys that verify tokens now: 1"),
    )
    .await;
    assert_eq!((status(&replica, &old).await, status(&replica, &new).await), (401, 200));
    write(file.path(), "{");
    reload(&replica, "SIGHUP: the keys of tokens were not read again").await;
    assert_eq!(status(&replica, &new).await, 200);

    let spec =
        Spec::joining(nats.url()).with(&["--auth", "jwt"]).with_variable("TIDINGS_AUTH_SECRET", SECRET);
    let replica = Replica::start_with(spec).await;
    reload(&replica, "the secret is in the environment, which is read only at the start").await;
    assert_eq!(status(&replica, &Issuer::secret(SECRET)).await, 200);
}

#[tokio::test]
async fn a_secret_that_cannot_be_read_again_holds_up_no_later_sighup() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    write(&file, SECRET);
    let replica = start(&nats, "--auth-secret-file", &file.display().to_string()).await;
    fs::remove_file(&file).unwrap();
    mkfifoat(CWD, &file, Mode::RUSR).unwrap();
    reload(&replica, "it is not a regular file, so it cannot be read again").await;
    assert_eq!(status(&replica, &Issuer::secret(SECRET)).await, 200, "what was read before still counts");

    let new_secret = SECRET.replace("tests", "future");
    fs::remove_file(&file).unwrap();
    write(&file, &new_secret);
    reload(&replica, "SIGHUP: the keys of tokens were read again").await;
    assert_eq!(status(&replica, &Issuer::secret(new_secret.as_bytes())).await, 200);
}
