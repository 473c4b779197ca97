//! Published keys that are fetched through a proxy.

use std::sync::{Arc, Mutex};

use reqwest::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::support::issuer::key_set;
use crate::support::tls::Authority;
use crate::support::{Issuer, KeyServer, Nats, Replica, Spec};

/// A proxy that leads everything that it is asked for to one place, under any name.
struct Proxy {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Proxy {
    async fn to(place: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let told = asked.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = passed_on(stream, &place, &told).await;
            }
        });
        Self { url, asked, task }
    }

    /// The first line of each request.
    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn passed_on(mut client: TcpStream, place: &str, told: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = String::from_utf8_lossy(&head).lines().next().unwrap_or_default().to_owned();
    let tunnel = line.starts_with("CONNECT ");
    told.lock().unwrap().push(line);
    let mut server = TcpStream::connect(place).await?;
    if tunnel {
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
    } else {
        server.write_all(&head).await?;
    }
    copy_bidirectional(&mut client, &mut server).await.map(|_| ())
}

async fn is_known(replica: &Replica, token: &str) -> bool {
    let stats = replica.request(Method::GET, "/stats").header("Authorization", format!("Bearer {token}"));
    replica.ask(stats).await.0 == 200
}

#[tokio::test]
async fn published_keys_are_fetched_through_the_proxy_of_the_environment() {
    let nats = Nats::start().await;
    let issuer = Issuer::edwards("e");
    let server = KeyServer::start(&key_set(&[&issuer])).await;
    let place = server.url().trim_start_matches("http://").trim_end_matches("/keys").to_owned();
    let (token, authority) = (issuer.token("ann", &["team"]), Authority::new("trusted"));
    let tls = authority.server("keys.example.com").in_front_of(place.parse().unwrap()).await;
    let secure = Proxy::to(format!("127.0.0.1:{tls}")).await;
    let plain = Proxy::to(place.clone()).await;
    // Names that lead nowhere here: the proxy alone knows them.
    for (url, variable, proxy, line) in [
        ("https://keys.example.com/keys", "HTTPS_PROXY", &secure, "CONNECT keys.example.com:443 HTTP/1.1"),
        ("http://keys.example.com/keys", "HTTP_PROXY", &plain, "GET http://keys.example.com/keys HTTP/1.1"),
    ] {
        let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-url", url]);
        let spec = spec.with_variable("SSL_CERT_FILE", authority.certificate().to_str().unwrap());
        let replica = Replica::start_with(spec.with_variable(variable, &proxy.url)).await;
        assert!(is_known(&replica, &token).await, "{}", replica.log());
        assert_eq!(proxy.asked(), [line]);
    }
    let spec = Spec::joining(nats.url()).with(&["--auth", "jwt", "--auth-jwks-url", server.url()]);
    let spec = spec.with_variable("HTTP_PROXY", &plain.url).with_variable("NO_PROXY", "127.0.0.1");
    let replica = Replica::start_with(spec).await;
    assert!(is_known(&replica, &token).await && plain.asked().len() == 1, "it is not for this host");
}
