//! Event streams through proxies that nobody has configured for them: each event and each keep-alive arrives when it is
//! sent, not when a buffer is full. `tests/proxies/compressing.cjs` does the same with one of
//! Node.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::json;

use crate::support::nats::free_port;
use crate::support::program::{NGINX_ARGUMENTS, NGINX_AROUND, Program};
use crate::support::{Browser, Http, Nats, Replica, Request, Spec, eventually, within};

/// In that time keep-alives do not fill the smallest buffer there is.
const AT_ONCE: Duration = Duration::from_secs(10);

/// A proxy that knows nothing of event streams: its name, and what its configuration says besides where it sends to.
type Stock = (&'static str, &'static str);

const PLAIN: [Stock; 3] = [("nginx", ""), ("nginx", "proxy_http_version 1.1;"), ("haproxy", "")];

/// The same that compress, event streams too.
const COMPRESSING: [Stock; 3] = [
    ("nginx", "gzip on; gzip_types text/event-stream application/x-ndjson;"),
    ("nginx", "proxy_http_version 1.1; gzip on; gzip_types *; gzip_proxied any; gzip_comp_level 9;"),
    ("haproxy", "compression algo gzip\n compression type text/event-stream text/html\n"),
];

/// One in front of a replica, and where it is.
async fn start((name, more): Stock, replica: &Replica) -> (Program, String) {
    let port = free_port();
    let to = replica.url();
    let program = if name == "nginx" {
        let server =
            format!("server {{ listen 127.0.0.1:{port}; {more} location / {{ proxy_pass {to}; }} }}\n");
        Program::start("nginx", NGINX_ARGUMENTS, &[("main.conf", NGINX_AROUND), ("nginx.conf", &*server)])
    } else {
        let (_, to) = to.split_once("//").unwrap();
        let configuration = format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             frontend f\n bind 127.0.0.1:{port}\n {more}\n default_backend b\nbackend b\n server r {to}\n"
        );
        Program::start("haproxy", &["-db", "-f", "haproxy.cfg"], &[("haproxy.cfg", &*configuration)])
    };
    let url = format!("http://127.0.0.1:{port}");
    let there = || Http::patient(AT_ONCE).request(Method::GET, format!("{url}/livez")).send();
    eventually("it listens", || async { there().await.is_ok() }).await;
    (program, url)
}

/// A stream as it arrives.
struct Arriving {
    answer: Response,
    text: String,
}

impl Arriving {
    async fn of(request: Request) -> Self {
        let answer = tokio::time::timeout(AT_ONCE, request.send()).await.expect("the head arrives").unwrap();
        assert_eq!(answer.status(), 200);
        Self { answer, text: String::new() }
    }

    async fn until(&mut self, words: &str) {
        let arrived = tokio::time::timeout(AT_ONCE, async {
            while !self.text.contains(words) {
                let chunk = self.answer.chunk().await.unwrap().expect("it goes on");
                self.text.push_str(&String::from_utf8_lossy(&chunk));
            }
        });
        assert!(arrived.await.is_ok(), "{words} does not arrive; what does is {:?}", self.text);
    }
}

#[tokio::test]
async fn events_and_keep_alives_pass_a_stock_proxy_at_once() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1"])).await;
    for (number, stock) in PLAIN.into_iter().enumerate() {
        replica.post_broadcast("there before").await;
        let (_proxy, url) = start(stock, &replica).await;
        let get = |path: &str| Http::patient(AT_ONCE * 10).request(Method::GET, format!("{url}/api{path}"));
        let mut events = Arriving::of(get("/creator/broadcast/events?user_id=u")).await;
        let follow = get("/audit/events?follow=true").header("X-User-Role", "auditor");
        let mut audit = Arriving::of(follow).await;
        events.until("there before").await;
        events.until("\n:\n").await;
        audit.until("there before").await;
        let message = format!("sent through proxy {number}");
        replica.post_broadcast(&message).await;
        events.until(&message).await;
        audit.until(&message).await;
    }
}

/// Listens by `EventSource`; what it heard is in `heard`. And reads the same stream as text.
const LISTEN: &str = "window.heard = []; window.lost = 0; window.text = '';
    const events = '/api/creator/broadcast/events?user_id=u';
    window.source = new EventSource(events);
    source.onmessage = ({data}) => heard.push(JSON.parse(data).broadcast?.message);
    source.onerror = () => lost += 1;
    const encoding = (answer) => answer.headers.get('content-encoding');
    fetch('/').then((answer) => window.compresses = encoding(answer));
    fetch(events).then(async (answer) => {
        const {body} = answer;
        window.compressed = encoding(answer);
        for await (const part of body.pipeThrough(new TextDecoderStream())) text += part;
    });";

#[tokio::test]
async fn a_browser_gets_events_and_keep_alives_at_once_through_a_proxy_that_compresses() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1"])).await;
    let browser = Browser::start().await;
    for stock in COMPRESSING {
        let (_proxy, url) = start(stock, &replica).await;
        let page = browser.visit(&format!("{url}/livez")).await;
        page.evaluate(LISTEN, "").await;
        let keep_alives = "return text.split('\\n:\\n').length - 1";
        within(AT_ONCE, "keep-alives", async || page.evaluate(keep_alives, "").await.as_u64() > Some(2))
            .await;
        for message in ["one", "two", "three"].map(|word| format!("{word} by {url}")) {
            replica.post_broadcast(&message).await;
            let has = "return heard.includes(arguments[0]) && text.includes(`\"${arguments[0]}\"`)";
            within(AT_ONCE, &message, async || page.evaluate(has, &message).await == true).await;
        }
        // nginx does not ask whether it may; HAProxy does.
        let (name, _) = stock;
        let end = "source.close(); return arguments[0] === 'nginx' ? [compressed, lost] : [compresses, lost]";
        assert_eq!(page.evaluate(end, name).await, json!(["gzip", 0]), "{stock:?}");
    }
}
