//! Secrets are nowhere to be seen: replicas with marked ones are put through everything, and then all that was written is
//! searched for them.

mod watch;

use std::path::Path;

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use self::watch::{MARK, Watch};
use crate::support::checkpoints::KeyFile;
use crate::support::issuer::{claims, in_seconds, key_set};
use crate::support::{Client, Events, Issuer, KeyServer, Nats, Raw, Replica, Spec, eventually};

/// The seed of a NATS user that is nobody's.
const SEED: &str = "SUAAOCAJBIFQYDIOB4IBCEQTCQKRMFYYDENBWHA5DYPSAIJCEMSCKJR2OM";

/// A folder of secrets, as somebody who runs a replica keeps one.
struct Secrets {
    folder: TempDir,
    checkpoints: KeyFile,
}

impl Secrets {
    fn new(watch: &mut Watch) -> Self {
        let folder = tempfile::Builder::new().prefix("tidings-secrets-").tempdir().unwrap();
        let secrets = Self { folder, checkpoints: KeyFile::of("example.com/tidings", 77) };
        let revealed = secrets.checkpoints.key.reveal();
        watch.secret("the key of checkpoints", &revealed[revealed.len() - 20..]);
        watch.secret("the seed of the NATS user", SEED);
        secrets.keep(
            "creds",
            &format!(
                "-----BEGIN NATS USER JWT-----\neyJ{MARK}.{MARK}.{MARK}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{SEED}\n------END USER NKEY SEED------\n"
            ),
        );
        secrets
    }

    fn keep(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn key(&self) -> String {
        self.checkpoints.path().to_str().unwrap().to_owned()
    }

    fn creds(&self) -> String {
        self.folder.path().join("creds").to_str().unwrap().to_owned()
    }
}

/// One replica, and whoever issues tokens for it.
struct World<'a> {
    replica: Replica,
    nats: Nats,
    issuer: Issuer,
    watch: &'a mut Watch,
}

impl World<'_> {
    /// A token that is watched; it lasts so many seconds.
    fn token(&mut self, user: &str, roles: &[&str], seconds: i64) -> String {
        let mut claims = claims(user, roles);
        claims["exp"] = in_seconds(seconds).into();
        claims["more"] = MARK.into();
        let token = self.issuer.sign(&claims);
        self.watch.token(&token);
        token
    }

    /// Every token that is refused, and one that is not.
    fn wrong(&mut self) -> Vec<String> {
        let good = self.token("carl", &["creator"], 3_600);
        let (head, signature) = good.rsplit_once('.').unwrap();
        let stranger = Issuer::secret("another secret that is also long enough");
        let strange = stranger.sign(&claims("carl", &["creator"]));
        self.watch.token(&strange);
        vec![
            strange,
            self.token("carl", &["creator"], -600),
            self.token("", &["creator"], 600),
            format!("{head}x.{signature}"),
            format!("{good}.{signature}"),
            format!("{MARK}.{signature}.{MARK}"),
            MARK.repeat(400),
            MARK.to_owned(),
        ]
    }

    async fn rest(&mut self) {
        let creator = self.token("carl", &["creator"], 3_600);
        let ann = self.token("ann", &[], 3_600);
        let request = |token: &str, method: Method, path: &str| {
            self.replica.request(method, path).header("Authorization", format!("Bearer {token}"))
        };
        let posted = request(&creator, Method::POST, "").json(&json!({"message": "for all to see"}));
        let (status, created) = self.replica.ask(posted).await;
        assert_eq!(status, 201, "{created}");
        let id = created["id"].as_str().unwrap();
        let own = self.replica.url();
        let mut requests = vec![
            (request(&ann, Method::POST, "/acknowledge").json(&json!({"broadcast_id": id})), 200),
            (request(&creator, Method::GET, &format!("/{id}/acks")), 200),
            (request(&creator, Method::GET, "/history"), 200),
            (request(&ann, Method::POST, "/clear"), 403),
            (request(&ann, Method::GET, &format!("/active?user_id={ann}")), 403),
            (request(&ann, Method::GET, &format!("/active?min_position={ann}")), 400),
            (request(&creator, Method::GET, &format!("/{creator}")), 404),
            (request(&creator, Method::POST, "").body(format!("{{\"message\": \"{creator}")), 415),
            (request(&creator, Method::POST, "").json(&json!({"message": "x", "type": creator})), 422),
            (request(&creator, Method::POST, "/acknowledge").json(&json!({"broadcast_id": creator})), 422),
            (self.replica.request(Method::GET, "/active").header("X-User-Id", &*ann), 401),
            (self.replica.raw_request(Method::GET, &format!("/{ann}")), 404),
            (self.replica.raw_request(Method::GET, &format!("/api/{ann}/broadcast/active")), 404),
        ];
        for (origin, status) in [(&*own, 200), ("https://elsewhere.example", 403)] {
            let clear = self.replica.request(Method::POST, "/clear").header("Origin", origin);
            requests.push((clear.header("Cookie", format!("a=b; session={creator}")), status));
        }
        for (request, expected) in requests {
            let status = self.watch.ask(request).await;
            assert_eq!(status, expected);
        }
    }

    async fn refusals(&mut self) {
        for token in self.wrong() {
            for kind in ["application/json", "application/problem+json"] {
                let stats = || self.replica.request(Method::GET, "/stats").header("Accept", kind);
                let by_header = stats().header("Authorization", format!("Bearer {token}"));
                let by_cookie = stats().header("Cookie", format!("session={token}"));
                let events = self.replica.request(Method::GET, &format!("/events?token={token}"));
                for request in [by_header, by_cookie, events.header("Accept", kind)] {
                    assert_eq!(self.watch.ask(request).await, 401);
                }
            }
            for garbage in [
                format!(
                    "GET /api/creator/broadcast/stats HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\x01\r\n\r\n"
                ),
                format!("GET /{token} HTTP/9.9\r\nHost: localhost\r\n\r\n"),
                format!("{token}\r\n\r\n"),
                format!(
                    "GET / HTTP/1.1\r\nHost: {token}\r\n{token}: x\r\nCookie: {}\r\n\r\n",
                    token.repeat(40)
                ),
            ] {
                let mut raw = Raw::connect(&self.replica).await;
                raw.send(garbage.as_bytes()).await;
                raw.finish().await;
                self.watch.saw("an answer to garbage", raw.rest().await);
            }
        }
    }

    async fn connections(&mut self) -> Client {
        let ann = self.token("ann", &["team"], 3_600);
        let url = self.replica.url();
        for (query, headers) in [
            (String::new(), vec![("Authorization", format!("Bearer {ann}"))]),
            (String::new(), vec![("Cookie", format!("session={ann}")), ("Origin", url)]),
            (String::new(), vec![("Sec-WebSocket-Protocol", format!("bearer, {ann}"))]),
            (format!("?token={ann}&user_id=ann"), vec![]),
        ] {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
            let mut client = self.replica.try_connect(&query, &headers).await.unwrap();
            client.greeted().await;
            self.watch.saw("a selected protocol", client.protocol.clone().unwrap_or_default());
            self.talk(&mut client).await;
            let reason = ann.chars().rev().take(100).collect::<String>().chars().rev().collect::<String>();
            client
                .send_raw(Message::Close(Some(CloseFrame { code: 4_000.into(), reason: reason.into() })))
                .await;
            client.close().await;
        }
        let mut events = Events::of(
            self.replica.request(Method::GET, &format!("/events?token={ann}")).send().await.unwrap(),
        );
        self.watch.saw("an event", format!("{:?}", events.expect("connected").await));
        let short = self.token("late", &[], 4);
        let mut late = self.replica.connect_as(&short).await;
        assert_eq!(late.closed().await.code, 4401);
        let mut last = self.replica.connect_as(&ann).await;
        last.greeted().await;
        last
    }

    /// Whatever a client says of tokens on a connection, right and wrong.
    async fn talk(&mut self, client: &mut Client) {
        let newer = self.token("ann", &["team"], 7_200);
        client.send(json!({"type": "refresh", "token": newer})).await;
        client.until("that it counts", |message| message["type"] == "refreshed").await;
        let mut texts = vec![format!("{{\"type\": \"refresh\", \"token\": \"{newer}"), newer.clone()];
        texts.push(json!({"type": newer}).to_string());
        texts.push(json!({"type": "acknowledge_broadcast", "broadcast_id": newer}).to_string());
        texts.push(json!({"type": "refresh", "token": {"it": newer}}).to_string());
        let wrong = self.wrong().into_iter().filter(|token| token.len() < 2_000);
        texts.extend(wrong.map(|token| json!({"type": "refresh", "token": token}).to_string()));
        for text in texts {
            client.send_text(&text).await;
            client.until("an error", |message| message["type"] == "error").await;
        }
        self.watch.saw("what a client heard", Value::from(client.heard.clone()).to_string());
    }

    /// Commands about this replica's log, as whoever has the secrets runs them.
    async fn commands(&mut self, more: &[&str]) {
        let exported = tempfile::tempdir().unwrap();
        let file = exported.path().join("log.ndjson");
        for arguments in [
            &["audit", "replay"][..],
            &["audit", "state", "--at-seq", "1"],
            &["audit", "verify"],
            &["audit", "export", file.to_str().unwrap()],
            &["admin", "status"],
            &["admin", "provision"],
        ] {
            let mut command = self.replica.command(&[arguments, more].concat());
            self.watch.run(command.env("TIDINGS_LOG", "trace")).await;
        }
        self.watch.saw("an export", std::fs::read(&file).unwrap());
    }

    /// Everything, and then all that the replica and its NATS have written.
    async fn put_through(mut self, commands: &[&str]) {
        self.rest().await;
        self.refusals().await;
        let mut last = self.connections().await;
        self.commands(commands).await;
        self.nats.restart().await;
        self.replica.in_mode("cluster").await;
        for path in ["/metrics", "/readyz", "/livez", "/openapi.yaml", "/asyncapi.yaml"] {
            assert_eq!(self.watch.ask(self.replica.raw_request(Method::GET, path)).await, 200, "{path}");
        }
        assert!(self.replica.terminate().await.success());
        assert_eq!(last.closed().await.code, 1012);
        self.watch.saw("what a client heard", Value::from(last.heard.clone()).to_string());
        self.watch.saw("the log of the replica", self.replica.log());
        self.watch.saw("the log of nats-server", self.nats.said());
        self.nats.stop();
        self.watch.saw_folder("the data directory", &self.replica.data_dir());
        self.watch.saw_folder("what NATS stored", &self.nats.store());
        self.watch.has_seen("the log of the replica", "answered a request");
        self.watch.has_seen("what NATS stored", "for all to see");
        self.watch.has_seen("a command: audit replay", "for all to see");
        self.watch.has_seen("what a client heard", "invalid_token");
    }
}

fn traced(nats: &Nats) -> Spec {
    let options = [
        "--auth",
        "jwt",
        "--auth-query-token",
        "--refusals-per-minute",
        "0",
        "--checkpoint-every-events",
        "1",
    ];
    Spec::joining(nats.url()).with(&options).with_variable("TIDINGS_LOG", "trace")
}

#[tokio::test]
async fn with_a_shared_secret_and_a_password_of_nats() {
    let mut watch = Watch::default();
    let secrets = Secrets::new(&mut watch);
    let secret = format!("a shared secret, {MARK}, long enough");
    let (file, key) = (secrets.keep("secret", &secret), secrets.key());
    let nats = Nats::start_with_password(&format!("{MARK}-of-nats")).await;
    let spec = traced(&nats).with(&["--auth-secret-file", &file, "--checkpoint-key", &key]);
    let (replica, issuer) = (Replica::start_with(spec).await, Issuer::secret(secret));
    World { replica, nats, issuer, watch: &mut watch }.put_through(&[]).await;
    watch.judge();
}

#[tokio::test]
async fn with_published_keys_and_credentials_of_nats() {
    let mut watch = Watch::default();
    let secrets = Secrets::new(&mut watch);
    let issuer = Issuer::edwards("e");
    let server = KeyServer::start(&key_set(&[&issuer])).await;
    let (creds, key) = (secrets.creds(), secrets.key());
    let url = server.url().replace("http://", &format!("http://keys:{MARK}@"));
    let nats = Nats::start().await;
    let spec =
        traced(&nats).with(&["--auth-jwks-url", &url, "--auth-jwks-seconds", "1", "--log-format", "json"]);
    let spec = spec.with(&["--nats-creds", &creds, "--checkpoint-key", &key]);
    let replica = Replica::start_with(spec).await;
    // What it says of keys that it cannot have is part of it.
    server.be_away(true);
    eventually("it is said", || async { replica.log().contains("the keys of tokens cannot be read") }).await;
    server.be_away(false);
    World { replica, nats, issuer, watch: &mut watch }.put_through(&["--nats-creds", &creds]).await;
    watch.judge();
}

/// A command of the binary without anything around.
fn tidings(arguments: &[&str], data: &Path) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).current_dir(data).stdin(std::process::Stdio::null());
    command.env("TIDINGS_LOG", "trace").env("TIDINGS_LISTEN", "127.0.0.1:0");
    command
}

#[tokio::test]
async fn what_is_printed_about_options_and_about_wrong_ones() {
    let mut watch = Watch::default();
    let secrets = Secrets::new(&mut watch);
    let revealed = secrets.checkpoints.key.reveal();
    let damaged = secrets.keep("damaged.key", &revealed[..revealed.len() - 1]);
    let short = secrets.keep("short", MARK);
    let creds = secrets.keep("damaged.creds", &format!("-----BEGIN NATS USER JWT-----\n{MARK}\n{MARK}"));
    let (key, whole) = (secrets.key(), secrets.creds());
    let [nats, token, odd, list] = [
        format!("nats://ann:{MARK}@127.0.0.1:1"),
        format!("nats://{MARK}@127.0.0.1:1"),
        format!("nats://ann:{MARK}@127.0.0.1:port"),
        format!("nats://ann:{MARK},b@127.0.0.1:1"),
    ];
    let (url, bad_url) =
        (format!("https://ann:{MARK}@id.example/keys"), format!("https://ann:{MARK}@id .example"));
    let serve = |more: &[&str]| {
        let mut command = tidings(&["serve", "--auth", "jwt"], secrets.folder.path());
        command.args(more).env("TIDINGS_AUTH_SECRET", format!("{MARK} {MARK} {MARK} {MARK} {MARK}"));
        command
    };
    for (arguments, prints) in [
        (&["--print-config", "--nats", &*nats, "--checkpoint-key", &key, "--nats-creds", &whole][..], true),
        (&["--print-config", "--nats", &list], false),
        (&["--nats", &odd], false),
        (&["--nats", &list], false),
        (&["--nats", &nats, "--checkpoint-key", &damaged], false),
        (&["--nats", &nats, "--nats-creds", &creds], false),
        (&["--nats", &nats, "--auth-secret-file", &short], false),
        (&["--nats", &nats, "--checkpoint-public-key", &revealed], false),
        (&["--nats", &nats, "--auth-jwks-url", &bad_url], false),
        (&["--nats", &nats, "--auth-jwks-url", &url], false),
    ] {
        let output = watch.run(&mut serve(arguments)).await;
        assert_eq!(
            output.status.success(),
            prints,
            "{arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for arguments in [
        &["serve", "--help"][..],
        &["serve", "-h"],
        &["audit", "replay", "--help"],
        &["admin", "status", "--help"],
    ] {
        let mut command = tidings(arguments, secrets.folder.path());
        let command = command.env("TIDINGS_NATS", &nats).env("TIDINGS_AUTH_JWKS_URL", &url);
        let output = watch.run(command.env("TIDINGS_AUTH_SECRET", MARK.repeat(8))).await;
        assert!(output.status.success(), "{arguments:?}");
    }
    for address in [&nats, &token, &odd, &list] {
        for arguments in [
            &["audit", "replay"][..],
            &["audit", "verify", "--key", &revealed],
            &["audit", "verify", "--key", &key],
            &["admin", "status"],
        ] {
            let mut command = tidings(arguments, secrets.folder.path());
            let output = watch.run(command.args(["--nats", address])).await;
            assert!(!output.status.success(), "{arguments:?}");
        }
    }
    watch.has_seen("a command", "TIDINGS_AUTH_SECRET is set, and not shown");
    watch.judge();
}

#[tokio::test]
async fn who_is_not_let_in_by_nats_does_not_say_with_what_they_tried() {
    let mut watch = Watch::default();
    watch.secret("a password", MARK);
    let nats = Nats::start_with_password("the right one").await;
    let spec =
        Spec::joining(nats.url_of("tidings", &format!("{MARK}-wrong"))).with_variable("TIDINGS_LOG", "trace");
    let mut replica = Replica::prepared(spec);
    replica.spawn();
    eventually("NATS says so", || async { nats.said().contains("authentication error") }).await;
    eventually("it says so", || async { replica.log().to_lowercase().contains("authorization") }).await;
    replica.kill();
    watch.saw("the log of the replica", replica.log());
    watch.saw("the log of nats-server", nats.said());
    watch.judge();
}
