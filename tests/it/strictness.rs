//! Nothing is shown or carried out that was not wholly understood: fields that this build does not know, in the log, in
//! requests and in messages of clients.

use async_nats::HeaderMap;
use reqwest::Method;
use serde_json::json;
use tidings::log::EventLog as _;
use uuid::Uuid;

use crate::support::{Nats, Replica, eventually};

/// Appends a `broadcast.created` as a build would that knows the field `audience`.
async fn append_targeted(nats: &Nats, id: Uuid) {
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("Nats-Msg-Id", id.to_string().as_str()),
        ("ce-specversion", "1.0"),
        ("ce-id", &id.to_string()),
        ("ce-type", "broadcast.created"),
        ("ce-source", "/tidings/newer"),
        ("ce-time", "2026-01-02T03:04:05.678Z"),
        ("ce-subject", &format!("creator/{id}")),
        ("ce-datacontenttype", "application/json"),
        ("ce-dataschema", "urn:tidings:schema:broadcast.created:1"),
    ] {
        headers.insert(name, value);
    }
    let body = json!({
        "id": id, "message": "for seven people", "type": "alert", "created_by": "ann",
        "created_at": "2026-01-02T03:04:05.678Z", "audience": {"users": ["7"]},
    });
    let subject = "broadcasts.creator.lifecycle".to_owned();
    let jetstream = nats.jetstream().await;
    jetstream.publish_with_headers(subject, headers, body.to_string().into()).await.unwrap().await.unwrap();
}

#[tokio::test]
async fn an_event_with_a_field_that_this_build_does_not_know_is_skipped_counted_and_never_shown() {
    let nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let before = replicas[0].post_broadcast("for everybody").await;
    let mut client = replicas[1].connect("bob").await;
    client.greeted().await;
    let targeted = Uuid::from_u128(0x0198_c5a0_1111_7222_8333_4444_5555_6666);
    append_targeted(&nats, targeted).await;
    let head = nats.log().await.info().await.unwrap().last_sequence;
    for replica in &replicas {
        replica.digest_at(head).await;
        assert_eq!(replica.count(r#"tidings_projection_skipped_messages{reason="future"}"#).await, 1);
        assert_eq!(replica.active("ann").await["id"], before["id"], "it took nobody's place");
        let request = replica.request(Method::GET, "/history");
        let (_, history) = replica.ask(request).await;
        assert_eq!(history["broadcasts"].as_array().map(Vec::len), Some(1), "{history}");
        let body = json!({"broadcast_id": targeted});
        let request = replica.request(Method::POST, "/acknowledge").json(&body);
        assert_eq!(replica.ask(request).await.0, 404);
    }
    // The next one is on its way to everybody, and nothing was before it.
    let after = replicas[2].post_broadcast("for everybody again").await;
    let shown = client.until("the next broadcast", |message| message["type"] == "new_broadcast").await;
    assert_eq!(shown["broadcast"]["id"], after["id"]);
    let verified = replicas[0].tidings(&["audit", "verify"]).await;
    let said = String::from_utf8_lossy(&verified.stdout).into_owned();
    assert!(said.contains("the field `audience` of broadcast.created:1"), "{said}");
    eventually("it was said on every replica", || async {
        replicas.iter().all(|replica| replica.log().contains("the field `audience` of broadcast.created:1"))
    })
    .await;
}
