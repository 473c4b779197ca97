//! The guards: whatever runs at once over three replicas, the log has one order and everybody sees it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidings::audit::source::Source;
use tidings::audit::state::state_at;
use tidings::domain::{BroadcastId, Event};
use tidings::log::envelope::{Decoded, decode};
use tidings::log::jetstream::JetStreamLog;
use tidings::log::memory::MemoryLog;
use tidings::log::{AppendError, EventLog as _, RawMessage};
use tidings::submit::{Submit, SubmitError};

use crate::support::log::{Meddled, created, everything};
use crate::support::projecting::{Projecting, create};
use crate::support::{Client, Cluster, Nats, Replica, Spec};

#[tokio::test]
async fn fifty_creates_at_once_get_one_order_on_one_node() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    fifty_creates_at_once_get_one_order(&replicas, &nats.log().await).await;
}

#[tokio::test]
async fn fifty_creates_at_once_get_one_order_on_three_nodes() {
    let cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replicas = Replica::three_with(&spec).await;
    fifty_creates_at_once_get_one_order(&replicas, &cluster.log().await).await;
}

async fn fifty_creates_at_once_get_one_order(replicas: &[Replica; 3], log: &JetStreamLog) {
    let mut clients = Vec::new();
    for (n, replica) in (0..6).map(|n| (n, &replicas[n % 3])) {
        let mut client = replica.connect(&format!("user-{n}")).await;
        assert_eq!(client.greeted().await, Value::Null);
        clients.push(client);
    }

    // One whose turn does not come in time is told to try again.
    let texts: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    let creates = texts.iter().enumerate().map(|(n, text)| replicas[n % 3].post_until_taken(text));
    let answers = join_all(creates).await.into_iter();
    let mut answered: Vec<_> = answers
        .map(|body| (body["sequence"].as_u64().unwrap(), body["id"].as_str().unwrap().to_owned()))
        .collect();

    // The log has one event for each answer, where the answer said.
    answered.sort();
    let order = created_in(&everything(log).await);
    assert_eq!(answered, order);
    // Every replica has folded the same.
    let head = log.info().await.unwrap().last_sequence;
    let digests = [
        replicas[0].digest_at(head).await,
        replicas[1].digest_at(head).await,
        replicas[2].digest_at(head).await,
    ];
    assert!(digests.iter().all(|digest| *digest == digests[0]), "{digests:?}");
    // Every client was told all of it, in the log's order, once.
    let ids: Vec<_> = order.into_iter().map(|(_, id)| id).collect();
    let last = ids.last().unwrap();
    for client in &mut clients {
        client
            .until("the last broadcast", |m| {
                m["type"] == "new_broadcast" && m["broadcast"]["id"] == last.as_str()
            })
            .await;
        assert_eq!(client.broadcasts(), ids);
        assert_eq!(asked_for_the_active_one(client).await["id"], last.as_str());
    }
}

async fn asked_for_the_active_one(client: &mut Client) -> Value {
    client.send(json!({"type": "get_active_broadcast"})).await;
    client.expect("active_broadcast").await["broadcast"].clone()
}

/// Sequence and id of every `created` of the log.
fn created_in(messages: &[RawMessage]) -> Vec<(u64, String)> {
    let events = messages.iter().filter_map(|message| match decode(message) {
        Decoded::Event(recorded) => Some(recorded),
        Decoded::Skipped(_) => None,
    });
    let created = events.filter(|recorded| matches!(recorded.event, Event::Created(_)));
    created.map(|recorded| (recorded.sequence, recorded.id.to_string())).collect()
}

#[tokio::test]
async fn two_hundred_acknowledgements_of_one_user_at_once_count_once() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let created = replicas[0].post_broadcast("confirm me").await;
    let id = created["id"].as_str().unwrap();
    for replica in &replicas {
        replica.digest_at(1).await;
    }

    let answers = join_all((0..200).map(|n| replicas[n % 3].acknowledge(id, "ann"))).await;
    let said = |already: bool| answers.iter().filter(|answer| answer["already"] == already).count();
    assert_eq!((said(false), said(true)), (1, 199));
    // All of them name the place of the one that counted.
    let first = answers.iter().find(|answer| answer["already"] == false).unwrap()["sequence"].clone();
    assert!(answers.iter().all(|answer| answer["sequence"] == first));

    let log = nats.log().await;
    let head = log.info().await.unwrap().last_sequence;
    let folded = state_at(&Source::Log(Arc::new(log)), head).await.unwrap();
    let id: BroadcastId = id.parse().unwrap();
    assert_eq!(folded.state.broadcast(id).unwrap().acknowledged, 1);
    for replica in &replicas {
        replica.digest_at(head).await;
        assert_eq!(replica.active("ann").await, Value::Null);
        assert_eq!(replica.active("bob").await["id"], id.to_string());
    }
}

#[tokio::test]
async fn what_was_written_through_one_replica_is_read_through_another() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    for n in 0..200 {
        let request =
            replicas[n % 3].request(Method::POST, "").json(&json!({"message": format!("number {n}")}));
        let posted = request.send().await.unwrap();
        assert_eq!(posted.status(), StatusCode::CREATED);
        let position = posted.headers()["Tidings-Position"].clone();
        let id = posted.json::<Value>().await.unwrap()["id"].clone();

        let reader = &replicas[(n + 1) % 3];
        let read = reader
            .request(Method::GET, "/active")
            .header("Tidings-Min-Position", position)
            .send()
            .await
            .unwrap();
        assert_eq!(read.status(), StatusCode::OK);
        assert_eq!(read.json::<Value>().await.unwrap()["broadcast"]["id"], id, "in round {n}");
    }
}

async fn post_with_key(replica: &Replica, key: &str, message: &str) -> (StatusCode, Value) {
    let request =
        replica.request(Method::POST, "").header("Idempotency-Key", key).json(&json!({"message": message}));
    status_and_body(request.send().await.unwrap()).await
}

async fn status_and_body(answer: Response) -> (StatusCode, Value) {
    (answer.status(), answer.json().await.unwrap())
}

fn place(answer: &(StatusCode, Value)) -> (StatusCode, &Value, &Value) {
    (answer.0, &answer.1["id"], &answer.1["sequence"])
}

#[tokio::test]
async fn a_request_repeated_with_its_key_gets_the_first_answer_through_any_replica() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let first = post_with_key(&replicas[0], "k1", "once").await;
    assert_eq!(first.0, StatusCode::CREATED);
    for replica in &replicas {
        assert_eq!(place(&post_with_key(replica, "k1", "once").await), place(&first));
    }
    let other = post_with_key(&replicas[1], "k1", "something else").await;
    assert_eq!(
        (other.0, &other.1["code"]),
        (StatusCode::UNPROCESSABLE_ENTITY, &json!("idempotency_key_reused"))
    );

    // However much was said in between, and also for a clear.
    let newer = replicas[2].post_broadcast("newer").await;
    assert_eq!(place(&post_with_key(&replicas[1], "k1", "once").await), place(&first));
    let clear =
        |replica: &Replica| replica.request(Method::POST, "/clear").header("Idempotency-Key", "k2").send();
    let cleared = status_and_body(clear(&replicas[0]).await.unwrap()).await;
    assert_eq!((cleared.0, &cleared.1["broadcast_id"]), (StatusCode::OK, &newer["id"]));
    replicas[1].post_broadcast("newest").await;
    let again = status_and_body(clear(&replicas[2]).await.unwrap()).await;
    assert_eq!((&again.1["broadcast_id"], &again.1["sequence"]), (&newer["id"], &cleared.1["sequence"]));
    assert_eq!(everything(&nats.log().await).await.len(), 4);
}

#[tokio::test]
async fn one_key_used_at_once_through_three_replicas_writes_one_event_on_one_node() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    one_key_used_at_once_writes_one_event(&replicas, &nats.log().await).await;
}

#[tokio::test]
async fn one_key_used_at_once_through_three_replicas_writes_one_event_on_three_nodes() {
    let cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let replicas = Replica::three_with(&spec).await;
    one_key_used_at_once_writes_one_event(&replicas, &cluster.log().await).await;
}

async fn one_key_used_at_once_writes_one_event(replicas: &[Replica; 3], log: &JetStreamLog) {
    let answers = join_all((0..12).map(|n| post_with_key(&replicas[n % 3], "k", "once"))).await;
    assert_eq!(answers[0].0, StatusCode::CREATED);
    for answer in &answers {
        assert_eq!(place(answer), place(&answers[0]));
    }
    assert_eq!(created_in(&everything(log).await).len(), 1);

    // For different requests, the key belongs to the one that came first.
    for round in 0..10 {
        let key = format!("contested {round}");
        let answers = join_all((0..3).map(|n| post_with_key(&replicas[n], &key, ["a", "b", "c"][n]))).await;
        let mut codes: Vec<_> =
            answers.iter().map(|answer| (answer.0.as_u16(), answer.1["code"].as_str())).collect();
        codes.sort_unstable();
        let reused = (422, Some("idempotency_key_reused"));
        assert_eq!(codes, [(201, None), reused, reused], "{answers:?}");
    }
    assert_eq!(created_in(&everything(log).await).len(), 11);
}

/// A replica that never hears of what was written: its own projection is of another, empty log.
async fn deaf(log: Meddled<MemoryLog>, append_timeout: Duration) -> (Arc<Submit>, (Projecting, TempDir)) {
    let directory = TempDir::new().unwrap();
    let projecting = Projecting::start(MemoryLog::default(), directory.path());
    projecting.digest_at(0).await;
    (projecting.submit(log, append_timeout), (projecting, directory))
}

#[tokio::test]
async fn conflicts_without_an_end_are_said_to_be_contention_after_five_seconds() {
    let log = MemoryLog::default();
    log.append(created("somebody else is faster")).await.unwrap();
    // However short the time for one answer is: each conflict is one.
    let append = |log: MemoryLog, event| {
        async move {
            tokio::time::sleep(Duration::from_millis(5)).await;
            log.append(event).await
        }
        .boxed()
    };
    let slow = Meddled { append: Box::new(append), ..Meddled::with(&log) };
    let (submit, _kept) = deaf(slow, Duration::from_millis(300)).await;
    let started = Instant::now();
    let answer = submit.lifecycle(create("never"), None, None).await;
    assert!(matches!(answer, Err(SubmitError::Contended)), "{answer:?}");
    assert!(started.elapsed() > Duration::from_secs(4), "it gave up after {:?}", started.elapsed());
    assert_eq!(everything(&log).await.len(), 1);
}

#[tokio::test]
async fn after_a_try_without_an_answer_nobody_says_that_nothing_was_written() {
    let log = MemoryLog::default();
    let append = |log: MemoryLog, event| {
        async move {
            log.append(event).await?;
            Err(AppendError::Unknown(anyhow::anyhow!("the answer was lost")))
        }
        .boxed()
    };
    let losing = Meddled { append: Box::new(append), ..Meddled::with(&log) };
    let (submit, _kept) = deaf(losing, Duration::from_secs(1)).await;
    let answer = submit.lifecycle(create("there"), None, None).await;
    // From the second try on, the log says that another message came first: it is this one.
    assert!(matches!(answer, Err(SubmitError::Unknown { .. })), "{answer:?}");
    assert_eq!(everything(&log).await.len(), 1);
}

#[tokio::test]
async fn while_the_log_is_silent_nobody_waits_for_all_who_came_before() {
    let log = MemoryLog::default();
    let silent = |_, _| std::future::pending().boxed();
    let (submit, _kept) =
        deaf(Meddled { append: Box::new(silent), ..Meddled::with(&log) }, Duration::from_secs(1)).await;
    let started = Instant::now();
    let answers = join_all((0..20).map(|n| submit.lifecycle(create(&n.to_string()), None, None))).await;
    assert!(
        started.elapsed() < Duration::from_secs(9),
        "the last one was answered after {:?}",
        started.elapsed()
    );
    let unknown = answers.iter().filter(|answer| matches!(answer, Err(SubmitError::Unknown { .. }))).count();
    let busy = answers.iter().filter(|answer| matches!(answer, Err(SubmitError::Busy))).count();
    // Two without an answer, and the log is known to be away.
    let away = answers.iter().filter(|answer| matches!(answer, Err(SubmitError::Away))).count();
    assert!(unknown >= 1 && unknown + busy + away == 20, "{answers:?}");
}
