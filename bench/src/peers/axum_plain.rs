//! A broadcast server as one writes it with axum: a task a connection, and a broadcast channel between them.

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpSocket;
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// Broadcasts that wait for a task. One that has more of them loses some, which the load notices.
const QUEUE: usize = 64;

#[derive(Clone)]
struct App {
    told: Sender<Utf8Bytes>,
    read_buffer: Option<usize>,
}

pub(super) fn run(read_buffer: Option<usize>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(read_buffer))
}

async fn serve(read_buffer: Option<usize>) -> anyhow::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, 1], 0).into())?;
    let listener = socket.listen(super::BACKLOG.into())?;
    super::say(listener.local_addr()?)?;
    let app = App { told: channel(QUEUE).0, read_buffer };
    let router = Router::new()
        .route("/api/creator/broadcast", post(broadcast))
        .route("/api/creator/broadcast/ws", get(upgrade))
        .with_state(app);
    Ok(axum::serve(listener, router).await?)
}

async fn broadcast(State(app): State<App>, Json(posted): Json<Value>) -> (StatusCode, Json<Value>) {
    // Without a client there is nobody to tell.
    let _ = app.told.send(super::told(&posted).into());
    (StatusCode::CREATED, Json(super::answer()))
}

async fn upgrade(State(app): State<App>, upgrade: WebSocketUpgrade) -> Response {
    let told = app.told.subscribe();
    let upgrade = match app.read_buffer {
        Some(bytes) => upgrade.read_buffer_size(bytes),
        None => upgrade,
    };
    upgrade.on_upgrade(move |socket| pass_on(socket, told))
}

async fn pass_on(mut socket: WebSocket, mut told: Receiver<Utf8Bytes>) {
    loop {
        tokio::select! {
            text = told.recv() => match text {
                Ok(text) => if socket.send(Message::Text(text)).await.is_err() { return },
                Err(_) => return,
            },
            heard = socket.recv() => if !matches!(heard, Some(Ok(_))) { return },
        }
    }
}
