//! While NATS is away a replica goes on alone, says so, and loses nothing; when NATS is back everybody ends on the log's
//! truth.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use reqwest::Method;
use rustix::process::Signal;
use serde_json::{Value, json};
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::Timestamp;
use tidings::log::names::LOG_STREAM;
use tidings::log::{EventLog as _, RawMessage};

use crate::support::log::{cleared, everything};
use crate::support::nats::{epoch_metadata, provision};
use crate::support::{Client, Nats, Replica, Spec, eventually};

/// Time, type and id of what is in the log, in order.
async fn logged(nats: &Nats) -> Vec<(String, String)> {
    let in_short = |message: &RawMessage| {
        let header = |name| message.header(name).unwrap().to_owned();
        (message.subject.clone(), header("ce-id"))
    };
    everything(&nats.log().await).await.iter().map(in_short).collect()
}

async fn post(replica: &Replica, message: &str) -> (u16, Value) {
    let request = replica.request(Method::POST, "").header("Idempotency-Key", message);
    replica.ask(request.json(&json!({"message": message}))).await
}

async fn clear(replica: &Replica) -> (u16, Value) {
    replica.ask(replica.request(Method::POST, "/clear")).await
}

/// Ends NATS and waits until the replicas have noticed.
async fn cut_off(nats: &mut Nats, replicas: &[&Replica]) {
    nats.kill();
    for replica in replicas {
        replica.in_mode("local").await;
    }
}

/// What a client was told of broadcasts, by id: how often as new, and what it shows at the end.
fn told(client: &Client) -> (Vec<String>, Option<String>) {
    let mut shown = None;
    for message in &client.heard {
        match message["type"].as_str().unwrap() {
            "new_broadcast" | "active_broadcast" => {
                shown = message["broadcast"]["id"].as_str().map(ToOwned::to_owned);
            }
            "broadcast_cleared" => shown = None,
            _ => {}
        }
    }
    (client.broadcasts(), shown)
}

#[tokio::test]
async fn what_is_accepted_alone_takes_effect_at_once_and_is_in_the_log_later() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let before = replica.post_broadcast("before").await;
    let [mut ann, mut tab] = [replica.connect("ann").await, replica.connect("ann").await];
    assert_eq!(ann.greeted().await["id"], before["id"]);
    tab.greeted().await;

    cut_off(&mut nats, &[&replica]).await;
    assert_eq!(ann.expect("mode").await, json!({"type": "mode", "mode": "local"}));
    assert_eq!(tab.expect("mode").await["mode"], "local");
    assert!(replica.is_ready().await, "it serves on");
    assert_eq!(replica.count("tidings_degraded").await, 1);

    // A post: accepted, shown, judged on.
    let (status, answer) = post(&replica, "alone").await;
    assert_eq!((status, &answer["mode"], &answer["status"]), (202, &json!("local"), &json!("success")));
    assert!(answer.get("sequence").is_none(), "{answer}");
    let id = answer["id"].as_str().unwrap().to_owned();
    let shown = ann.expect("new_broadcast").await;
    assert_eq!((&shown["broadcast"]["id"], shown.get("position")), (&answer["id"], None));
    tab.expect("new_broadcast").await;
    assert_eq!(post(&replica, "alone").await.1["id"], answer["id"], "a retry gets the first answer");
    assert_eq!(replica.active("bob").await["id"], answer["id"]);
    assert_eq!(replica.count("tidings_outbox_entries").await, 1);

    // Acknowledgements: confirmed, once for all devices.
    let confirmed = ann.acknowledge(&id).await;
    assert_eq!(confirmed, json!({"type": "acknowledged", "broadcast_id": id, "already": false}));
    assert_eq!(tab.expect("broadcast_acknowledged").await["broadcast_id"], id);
    assert_eq!(replica.active("ann").await, Value::Null);
    let request = replica.request(Method::POST, "/acknowledge").header("X-User-Id", "ann");
    let (status, again) = replica.ask(request.json(&json!({"broadcast_id": id}))).await;
    assert_eq!((status, &again["already"]), (202, &json!(true)));
    let one = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await.1;
    assert_eq!((&one["broadcast"]["acknowledged"], &one["broadcast"]["sequence"]), (&json!(1), &Value::Null));
    let acks = replica.ask(replica.request(Method::GET, &format!("/{id}/acks"))).await.1;
    assert_eq!(acks["acknowledgements"][0]["user"], "ann");
    let history = replica.ask(replica.request(Method::GET, "/history")).await.1;
    let statuses: Vec<_> =
        history["broadcasts"].as_array().unwrap().iter().map(|b| b["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["active", "superseded"]);

    // Who comes now is told how it stands.
    let mut late = replica.connect("late").await;
    assert_eq!(late.expect("connected").await["mode"], "local");
    assert_eq!(late.expect("active_broadcast").await["broadcast"]["id"], id);

    nats.start_again().await;
    for client in [&mut ann, &mut tab, &mut late] {
        assert_eq!(client.expect("mode").await["mode"], "cluster");
    }
    assert_eq!(replica.count("tidings_degraded").await, 0);
    assert_eq!(replica.count("tidings_outbox_entries").await, 0);
    let (lifecycle, acks) =
        ("broadcasts.creator.lifecycle".to_owned(), format!("broadcasts.creator.acks.{id}"));
    let logged = logged(&nats).await;
    let subjects: Vec<_> = logged.iter().map(|(subject, _)| subject.clone()).collect();
    assert_eq!(subjects, [lifecycle.clone(), lifecycle, acks]);
    assert_eq!(logged[1].1, id, "under the id of the answer");
    let sources = everything(&nats.log().await).await;
    let waited = |message: &RawMessage| message.header("ce-source").unwrap().ends_with("/outbox");
    assert_eq!(sources.iter().map(waited).collect::<Vec<_>>(), [false, true, true]);
    assert_eq!(told(&ann), (vec![id.clone()], Some(id.clone())));

    let (status, retried) = post(&replica, "alone").await;
    assert_eq!((status, &retried["id"], &retried["sequence"]), (201, &answer["id"], &json!(2)));
    let now = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await.1;
    assert_eq!(now["broadcast"]["acknowledged"], 1);
    let took = "time_to_acknowledge_ms";
    assert_eq!(now["broadcast"][took], one["broadcast"][took], "the log says that they waited");
    let after = replica.post_broadcast("after").await;
    assert_eq!(ann.expect("new_broadcast").await["broadcast"]["id"], after["id"]);
}

#[tokio::test]
async fn of_two_replicas_that_were_alone_the_newer_word_counts_and_the_older_is_on_record() {
    let mut nats = Nats::start().await;
    let [one, two] = [Replica::start(&nats).await, Replica::start(&nats).await];
    let mut clients = [one.connect("ann").await, two.connect("bob").await];
    for client in &mut clients {
        client.greeted().await;
    }
    cut_off(&mut nats, &[&one, &two]).await;
    let older = post(&one, "older").await.1["id"].as_str().unwrap().to_owned();
    // Decided on the older one, so it shares its fate.
    let based = clear(&one).await;
    assert_eq!((based.0, &based.1["broadcast_id"]), (202, &json!(older)));
    let newer = post(&two, "newer").await.1["id"].as_str().unwrap().to_owned();

    nats.start_again().await;
    for replica in [&one, &two] {
        replica.in_mode("cluster").await;
    }
    for client in &mut clients {
        client.until("the mode is cluster again", |m| *m == json!({"type": "mode", "mode": "cluster"})).await;
    }
    let (heard, shown) = told(&clients[0]);
    assert_eq!((heard, shown.as_deref()), (vec![older.clone(), newer.clone()], Some(newer.as_str())));
    assert_eq!(told(&clients[1]), (vec![newer.clone()], Some(newer.clone())));
    for replica in [&one, &two] {
        assert_eq!(replica.active("eve").await["id"], newer.as_str());
    }
    let subjects: Vec<_> = logged(&nats).await;
    let late = subjects.iter().filter(|(subject, _)| subject == "broadcasts.creator.late").count();
    let taken: Vec<_> =
        subjects.iter().filter(|(subject, _)| subject == "broadcasts.creator.lifecycle").collect();
    // Which of the two relayed first decides whether the older one was overtaken or superseded.
    match (late, taken.len()) {
        (2, 1) => assert_eq!(taken[0].1, newer),
        (0, 3) => assert_eq!((&taken[0].1, &taken[2].1), (&older, &newer)),
        _ => panic!("{subjects:?}"),
    }
    let sequence = subjects.len() as u64;
    assert_eq!(one.digest_at(sequence).await, two.digest_at(sequence).await);
}

#[tokio::test]
async fn what_an_overruled_post_took_down_is_shown_again_and_not_as_new() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let before = replica.post_broadcast("before").await["id"].as_str().unwrap().to_owned();
    let mut client = replica.connect("ann").await;
    client.greeted().await;
    let stays = replica.post_broadcast("stays").await["id"].as_str().unwrap().to_owned();
    client.expect("new_broadcast").await;
    cut_off(&mut nats, &[&replica]).await;
    post(&replica, "overruled").await;
    client.until("it is shown at once", |m| m["type"] == "new_broadcast").await;
    // A newer word, which changes nothing: what it clears is not active any more.
    replica.signal(Signal::STOP);
    nats.start_again().await;
    let in_an_hour = Timestamp::from_unix_ms(SystemClock.now().as_unix_ms() + 3_600_000);
    nats.log().await.append(cleared(before.parse().unwrap(), in_an_hour)).await.unwrap();
    replica.signal(Signal::CONT);
    let again = client.until("what is active", |m| m["broadcast"]["id"] == stays.as_str()).await;
    assert_eq!(again["type"], "active_broadcast", "it was told of it as new before");
    replica.in_mode("cluster").await;
    assert_eq!(replica.active("eve").await["id"], stays.as_str());
    // Who repeats the post is told so, and not that somebody was sent it.
    let (status, body) = post(&replica, "overruled").await;
    assert_eq!((status, &body["late"], &body["sent_to_users"]), (201, &json!(true), &json!(0)), "{body}");
    assert!(body["message"].as_str().unwrap().contains("not shown to users"), "{body}");
}

#[tokio::test]
async fn a_replica_that_is_killed_with_a_full_outbox_brings_it_to_the_log_later() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    let before = replica.post_broadcast("before").await;
    cut_off(&mut nats, &[&replica]).await;
    let id = post(&replica, "kept").await.1["id"].as_str().unwrap().to_owned();
    for user in ["ann", "bob"] {
        let request = replica.request(Method::POST, "/acknowledge").header("X-User-Id", user);
        assert_eq!(replica.ask(request.json(&json!({"broadcast_id": id}))).await.0, 202);
    }
    replica.kill();

    // It starts while NATS is still away, and shows what it showed.
    replica.start_alone().await;
    replica.in_mode("local").await;
    eventually("it shows what it accepted", || async { replica.active("eve").await["id"] == id.as_str() })
        .await;
    assert_eq!(replica.active("ann").await, Value::Null);
    assert_eq!(replica.count("tidings_outbox_entries").await, 3);
    assert_eq!(clear(&replica).await.0, 202);

    nats.start_again().await;
    replica.in_mode("cluster").await;
    let logged = logged(&nats).await;
    assert_eq!(logged.len(), 5, "{logged:?}");
    assert_eq!((&logged[0].1, &logged[1].1), (&before["id"].as_str().unwrap().to_owned(), &id));
    let one = replica.ask(replica.request(Method::GET, &format!("/{id}"))).await.1;
    assert_eq!(
        (&one["broadcast"]["acknowledged"], &one["broadcast"]["status"]),
        (&json!(2), &json!("cleared"))
    );
}

#[tokio::test]
async fn a_replica_may_be_told_to_accept_nothing_alone() {
    let mut nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--on-outage", "reject"]);
    let replica = Replica::start_with(spec).await;
    let id = replica.post_broadcast("before").await["id"].clone();
    cut_off(&mut nats, &[&replica]).await;
    let (status, refused) = post(&replica, "no").await;
    assert_eq!((status, &refused["code"]), (503, &json!("log_away")));
    assert!(refused.get("outcome").is_none(), "nothing was sent: {refused}");
    let request = replica.request(Method::POST, "/acknowledge").json(&json!({"broadcast_id": id}));
    assert_eq!(replica.ask(request).await.1["code"], "log_away");
    assert_eq!(replica.active("ann").await["id"], id);
    nats.start_again().await;
    replica.in_mode("cluster").await;
    assert_eq!(logged(&nats).await.len(), 1);
    assert_eq!(post(&replica, "no").await.0, 201);
}

#[tokio::test]
async fn the_outbox_is_bounded_and_says_so() {
    let mut nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--outbox-max-entries", "2"]);
    let replica = Replica::start_with(spec).await;
    cut_off(&mut nats, &[&replica]).await;
    assert_eq!((post(&replica, "1").await.0, post(&replica, "2").await.0), (202, 202));
    let (status, refused) = post(&replica, "3").await;
    assert_eq!((status, &refused["code"]), (503, &json!("outbox_full")));
    nats.start_again().await;
    replica.in_mode("cluster").await;
    assert_eq!(logged(&nats).await.len(), 2);
}

#[tokio::test]
async fn an_append_without_an_answer_waits_in_the_outbox() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "300"]);
    let replica = Replica::start_with(spec).await;
    let mut client = replica.connect("ann").await;
    client.greeted().await;
    // It is there and says nothing: what was sent may land.
    nats.freeze();
    let (status, answer) = post(&replica, "unsure").await;
    assert_eq!(status, 202, "{answer}");
    let unanswered = r#"tidings_append_duration_seconds_count{outcome="unknown"}"#;
    assert!(replica.metric(unanswered).await > 0.5);
    client.until("what was accepted", |m| m["type"] == "new_broadcast").await;
    replica.in_mode("local").await;
    nats.thaw();
    replica.in_mode("cluster").await;
    let logged = logged(&nats).await;
    assert_eq!(
        logged.iter().filter(|(_, id)| *id == answer["id"].as_str().unwrap()).count(),
        1,
        "{logged:?}"
    );
    client.until("the mode is cluster again", |m| m["mode"] == "cluster").await;
    assert_eq!(client.broadcasts().len(), 1);
}

#[tokio::test]
async fn with_nothing_on_disk_and_no_nats_a_replica_waits_unready() {
    let mut nats = Nats::start().await;
    nats.kill();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    eventually("it answers", || async { replica.readyz().await["status"] == "unavailable" }).await;
    let (status, refused) = post(&replica, "no").await;
    assert_eq!((status, &refused["code"]), (503, &json!("catching_up")));
    assert!(replica.log().contains("NATS cannot be reached (nats://127.0.0.1:"), "{}", replica.log());
    nats.start_again().await;
    eventually("it is ready", || async { replica.is_ready().await }).await;
    replica.in_mode("cluster").await;
    replica.post_broadcast("now").await;
    assert_eq!(replica.terminate().await.code(), Some(0));
}

#[tokio::test]
async fn a_nats_that_turns_out_unfit_later_ends_the_replica_with_the_reason() {
    let mut nats = Nats::start().await;
    let weak = Config {
        deny_purge: false,
        metadata: epoch_metadata(),
        ..provision(1).definitions().unwrap().remove(0)
    };
    nats.jetstream().await.create_stream(weak).await.unwrap();
    nats.kill();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    eventually("it answers", || async { !replica.url().is_empty() }).await;
    nats.start_again().await;
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("break a guarantee"), "{}", replica.log());
}

#[tokio::test]
async fn a_replica_that_never_reached_nats_stops_when_asked() {
    let mut nats = Nats::start().await;
    nats.kill();
    let mut replica = Replica::prepared(Spec::joining(nats.url()));
    replica.spawn();
    eventually("it answers", || async { !replica.url().is_empty() }).await;
    tokio::time::timeout(Duration::from_secs(15), replica.terminate()).await.unwrap();
}

#[tokio::test]
async fn a_log_that_was_lost_meanwhile_gets_what_waits() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for n in 0..5 {
        replica.post_broadcast(&format!("lost {n}")).await;
    }
    let mut client = replica.connect("ann").await;
    client.greeted().await;
    for round in ["first", "second"] {
        cut_off(&mut nats, &[&replica]).await;
        let id = post(&replica, round).await.1["id"].as_str().unwrap().to_owned();
        nats.wipe();
        nats.start_again().await;
        replica.in_mode("cluster").await;
        assert_eq!(logged(&nats).await, [("broadcasts.creator.lifecycle".to_owned(), id.clone())]);
        assert_eq!(replica.active("bob").await["id"], id.as_str());
        client.until("a new start", |m| m["type"] == "resync").await;
        assert_eq!(client.expect("active_broadcast").await["broadcast"]["id"], id.as_str());
    }
}

#[tokio::test]
async fn a_full_log_takes_no_more_into_the_outbox_and_goes_on_when_there_is_room() {
    let mut nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--log-max-bytes", "20000"]);
    let replica = Replica::start_with(spec).await;
    cut_off(&mut nats, &[&replica]).await;
    let mut accepted = Vec::new();
    for n in 0..40 {
        let (status, answer) = post(&replica, &format!("{n} {}", "x".repeat(100))).await;
        assert_eq!(status, 202, "{answer}");
        accepted.push(answer["id"].as_str().unwrap().to_owned());
    }
    nats.start_again().await;
    eventually("the log is full", || async { post(&replica, "more").await.1["code"] == "log_full" }).await;
    assert!(replica.count("tidings_outbox_entries").await > 0);
    let jetstream = nats.jetstream().await;
    let mut config = jetstream.get_stream(LOG_STREAM).await.unwrap().cached_info().config.clone();
    config.max_bytes = 1 << 20;
    jetstream.update_stream(config).await.unwrap();
    replica.in_mode("cluster").await;
    let mut ids: Vec<_> = logged(&nats).await.into_iter().map(|(_, id)| id).collect();
    // What was asked for while nobody knew yet that the log is full was accepted too.
    ids.truncate(accepted.len());
    assert_eq!(ids, accepted, "everything, once, in order");
    assert_eq!(post(&replica, "after").await.0, 201);
}
