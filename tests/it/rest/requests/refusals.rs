//! What is refused: each mistake has its status and its code, in one form or as a problem, and nothing is written.

use reqwest::Method;
use reqwest::header::{HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::{json_body, log_is_empty, refused, sent};
use crate::support::{Nats, Replica, Request};

#[tokio::test]
async fn a_broadcast_that_breaks_a_rule_is_refused_with_its_code_and_nothing_is_written() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let long = format!(r#"{{"message":"{}"}}"#, "é".repeat(281));
    let huge = format!(r#"{{"message":"{}"}}"#, "x".repeat(40_000));
    let deep = format!(r#"{{"message":{}"#, "[".repeat(5_000));
    let table: &[(&[u8], u16, &str)] = &[
        (b"{", 400, "malformed_json"),
        (b"[]", 400, "malformed_json"),
        (b"\"x\"", 400, "malformed_json"),
        (b"{\"message\":\"\xff\"}", 400, "malformed_json"),
        (deep.as_bytes(), 400, "malformed_json"),
        (b"", 422, "missing_field"),
        (b"{}", 422, "missing_field"),
        (br#"{"message":null}"#, 422, "missing_field"),
        (br#"{"message":7}"#, 422, "invalid_field"),
        (br#"{"message":["x"]}"#, 422, "invalid_field"),
        (br#"{"message":{"text":"x"}}"#, 422, "invalid_field"),
        (br#"{"message":"x","type":1}"#, 422, "invalid_field"),
        (br#"{"message":""}"#, 422, "message_empty"),
        (br#"{"message":" \r\n\t "}"#, 422, "message_empty"),
        (long.as_bytes(), 422, "message_too_long"),
        (br#"{"message":"a\u0000b"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"a\u001b[2Jb"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"evil\u202Egpj.exe"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"a\u2066b"}"#, 422, "message_forbidden_character"),
        (br#"{"message":"\ud800"}"#, 400, "malformed_json"),
        (br#"{"message":"x","type":"urgent"}"#, 422, "unknown_type"),
        (br#"{"message":"x","type":"INFO"}"#, 422, "unknown_type"),
        (br#"{"message":"x","target_user_ids":["1"]}"#, 422, "not_supported"),
        (br#"{"message":"x","target_roles":[]}"#, 422, "not_supported"),
        (br#"{"message":"x","expires_at":"2030-01-01T00:00:00Z"}"#, 422, "not_supported"),
        (br#"{"message":"x","publish_at":"2030-01-01T00:00:00Z"}"#, 422, "not_supported"),
        (br#"{"message":"x","link":"https://example.org"}"#, 422, "not_supported"),
        (huge.as_bytes(), 413, "body_too_large"),
    ];
    for (body, status, code) in table {
        let what = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        refused(json_body(replica.request(Method::POST, ""), body.to_vec()), &what, *status, code).await;
    }

    let too_long =
        refused(json_body(replica.request(Method::POST, ""), long), "281", 422, "message_too_long").await;
    assert_eq!(
        too_long["message"],
        "Broadcast message too long. Maximum 280 characters allowed. Current: 281"
    );
    assert_eq!((&too_long["character_count"], &too_long["max_characters"]), (&json!(281), &json!(280)));
    let body = r#"{"message":" invoice\u202egpj.exe"}"#;
    let forbidden =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "message_forbidden_character")
            .await;
    assert_eq!((&forbidden["character"], &forbidden["position"]), (&json!("U+202E"), &json!(8)));
    assert!(forbidden["message"].as_str().unwrap().contains("the character U+202E at position 8"));
    let body = r#"{"message":"x","type":"urgent"}"#;
    let unknown =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "unknown_type").await;
    assert_eq!(unknown["allowed"], json!(["info", "warning", "alert"]));
    let body = r#"{"message":"x","target_roles":["a"]}"#;
    let targeted =
        refused(json_body(replica.request(Method::POST, ""), body), body, 422, "not_supported").await;
    assert_eq!(targeted["field"], "target_roles");
    log_is_empty(&replica).await;
}

/// Method, path, headers, body; status and code of the answer.
type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a [u8])], &'a str, u16, &'a str);

/// Sends each request and holds its answer to what stands in the row.
async fn hold(replica: &Replica, table: &[Row<'_>]) {
    for (method, path, headers, body, status, code) in table {
        let mut request = replica.request(method.parse().unwrap(), path).body((*body).to_owned());
        for (name, value) in *headers {
            let name: HeaderName = name.parse().unwrap();
            request = request.header(name, HeaderValue::from_bytes(value).unwrap());
        }
        let body = refused(request, &format!("{method} {path} {headers:?}"), *status, code).await;
        assert!(*status != 412 || body["active"].is_null(), "{body}");
    }
}

#[tokio::test]
async fn a_header_that_cannot_be_honoured_is_refused() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let quoted = format!("\"{}\"", "0198c5a0-1111-7222-8333-444455556666");
    let json: (&str, &[u8]) = ("content-type", b"application/json");
    hold(
        &replica,
        &[
            (
                "POST",
                "",
                &[json, ("content-encoding", b"gzip")],
                r#"{"message":"x"}"#,
                415,
                "unsupported_content_encoding",
            ),
            ("POST", "/clear", &[("idempotency-key", b"a\tb")], "", 400, "invalid_idempotency_key"),
            (
                "POST",
                "/clear",
                &[("idempotency-key", b"a"), ("idempotency-key", b"a")],
                "",
                400,
                "repeated_header",
            ),
            (
                "POST",
                "/clear",
                &[("if-match", quoted.as_bytes()), ("if-match", quoted.as_bytes())],
                "",
                400,
                "repeated_header",
            ),
            (
                "POST",
                "/clear",
                &[("if-none-match", b"*"), ("if-none-match", b"*")],
                "",
                400,
                "repeated_header",
            ),
            (
                "GET",
                "/active",
                &[("authorization", b"Bearer a"), ("authorization", b"Basic b")],
                "",
                400,
                "repeated_header",
            ),
        ],
    )
    .await;
    log_is_empty(&replica).await;
}

#[tokio::test]
async fn every_endpoint_says_what_is_wrong_with_a_request() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let id = "0198c5a0-1111-7222-8333-444455556666";
    let acknowledge = |id: &str| format!(r#"{{"broadcast_id":"{id}"}}"#);
    let (known_form, other_form) = (acknowledge(id), acknowledge(&id.replace('-', "")));
    let quoted = format!("\"{id}\"");
    let (weak, two) = (format!("W/{quoted}"), format!("{quoted}, {quoted}"));
    let (long_user, long_key) = ("u".repeat(129), "k".repeat(129));
    let json: (&str, &[u8]) = ("content-type", b"application/json");
    let table: &[Row] = &[
        ("POST", "", &[("content-type", b"text/plain")], "{}", 415, "unsupported_media_type"),
        (
            "POST",
            "",
            &[("content-type", b"application/x-www-form-urlencoded")],
            "a=b",
            415,
            "unsupported_media_type",
        ),
        ("POST", "", &[], r#"{"message":"x"}"#, 415, "unsupported_media_type"),
        ("POST", "/clear", &[("content-type", b"text/plain")], "x", 415, "unsupported_media_type"),
        ("POST", "/clear", &[json], "{", 400, "malformed_json"),
        ("POST", "/acknowledge", &[], "", 422, "missing_field"),
        ("POST", "/acknowledge", &[json], r#"{"broadcast_id":7}"#, 422, "invalid_field"),
        ("POST", "/acknowledge", &[json], r#"{"broadcast_id":"7"}"#, 422, "invalid_broadcast_id"),
        ("POST", "/acknowledge", &[json], &other_form, 422, "invalid_broadcast_id"),
        ("POST", "/acknowledge", &[json], &known_form, 404, "unknown_broadcast"),
        ("GET", "", &[], "", 405, "method_not_allowed"),
        ("GET", "/clear", &[], "", 405, "method_not_allowed"),
        ("DELETE", "/acknowledge", &[], "", 405, "method_not_allowed"),
        ("POST", "/active", &[], "", 405, "method_not_allowed"),
        ("PATCH", "/stats", &[], "", 405, "method_not_allowed"),
        ("BREW", "/limits", &[], "", 405, "method_not_allowed"),
        ("POST", "/ws", &[], "", 405, "method_not_allowed"),
        ("GET", "/nothing", &[], "", 404, "unknown_broadcast"),
        ("GET", "/nothing/acks", &[], "", 404, "unknown_broadcast"),
        ("GET", "/nothing/here", &[], "", 404, "not_found"),
        ("GET", "/active/", &[], "", 404, "not_found"),
        ("GET", "/../../nowhere/broadcast/active", &[], "", 404, "unknown_channel"),
        ("GET", "/../../Creator/broadcast/active", &[], "", 404, "unknown_channel"),
        ("GET", "/../../%ff/broadcast/active", &[], "", 404, "not_found"),
        ("GET", "/..", &[], "", 404, "not_found"),
        ("GET", "/ws", &[], "", 426, "upgrade_required"),
        ("GET", "/active", &[("x-user-role", b"root")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", b"")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", b"\xff\xfe")], "", 401, "no_identity"),
        ("GET", "/active", &[("x-user-id", long_user.as_bytes())], "", 401, "no_identity"),
        ("POST", "", &[json, ("x-user-id", b"a")], r#"{"message":"x"}"#, 403, "role_required"),
        ("POST", "", &[json, ("x-user-role", b"auditor")], r#"{"message":"x"}"#, 403, "role_required"),
        ("POST", "/clear", &[("x-user-role", b"team")], "", 403, "role_required"),
        ("GET", "/stats", &[("x-user-role", b"user")], "", 403, "role_required"),
        ("GET", "/limits", &[("x-user-role", b"team")], "", 403, "role_required"),
        ("POST", "/clear", &[("if-match", b"*")], "", 412, "not_active"),
        ("POST", "", &[json, ("if-match", b"*")], r#"{"message":"x"}"#, 412, "not_active"),
        ("POST", "/clear", &[("if-match", b"*, \"x\"")], "", 400, "invalid_if_match"),
        ("POST", "/clear", &[("if-match", weak.as_bytes())], "", 400, "invalid_if_match"),
        ("POST", "/clear", &[("if-match", two.as_bytes())], "", 412, "not_active"),
        ("POST", "/clear", &[("if-none-match", quoted.as_bytes())], "", 400, "invalid_if_none_match"),
        (
            "POST",
            "",
            &[json, ("if-none-match", b"*"), ("if-match", b"*")],
            r#"{"message":"x"}"#,
            400,
            "invalid_if_none_match",
        ),
        ("POST", "/clear", &[("if-match", id.as_bytes())], "", 400, "invalid_if_match"),
        ("POST", "", &[json, ("if-match", b"W/\"x\"")], r#"{"message":"x"}"#, 400, "invalid_if_match"),
        ("POST", "", &[json, ("if-match", quoted.as_bytes())], r#"{"message":"x"}"#, 412, "not_active"),
        ("POST", "/clear", &[("if-match", quoted.as_bytes())], "", 412, "not_active"),
        ("POST", "/clear", &[("idempotency-key", b"")], "", 400, "invalid_idempotency_key"),
        ("POST", "/clear", &[("idempotency-key", long_key.as_bytes())], "", 400, "invalid_idempotency_key"),
        (
            "POST",
            "/clear",
            &[("idempotency-key", "schlüssel".as_bytes())],
            "",
            400,
            "invalid_idempotency_key",
        ),
        ("GET", "/active", &[("tidings-min-position", b"x")], "", 400, "invalid_position"),
        ("GET", "/active", &[("tidings-min-position", b"-1")], "", 400, "invalid_position"),
        ("GET", "/stats", &[("tidings-min-position", b"99999999999999999999")], "", 400, "invalid_position"),
        ("GET", "/limits?min_position=1.5", &[], "", 400, "invalid_position"),
        ("GET", "/ws?min_position=x", &[], "", 400, "invalid_position"),
    ];
    hold(&replica, table).await;
    log_is_empty(&replica).await;

    let allowed = sent(replica.request(Method::DELETE, "/clear")).await.1;
    assert_eq!(allowed["allow"], "POST");
}

#[tokio::test]
async fn errors_are_problems_where_that_is_asked_for() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let asking = |request: Request, accept: &'static str| request.header("Accept", accept).send();
    let long = || replica.request(Method::POST, "").json(&json!({"message": "x".repeat(281)}));
    let problem = asking(long(), "application/json;q=0.5, application/problem+json").await.unwrap();
    assert_eq!(problem.headers()["content-type"], "application/problem+json");
    assert_eq!(problem.headers()["vary"], "origin, authorization, cookie, accept");
    let expected = json!({
        "type": "urn:tidings:error:message_too_long",
        "title": "Message too long",
        "status": 422,
        "detail": "Broadcast message too long. Maximum 280 characters allowed. Current: 281",
        "code": "message_too_long",
        "character_count": 281,
        "max_characters": 280,
    });
    assert_eq!(problem.json::<Value>().await.unwrap(), expected);
    // Whatever refuses: no address, no method, a page elsewhere, and what says when to come back.
    let nowhere = replica.raw_request(Method::GET, "/nowhere");
    let method = replica.request(Method::PUT, "/stats");
    let page = replica.request(Method::POST, "/clear").header("Origin", "https://example.org");
    let ahead = format!("{}-7", replica.readyz().await["epoch"].as_str().unwrap());
    let behind = replica.request(Method::GET, "/active").header("Tidings-Min-Position", ahead);
    nats.freeze();
    for (request, status, code) in [
        (nowhere, 404, "not_found"),
        (method, 405, "method_not_allowed"),
        (page, 403, "origin_not_allowed"),
        (behind, 503, "behind"),
    ] {
        let answer = asking(request, "application/problem+json").await.unwrap();
        assert_eq!(answer.status(), status);
        assert_eq!(answer.headers().contains_key("retry-after"), status == 503);
        let body: Value = answer.json().await.unwrap();
        assert_eq!((&body["code"], &body["status"]), (&json!(code), &json!(status)), "{body}");
        assert_eq!(body["retry_after_seconds"].is_u64(), status == 503, "{body}");
    }
    nats.thaw();
    let plain = asking(long(), "*/*").await.unwrap();
    assert_eq!(plain.headers()["content-type"], "application/json");
    let fine = asking(replica.request(Method::GET, "/active"), "application/problem+json").await.unwrap();
    assert_eq!(fine.headers()["content-type"], "application/json");
}
