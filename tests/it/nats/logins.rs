//! The logins that are shipped: each does its work, uses whatever it is granted, and is refused everything else.

use std::collections::BTreeSet;
use std::process::Output;

use serde_json::{Value, json};
use tidings::log::names::{
    ACKS_BUCKET, ACTIVE_BUCKET, CHECKPOINT_STREAM, LOG_STREAM, REPLICAS_BUCKET, bucket_stream,
};

use crate::support::operator::Operator;
use crate::support::users::{Login, World, streams};
use crate::support::wire::{Delivered, Heard, Wire};
use crate::support::{Nats, Replica, Spec, eventually, shipped};

const REPLICA: Login = ("tidings", "sgnidit");
const ADMIN: Login = ("tidings-admin", "nimda-sgnidit");
const AUDITOR: Login = ("auditor", "rotidua");
const READER: Login = ("reader", "redaer");

/// What `nats/users.conf` lets a user publish to, and subscribe to.
fn granted((user, _): Login) -> [BTreeSet<String>; 2] {
    let file = shipped("nats/users.conf");
    let code: Vec<_> = file.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    let (_, of_user) = code
        .iter()
        .position(|line| line.trim() == format!("user: {user}"))
        .map_or_else(|| panic!("no user {user}"), |at| code.split_at(at));
    let of_user = of_user.join("\n");
    let (publish, rest) = of_user.split_once("subscribe:").unwrap();
    let (subscribe, _) = rest.split_once('}').unwrap();
    [publish, subscribe].map(|text| text.split('"').skip(1).step_by(2).map(str::to_owned).collect())
}

/// What a user has published to, and subscribed to, as the server tells it.
fn used(nats: &Nats, (user, _): Login) -> [BTreeSet<String>; 2] {
    let said = nats.said();
    let theirs = said.lines().filter(|line| line.contains(&format!("/user:{user}\" - <<- [")));
    let commands: Vec<Vec<_>> =
        theirs.map(|line| line.split_once("<<- [").unwrap().1.split([' ', ']']).collect()).collect();
    [&["PUB", "HPUB"][..], &["SUB"]].map(|verbs| {
        let such = commands.iter().filter(|words| verbs.contains(&words[0]));
        such.map(|words| words[1].to_owned()).collect()
    })
}

/// Whether a subject, or what is subscribed to, is within a pattern.
fn within(subject: &str, pattern: &str) -> bool {
    let mut words = subject.split('.');
    for wanted in pattern.split('.') {
        match (wanted, words.next()) {
            (_, None) => return false,
            (">", _) => return true,
            ("*", Some(word)) if word != ">" => {}
            (wanted, Some(word)) if wanted == word => {}
            _ => return false,
        }
    }
    words.next().is_none()
}

/// What is granted and not used.
fn unused(nats: &Nats, login: Login) -> Vec<String> {
    let left = granted(login).into_iter().zip(used(nats, login)).map(|(granted, used)| {
        granted.into_iter().filter(|pattern| !used.iter().any(|subject| within(subject, pattern))).collect()
    });
    left.collect::<Vec<Vec<String>>>().concat()
}

fn violations(nats: &Nats) -> Vec<String> {
    nats.said()
        .lines()
        .filter(|line| line.contains("[ERR]") && line.contains("Violation"))
        .map(str::to_owned)
        .collect()
}

async fn tidings(nats: &Nats, (user, password): Login, arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(arguments).args(["--nats", &nats.url_of(user, password)]);
    command.output().await.unwrap()
}

#[tokio::test]
async fn a_replica_uses_all_that_it_is_granted_and_nothing_else() {
    let mut world = World::telling().await;
    world.replica.clear().await;
    // Another one becomes the holder of the lease, hears of the first, and finds what is there.
    let key = world.key.path();
    let second = Spec::joining(world.nats.url()).with(&["--checkpoint-key", key.to_str().unwrap()]);
    let second = Replica::start_with(second).await;
    assert!(world.replica.terminate().await.success());
    second.post_broadcast("by the second").await;
    eventually("it is mirrored", || async { second.count("tidings_mirror_lag_events").await == 0 }).await;
    let public = world.key.public().to_string();
    for arguments in [&["audit", "replay"][..], &["audit", "verify", "--key", &public]] {
        let output = second.tidings(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
    // What a replica says of itself is as old as its last heartbeat, which may be from before it had caught up.
    let status = || async { second.tidings(&["admin", "status"]).await.status.success() };
    eventually("admin status finds nothing wrong", status).await;
    // The client asks for its consumer after a lost connection, unless the reader is quicker in making another one.
    for round in 0..40 {
        if unused(&world.nats, REPLICA).is_empty() {
            break;
        }
        world.nats.restart().await;
        second.post_until_taken(&format!("after restart {round}")).await;
    }
    assert_eq!(violations(&world.nats), Vec::<String>::new());
    assert_eq!(unused(&world.nats, REPLICA), Vec::<String>::new());
}

#[tokio::test]
async fn credentials_in_a_file_let_in_whom_the_operator_trusts_and_nobody_else() {
    let operator = Operator::new();
    let mut nats = Nats::start_with_operator(&operator).await;
    let trusted = operator.credentials();
    let trusted = ["--nats-creds", trusted.to_str().unwrap()];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&trusted)).await;
    replica.post_broadcast("by credentials").await;
    let replayed = replica.tidings(&[&["audit", "replay"][..], &trusted].concat()).await;
    assert_eq!(String::from_utf8_lossy(&replayed.stdout).lines().count(), 1, "{replayed:?}");
    let stranger = operator.credentials_of_a_stranger();
    for options in [&["--nats-creds", stranger.to_str().unwrap()][..], &[]] {
        let refused = replica.tidings(&[&["admin", "status"][..], options].concat()).await;
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success(), "{options:?}: {said}");
        let line = said.lines().find(|line| line.starts_with("tidings: ")).unwrap();
        assert_eq!(line.matches("nats: authorization violation").count(), 1, "each cause once: {line}");
        assert!(!said.contains("ERROR"), "it is said once: {said}");
    }
    // The client makes its connection anew by the same file.
    nats.restart().await;
    replica.post_until_taken("again").await;
}

#[tokio::test]
async fn who_is_not_let_in_says_so_and_waits() {
    let nats = Nats::start_with_password("right").await;
    let mut replica = Replica::prepared(Spec::joining(nats.url_of("tidings", "hunter2")));
    replica.spawn();
    eventually("it starts without", || async { replica.log().contains("starting with what is on disk") })
        .await;
    let said = replica.log();
    assert!(said.contains("NATS refuses the login"), "{said}");
    assert!(!said.contains("does not answer") && !said.contains("hunter2"), "{said}");
    eventually("it answers", || async { replica.readyz().await["status"] == "unavailable" }).await;
    assert_eq!(replica.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn an_admin_creates_what_is_missing_and_changes_settings() {
    let nats = Nats::telling_with_users().await;
    for _ in 0..2 {
        let done = tidings(&nats, ADMIN, &["admin", "provision"]).await;
        assert_eq!(String::from_utf8_lossy(&done.stdout), "Everything is there, as defined.\n", "{done:?}");
    }
    let replica = Replica::start_with(Spec::joining(nats.url())).await;
    replica.post_broadcast("made by an admin").await;
    let status = tidings(&nats, ADMIN, &["admin", "status"]).await;
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!(status["streams"][LOG_STREAM]["last_sequence"], 1);
    eventually("an admin sees who is there", || async {
        let status = tidings(&nats, ADMIN, &["admin", "status"]).await;
        let status: Value = serde_json::from_slice(&status.stdout).unwrap();
        status["replicas"].as_array().unwrap().len() == 1
    })
    .await;

    // `nats stream edit`: a size may be changed; what keeps history may not be taken back, by anybody.
    let mut admin = Wire::connect(&nats, ADMIN.0, ADMIN.1).await;
    for stream in streams() {
        let info = admin.answer(&format!("$JS.API.STREAM.INFO.{stream}"), json!({})).await;
        let mut config = info["config"].clone();
        config["max_bytes"] = (40_i64 << 20).into();
        let update = format!("$JS.API.STREAM.UPDATE.{stream}");
        let updated = admin.answer(&update, config.clone()).await;
        assert_eq!(updated["config"]["max_bytes"], 40 << 20, "{updated}");
        if config["deny_purge"] == true {
            config["deny_purge"] = false.into();
            let refused = admin.answer(&update, config).await;
            assert!(
                refused["error"]["description"].as_str().unwrap().contains("can not cancel deny"),
                "{refused}"
            );
        }
    }
    replica.post_broadcast("into a smaller log").await;
    let differs = tidings(&nats, ADMIN, &["admin", "provision"]).await;
    assert_eq!(differs.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&differs.stdout).contains("BROADCASTS has max_bytes = 41943040"),
        "{differs:?}"
    );

    // What an update can take away is noticed: with it no replica starts.
    let info = admin.answer(&format!("$JS.API.STREAM.INFO.{LOG_STREAM}"), json!({})).await;
    let mut config = info["config"].clone();
    config["max_age"] = 3_600_000_000_000_i64.into();
    let updated = admin.answer(&format!("$JS.API.STREAM.UPDATE.{LOG_STREAM}"), config).await;
    assert_eq!(updated["config"]["max_age"], 3_600_000_000_000_i64, "{updated}");
    let mut another = Replica::prepared(Spec::joining(nats.url()));
    another.spawn();
    assert_eq!(another.ended().await.code(), Some(1));
    assert!(another.log().contains("break a guarantee"), "{}", another.log());
    assert_eq!(violations(&nats), Vec::<String>::new());
    assert_eq!(unused(&nats, ADMIN), Vec::<String>::new());
}

#[tokio::test]
async fn a_reader_reads_both_buckets() {
    let world = World::telling().await;
    let client = async_nats::ConnectOptions::new().user_and_password(READER.0.into(), READER.1.into());
    let context =
        async_nats::jetstream::new(client.connect(world.nats.url_of(READER.0, READER.1)).await.unwrap());
    // As any client of NATS does it.
    let active = context.get_key_value(ACTIVE_BUCKET).await.unwrap();
    let of_channel: Value = serde_json::from_slice(&active.get("creator").await.unwrap().unwrap()).unwrap();
    assert_eq!(of_channel["message"], "number 2 – „Ä“ 🎉");
    let id = of_channel["id"].as_str().unwrap();
    let acks = context.get_key_value(ACKS_BUCKET).await.unwrap();
    assert!(acks.get(format!("{id}.ann")).await.unwrap().is_some());
    assert!(acks.get(format!("{id}.bob")).await.unwrap().is_none());
    for bucket in [&active, &acks] {
        let last = bucket.entry("_position").await.unwrap().unwrap().revision;
        assert!(bucket.entry_for_revision("_position", last).await.unwrap().is_some());
    }
    // Who has acknowledged it, in one answer.
    let mut reader = Wire::connect(&world.nats, READER.0, READER.1).await;
    let subject = format!("$JS.API.DIRECT.GET.{}", bucket_stream(ACKS_BUCKET));
    let all = json!({"multi_last": [format!("$KV.{ACKS_BUCKET}.{id}.*")], "batch": 1_000});
    let ended = |_, message: &Delivered| message.status.starts_with("204");
    assert_eq!(reader.ask(&subject, &all, ended).await.len(), 2 + 1, "two users, and the end");
    assert_eq!(violations(&world.nats), Vec::<String>::new());
    assert_eq!(unused(&world.nats, READER), Vec::<String>::new());
}

/// What each may ask of a stream. Whatever else there is to ask is refused.
fn may_ask((user, _): Login, verb: &str, stream: &str) -> bool {
    let of = |buckets: &[&str]| buckets.iter().any(|bucket| bucket_stream(bucket) == stream);
    match (user, verb) {
        ("tidings", "STREAM.CREATE" | "STREAM.INFO" | "STREAM.MSG.GET")
        | ("tidings-admin", "STREAM.CREATE" | "STREAM.INFO" | "STREAM.UPDATE") => true,
        ("tidings", "CONSUMER.CREATE") => stream == LOG_STREAM,
        ("tidings", "DIRECT.GET") => [LOG_STREAM, CHECKPOINT_STREAM].contains(&stream) || of(&[ACKS_BUCKET]),
        ("tidings-admin", "STREAM.MSG.GET") => of(&[REPLICAS_BUCKET]),
        ("reader", "STREAM.INFO" | "DIRECT.GET") => of(&[ACTIVE_BUCKET, ACKS_BUCKET]),
        _ => false,
    }
}

const VERBS: [&str; 15] = [
    "STREAM.CREATE",
    "STREAM.INFO",
    "STREAM.UPDATE",
    "STREAM.DELETE",
    "STREAM.PURGE",
    "STREAM.MSG.GET",
    "STREAM.MSG.DELETE",
    "STREAM.SNAPSHOT",
    "STREAM.RESTORE",
    "STREAM.LEADER.STEPDOWN",
    "STREAM.PEER.REMOVE",
    "DIRECT.GET",
    "CONSUMER.CREATE",
    "CONSUMER.LIST",
    "CONSUMER.NAMES",
];

/// Everything that a user is refused; an auditor's is in `auditor`.
fn forbidden(login: Login) -> Vec<String> {
    let mut subjects: Vec<_> = [
        "broadcast_checkpoints.other",
        "$KV.other.x",
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.INFO.MINE",
        "$JS.API.STREAM.DELETE.MINE",
        "$JS.API.ACCOUNT.PURGE.TIDINGS",
        "$JS.API.META.LEADER.STEPDOWN",
        "$SYS.REQ.USER.INFO",
        "_INBOX.somebody.1",
        "anything",
    ]
    .map(str::to_owned)
    .into();
    if login != REPLICA {
        let written =
            ["broadcasts.creator.lifecycle", "broadcasts.creator.late", "broadcast_checkpoints.log"];
        subjects.extend(written.map(str::to_owned));
        let buckets = [ACTIVE_BUCKET, ACKS_BUCKET, REPLICAS_BUCKET];
        subjects.extend(buckets.map(|bucket| format!("$KV.{bucket}.creator")));
    }
    for stream in streams() {
        let asked = VERBS.iter().filter(|verb| !may_ask(login, verb, &stream));
        subjects.extend(asked.map(|verb| format!("$JS.API.{verb}.{stream}")));
        for verb in ["CREATE", "DURABLE.CREATE", "DELETE", "INFO", "MSG.NEXT", "PAUSE", "LEADER.STEPDOWN"] {
            let of_reader = login == REPLICA && stream == LOG_STREAM && ["INFO", "MSG.NEXT"].contains(&verb);
            if !of_reader {
                subjects.push(format!("$JS.API.CONSUMER.{verb}.{stream}.mine"));
            }
        }
    }
    subjects
}

#[tokio::test]
async fn nobody_may_do_more() {
    let mut world = World::new().await;
    assert!(world.replica.terminate().await.success());
    let before = world.everything().await;
    for login in [REPLICA, ADMIN, READER] {
        let mut wire = Wire::connect(&world.nats, login.0, login.1).await;
        for subject in forbidden(login) {
            wire.publish(&subject, "_INBOX.wire.1", "{}").await;
            let complaints = wire.complaints().await;
            let words = format!("Permissions Violation for Publish to \"{subject}\"");
            assert!(
                complaints.len() == 1 && complaints[0].contains(&words),
                "{login:?}: {subject}: {complaints:?}"
            );
        }
        let log = [
            "broadcasts.>",
            "broadcast_checkpoints.log",
            "$KV.>",
            "$KV.broadcast_active.>",
            "$KV.broadcast_acks.>",
        ];
        for subject in log.into_iter().chain(["$JS.>", "$JS.EVENT.>", "$SYS.>", ">", "*.>", "_R_.>", "x"]) {
            wire.send(&format!("SUB {subject} 7\r\n")).await;
            let complaints = wire.complaints().await;
            let words = "Permissions Violation for Subscription to";
            assert!(
                complaints.len() == 1 && complaints[0].contains(words),
                "{login:?}: {subject}: {complaints:?}"
            );
        }
    }
    assert_eq!(world.everything().await, before);
}

/// An admin and a reader have accounts of their own, as an auditor has: see `auditor`.
#[tokio::test]
async fn nobody_but_a_replica_has_answers_written_into_a_stream() {
    let mut world = World::new().await;
    assert!(world.replica.terminate().await.success());
    let before = world.everything().await;
    for (login, stream) in [(ADMIN, LOG_STREAM), (READER, "KV_broadcast_active")] {
        let mut wire = Wire::connect(&world.nats, login.0, login.1).await;
        let info = format!("$JS.API.STREAM.INFO.{stream}");
        for into in
            ["broadcasts.creator.lifecycle", "broadcast_checkpoints.log", "$KV.broadcast_active.creator"]
        {
            wire.publish(&info, into, "").await;
        }
        assert_eq!(wire.complaints().await, Vec::<String>::new());
        // Whatever was asked before this is answered by now.
        assert_eq!(wire.answer(&info, json!({})).await["config"]["name"], stream);
    }
    assert_eq!(world.everything().await, before);
}

#[tokio::test]
async fn nobody_hears_what_another_account_is_told() {
    let mut world = World::new().await;
    assert!(world.replica.terminate().await.success());
    let everybody = [REPLICA, ADMIN, AUDITOR, READER];
    for asking in everybody {
        let mut others = Vec::new();
        for (user, password) in everybody.into_iter().filter(|login| *login != asking) {
            let mut wire = Wire::connect(&world.nats, user, password).await;
            wire.send("SUB _INBOX.> 2\r\n").await;
            assert_eq!(wire.complaints().await, Vec::<String>::new());
            others.push((user, wire));
        }
        let mut wire = Wire::connect(&world.nats, asking.0, asking.1).await;
        let stream = bucket_stream(ACTIVE_BUCKET);
        let answer = wire.answer(&format!("$JS.API.STREAM.INFO.{stream}"), json!({})).await;
        assert_eq!(answer["config"]["name"], stream);
        for (user, mut other) in others {
            other.send("PING\r\n").await;
            let heard = other.heard().await;
            assert!(matches!(heard, Heard::Pong), "{user} hears what {asking:?} is told: {heard:?}");
        }
    }
    // Whoever is in none of them is let in nowhere, and there is no such login.
    let nobody = tidings(&world.nats, ("guest", "guest"), &["admin", "status"]).await;
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("authorization violation"), "{nobody:?}");
}
