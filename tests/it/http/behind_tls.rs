//! Behind an nginx that ends TLS, as docs/authentication.md shows it: the whole contract, and what only such a place brings with it.

use std::process::{Command, Stdio};

use clap::Parser as _;
use reqwest::Method;
use serde_json::{Value, json};
use tidings::config::{Cli, Command as Does};
use tokio_tungstenite::tungstenite::Error;

use crate::support::browser::Tab;
use crate::support::front::{HOST, VARIABLE, nginx};
use crate::support::issuer::SECRET;
use crate::support::raw::{PING, PONG, TEXT};
use crate::support::{Browser, Client, Events, Http, Issuer, Nats, PATIENCE, Raw, Replica, Spec, eventually};

/// The tests of the interface. Among them are those that count the answers and the messages that they got against what is
/// described: every operation with every status of it, and every message.
const CONTRACT: [&str; 13] = [
    "rest::acknowledgements::",
    "rest::requests::",
    "audit::http::",
    "contracts::checklist::",
    "contracts::descriptions::every_described_",
    "operations::shutdown::",
    "rest::history::",
    "identity::tokens::",
    "identity::connections::",
    "identity::browsers::",
    "identity::rate_limits::",
    "live::presence::creators_and_team_",
    "live::websocket::",
];

/// Those among them that are about what is between a client and a replica when nothing is, and why.
const ABOUT_SOCKETS: [(&str, &str); 5] = [
    (
        "rest::requests::refusals::a_header_that_cannot_be_honoured",
        "nginx itself answers some headers that come twice",
    ),
    ("identity::tokens::what_is_huge", "nginx itself answers a head that is larger than it takes"),
    ("live::websocket::what_waits_for_a_client", "nginx reads for a client that does not"),
    ("operations::shutdown::a_request_under_way", "nginx sends a request on once it has all of it"),
    ("operations::shutdown::clients_that_neither_answer", "nginx sends a request on once it has all of it"),
];

#[test]
fn the_whole_contract_holds() {
    let mut tests = Command::new(std::env::current_exe().unwrap());
    tests.args(CONTRACT).args(ABOUT_SOCKETS.iter().flat_map(|(name, _)| ["--skip", name]));
    let run = tests.env(VARIABLE, "nginx").stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}\n{}", String::from_utf8_lossy(&run.stderr));
    let passed = said.rsplit_once("test result: ok. ").and_then(|(_, rest)| rest.split_once(" passed"));
    assert!(passed.unwrap().0.parse::<usize>().unwrap() > 60, "{said}");
    for module in CONTRACT {
        assert!(said.contains(&format!("test {module}")), "{module} has no test:\n{said}");
    }
}

async fn start(nats: &Nats, nginx: String, more: &[&str]) -> Replica {
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt"]).with(more);
    Replica::start_with(spec.with_variable("TIDINGS_AUTH_SECRET", SECRET).behind(nginx)).await
}

#[tokio::test]
async fn pages_of_its_own_host_may_and_others_may_not() {
    let nats = Nats::start().await;
    let replica = start(&nats, nginx(), &[]).await;
    let cookie = format!("session={}", Issuer::secret(SECRET).token("carl", &["creator"]));
    let own = format!("https://{HOST}");
    let below = format!("https://{HOST}.evil.example.org");
    for (origin, status) in [
        (&*own, 200),
        ("", 403),
        ("null", 403),
        ("https://evil.example.org", 403),
        ("https://example.com", 403),
        (&below, 403),
        (&format!("{own}:8443"), 403),
    ] {
        let mut headers = vec![("Host", HOST), ("Cookie", &*cookie)];
        headers.extend((!origin.is_empty()).then_some(("Origin", origin)));
        let clear = headers.iter().fold(replica.request(Method::POST, "/clear"), |request, (name, value)| {
            request.header(*name, *value)
        });
        assert_eq!(replica.ask(clear).await.0, status, "{origin}");
        // What the clients of the service before this one send, and nothing else.
        match replica.try_connect("?user_id=carl", &headers).await {
            Ok(mut client) => assert_eq!((client.greeted().await, status), (Value::Null, 200), "{origin}"),
            Err(Error::Http(answer)) => assert_eq!(answer.status().as_u16(), status, "{origin}"),
            Err(other) => panic!("{origin}: {other}"),
        }
    }
}

/// As a client of the service before this one connects; what it hears is in `heard`.
const LISTEN: &str = "window.heard = [];
    const socket = new WebSocket(`wss://${arguments[0]}/api/creator/broadcast/ws?user_id=carl`);
    socket.onmessage = (event) => heard.push(JSON.parse(event.data).type);
    socket.onclose = () => heard.push('closed');";

const POST: &str = "fetch(`https://${arguments[0]}/api/creator/broadcast`, {
        method: 'POST', credentials: 'include',
        headers: {'Content-Type': 'application/json'}, body: JSON.stringify({message: 'from a page'}),
    }).then((answer) => heard.push(answer.status), () => heard.push('refused'));";

#[tokio::test]
async fn a_browser_connects_by_its_cookie_and_a_page_of_a_sibling_host_does_not() {
    let nats = Nats::start().await;
    let replica = start(&nats, nginx(), &[]).await;
    let (own, sibling) = (replica.front().authority(HOST), replica.front().authority("sibling.example.com"));
    let browser = Browser::start().await;
    let page = browser.visit(&format!("https://{own}/livez")).await;
    // A sibling is of the same site to a browser, and this cookie goes along whichever of the two asks.
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let set = "document.cookie = `session=${arguments[0]}; Domain=example.com; Path=/; Secure; SameSite=Lax`";
    page.evaluate(set, &token).await;
    page.evaluate(LISTEN, &own).await;
    let heard = async |tab: &Tab<'_>, what: Value| {
        let all = tab.evaluate("return heard", "").await;
        all.as_array().unwrap().contains(&what)
    };
    eventually("it is let in", async || heard(&page, json!("active_broadcast")).await).await;
    page.evaluate(POST, &own).await;
    eventually("it may post", async || heard(&page, json!(201)).await).await;
    eventually("it hears that", async || heard(&page, json!("new_broadcast")).await).await;

    let elsewhere = browser.visit(&format!("https://{sibling}/livez")).await;
    elsewhere.evaluate(LISTEN, &own).await;
    eventually("it is not let in", async || heard(&elsewhere, json!("closed")).await).await;
    elsewhere.evaluate(POST, &own).await;
    eventually("it may not post", async || heard(&elsewhere, json!("refused")).await).await;
    assert_eq!(elsewhere.evaluate("return heard", "").await, json!(["closed", "refused"]));
    assert_eq!(replica.readyz().await["sequence"], 1, "the one post is all that was written");
    // What refused them was the replica, whom the browser told where they are from.
    let refused =
        r#"tidings_http_requests_total{method="GET",route="/api/{channel}/broadcast/ws",status="403"}"#;
    assert_eq!(replica.count(refused).await, 1);
}

#[tokio::test]
async fn whoever_makes_up_addresses_is_counted_by_the_one_that_nginx_saw() {
    let nats = Nats::start().await;
    let options =
        ["--trusted-proxies", "127.0.0.1", "--refusals-per-minute", "3", "--connects-per-minute", "2"];
    let replica = start(&nats, nginx(), &options).await;
    let (hers, others) = (replica.front().url_from("127.0.0.2"), replica.front().url_from("127.0.0.3"));
    let http = Http::patient(PATIENCE);
    let refused = async |url: &str, made_up: &str| {
        let request = http.request(Method::GET, format!("{url}/api/creator/broadcast/active"));
        let request = request.header("Authorization", "Bearer x.y.z").header("X-Forwarded-For", made_up);
        request.send().await.unwrap().status().as_u16()
    };
    let mut statuses = Vec::new();
    for made_up in ["198.51.100.1", "198.51.100.2", "127.0.0.1", "127.0.0.3", "10.0.0.1, 127.0.0.1", "x"] {
        statuses.push(refused(&hers, made_up).await);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429, 429]);
    assert_eq!(refused(&others, "127.0.0.2").await, 401, "nor does it put blame on somebody else");

    let bearer = format!("Bearer {}", Issuer::secret(SECRET).token("ann", &[]));
    let connected = async |url: &str, made_up: &str| {
        let url = format!("{}/api/creator/broadcast/ws", url.replacen("http", "ws", 1));
        let headers = [("Authorization", &*bearer), ("X-Forwarded-For", made_up)];
        Client::try_connect_with(&url, &headers).await.is_ok()
    };
    let mut let_in = Vec::new();
    for made_up in ["198.51.100.1", "198.51.100.2", "198.51.100.3", "127.0.0.1"] {
        let_in.push(connected(&hers, made_up).await);
    }
    assert_eq!(let_in, [true, true, false, false]);
    assert!(connected(&others, "127.0.0.2").await);
}

/// With times that are so many times shorter: nginx gives up after 2 s, and a replica speaks after one.
#[tokio::test]
async fn a_silent_connection_is_kept_by_the_pings_of_the_replica() {
    let Ok(Cli { command: Does::Serve(serve) }) = Cli::try_parse_from(["tidings", "serve"]) else {
        panic!("`serve` needs no option")
    };
    let shown = nginx();
    let (_, after) = shown.split_once("proxy_read_timeout ").unwrap();
    let timeout: u64 = after.split_once("s;").unwrap().0.parse().unwrap();
    // Also 60, which nginx takes where nothing is said.
    assert!(serve.heartbeat_seconds < 60 && 60 <= timeout, "{timeout}");

    let nats = Nats::start().await;
    let shorter = || nginx().replace(&format!("proxy_read_timeout {timeout}s"), "proxy_read_timeout 2s");
    let speaks = Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1"]).behind(shorter());
    let speaks = Replica::start_with(speaks).await;
    let silent = Replica::start_with(Spec::joining(nats.url()).behind(shorter())).await;
    let mut kept = Raw::websocket(&speaks, "?user_id=u").await;
    let mut events = Events::of(speaks.request(Method::GET, "/events?user_id=e").send().await.unwrap());
    events.expect("connected").await;
    events.expect("active_broadcast").await;
    let mut lost = Raw::websocket(&silent, "?user_id=u").await;

    let mut pings = 0;
    while pings < 5 {
        let (first, payload) = kept.frame().await.expect("it is kept");
        if first == PING {
            pings += 1;
            kept.send_frame(PONG, &payload).await;
        }
    }
    assert_eq!(lost.close_code().await, None, "nginx ends what nobody speaks on");
    let id = speaks.post_broadcast("still there?").await["id"].clone();
    assert_eq!(events.expect("new_broadcast").await.data["broadcast"]["id"], id);
    let told = |(first, payload): &(u8, Vec<u8>)| {
        *first == TEXT
            && serde_json::from_slice(payload).is_ok_and(|told: Value| told["broadcast"]["id"] == id)
    };
    while !told(&kept.frame().await.expect("it is kept")) {}
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_the_replica_and_in_its_form() {
    let nats = Nats::start().await;
    let replica = start(&nats, nginx(), &[]).await;
    let token = Issuer::secret(SECRET).token("carl", &["creator"]);
    let post = |bytes: usize, accept: &'static str| {
        let request = replica.request(Method::POST, "").header("Authorization", format!("Bearer {token}"));
        request.header("Accept", accept).json(&json!({"message": "x".repeat(bytes)}))
    };
    for bytes in [33_000, 200_000] {
        let (status, body) = replica.ask(post(bytes, "*/*")).await;
        assert_eq!((status, &body["code"]), (413, &json!("body_too_large")), "{bytes}");
        let problem = post(bytes, "application/problem+json").send().await.unwrap();
        assert_eq!(problem.headers()["content-type"], "application/problem+json");
    }
}
