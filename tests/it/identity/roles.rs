//! Roles: by their own names, by groups of an identity provider, for all channels and for one.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::issuer::{SECRET, claims};
use crate::support::{Client, Issuer, Nats, Replica, Spec};

const URL: &str = "https://example.com/roles";

async fn start(nats: &Nats, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--channels", "creator,forum"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await
}

/// A token of ann with these words in a claim.
fn token(claim: &str, words: &[&str]) -> String {
    let mut claims = claims("ann", &[]);
    claims[claim] = json!(words);
    Issuer::secret(SECRET).sign(&claims)
}

async fn asked(replica: &Replica, method: Method, path: &str, token: &str) -> (u16, Value) {
    let request =
        replica.raw_request(method.clone(), path).header("Authorization", format!("Bearer {token}"));
    let creates = method == Method::POST && path.ends_with("/broadcast");
    let request = if creates { request.json(&json!({"message": "x"})) } else { request };
    replica.ask(request).await
}

#[tokio::test]
async fn a_role_of_one_channel_counts_there_and_nowhere_else() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let everywhere = token("roles", &["creator"]);
    let forum = token("roles", &["creator@forum"]);
    for (channel, status) in [("forum", [201, 200]), ("creator", [403, 403])] {
        let path = |rest: &str| format!("/api/{channel}/broadcast{rest}");
        let (_, there) = asked(&replica, Method::POST, &path(""), &everywhere).await;
        let id = there["id"].as_str().unwrap().to_owned();
        let (created, answer) = asked(&replica, Method::POST, &path(""), &forum).await;
        assert_eq!(created, status[0], "{channel}: {answer}");
        if created == 403 {
            let why = "Requires the role creator in the channel `creator`; your role is creator@forum.";
            assert_eq!((&answer["code"], &answer["message"]), (&json!("role_required"), &json!(why)));
        }
        for rest in ["/stats", "/history", "/limits", &format!("/{id}"), &format!("/{id}/acks")] {
            assert_eq!(
                asked(&replica, Method::GET, &path(rest), &forum).await.0,
                status[1],
                "{channel} {rest}"
            );
        }
        assert_eq!(asked(&replica, Method::POST, &path("/clear"), &forum).await.0, status[1], "{channel}");
        assert_eq!(asked(&replica, Method::GET, &path("/active"), &forum).await.0, 200, "everybody");
    }
    assert_eq!(asked(&replica, Method::GET, "/api/audit/events", &forum).await.0, 403);
}

async fn connected(replica: &Replica, channel: &str, token: &str) -> Client {
    let url = format!("{}/api/{channel}/broadcast/ws", replica.url().replace("http", "ws"));
    let bearer = format!("Bearer {token}");
    let mut client = Client::try_connect_with(&url, &[("Authorization", &*bearer)]).await.unwrap();
    client.greeted().await;
    client
}

#[tokio::test]
async fn what_staff_learns_comes_in_the_channels_of_their_role_also_after_a_refresh() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let [forum, creator] = ["creator@forum", "creator@creator"].map(|role| token("roles", &[role]));
    let everywhere = token("roles", &["creator"]);
    let sent = async |channel: &str| {
        let path = format!("/api/{channel}/broadcast");
        assert_eq!(asked(&replica, Method::POST, &path, &everywhere).await.0, 201);
    };
    let mut here = connected(&replica, "forum", &forum).await;
    let mut there = connected(&replica, "creator", &forum).await;
    sent("forum").await;
    here.until("that it was sent", |m| m["type"] == "broadcast_sent").await;
    sent("creator").await;
    there.until("the news", |m| m["type"] == "new_broadcast").await;
    // The other token has the role where this connection is, and not where the other one is.
    for client in [&mut here, &mut there] {
        client.send(json!({"type": "refresh", "token": creator})).await;
        client.until("its answer", |m| m["type"] == "refreshed").await;
    }
    let staff = |client: &Client| client.heard.iter().filter(|m| m["type"] == "broadcast_sent").count();
    assert_eq!((staff(&here), staff(&there)), (1, 0));
    sent("creator").await;
    there.until("that it was sent", |m| m["type"] == "broadcast_sent").await;
    sent("forum").await;
    here.until("the news", |m| m["type"] == "new_broadcast").await;
    sent("forum").await;
    here.until("the next news", |m| m["type"] == "new_broadcast").await;
    assert_eq!(staff(&here), 1, "the role was taken away here");
}

#[tokio::test]
async fn groups_of_a_claim_that_is_named_by_a_url_give_roles() {
    let nats = Nats::start().await;
    let roles = [
        "--role",
        "creator=press,editors",
        "--role",
        "creator@forum=forum-editors",
        "--auth-roles-claim",
        URL,
    ];
    let replica = start(&nats, &roles).await;
    for (words, creator, forum) in [
        (&["press"][..], 200, 200),
        (&["others", "editors"], 200, 200),
        (&["forum-editors"], 403, 200),
        (&["team"], 200, 200),
        (&["creator"], 403, 403),
        (&[], 403, 403),
    ] {
        for (channel, status) in [("creator", creator), ("forum", forum)] {
            let stats = format!("/api/{channel}/broadcast/stats");
            assert_eq!(
                asked(&replica, Method::GET, &stats, &token(URL, words)).await.0,
                status,
                "{words:?} {channel}"
            );
        }
    }
    let minted = |more: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
        command.args(["admin", "token", "--sub", "ann", "--auth-roles-claim", URL]).args(more);
        let output = command.env("TIDINGS_AUTH_SECRET", SECRET).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for (options, status) in
        [(["--group", "forum-editors"], 403), (["--group", "press"], 200), (["--role", "team"], 200)]
    {
        let token = minted(&options);
        assert_eq!(
            asked(&replica, Method::GET, "/api/creator/broadcast/stats", &token).await.0,
            status,
            "{options:?}"
        );
    }
}

#[test]
fn a_role_of_a_channel_that_does_not_exist_stops_the_start() {
    let data = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(["serve", "--listen", "127.0.0.1:0", "--nats", "127.0.0.1:1", "--auth", "jwt"]);
    command.args(["--role", "creator@forum=editors", "--data-dir"]).arg(data.path());
    let output = command.env("TIDINGS_AUTH_SECRET", SECRET).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("`forum`, which --channels does not list"), "{said}");
}
