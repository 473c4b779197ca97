//! A client of the event stream (`GET /events`).

use reqwest::Response;
use serde_json::Value;
use tidings::log::Position;

use super::contract::asyncapi;

pub struct Events {
    response: Response,
    unread: String,
}

/// One event.
#[derive(Debug, PartialEq)]
pub struct Event {
    pub id: Option<Position>,
    pub data: Value,
    /// What it says about coming back.
    pub retry_ms: Option<u64>,
}

impl Events {
    pub fn of(response: Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream; charset=utf-8");
        Self { response, unread: String::new() }
    }

    /// The next event, comments passed over; `None` when the stream has ended. A `retry` that is the last word counts, although
    /// no event ends behind it: readers take it line by line.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.unread.split_once("\n\n") {
                let (block, rest) = (block.to_owned(), rest.to_owned());
                self.unread = rest;
                if block.lines().any(|line| !line.starts_with(':')) {
                    return Some(event(&block));
                }
                continue;
            }
            if let Some(chunk) = self.response.chunk().await.ok()? {
                self.unread.push_str(std::str::from_utf8(&chunk).unwrap());
            } else {
                let last = std::mem::take(&mut self.unread);
                return last.starts_with("retry: ").then(|| event(&last));
            }
        }
    }

    /// The next event with this type of message.
    pub async fn expect(&mut self, kind: &str) -> Event {
        let event = self.next().await.expect("the stream goes on");
        assert_eq!(event.data["type"], kind, "{event:?}");
        event
    }
}

fn event(block: &str) -> Event {
    let field = |name: &str| block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if let Some(data) = field("data") {
        asyncapi::hold_streamed(data);
    }
    Event {
        id: field("id").map(|id| id.parse().unwrap()),
        data: field("data").map_or(Value::Null, |data| serde_json::from_str(data).unwrap()),
        retry_ms: field("retry").map(|ms| ms.parse().unwrap()),
    }
}
