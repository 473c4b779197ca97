//! What is no proof: nothing to prove, and files and arguments that prove nothing.

use super::*;

#[tokio::test]
async fn what_cannot_be_proven_is_refused_with_the_reason() {
    let signing = Signing::start(1).await;
    let id = signing.replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let uuid: Uuid = id.parse().unwrap();
    let mut unsalted = acknowledged(uuid, &["dan", "eve"]);
    if let Event::Acknowledged(acknowledged) = &mut unsalted.event {
        acknowledged.salt = None;
    }
    signing.nats.log().await.append(unsalted).await.unwrap();
    signing.signed_up_to(2).await;
    let nobody = "0198c5a0-1111-7222-8333-444455556666";
    for (id, user, words, status, code) in [
        (nobody, None, "the log has no broadcast", 404, "unknown_broadcast"),
        (nobody, Some("ann"), "the log has no broadcast", 404, "unknown_broadcast"),
        (&id, Some("ann\u{9b}2J"), "has not acknowledged", 404, "not_acknowledged"),
        (&id, Some("dan"), "event 2 was written without a salt", 422, "not_provable"),
    ] {
        let file = signing.file("none.tlog-proof");
        let output = prove(&signing.replica, id, user, &["--out", file.to_str().unwrap()]).await;
        assert_eq!((output.status.code(), file.exists()), (Some(1), false));
        let said = errors(&output);
        assert!(said.contains(words) && !said.contains('\u{9b}') && output.stdout.is_empty(), "{said}");
        let (answered, error) = proof_from(&signing.replica, id, user).await;
        let error: Value = serde_json::from_str(&error).unwrap();
        assert_eq!((answered, error["code"].as_str()), (status, Some(code)), "{error}");
    }

    let unsigned = Nats::start().await;
    let replica = Replica::start(&unsigned).await;
    let id = replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    let output = prove(&replica, &id, None, &[]).await;
    assert!(errors(&output).contains("no checkpoint signed by a trusted key"), "{}", errors(&output));
    for path in ["checkpoint", &format!("proof?broadcast={id}")] {
        let (status, error) = get(&replica, path).await;
        assert!(status == 404 && error.contains("no_checkpoint"), "{status} {error}");
    }
}

#[tokio::test]
async fn a_check_needs_the_file_and_the_key_and_says_what_is_proven() {
    let signing = Signing::start(1).await;
    let id = signing.replica.post_broadcast("one").await["id"].as_str().unwrap().to_owned();
    signing.replica.acknowledge(&id, "42").await;
    signing.replica.acknowledge(&id, "eve acknowledged nothing. User 7").await;
    signing.signed_up_to(3).await;
    let file = signing.file("42.tlog-proof");
    let written = prove(&signing.replica, &id, Some("42"), &["--out", file.to_str().unwrap()]).await;
    assert_eq!((written.status.code(), written.stdout.len()), (Some(0), 0), "{}", errors(&written));
    let proof = std::fs::read_to_string(&file).unwrap();
    let key_file = signing.file("checkpoint.pub");
    for key in [signing.public_key().as_str(), key_file.to_str().unwrap()] {
        let checked = tidings(&["audit", "check", file.to_str().unwrap(), "--key", key]).await;
        let told: Value = serde_json::from_slice(&checked.stdout).unwrap();
        assert_eq!(checked.status.code(), Some(0));
        assert_eq!(
            (&told["proven"], &told["type"], &told["user"], &told["broadcast_id"], &told["channel"]),
            (&json!(true), &json!("broadcast.acknowledged"), &json!("42"), &json!(id), &json!("creator"))
        );
        assert_eq!((&told["sequence"], &told["signed_by"]), (&json!(2), &json!(signing.public_key())));
    }
    let text = async |proof: &str| {
        let told = check(proof, &["--key", &signing.public_key(), "--format", "text"]).await;
        (told.status.code(), String::from_utf8(told.stdout).unwrap())
    };
    let (code, said) = text(&proof).await;
    let begin = format!("User 42 acknowledged broadcast {id} in creator at 2");
    assert!(
        code == Some(0) && said.starts_with(&begin) && said.contains("; recorded as event 2 at 2"),
        "{said}"
    );
    assert!(said.contains("; signed by example.com/tidings as part of the log "), "{said}");
    let odd = signing.proof(&id, Some("eve acknowledged nothing. User 7")).await;
    assert!(text(&odd).await.1.starts_with("User \"eve acknowledged nothing. User 7\" acknowledged "));

    let (code, told) = signing.told(&proof.replace("index 1", "index 0")).await;
    assert_eq!((code, &told["proven"]), (Some(1), &json!(false)));
    assert!(told["reason"].as_str().unwrap().contains("its index is not the one of the event"), "{told}");
    let (code, said) = text("something else").await;
    assert!(code == Some(1) && said.starts_with("Nothing is proven: its first line is not "), "{said}");
    let other = Signing::start(1).await.public_key();
    let stranger = check(&proof, &["--key", &other]).await;
    assert_eq!(stranger.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&stranger.stdout).contains("none of the keys given has signed it"));

    let secret = std::fs::read_to_string(signing.file("checkpoint.key")).unwrap();
    for (arguments, code, words) in [
        (&["-"][..], 2, "--key"),
        (&["--key", "x"], 2, "<PROOF>"),
        (&["-", "--key", "nosuchfile"], 3, "neither a public key nor a file"),
        (&["-", "--key", "/dev/zero"], 3, "it has more than 65536 bytes"),
        (&["-", "--key", signing.file("checkpoint.key").to_str().unwrap()], 2, "this is a secret key"),
        (&["-", "--key", secret.trim()], 2, "this is a secret key"),
        (&["nosuchfile", "--key", &other], 3, "reading the proof nosuchfile"),
    ] {
        let output = tidings(&[&["audit", "check"], arguments].concat()).await;
        let said = errors(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains(words) && !said.contains(secret.trim()), "{said}");
    }
}
