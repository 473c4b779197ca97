//! Autobahn's cases for WebSockets, run against a server that echoes: made of the service's own server, handshake and socket.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use mio::{Events, Interest, Poll, Token};
use serde_json::Value;
use tempfile::TempDir;
use tidings::http::handshake::{self, Upgraded};
use tidings::http::server::limits::{HeadLimits, Timeouts};
use tidings::http::server::{self, Options};
use tidings::metrics::Metrics;
use tidings::push::frame::{Opcode, Received, encode};
use tidings::push::websocket::{Extent, Read, Stage, WebSocket};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::timeout;

/// Autobahn's longest messages have 16 MiB.
const MAX_MESSAGE: usize = 16 << 20;

/// A connection on which nothing happens for so long is forgotten.
const IDLE: Duration = Duration::from_secs(30);

/// All cases together; they take some seconds.
const ALL_CASES: Duration = Duration::from_mins(5);

async fn upgrade(request: Request) -> Response {
    match handshake::accept(&request, "none") {
        Ok((response, upgrade)) => {
            tokio::spawn(async {
                if let Some(upgraded) = upgrade.complete().await {
                    tokio::task::spawn_blocking(move || echo(upgraded)).await.unwrap();
                }
            });
            response
        }
        Err(why) => why.into_response(),
    }
}

/// Sends every message back, until the end.
fn echo(Upgraded { stream, read_ahead, permit: _permit }: Upgraded) {
    let mut stream = mio::net::TcpStream::from_std(stream.into_std().unwrap());
    let (mut poll, mut events) = (Poll::new().unwrap(), Events::with_capacity(8));
    poll.registry().register(&mut stream, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
    let mut socket = WebSocket::new(stream);
    let mut buffer = vec![0; 64 * 1024];
    let mut early = Some(read_ahead.to_vec());
    while socket.stage() != Stage::Over {
        let mut answers = Vec::new();
        let mut hear = |received: Received<'_>| {
            match received {
                Received::Text(text) => answers.push(encode(Opcode::Text, text.as_bytes())),
                Received::Binary(bytes) => answers.push(encode(Opcode::Binary, bytes)),
                _ => {}
            }
            ControlFlow::Continue(())
        };
        let read = match early.take() {
            Some(mut early) => match socket.take(&mut early, MAX_MESSAGE, &mut hear) {
                Read::Later => Read::Again,
                read => read,
            },
            None => socket.read((&mut buffer, Extent::End), MAX_MESSAGE, &mut hear),
        };
        for answer in answers {
            socket.send(answer, usize::MAX).unwrap();
        }
        if let Read::Ended(parting) = read {
            socket.part(parting);
        }
        socket.flush();
        if read == Read::Later {
            poll.poll(&mut events, Some(IDLE)).unwrap();
            if events.is_empty() {
                return;
            }
        }
    }
}

/// Serves it, and returns its address.
async fn serve(stopped: watch::Receiver<bool>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = Options {
        max_sockets: 100,
        max_sockets_per_address: None,
        head: HeadLimits { bytes: 16 * 1024, fields: 100 },
        timeouts: Timeouts { head: IDLE, idle: IDLE },
        metrics: Arc::new(Metrics::default()),
    };
    tokio::spawn(server::serve(listener, Router::new().route("/", get(upgrade)), options, stopped));
    address
}

/// How each case went, and how its connection ended.
async fn run(address: &str, results: &Path) -> Value {
    let tools = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/tools.sh");
    let installed = Command::new(tools).arg("websocket").output().await.unwrap();
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    let mut kosoku = Command::new("python3");
    kosoku.env("PYTHONPATH", String::from_utf8(installed.stdout).unwrap().trim());
    // Compression is off, so its cases are not run.
    kosoku.args([
        "-c",
        "from kosoku._cli import main; main()",
        "-m",
        "fuzzingclient",
        "-x",
        "12.*",
        "-x",
        "13.*",
        "-o",
    ]);
    kosoku.arg(results).arg(format!("ws://{address}/")).kill_on_drop(true);
    let ran = timeout(ALL_CASES, kosoku.output()).await.expect("the cases take too long").unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");
    let index = std::fs::read(results.join("index.json")).unwrap_or_else(|error| panic!("{error}: {said}"));
    serde_json::from_slice(&index).unwrap()
}

#[tokio::test]
async fn every_case_of_autobahn_passes() {
    let (stop, stopped) = watch::channel(false);
    let address = serve(stopped).await;
    let results = TempDir::new().unwrap();
    let index = run(&address, results.path()).await;
    stop.send_replace(true);
    let agents: Vec<_> = index.as_object().unwrap().values().collect();
    let [agent] = agents[..] else { panic!("one server was asked: {index}") };
    let cases = agent.as_object().unwrap();
    assert!(cases.len() > 200, "{} cases", cases.len());
    let fine = ["OK", "INFORMATIONAL"].map(Value::from);
    let failed: Vec<_> = cases
        .iter()
        .filter(|(_, case)| !fine.contains(&case["behavior"]) || !fine.contains(&case["behaviorClose"]))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
