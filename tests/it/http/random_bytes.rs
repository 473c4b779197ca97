//! Whatever bytes come over a socket, a replica answers or hangs up, and stays well.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::timeout;

use crate::support::{Nats, Raw, Replica, random};

/// What exists, relative to `/api/creator/broadcast`, and what does not.
const CALLS: &str =
    "POST |POST |POST |POST /clear|POST /acknowledge|GET /active|GET /limits|GET /stats|GET /ws|GET /events";
const METHODS: &str = "GET|POST|PUT|DELETE|OPTIONS|HEAD|CONNECT|BREW|get";
const TARGETS: &str = "/api/creator/broadcast/|/api/x/broadcast|/api/%2e%2e/broadcast|/api/%ff%00/broadcast/active|/|//|*|\
                       http://x/|/readyz|/metrics|/api/creator/broadcast/ws/../clear";
const QUERIES: &str =
    "||||?|?user_id=|?user_id=%F0%9F%A6%80|?user_id=a&role=team|?role=b|?&&==&%|?min_position=-0";
const HEADERS: &str = "X-User-Id|X-User-Role|X-User-Role|Origin|If-Match|Idempotency-Key|Upgrade|Accept|Cookie|Expect|\
                       Tidings-Min-Position|Transfer-Encoding|Sec-WebSocket-Key|Sec-WebSocket-Version|Last-Event-ID";
const VALUES: &str = "|creator|0|13|null|chunked|websocket|\"\"|\u{1}|é|100-continue|\
                      \"0198c5a0-1111-7222-8333-444455556666\"";
const FIELDS: &str = "message|message|message|type|broadcast_id|broadcast_id|link|\\u0000";
const JSON: &str = "\"x\"|\"x\"|\"x\"|\"x\"|\"x\"|\"x\"|null|\"\\ud83d\"|1e999|[[[[|{}|\"\\u202e\"|-0.0|tru|\"info\"|\
                    \"0198c5a0-1111-7222-8333-444455556666\"";

/// Makes requests of random parts.
struct Requests(Rng);

impl Requests {
    fn below(&mut self, n: usize) -> usize {
        self.0.usize(..n)
    }

    fn pick(&mut self, words: &'static str) -> &'static str {
        let words: Vec<_> = words.split('|').collect();
        words[self.below(words.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        {
            let length = self.below(most);
            random::bytes(&mut self.0, length)
        }
    }

    fn body(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 => Vec::new(),
            1 => self.bytes(200),
            _ => {
                let field =
                    |requests: &mut Self| format!("\"{}\":{}", requests.pick(FIELDS), requests.pick(JSON));
                format!("{{{},{}}}", field(self), field(self)).into_bytes()
            }
        }
    }

    /// Something like a request, or not at all.
    fn request(&mut self) -> Vec<u8> {
        if self.below(16) == 0 {
            return self.bytes(300);
        }
        let call = match self.below(4) {
            0 => format!("{} {}", self.pick(METHODS), self.pick(TARGETS)),
            _ => self.pick(CALLS).replace(' ', " /api/creator/broadcast"),
        };
        let mut head =
            format!("{call}{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n", self.pick(QUERIES));
        for _ in 0..self.below(3) {
            head += &[self.pick(HEADERS), ": ", self.pick(VALUES), "\r\n"].concat();
        }
        let body = self.body();
        if self.below(8) > 0 {
            // Now and then less than there is, or more.
            let length = if self.below(16) == 0 { self.below(400) } else { body.len() };
            head += "Content-Type: application/json\r\nContent-Length: ";
            head += &[&length.to_string(), "\r\n"].concat();
        }
        [head.as_bytes(), b"\r\n", &body].concat()
    }
}

#[tokio::test]
async fn whatever_is_sent_the_replica_answers_or_hangs_up_and_stays_well() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut answered = std::collections::BTreeMap::<_, u32>::new();
    for seed in 0..1_000_u64 {
        let request = Requests(Rng::with_seed(seed)).request();
        let mut raw = Raw::connect(&replica).await;
        raw.send(&request).await;
        // Some requests promise more than they bring, and wait in vain.
        let head = if let Ok(head) = timeout(Duration::from_millis(300), raw.head()).await {
            head
        } else {
            raw.finish().await;
            raw.head().await
        };
        let status: Option<u16> = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let shown = String::from_utf8_lossy(&request);
        assert_eq!(status.is_some(), !head.is_empty(), "seed {seed}: {shown:?} got {head:?}");
        // Nothing is away here, so that a sequence of which it is not known yet that the log does not have it is the only reason
        // for a 503.
        let honest = status == Some(503) && shown.contains("Tidings-Min-Position: 13");
        assert!(status.is_none_or(|status| status < 500) || honest, "seed {seed}: {shown:?} got {head:?}");
        *answered.entry(status).or_default() += 1;
    }
    // Not everything bounced off the first check.
    for status in [200, 201, 400, 401, 403, 404, 405, 422, 426] {
        assert!(answered.contains_key(&Some(status)), "no {status} among {answered:?}");
    }
    assert!(replica.is_ready().await);
    replica.post_broadcast("still here").await;
    assert_eq!(replica.active("u").await["message"], "still here");
    assert!(!replica.log().contains("panicked"), "{}", replica.log());
}
