//! How often somebody may do something, and whose word counts about where requests come from.

use futures_util::future::join_all;
use reqwest::header::HeaderMap;
use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::support::issuer::SECRET;
use crate::support::{Issuer, Nats, Replica, Request, Spec};

async fn start(nats: &Nats, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET)).await
}

fn asked(replica: &Replica, method: Method, path: &str, token: &str) -> Request {
    replica.request(method, path).header("Authorization", format!("Bearer {token}"))
}

/// `(status, headers, code)`
async fn said(request: Request) -> (u16, HeaderMap, String) {
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    let body: Value = answer.json().await.unwrap();
    (status, headers, body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_creator_sends_sixty_broadcasts_a_minute_and_others_are_none_the_worse() {
    let nats = Nats::start().await;
    let replica = start(&nats, &[]).await;
    let issuer = Issuer::secret(SECRET);
    let create = |token: &str| asked(&replica, Method::POST, "", token).json(&json!({"message": "x"}));
    let carl = issuer.token("carl", &["creator"]);
    let first = said(create(&carl)).await;
    assert_eq!(first.0, 201);
    assert_eq!(first.1["ratelimit-policy"], r#""creates";q=60;w=60"#);
    assert_eq!(first.1["ratelimit"], r#""creates";r=59;t=1"#);
    let answers = join_all((0..70).map(|_| create(&carl).send())).await;
    let status = |answer: &Response| answer.status().as_u16();
    let refused: Vec<_> = answers.iter().flatten().filter(|answer| status(answer) == 429).collect();
    // One more for every second that it took.
    assert!((1..=11).contains(&refused.len()), "{}", refused.len());
    for answer in refused {
        assert_eq!(answer.headers()["retry-after"], "1");
        assert_eq!(answer.headers()["ratelimit"], r#""creates";r=0;t=1"#);
    }
    assert_eq!(said(create(&issuer.token("cora", &["creator"]))).await.0, 201, "somebody else");
    let clear = asked(&replica, Method::POST, "/clear", &carl);
    assert_eq!(said(clear).await.0, 200, "what was sent can be taken back");
}

#[tokio::test]
async fn a_creator_clears_so_many_times_a_minute_whatever_it_has_sent_and_others_are_none_the_worse() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--creates-per-minute", "3"]).await;
    let issuer = Issuer::secret(SECRET);
    let (carl, cora) = (issuer.token("carl", &["creator"]), issuer.token("cora", &["creator"]));
    let clear = |token: &str| asked(&replica, Method::POST, "/clear", token);
    let first = said(clear(&carl)).await;
    assert_eq!((first.0, &first.1["ratelimit-policy"]), (200, &r#""clears";q=3;w=60"#.parse().unwrap()));
    assert_eq!(first.1["ratelimit"], r#""clears";r=2;t=20"#);
    assert_eq!((said(clear(&carl)).await.0, said(clear(&carl)).await.0), (200, 200));
    let spent = said(clear(&carl)).await;
    assert_eq!((spent.0, &*spent.2), (429, "too_many_requests"));
    assert!(spent.1.contains_key("retry-after") && spent.1.contains_key("ratelimit"), "{:?}", spent.1);
    let create = asked(&replica, Method::POST, "", &carl).json(&json!({"message": "x"}));
    assert_eq!(said(create).await.0, 201, "broadcasts have a budget of their own");
    assert_eq!(said(clear(&cora)).await.0, 200, "somebody else");
}

#[tokio::test]
async fn acknowledgements_of_a_user_are_counted_over_all_connections() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--acks-per-minute", "3"]).await;
    let issuer = Issuer::secret(SECRET);
    let creator = issuer.token("carl", &["creator"]);
    let created =
        asked(&replica, Method::POST, "", &creator).json(&json!({"message": "x"})).send().await.unwrap();
    let id = created.json::<Value>().await.unwrap()["id"].as_str().unwrap().to_owned();
    let ann = issuer.token("ann", &[]);
    let mut client = replica.connect_as(&ann).await;
    client.greeted().await;
    assert_eq!(client.acknowledge(&id).await["type"], "acknowledged");
    assert_eq!(client.acknowledge(&id).await["already"], true);
    let acknowledge =
        |token: &str| asked(&replica, Method::POST, "/acknowledge", token).json(&json!({"broadcast_id": id}));
    let third = said(acknowledge(&ann)).await;
    assert_eq!((third.0, &third.1["ratelimit-policy"]), (200, &r#""acks";q=3;w=60"#.parse().unwrap()));
    let fourth = said(acknowledge(&ann)).await;
    assert_eq!((fourth.0, &*fourth.2), (429, "too_many_requests"));
    let told = client.acknowledge(&id).await;
    assert_eq!((&told["code"], &told["broadcast_id"]), (&json!("too_many_requests"), &json!(id)));
    assert_eq!(said(acknowledge(&issuer.token("bob", &[]))).await.0, 200, "somebody else");
}

#[tokio::test]
async fn tokens_that_are_made_up_are_refused_less_and_less_politely_and_good_ones_pass() {
    let nats = Nats::start().await;
    let replica = start(&nats, &["--refusals-per-minute", "5"]).await;
    let good = Issuer::secret(SECRET).token("ann", &[]);
    let active = |token: &str| asked(&replica, Method::GET, "/active", token);
    let mut statuses = Vec::new();
    for _ in 0..7 {
        statuses.push(said(active("x.y.z")).await.0);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429]);
    // What the client says of its address is not believed.
    let elsewhere = active("x.y.z").header("X-Forwarded-For", "198.51.100.9");
    assert_eq!(said(elsewhere).await.0, 429);
    assert!(replica.log().contains("--trusted-proxies"), "who runs it should know");
    assert_eq!(said(active(&good)).await.0, 200);
}

#[tokio::test]
async fn connections_are_counted_by_the_address_that_a_trusted_proxy_saw() {
    let nats = Nats::start().await;
    let options = ["--connects-per-minute", "2", "--trusted-proxies", "127.0.0.1,10.0.0.0/8"];
    let replica = start(&nats, &options).await;
    let token = Issuer::secret(SECRET).token("ann", &[]);
    let bearer = format!("Bearer {token}");
    let connect = async |said: &str| {
        let headers = [("Authorization", &*bearer), ("X-Forwarded-For", said)];
        replica.try_connect("", &headers).await.is_ok()
    };
    for address in ["198.51.100.9", "198.51.100.10, 10.0.0.3", "2001:db8::1"] {
        assert_eq!((connect(address).await, connect(address).await), (true, true), "{address}");
        assert!(!connect(address).await, "{address}");
    }
    // Whatever the client makes up stands farther left; and a network of IPv6 is one.
    assert!(!connect("1.2.3.4, 198.51.100.9").await && !connect("2001:db8::2").await);
    let events = asked(&replica, Method::GET, "/events", &token).header("X-Forwarded-For", "198.51.100.9");
    let answer = events.send().await.unwrap();
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(answer.status() == 429 && (10..=30).contains(&wait), "{wait}");
    assert!(connect("198.51.100.77").await);
    let refused = r#"tidings_connections_refused_total{reason="too_many_requests"}"#;
    assert_eq!(replica.count(refused).await, 6);
}

#[tokio::test]
async fn in_dev_auth_there_is_no_limit_unless_one_is_wanted() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let answers = join_all((0..80).map(|_| replica.request(Method::POST, "/clear").send())).await;
    assert!(answers.iter().flatten().all(|answer| answer.status() == 200));
    let created = replica.request(Method::POST, "").json(&json!({"message": "x"})).send().await.unwrap();
    assert!(!created.headers().contains_key("ratelimit"));
    let limited = Spec::joining(nats.url()).with(&["--creates-per-minute", "1"]);
    let limited = Replica::start_with(limited).await;
    limited.post_broadcast("x").await;
    let second = limited.request(Method::POST, "").json(&json!({"message": "x"}));
    assert_eq!(said(second).await.0, 429);
}
