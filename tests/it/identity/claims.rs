//! Claims of the wrong type, and secrets during a rotation.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::issuer::{SECRET, claims};
use crate::support::{Issuer, Nats, Replica, Spec};

async fn stats(replica: &Replica, token: &str) -> (u16, Value) {
    replica
        .ask(replica.request(Method::GET, "/stats").header("Authorization", format!("Bearer {token}")))
        .await
}

/// A token of the team's with this claim.
fn with(name: &str, value: Value) -> String {
    let mut claims = claims("ann", &["team"]);
    claims[name] = value;
    Issuer::secret(SECRET).sign(&claims)
}

#[tokio::test]
async fn an_audience_of_any_type_is_refused_where_none_is_configured_and_a_wrong_one_where_one_is() {
    let nats = Nats::start().await;
    let spec =
        Spec::joining(nats.url()).with(&["--auth", "jwt"]).with_variable("TIDINGS_AUTH_SECRET", SECRET);
    let none = Replica::start_with(spec.clone()).await;
    let ours = Replica::start_with(spec.with(&["--auth-audience", "ours"])).await;
    for audience in [
        json!("other"),
        json!(["other"]),
        json!([]),
        json!(5),
        json!({}),
        json!(true),
        json!(["other", 5]),
        json!(null),
    ] {
        let token = with("aud", audience.clone());
        for replica in [&none, &ours] {
            let (status, answer) = stats(replica, &token).await;
            assert_eq!((status, &answer["code"]), (401, &json!("invalid_token")), "{audience}");
        }
    }
    assert_eq!(stats(&ours, &with("aud", json!(["other", "ours"]))).await.0, 200);
    assert_eq!(stats(&none, &with("aud", json!("ours"))).await.0, 401);
    assert_eq!(stats(&none, &with("name", json!("Ann"))).await.0, 200);
}

#[tokio::test]
async fn a_claim_of_the_wrong_type_is_refused_for_that_reason() {
    let nats = Nats::start().await;
    let spec =
        Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-audience", "a", "--auth-issuer", "i"]);
    let replica = Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await;
    let mut good = claims("ann", &["team"]);
    (good["aud"], good["iss"]) = (json!("a"), json!("i"));
    for (name, value, why) in [
        ("sub", json!(7), "Its `sub` must be a string."),
        ("sub", json!(["a"]), "Its `sub` must be a string."),
        ("sub", json!([]), "Its `sub` must be a string."),
        ("sub", json!({}), "Its `sub` must be a string."),
        ("sub", json!({"a": [{}]}), "Its `sub` must be a string."),
        ("exp", json!([5]), "Its `exp` must be a number of seconds since 1970."),
        ("exp", json!({"a": 5}), "Its `exp` must be a number of seconds since 1970."),
        ("nbf", json!([]), "Its `nbf` must be a number of seconds since 1970."),
        ("aud", json!({}), "Its `aud` must be a string or an array of strings."),
        ("iss", json!([["i"]]), "Its `iss` must be a string or an array of strings."),
        ("exp", json!("2099-01-01"), "Its `exp` must be a number of seconds since 1970."),
        ("nbf", json!("now"), "Its `nbf` must be a number of seconds since 1970."),
        ("aud", json!(["a", 5]), "Its `aud` must be a string or an array of strings."),
        ("iss", json!(true), "Its `iss` must be a string or an array of strings."),
        ("sub", json!(null), "It has no `sub`."),
        ("aud", json!("b"), "Unexpected audience (`aud`)."),
        ("iss", json!("b"), "Unexpected issuer (`iss`)."),
    ] {
        let mut claims = good.clone();
        claims[name] = value;
        let (status, answer) = stats(&replica, &Issuer::secret(SECRET).sign(&claims)).await;
        assert_eq!(
            (status, &answer["message"]),
            (401, &json!(format!("The token is not valid. {why}"))),
            "{claims}"
        );
    }
    assert_eq!(stats(&replica, &Issuer::secret(SECRET).sign(&good)).await.0, 200);
}

#[tokio::test]
async fn during_a_rotation_the_old_and_the_new_secret_verify_and_a_loose_file_is_warned_of() {
    let nats = Nats::start().await;
    let folder = tempfile::tempdir().unwrap();
    let secrets = [SECRET, "the secret that comes after the other one"];
    let files = ["old", "new"].map(|name| folder.path().join(name).to_str().unwrap().to_owned());
    for (file, secret) in files.iter().zip(secrets) {
        std::fs::write(file, secret).unwrap();
    }
    use_mode(&files[0], 0o600);
    use_mode(&files[1], 0o666);
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-secret-file", &files.join(",")]);
    let replica = Replica::start_with(spec).await;
    for secret in secrets {
        assert_eq!(stats(&replica, &Issuer::secret(secret).token("ann", &["team"])).await.0, 200);
    }
    let stranger = Issuer::secret("a secret of nobody that is known here").token("ann", &["team"]);
    assert_eq!(stats(&replica, &stranger).await.0, 401);
    let warned = |file: &str| replica.log().lines().any(|line| line.contains("WARN") && line.contains(file));
    assert!(!warned(&files[0]) && warned(&files[1]), "{}", replica.log());
}

fn use_mode(file: &str, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}
