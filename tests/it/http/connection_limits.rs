//! Places: so many sockets for a replica and for an address, so many connections for a user, and never more descriptors
//! than there are.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;

use reqwest::Method;
use rustix::process::{Resource, Rlimit, getrlimit, prlimit};
use serde_json::json;
use tempfile::TempDir;
use tokio::net::TcpSocket;
use tokio_tungstenite::tungstenite::Error;

use super::Calm;
use crate::support::{Client, Events, Nats, Raw, Replica, Spec, eventually};

const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A connection from another address of this machine.
async fn from_another_address(replica: &Replica) -> Raw {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let address: SocketAddr = replica.url().trim_start_matches("http://").parse().unwrap();
    socket.connect(address).await.unwrap().into()
}

#[tokio::test]
async fn an_address_has_so_many_sockets_whatever_they_have_become() {
    let mut calm = Calm::with(&["--max-sockets-per-address", "10"]).await;
    let places = 10 - calm.sockets;
    let mut websockets = Vec::new();
    for _ in 0..places {
        websockets.push(Raw::websocket(&calm.replica, "?user_id=u").await);
    }
    let mut turned_away = Raw::connect(&calm.replica).await;
    assert_eq!(turned_away.refusal().await, (503, "too_many_sockets_of_address".to_owned()));
    let mut elsewhere = from_another_address(&calm.replica).await;
    elsewhere.send(GET).await;
    assert_eq!(elsewhere.answer().await.status, 200, "another address has its own places");
    calm.goes_on().await;
    assert!(
        calm.replica.log().contains("rejected a TCP connection from 127.0.0.1"),
        "{}",
        calm.replica.log()
    );
    websockets.pop();
    eventually("there is a place again", || async {
        let mut raw = Raw::connect(&calm.replica).await;
        raw.send(GET).await;
        raw.head().await.starts_with("HTTP/1.1 200 ")
    })
    .await;
    drop((websockets, elsewhere));
    calm.is_as_before().await;
}

#[tokio::test]
async fn a_user_has_so_many_connections_of_both_kinds() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--max-connections-per-user", "2"]);
    let replica = Replica::start_with(spec).await;
    let stream = |user: &str| replica.request(Method::GET, &format!("/events?user_id={user}"));
    let mut first = replica.connect("ann").await;
    first.greeted().await;
    let mut events = Events::of(stream("ann").send().await.unwrap());
    events.expect("connected").await;

    let (status, body) = replica.ask(stream("ann")).await;
    assert_eq!((status, &body["code"]), (429, &json!("too_many_connections_of_user")));
    let url = format!("{}/api/creator/broadcast/ws?user_id=ann", replica.url().replace("http", "ws"));
    match Client::try_connect(&url, None).await {
        Err(Error::Http(answer)) => assert_eq!(answer.status(), 429),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("a third connection"),
    }
    replica.connect("bob").await.greeted().await;
    assert_eq!(replica.active("ann").await, json!(null), "requests are no connections");
    first.close().await;
    eventually("there is a place again", || async { Client::try_connect(&url, None).await.is_ok() }).await;
    drop(events);
    eventually("the stream's place is free too", || async {
        let [one, two] = [Client::try_connect(&url, None).await, Client::try_connect(&url, None).await];
        one.is_ok() && two.is_ok()
    })
    .await;
    for reason in ["too_many_connections_of_user"] {
        assert!(
            replica.count(&format!("tidings_connections_refused_total{{reason=\"{reason}\"}}")).await >= 2
        );
    }
}

#[tokio::test]
async fn in_dev_auth_nobody_is_counted_unless_asked_for() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut client = replica.connect("ann").await;
        client.greeted().await;
        clients.push(client);
    }
    assert_eq!(replica.stats().await["connections_local"], 30);
}

/// A replica that is started as `ulimit -n` in a shell would have it; and where the shell's script is.
fn with_descriptors(nats: &Nats, most: u32, options: &[&str]) -> (Replica, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("tidings");
    let text =
        format!("#!/bin/sh\nulimit -n {most} || exit 9\nexec '{}' \"$@\"\n", env!("CARGO_BIN_EXE_tidings"));
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    (Replica::prepared(Spec::joining(nats.url()).with(options).run_as(script)), folder)
}

#[tokio::test]
async fn with_few_descriptors_it_takes_fewer_sockets_and_says_so() {
    let nats = Nats::start().await;
    // Nobody of the crowd sends a head, and nobody is hung up on for that while the test counts them.
    let (mut replica, _script) = with_descriptors(&nats, 400, &["--head-timeout-seconds", "300"]);
    replica.start_again().await;
    let said = "it takes 144, 108 of them WebSockets and event streams";
    assert!(replica.log().contains(said), "{}", replica.log());
    let mut listener = replica.connect("listener").await;
    listener.greeted().await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(Raw::connect(&replica).await);
    }
    let id = replica.post_broadcast("still here").await["id"].clone();
    assert_eq!(listener.expect("new_broadcast").await["broadcast"]["id"], id);
    // The system completes a handshake before the replica accepts the connection.
    eventually("the crowd is accepted or turned away", || async {
        replica.count("tidings_sockets_refused_total{reason=\"too_many_sockets\"}").await > 150
    })
    .await;
    assert_eq!(replica.count("tidings_sockets").await, 144);
    assert!(!replica.log().contains("cannot accept connections"), "{}", replica.log());
}

#[tokio::test]
async fn options_that_cannot_be_are_said_at_the_start() {
    let nats = Nats::start().await;
    let (mut replica, _script) = with_descriptors(&nats, 300, &[]);
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("64 TCP connections are the least"), "{}", replica.log());

    let mut replica = Replica::prepared(Spec::joining(nats.url()).with(&["--max-sockets", "20000"]));
    replica.spawn();
    assert_eq!(replica.ended().await.code(), Some(1));
    assert!(replica.log().contains("must be more than --max-connections 20000"), "{}", replica.log());
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised_to_what_the_system_allows() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let hard = getrlimit(Resource::Nofile).maximum.expect("there is a limit");
    assert_eq!(replica.count("process_max_fds").await, hard);
}

#[tokio::test]
async fn without_any_descriptor_left_it_waits_and_goes_on() {
    let mut calm = Calm::with(&[]).await;
    let pid = Some(calm.replica.pid());
    let few = u64::try_from(calm.descriptors).unwrap();
    let hard = getrlimit(Resource::Nofile).maximum;
    let before = prlimit(pid, Resource::Nofile, Rlimit { current: Some(few), maximum: hard }).unwrap();
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut raw = Raw::connect(&calm.replica).await;
        raw.send(GET).await;
        waiting.push(raw);
    }
    eventually("it says so", || async { calm.replica.log().contains("cannot accept connections") }).await;
    calm.goes_on().await;
    prlimit(pid, Resource::Nofile, before).unwrap();
    for raw in &mut waiting {
        assert_eq!(raw.answer().await.status, 200, "whoever waited is served");
    }
    assert_eq!(
        calm.replica.log().matches("cannot accept connections").count(),
        1,
        "once, not again and again"
    );
    drop(waiting);
    calm.is_as_before().await;
}
