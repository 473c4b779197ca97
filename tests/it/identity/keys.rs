//! Published keys: every algorithm, rotation, and a key server that is away for a while.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::issuer::{claims, key_set};
use crate::support::tls::Authority;
use crate::support::{Issuer, KeyServer, Nats, Replica, Request, Spec, eventually};

fn stats(replica: &Replica, token: &str) -> Request {
    replica.request(Method::GET, "/stats").header("Authorization", format!("Bearer {token}"))
}

/// The status, and the code or nothing.
async fn said(replica: &Replica, token: &str) -> (u16, String) {
    let (status, body) = replica.ask(stats(replica, token)).await;
    (status, body["code"].as_str().unwrap_or_default().to_owned())
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_owned())
}

async fn with_file(nats: &Nats, keys: &Value, more: &[&str]) -> (Replica, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), keys.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-file", path]).with(more);
    (Replica::start_with(spec).await, file)
}

#[tokio::test]
async fn each_algorithm_counts_with_its_own_key_and_no_other() {
    let nats = Nats::start().await;
    let (rsa, curve, edwards) = (Issuer::rsa("RS256", "r"), Issuer::curve("c"), Issuer::edwards("e"));
    let issuers = [&rsa, &curve, &edwards];
    let mut keys = key_set(&issuers);
    // Of other uses and other kinds, which real sets have.
    let mut encrypting = Issuer::curve("enc").jwk();
    encrypting["use"] = "enc".into();
    keys["keys"].as_array_mut().unwrap().extend([encrypting, json!({"kty": "new"}), json!(7)]);
    let (replica, _file) = with_file(&nats, &keys, &[]).await;
    for issuer in issuers {
        assert_eq!(said(&replica, &issuer.token("ann", &["team"])).await, is(200, ""));
    }
    // Without a name, each key is tried.
    for issuer in [Issuer::rsa("RS256", "").called(None)] {
        assert_eq!(said(&replica, &issuer.token("ann", &["team"])).await, is(200, ""));
    }
    let refused = is(401, "invalid_token");
    // An algorithm that is not configured, although the key could.
    assert_eq!(said(&replica, &Issuer::rsa("RS384", "r").token("ann", &["team"])).await, refused);
    // Another key under a known name; a known key under another's name; nobody's.
    for stranger in
        [Issuer::curve("c"), Issuer::edwards("c"), Issuer::rsa("RS256", "e"), Issuer::edwards("x")]
    {
        assert_eq!(said(&replica, &stranger.token("ann", &["team"])).await, refused);
    }
    // The public key is no secret: HS256 signed with what everybody can read.
    let modulus = base64_of(&rsa.jwk()["n"]);
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", rsa.jwk()["n"]);
    for public in [rsa.public_bytes(), modulus, pem.into_bytes(), rsa.jwk().to_string().into_bytes()] {
        for id in [Some("r"), None] {
            let forger = Issuer::secret(public.clone()).called(id);
            assert_eq!(said(&replica, &forger.token("ann", &["creator"])).await, refused);
        }
    }
}

fn base64_of(value: &Value) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(value.as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_modulus_with_a_leading_zero_byte_is_accepted() {
    let nats = Nats::start().await;
    let rsa = Issuer::rsa("RS256", "r");
    let mut keys = key_set(&[&rsa]);
    let modulus = [vec![0], base64_of(&keys["keys"][0]["n"])].concat();
    keys["keys"][0]["n"] = URL_SAFE_NO_PAD.encode(modulus).into();
    let (replica, _file) = with_file(&nats, &keys, &[]).await;
    assert_eq!(said(&replica, &rsa.token("ann", &["team"])).await, is(200, ""));
}

#[tokio::test]
async fn algorithms_are_those_that_were_configured() {
    let nats = Nats::start().await;
    let rsa = Issuer::rsa("RS384", "r");
    let keys = key_set(&[&rsa, &Issuer::edwards("e")]);
    let (replica, _file) = with_file(&nats, &keys, &["--auth-algorithms", "RS384"]).await;
    assert_eq!(said(&replica, &rsa.token("ann", &["team"])).await, is(200, ""));
    assert_eq!(
        said(&replica, &Issuer::rsa("RS256", "r").token("ann", &["team"])).await,
        is(401, "invalid_token")
    );
}

#[tokio::test]
async fn a_file_of_keys_is_read_again() {
    let nats = Nats::start().await;
    let (old, new) = (Issuer::edwards("old"), Issuer::edwards("new"));
    let (replica, file) = with_file(&nats, &key_set(&[&old]), &["--auth-jwks-seconds", "1"]).await;
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(200, ""));
    // Half written, it does not count.
    fs::write(file.path(), "{\"keys\": [").unwrap();
    eventually("it is said", || async { replica.log().contains("the keys of tokens cannot be read") }).await;
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(200, ""));
    fs::write(file.path(), key_set(&[&new]).to_string()).unwrap();
    eventually("the new key counts", || async {
        said(&replica, &new.token("ann", &["team"])).await.0 == 200
    })
    .await;
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(401, "invalid_token"));
}

async fn with_url(nats: &Nats, server: &KeyServer, seconds: &str) -> Replica {
    let options = ["--auth", "jwt", "--auth-jwks-url", server.url(), "--auth-jwks-seconds", seconds];
    Replica::start_with(Spec::joining(nats.url()).with(&options)).await
}

#[tokio::test]
async fn a_new_key_counts_at_once_and_made_up_ones_do_not_have_it_looked_for_again_and_again() {
    let nats = Nats::start().await;
    let (old, new) = (Issuer::curve("old"), Issuer::curve("new"));
    let server = KeyServer::start(&key_set(&[&old])).await;
    let replica = with_url(&nats, &server, "3600").await;
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(200, ""));
    assert_eq!(server.asked(), 1, "at the start");

    server.publish(&key_set(&[&old, &new]));
    let token = new.token("ann", &["team"]);
    let both = tokio::join!(said(&replica, &token), said(&replica, &token));
    assert_eq!(both, (is(200, ""), is(200, "")));
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(200, ""), "it is still published");
    assert_eq!(server.asked(), 2, "for the new one, once");

    for number in 0..20 {
        let stranger = Issuer::curve(&format!("made up {number}"));
        assert_eq!(said(&replica, &stranger.token("ann", &["team"])).await, is(401, "invalid_token"));
    }
    assert_eq!(server.asked(), 2, "not for those that somebody makes up");
}

#[tokio::test]
async fn known_keys_count_on_while_their_server_is_away_and_old_ones_end_with_it_back() {
    let nats = Nats::start().await;
    let (old, new) = (Issuer::edwards("old"), Issuer::edwards("new"));
    let server = KeyServer::start(&key_set(&[&old])).await;
    let replica = with_url(&nats, &server, "1").await;
    for trouble in ["", "no keys at all", r#"{"keys":[]}"#] {
        server.be_away(trouble.is_empty());
        server.say(trouble);
        let before = server.asked();
        eventually("it was asked twice more", || async { server.asked() >= before + 2 }).await;
        assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(200, ""), "{trouble}");
    }
    let huge = json!({"keys": [old.jwk()], "more": "x".repeat(300_000)});
    server.publish(&huge);
    let before = server.asked();
    eventually("it was asked twice more", || async { server.asked() >= before + 2 }).await;
    assert_eq!(replica.log().matches("the keys of tokens cannot be read").count(), 1, "said once");

    server.publish(&key_set(&[&new]));
    eventually("the new key counts", || async {
        said(&replica, &new.token("ann", &["team"])).await.0 == 200
    })
    .await;
    assert_eq!(said(&replica, &old.token("ann", &["team"])).await, is(401, "invalid_token"));
    eventually("it is said", || async { replica.log().contains("again") }).await;
}

#[tokio::test]
async fn a_replica_starts_without_the_server_of_its_keys_and_says_so_until_it_is_there() {
    let nats = Nats::start().await;
    let issuer = Issuer::edwards("e");
    let server = KeyServer::start(&key_set(&[&issuer])).await;
    server.be_away(true);
    let options = ["--auth", "jwt", "--auth-jwks-url", server.url(), "--auth-jwks-seconds", "1"];
    let mut replica = Replica::prepared(Spec::joining(nats.url()).with(&options));
    replica.spawn();
    eventually("it says why it is not ready", || async {
        replica.readyz().await["reason"] == "the signing keys of tokens (JWKS) are unavailable"
    })
    .await;
    let (status, _) = replica.ask(replica.raw_request(Method::GET, "/readyz")).await;
    assert_eq!(
        (status, replica.count("tidings_ready").await, replica.count("tidings_token_keys").await),
        (503, 0, 0)
    );
    assert!(!replica.metrics().await.contains("tidings_token_keys_age_seconds "), "they were never read");
    assert!(
        replica.log().contains("until they were read once, this replica is not ready"),
        "{}",
        replica.log()
    );
    let mut token = claims("ann", &["team"]);
    token["name"] = Value::Null;
    let token = issuer.sign(&token);
    let answer = stats(&replica, &token).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"5".parse().unwrap()));
    assert_eq!(answer.json::<Value>().await.unwrap()["code"], "keys_away");
    server.be_away(false);
    eventually("its keys are there", || async { said(&replica, &token).await.0 == 200 }).await;
    eventually("it is ready", || replica.is_ready()).await;
    assert_eq!(replica.count("tidings_token_keys").await, 1);
    assert!(replica.metric("tidings_token_keys_age_seconds").await < 30.0);
}

#[tokio::test]
async fn over_tls_keys_come_from_a_server_that_the_system_trusts_and_from_no_other() {
    let nats = Nats::start().await;
    let issuer = Issuer::edwards("e");
    let server = KeyServer::start(&key_set(&[&issuer])).await;
    let address = server.url().trim_start_matches("http://").trim_end_matches("/keys").parse().unwrap();
    let (trusted, stranger) = (Authority::new("trusted"), Authority::new("a stranger"));
    let port = trusted.server("127.0.0.1").in_front_of(address).await;
    let url = format!("https://127.0.0.1:{port}/keys");
    let elsewhere = trusted.server("elsewhere.example").in_front_of(address).await;
    let elsewhere = format!("https://127.0.0.1:{elsewhere}/keys");
    for (url, authority, answer) in [
        (&url, &trusted, is(200, "")),
        (&url, &stranger, is(503, "keys_away")),
        (&elsewhere, &trusted, is(503, "keys_away")),
    ] {
        let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-url", url]);
        let spec = spec.with_variable("SSL_CERT_FILE", authority.certificate().to_str().unwrap());
        let mut replica = Replica::prepared(spec);
        replica.spawn();
        let ready = answer.0 == 200;
        eventually("it is ready, or says why not", || async {
            if ready { replica.is_ready().await } else { replica.readyz().await["reason"] != Value::Null }
        })
        .await;
        assert_eq!(said(&replica, &issuer.token("ann", &["team"])).await, answer, "{}", replica.log());
    }
    assert_eq!(server.asked(), 1, "the others have not even asked");
}
