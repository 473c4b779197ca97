//! Tokens on the command line: what makes them, and what a start says of the options that they take.

use super::*;

#[tokio::test]
async fn admin_token_makes_tokens_that_count() {
    let nats = Nats::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{SECRET}\n")).unwrap();
    let path = file.path().to_str().unwrap();
    let options = ["--auth", "jwt", "--auth-secret-file", path, "--auth-audience", "a", "--auth-issuer", "i"];
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&options)).await;
    let mint = async |more: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(["admin", "token", "--sub", "ann", "--aud", "a", "--iss", "i"]).args(more);
        command.stdin(Stdio::null()).output().await.unwrap()
    };
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
    let roles = ["--auth-secret-file", path, "--role", "creator", "--role", "team", "--name", "Ann"];
    let token = text(mint(&roles).await.stdout);
    assert_eq!(said(&replica, get(&replica, "/stats", &token)).await, is(200, ""));
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["name"], &claims["roles"]), (&json!("Ann"), &json!(["creator", "team"])));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600);

    let short = text(mint(&["--auth-secret-file", path, "--expires-in", "5m"]).await.stdout);
    assert_eq!(said(&replica, get(&replica, "/stats", &short)).await, is(403, "role_required"));
    for (wrong, why) in [
        (&["--role", "creator"][..], "TIDINGS_AUTH_SECRET"),
        (&["--auth-secret-file", path, "--role", "root"], "one of: creator"),
        (&["--auth-secret-file", path, "--expires-in", "0s"], "a second"),
        (&["--auth-secret-file", "/nowhere"], "/nowhere"),
    ] {
        let output = mint(wrong).await;
        let error = text(output.stderr);
        assert!(!output.status.success() && error.contains(why), "{wrong:?}: {error}");
    }
}

/// What `serve` says when it does not start with these options, or what it prints.
async fn served(arguments: &[&str], secret: Option<&str>) -> (bool, String) {
    let data = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.env("TIDINGS_LISTEN", "127.0.0.1:0");
    command.args(["serve", "--nats", "127.0.0.1:1"]).args(arguments);
    command.arg("--data-dir").arg(data.path()).envs(secret.map(|secret| ("TIDINGS_AUTH_SECRET", secret)));
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

#[tokio::test]
async fn serve_says_what_tokens_take_and_never_shows_a_secret() {
    let short = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(short.path(), "not thirty-two bytes").unwrap();
    let file = short.path().to_str().unwrap();
    for (arguments, secret, why) in [
        (&["--auth", "jwt"][..], None, "--auth-jwks-url"),
        (&["--auth", "jwt"], Some("short"), "at least 32"),
        (&["--auth", "jwt", "--auth-secret-file", file], None, "at least 32"),
        (&["--auth", "jwt", "--auth-secret-file", file], Some(SECRET), "set only one of them"),
        (&["--auth", "jwt", "--auth-secret-file", "/nowhere"], None, "/nowhere"),
        (&["--auth", "jwt", "--auth-jwks-file", file], None, "is not JSON"),
        (&["--auth", "jwt", "--auth-jwks-file", file], Some(SECRET), "either"),
        (&["--auth", "jwt", "--auth-jwks-url", "ftp://x/y"], None, "ftp://x/y"),
        (&["--auth-jwks-file", file, "--auth-secret-file", file], None, "cannot be used with"),
        (&["--auth", "jwt", "--auth-algorithms", "HS256"], Some(SECRET), "HS256"),
        (&["--auth", "jwt", "--allowed-origins", "example.com"], Some(SECRET), "not an origin"),
        (&["--auth", "dev", "--listen", "0.0.0.0:0"], None, "loopback"),
        (&["--auth", "jwt", "--allowed-origins", "https://*.com"], Some(SECRET), "strangers"),
        (&["--auth", "jwt", "--allowed-origins", "null"], Some(SECRET), "it requires --auth dev"),
        (&["--auth", "jwt", "--allowed-hosts", "h"], Some(SECRET), "requires --auth dev"),
        (&["--auth", "jwt", "--public-url", "https://h/path"], Some(SECRET), "without a path"),
        // Everybody on the machine can read flags.
        (&["--auth", "jwt", "--auth-secret", SECRET], None, "unexpected argument '--auth-secret'"),
    ] {
        let (started, text) = served(arguments, secret).await;
        assert!(!started && text.contains(why), "{arguments:?}: {text}");
        assert!(!text.contains("not thirty") && !text.contains(SECRET), "{text}");
    }
    let printed = served(&["--auth", "jwt", "--print-config"], Some(SECRET)).await;
    assert!(printed.0 && printed.1.contains("TIDINGS_AUTH_SECRET is set, and not shown"), "{}", printed.1);
    assert!(!printed.1.contains(SECRET));
}
