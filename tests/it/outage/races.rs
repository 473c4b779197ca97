//! Where an outage, the outbox and the log cross: what happens between two steps, held there for as long as it takes.

use std::fs;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidings::domain::{BroadcastId, Event};
use tidings::log::names::Subject;
use tidings::log::{EventLog as _, NewEvent};
use tidings::push::attach::{Attached, Connecting};
use tidings::submit::mode::Mode;
use tidings::submit::{Acks, Submitted};
use tokio::time::timeout;

use crate::support::fitful::{Fitful, alone, in_mode, shows_pending};
use crate::support::log::{channel, created};
use crate::support::projecting::{Projecting, clear, create, key};
use crate::support::{Client, Nats, PATIENCE, Replica, eventually};

#[tokio::test]
async fn what_the_log_takes_as_it_goes_away_again_is_settled_too() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    assert!(submit.lifecycle(create("alone"), None, None).await.unwrap().local);
    log.come_back();
    log.asked(1).await;
    log.leave(&submit).await;
    // Its answer comes after all, and nothing waits any more.
    log.may_take.add_permits(1);
    eventually("it is relayed", || async { submit.outbox_stats().entries == 0 }).await;
    log.come_back();
    in_mode(&submit, Mode::Cluster).await;
    assert!(!shows_pending(&projecting), "the log alone is shown");
    projecting.stop().await;
}

#[tokio::test]
async fn who_hangs_up_leaves_nothing_half_done() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    for n in 0..60 {
        let asked = submit.lifecycle(create(&format!("{n}")), None, None);
        let _ = timeout(Duration::from_micros(100 * n), asked).await;
    }
    submit.lifecycle(create("last"), None, None).await.unwrap();
    let shown = projecting.look(|view| view.pending_broadcasts(&channel()).len()).await;
    assert_eq!(shown, submit.outbox_stats().entries, "what is on disk is shown");
    projecting.stop().await;
}

#[tokio::test]
async fn what_is_shown_before_the_log_has_it_is_never_shown_as_if_it_had() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let mut projecting = Projecting::start_heard(log.clone(), &directory.path().join("projection"), 1);
    projecting.digest_at(0).await;
    let submit = projecting.submit_alone(log.clone(), Duration::from_millis(100));
    // Nobody listens to what was announced first, so this one is shown and not announced yet.
    let asked = tokio::spawn({
        let submit = submit.clone();
        async move { submit.lifecycle(create("unanswered"), None, None).await }
    });
    eventually("it is shown", || async { shows_pending(&projecting) }).await;
    assert_ne!(submit.modes().now(), Mode::Cluster, "an acknowledgement of it would overtake it");
    while !asked.is_finished() {
        projecting.announced();
        tokio::task::yield_now().await;
    }
    assert!(asked.await.unwrap().unwrap().local);
}

#[tokio::test]
async fn what_is_relayed_and_not_settled_is_listed_once() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let first = submit.lifecycle(create("first"), None, None).await.unwrap().broadcast.unwrap();
    let acks = Acks::start(submit.clone(), None);
    acks.acknowledge(channel(), first, "bob".parse().unwrap(), None).await.unwrap();
    submit.lifecycle(create("second"), None, None).await.unwrap();
    log.may_take.add_permits(2);
    log.come_back();
    log.asked(3).await;
    projecting.digest_at(2).await;
    let projection = &projecting.projection;
    let history = projection.history(channel(), u64::MAX, 10).await.unwrap();
    let listed: Vec<_> = history.iter().map(|known| known.broadcast.message.as_str()).collect();
    assert_eq!(listed, ["second", "first"]);
    assert_eq!(projection.acks_after(first, (0, 0), 10).await.unwrap().len(), 1);
    log.may_take.add_permits(1);
    in_mode(&submit, Mode::Cluster).await;
    assert_eq!(projection.history(channel(), u64::MAX, 10).await.unwrap().len(), 2);
    projecting.stop().await;
}

#[tokio::test]
async fn a_key_that_another_replica_used_for_something_else_meanwhile_is_said() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let id = submit.lifecycle(create("here"), Some(key("key")), None).await.unwrap().id;
    let mut elsewhere = created("there");
    if let Event::Created(broadcast) = &mut elsewhere.event {
        (elsewhere.id, broadcast.id) = (id, BroadcastId(id));
    }
    log.log.append(elsewhere).await.unwrap();
    log.come_back();
    in_mode(&submit, Mode::Cluster).await;
    assert_eq!(submit.outbox_stats().rejected, 1);
    let rejected = fs::read_to_string(directory.path().join("projection.outbox/rejected")).unwrap();
    assert!(rejected.contains("here"), "{rejected}");
    projecting.stop().await;
}

/// While something waits, a replica shows a channel as it was when that was accepted. The log goes on meanwhile.
#[tokio::test]
async fn what_was_decided_before_the_log_went_on_is_relayed_as_what_it_is() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let first = created("first");
    log.log.append(first.clone()).await.unwrap();
    projecting.digest_at(1).await;
    let acks = Acks::start(submit.clone(), None);
    acks.acknowledge(channel(), BroadcastId(first.id), "bob".parse().unwrap(), None).await.unwrap();
    log.log.append(created("second")).await.unwrap();
    projecting.digest_at(2).await;
    let cleared = submit.lifecycle(clear(), Some(key("key")), None).await.unwrap();
    assert_eq!(cleared.broadcast, Some(BroadcastId(first.id)), "it clears what is shown");
    log.may_take.add_permits(3);
    log.come_back();
    in_mode(&submit, Mode::Cluster).await;
    let last = log.log.get(4).await.unwrap().unwrap();
    assert_eq!(last.subject, Subject::Late(channel()).to_string(), "the second took its place before");
    let again = submit.lifecycle(clear(), Some(key("key")), None).await.unwrap();
    assert_eq!(
        again,
        Submitted { sequence: Some(4), local: false, ..cleared },
        "a retry is told where it stands"
    );
    projecting.stop().await;
}

/// What a connection is told of what is active, up to a mode.
async fn told_until(connection: &mut Attached, mode: &str) -> Vec<(String, Value)> {
    let mut told = Vec::new();
    loop {
        let frame = timeout(PATIENCE, connection.outgoing.recv()).await.unwrap().unwrap();
        let message: Value = serde_json::from_slice(frame.json()).unwrap();
        match message["type"].as_str().unwrap() {
            "mode" if message["mode"] == mode => return told,
            "connected" | "mode" => {}
            other => told.push((other.to_owned(), message["broadcast"]["message"].clone())),
        }
    }
}

#[tokio::test]
async fn what_comes_back_when_the_log_overrules_is_shown_again_and_is_no_news() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (mut projecting, submit) = alone(&log, &directory).await;
    let hub = projecting.hub(&submit);
    let user = "ann".parse().unwrap();
    let who = Connecting { channel: channel(), user, staff: false, heartbeat_seconds: 30 };
    let mut connection = hub.attach(who).await.unwrap();
    log.log.append(created("first")).await.unwrap();
    projecting.digest_at(1).await;
    let id = submit.lifecycle(create("second"), Some(key("key")), None).await.unwrap().id;
    // Another replica accepted it too, and on its way from there it was overtaken.
    let mut elsewhere = NewEvent { subject: Subject::Late(channel()), ..created("second") };
    if let Event::Created(broadcast) = &mut elsewhere.event {
        (elsewhere.id, broadcast.id) = (id, BroadcastId(id));
    }
    log.log.append(elsewhere).await.unwrap();
    log.come_back();
    let told = told_until(&mut connection, "cluster").await;
    let expected = [
        ("active_broadcast", Value::Null),
        ("new_broadcast", "first".into()),
        ("new_broadcast", "second".into()),
        ("active_broadcast", "first".into()),
    ];
    assert_eq!(told, expected.map(|(kind, message)| (kind.to_owned(), message)));
    projecting.stop().await;
}

async fn post(replica: &Replica, message: &str) -> (u16, Value) {
    replica.ask(replica.request(Method::POST, "").json(&json!({"message": message}))).await
}

#[tokio::test]
async fn with_an_outbox_alone_on_disk_a_replica_waits_unready_and_says_so() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.post_broadcast("before").await;
    nats.kill();
    replica.in_mode("local").await;
    assert_eq!(post(&replica, "kept").await.0, 202);
    replica.kill();
    fs::remove_dir_all(replica.data_dir().join("projection")).unwrap();
    replica.spawn();
    eventually("it answers", || async { replica.readyz().await["status"] == "unavailable" }).await;
    let (status, refused) = post(&replica, "no").await;
    assert_eq!((status, &refused["code"]), (503, &json!("catching_up")));
    nats.start_again().await;
    replica.in_mode("cluster").await;
    assert_eq!(replica.active("eve").await["message"], "kept");
}

#[tokio::test]
async fn who_acknowledged_elsewhere_what_wins_is_not_shown_it_again() {
    let mut nats = Nats::start().await;
    let [mut one, two] = [Replica::start(&nats).await, Replica::start(&nats).await];
    nats.kill();
    for replica in [&one, &two] {
        replica.in_mode("local").await;
    }
    let older = post(&one, "older").await.1["id"].clone();
    one.kill();
    let newer = post(&two, "newer").await.1["id"].clone();
    nats.start_again().await;
    two.in_mode("cluster").await;
    two.acknowledge(newer.as_str().unwrap(), "ann").await;

    nats.freeze();
    one.start_alone().await;
    eventually("it shows what it accepted", || async { one.active("eve").await["id"] == older }).await;
    let [mut ann, mut eve] = [one.connect("ann").await, one.connect("eve").await];
    assert_eq!((&ann.greeted().await["id"], &eve.greeted().await["id"]), (&older, &older));
    nats.thaw();
    for client in [&mut ann, &mut eve] {
        client.until("the mode is cluster again", |m| *m == json!({"type": "mode", "mode": "cluster"})).await;
    }
    assert_eq!((shown(&ann), shown(&eve)), (Value::Null, newer));
    assert_eq!(one.active("ann").await, Value::Null);
}

/// The broadcast that a client shows by all that it was told.
fn shown(client: &Client) -> Value {
    let told = client.heard.iter().rev();
    let mut told = told.filter(|m| {
        ["new_broadcast", "active_broadcast", "broadcast_cleared"].contains(&m["type"].as_str().unwrap())
    });
    told.next().map_or(Value::Null, |last| last["broadcast"]["id"].clone())
}
