//! Conditional requests, and what a retry under an `Idempotency-Key` is answered.

use futures_util::future::join_all;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

use crate::support::{Nats, Replica, Request, Spec, eventually};

/// Status, headers and body of an answer.
type Answer = (u16, HeaderMap, Value);

async fn sent(request: Request) -> Answer {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body = answer.bytes().await.unwrap();
    (status, headers, if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() })
}

fn post(replica: &Replica, message: &str) -> Request {
    replica.request(Method::POST, "").json(&json!({"message": message}))
}

fn clear(replica: &Replica) -> Request {
    replica.request(Method::POST, "/clear")
}

fn quoted(id: &Value) -> String {
    format!("\"{}\"", id.as_str().unwrap())
}

/// The status and the error code.
async fn outcome(request: Request) -> (u16, Value) {
    let (status, _, body) = sent(request).await;
    (status, body["code"].clone())
}

#[tokio::test]
async fn if_none_match_star_posts_only_while_nothing_is_active() {
    let nats = Nats::start().await;
    let replicas = [Replica::start(&nats).await, Replica::start(&nats).await];
    let racing = (0..20).map(|n| post(&replicas[n % 2], &format!("{n}")).header("If-None-Match", "*"));
    let answers = join_all(racing.map(sent)).await;
    let (won, lost): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, ..)| *status == 201);
    assert_eq!((won.len(), lost.len()), (1, 19));
    let id = &won[0].2["id"];
    for (status, _, body) in lost {
        assert_eq!((*status, &body["code"], &body["active"]), (412, &json!("already_active"), id));
    }
    let taken = clear(&replicas[0]).header("If-None-Match", "*");
    assert_eq!(outcome(taken).await, (412, json!("already_active")), "a clear is judged the same");
    assert_eq!(outcome(clear(&replicas[0])).await.0, 200);
    assert_eq!(outcome(clear(&replicas[0]).header("If-None-Match", "*")).await.0, 200, "nothing to clear");
    assert_eq!(outcome(post(&replicas[1], "next").header("If-None-Match", "*")).await.0, 201);
}

#[tokio::test]
async fn if_match_takes_a_list_and_a_star_on_a_post_and_on_a_clear() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let first = sent(post(&replica, "first")).await.2["id"].clone();
    let second = sent(post(&replica, "second")).await.2["id"].clone();
    let other = "\"0198c5a0-1111-7222-8333-444455556666\"";
    let over = format!("{}, {other}", quoted(&first));
    for request in [post(&replica, "x"), clear(&replica)] {
        let (status, _, body) = sent(request.header("If-Match", &over)).await;
        assert_eq!((status, &body["code"], &body["active"]), (412, &json!("not_active"), &second));
    }
    let listed = format!("{other},{}", quoted(&second));
    let third = sent(post(&replica, "third").header("If-Match", &listed)).await;
    assert_eq!(third.0, 201, "{third:?}");
    let fourth = sent(post(&replica, "fourth").header("If-Match", "*")).await.2["id"].clone();
    let listed = format!("{} , {}", quoted(&third.2["id"]), quoted(&fourth));
    let (status, _, cleared) = sent(clear(&replica).header("If-Match", listed)).await;
    assert_eq!((status, &cleared["broadcast_id"]), (200, &fourth));
    for request in [post(&replica, "x"), clear(&replica)] {
        assert_eq!(outcome(request.header("If-Match", "*")).await, (412, json!("not_active")));
    }
}

#[tokio::test]
async fn the_etag_of_the_active_broadcast_is_what_if_match_takes() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let active = || replica.request(Method::GET, "/active");
    let (_, headers, body) = sent(active()).await;
    assert_eq!((headers.get("etag"), body), (None, json!({"broadcast": null})));

    let (_, created, body) = sent(post(&replica, "first")).await;
    let (_, shown, _) = sent(active()).await;
    assert_eq!(
        (&shown["etag"], &*quoted(&body["id"])),
        (&created["etag"], created["etag"].to_str().unwrap())
    );
    let (status, known, body) = sent(active().header("If-None-Match", &shown["etag"])).await;
    assert_eq!((status, &known["etag"], body), (304, &shown["etag"], Value::Null));
    assert_eq!(known["cache-control"], "no-store");

    let (status, second, _) = sent(post(&replica, "second").header("If-Match", &shown["etag"])).await;
    assert_eq!(status, 201);
    let (status, now, _) = sent(active().header("If-None-Match", &shown["etag"])).await;
    assert_eq!((status, &now["etag"]), (200, &second["etag"]));
    assert_eq!(outcome(clear(&replica).header("If-Match", &shown["etag"])).await.0, 412);
    assert_eq!(outcome(clear(&replica).header("If-Match", &now["etag"])).await.0, 200);

    // Whoever has acknowledged it is shown nothing, which is no version of it.
    let (_, third, body) = sent(post(&replica, "third")).await;
    let acknowledge = replica.request(Method::POST, "/acknowledge");
    assert_eq!(outcome(acknowledge.json(&json!({"broadcast_id": body["id"]}))).await.0, 200);
    let (status, nothing, _) = sent(active().header("If-None-Match", &third["etag"])).await;
    assert_eq!((status, nothing.get("etag")), (200, None));
}

#[tokio::test]
async fn a_condition_under_a_used_key_is_judged_the_same_on_a_post_and_on_a_clear() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let first = sent(post(&replicas[0], "first")).await.2["id"].clone();
    let create = |replica: &Replica| post(replica, "second").header("Idempotency-Key", "k");
    let second = sent(create(&replicas[0]).header("If-Match", quoted(&first))).await;
    assert_eq!(second.0, 201);
    let take_down = |replica: &Replica| clear(replica).header("Idempotency-Key", "k");
    let cleared = sent(take_down(&replicas[0]).header("If-Match", quoted(&second.2["id"]))).await;
    assert_eq!(cleared.0, 200);
    let last = sent(post(&replicas[0], "last")).await.2["id"].clone();
    for replica in &replicas {
        // The same request: its condition does not hold any more, by its own effect, and it gets its first answer.
        let again = sent(create(replica).header("If-Match", quoted(&first))).await;
        assert_eq!((again.0, &again.2["id"]), (201, &second.2["id"]));
        let again = sent(take_down(replica).header("If-Match", quoted(&second.2["id"]))).await;
        assert_eq!((again.0, &again.2["broadcast_id"]), (200, &second.2["id"]));
        // One with another condition, whether that holds now or not, is another request.
        for (name, value) in [("If-Match", quoted(&last)), ("If-None-Match", "*".to_owned())] {
            for request in [create(replica), take_down(replica)] {
                let refused = outcome(request.header(name, &value)).await;
                assert_eq!(refused, (422, json!("idempotency_key_reused")), "{name}: {value}");
            }
        }
    }
    assert_eq!(replicas[1].active("u").await["id"], last, "nothing was changed");
}

/// What of an answer is the same for ever, from any replica.
fn kept(answer: &Answer) -> (u16, [Option<&HeaderValue>; 3], &Value) {
    let (status, headers, body) = answer;
    (*status, ["tidings-position", "etag", "content-type"].map(|name| headers.get(name)), body)
}

#[tokio::test]
async fn a_retry_gets_the_first_answer_as_it_was_at_any_time_and_through_any_replica() {
    let nats = Nats::start().await;
    let mut replicas = Replica::three(&nats).await;
    let mut ann = replicas[1].connect("ann").await;
    ann.greeted().await;
    eventually("every replica counts her", async || {
        for replica in &replicas {
            if replica.stats().await["connected_users"] != 1 {
                return false;
            }
        }
        true
    })
    .await;
    let create = |replica: &Replica| post(replica, "once").header("Idempotency-Key", "k");
    let take_down = |replica: &Replica| clear(replica).header("Idempotency-Key", "k");
    let created = sent(create(&replicas[0])).await;
    assert_eq!((created.0, &created.2["sent_to_users"]), (201, &json!(1)));
    let mut bob = replicas[1].connect("bob").await;
    bob.greeted().await;
    for replica in &replicas {
        assert_eq!(kept(&sent(create(replica)).await), kept(&created), "down to the sentence");
    }
    let cleared = sent(take_down(&replicas[2])).await;
    assert_eq!((cleared.0, &cleared.2["broadcast_id"]), (200, &created.2["id"]));
    drop((ann, bob));
    // Long over, after something newer, and after a restart without its data.
    sent(post(&replicas[0], "newer")).await;
    replicas[2].terminate().await;
    replicas[2].start_again().await;
    for replica in &replicas {
        assert_eq!(kept(&sent(create(replica)).await), kept(&created));
        assert_eq!(kept(&sent(take_down(replica)).await), kept(&cleared));
    }
}

#[tokio::test]
async fn a_retry_of_what_was_accepted_while_the_log_was_away_gets_the_first_answer_too() {
    let mut nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--append-timeout-ms", "300"]);
    let replica = Replica::start_with(spec).await;
    let mut ann = replica.connect("ann").await;
    ann.greeted().await;
    nats.kill();
    replica.in_mode("local").await;
    let create = || post(&replica, "once").header("Idempotency-Key", "k").header("If-None-Match", "*");
    let first = sent(create()).await;
    assert_eq!((first.0, &first.2["sent_to_users"]), (202, &json!(1)), "{first:?}");
    let mut bob = replica.connect("bob").await;
    bob.greeted().await;
    assert_eq!(sent(create()).await.2, first.2, "while the log is away");
    nats.start_again().await;
    replica.in_mode("cluster").await;
    let (status, headers, body) = sent(create()).await;
    assert_eq!((status, &body["id"], &headers["etag"]), (201, &first.2["id"], &first.1["etag"]));
    let figures = ["sent_to_users", "sent_to_connections", "approximate"];
    assert_eq!(figures.map(|name| &body[name]), figures.map(|name| &first.2[name]));
    assert!(headers.contains_key("tidings-position") && body["sequence"].is_u64(), "it has a place now");
}

#[tokio::test]
async fn what_wrote_nothing_uses_no_key_up() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let take_down = || clear(&replica).header("Idempotency-Key", "k");
    assert_eq!(sent(take_down()).await.2["broadcast_id"], Value::Null);
    let conditional = || post(&replica, "one").header("Idempotency-Key", "k").header("If-Match", "*");
    assert_eq!(outcome(conditional()).await, (412, json!("not_active")));
    let first = sent(post(&replica, "first")).await.2["id"].clone();
    assert_eq!(outcome(conditional()).await.0, 201, "it is decided anew");
    let named = take_down().header("If-Match", quoted(&first));
    assert_eq!(
        outcome(named).await,
        (412, json!("not_active")),
        "one that names a broadcast clears no other"
    );
    assert!(sent(take_down()).await.2["broadcast_id"].is_string());
}
