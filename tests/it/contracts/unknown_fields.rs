//! Nothing is shown or carried out that was not wholly understood: fields that this build does not know, in the log, in
//! requests and in messages of clients.

use async_nats::HeaderMap;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::EventLog as _;
use uuid::Uuid;

use crate::support::contract::openapi::operations;
use crate::support::issuer::SECRET;
use crate::support::{Issuer, Nats, Replica, Spec, eventually};

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
    eventually("every replica shows it", || async {
        for replica in &replicas {
            if replica.active("bob").await["id"] != before["id"] {
                return false;
            }
        }
        true
    })
    .await;
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

/// Sends a body as JSON, and returns the status, the code, and the field that is nearest.
async fn sent(replica: &Replica, path: &str, body: &str) -> (u16, String, Value) {
    let request = replica.request(Method::POST, path).header("Content-Type", "application/json");
    let (status, answer) = replica.ask(request.body(body.to_owned())).await;
    (status, answer["code"].as_str().unwrap_or_default().to_owned(), answer["nearest"].clone())
}

#[tokio::test]
async fn a_field_that_is_not_known_is_refused_and_the_nearest_one_is_named() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (field, nearest) in [
        ("target_user_id", "target_user_ids"),
        ("targets", "target_roles"),
        ("publish_on", "publish_at"),
        ("expire_at", "expires_at"),
        ("message_type", "type"),
        ("Type", "type"),
    ] {
        let body = format!(r#"{{"message":"for seven people","{field}":null}}"#);
        let refused = sent(&replica, "", &body).await;
        assert_eq!(refused, (422, "unknown_field".to_owned(), json!(nearest)), "{field}");
    }
    for field in ["exclude_user_ids", "require_ack", ""] {
        let (status, code, nearest) =
            sent(&replica, "", &format!(r#"{{"message":"x","{field}":[1]}}"#)).await;
        assert_eq!((status, code.as_str(), nearest.is_string()), (422, "unknown_field", true), "{field}");
    }
    for field in
        ["audience", "title", "texts", "repeat", "acknowledgement", "supersede", "priority", "actions"]
    {
        let (status, code, _) = sent(&replica, "", &format!(r#"{{"message":"x","{field}":false}}"#)).await;
        assert_eq!((status, code.as_str()), (422, "not_supported"), "{field}");
    }
    let id = "0198c5a0-1111-7222-8333-444455556666";
    for (path, body, code) in [
        ("/clear", r#"{"broadcast":"x"}"#.to_owned(), "unknown_field"),
        ("/clear", format!(r#"{{"broadcast_id":"{id}"}}"#), "not_supported"),
        ("/clear", r#"{"all":true}"#.to_owned(), "not_supported"),
        ("/acknowledge", format!(r#"{{"id":"{id}"}}"#), "unknown_field"),
        ("/acknowledge", format!(r#"{{"broadcast_id":"{id}","level":"seen"}}"#), "not_supported"),
        ("/acknowledge", format!(r#"{{"broadcast_id":"{id}","user":"7"}}"#), "unknown_field"),
    ] {
        let (status, found, _) = sent(&replica, path, &body).await;
        assert_eq!((status, found.as_str()), (422, code), "{path} {body}");
    }
    let mut client = replica.connect("bob").await;
    client.greeted().await;
    for message in [
        json!({"type": "acknowledge_broadcast", "broadcast_id": id, "choices": 1}),
        json!({"type": "get_active_broadcast", "channel": "forum"}),
    ] {
        client.send(message).await;
        assert_eq!(client.expect("error").await["code"], "unknown_field");
    }
    let ready = replica.readyz().await;
    assert_eq!(ready["head"], 0, "nothing was written");
}

#[tokio::test]
async fn a_query_parameter_that_is_not_known_is_refused() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (method, path, code) in [
        (Method::GET, "/history?foo=1", "unknown_parameter"),
        (Method::GET, "/history?limit=5&limit=6", "malformed_query"),
        (Method::GET, "/history?limit=%2B5", "invalid_limit"),
        (Method::GET, "/history?limit=05", "invalid_limit"),
        (Method::GET, "/active?user=7", "unknown_parameter"),
        (Method::GET, "/stats?since=1", "unknown_parameter"),
        (Method::GET, "/limits?type=info", "unknown_parameter"),
        (Method::POST, "?dry_run=true", "unknown_parameter"),
        (Method::POST, "/clear?id=1", "unknown_parameter"),
        (Method::POST, "/acknowledge?user_id=7", "unknown_parameter"),
        (Method::POST, "?min_position=0000000000000001-1", "unknown_parameter"),
        (Method::POST, "/clear?min_position=1", "unknown_parameter"),
        (Method::POST, "/acknowledge?min_position=1", "unknown_parameter"),
    ] {
        let (status, body) = replica.ask(replica.request(method, path).json(&json!({}))).await;
        assert_eq!((status, &body["code"]), (400, &json!(code)), "{path}: {body}");
    }
}

#[tokio::test]
async fn a_parameter_is_named_only_where_it_is_near_to_what_was_written() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    for (query, expected) in [
        ("min_positon=1", "Did you mean `min_position`?"),
        ("foo=1", "is not a query parameter of this address."),
        ("user_id=7", "with dev auth `X-User-Id`"),
    ] {
        let (_, body) = replica.ask(replica.request(Method::GET, &format!("/active?{query}"))).await;
        let message = body["message"].as_str().unwrap();
        assert!(message.contains(expected), "{query}: {message}");
        assert_eq!(message.contains("Did you mean"), query.starts_with("min"), "{message}");
    }
}

#[tokio::test]
async fn a_user_in_the_query_is_for_connections_and_is_refused_everywhere_else() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]);
    let replica = Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await;
    let token = format!("Bearer {}", Issuer::secret(SECRET).token("ann", &["creator", "auditor"]));
    let posted = replica.request(Method::POST, "").header("Authorization", &token);
    let (_, posted) = replica.ask(posted.json(&json!({"message": "x"}))).await;
    let mut refused = 0;
    for (method, path, operation) in operations().filter(|(_, path, _)| path.starts_with("/api/")) {
        if ["connectWebSocket", "listenToEvents"].contains(&operation["operationId"].as_str().unwrap()) {
            continue;
        }
        let path = path.replace("{channel}", "creator").replace("{id}", posted["id"].as_str().unwrap());
        for (user, expected) in [("ann", (400, "unknown_parameter")), ("bob", (403, "other_user"))] {
            let request = replica.raw_request(method.clone(), &format!("{path}?user_id={user}"));
            let request =
                request.header("Authorization", &token).json(&json!({"broadcast_id": posted["id"]}));
            let (status, body) = replica.ask(request).await;
            assert_eq!((status, body["code"].as_str().unwrap()), expected, "{method} {path} {user}: {body}");
        }
        refused += 1;
    }
    assert!(refused > 10, "{refused}");
    let mut client = replica.try_connect("?user_id=ann", &[("Authorization", &token)]).await.unwrap();
    assert_eq!(client.greeted().await["id"], posted["id"], "nothing was changed");
}
