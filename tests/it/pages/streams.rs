//! What a real browser makes of our streams: a log that is replaced, a refusal that passes by itself, line separators and
//! keep-alives.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidings::log::names::LOG_STREAM;

use crate::support::browser::Tab;
use crate::support::{Browser, Events, Nats, Replica, Spec, eventually, within};

#[tokio::test]
async fn a_page_that_is_open_while_its_log_is_replaced_shows_what_the_new_log_has() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    for message in ["one", "two", "three"] {
        page.send(message).await;
        page.shows("creator-active-message", message).await;
    }
    nats.jetstream().await.delete_stream(LOG_STREAM).await.unwrap();
    page.shows("creator-silent", "Nothing is shown").await;
    page.hides("device-banner").await;
    page.shows("creator-no-history", "What you send").await;
    eventually("the replica is in the new log", || replica.is_ready()).await;
    replica.post_until_taken("in the new log").await;
    page.shows("device-message", "in the new log").await;
    page.shows("creator-active-message", "in the new log").await;
    page.send("by the page, in the new log").await;
    page.shows("creator-active-message", "by the page, in the new log").await;
    page.hides("creator-stale").await;
}

/// Nothing told this page of the new log: it was not connected when that came.
#[tokio::test]
async fn a_page_that_comes_back_to_another_log_asks_for_no_position_of_the_old_one() {
    let mut nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.keep_port();
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    for message in ["one", "two", "three"] {
        page.send(message).await;
        page.shows("creator-active-message", message).await;
    }
    replica.kill();
    page.shows("device-phase", "Reconnecting").await;
    nats.stop();
    nats.wipe();
    nats.start_again().await;
    replica.start_again().await;
    replica.post_until_taken("in the new log").await;
    page.shows("device-message", "in the new log").await;
    page.shows("creator-active-message", "in the new log").await;
    page.hides("creator-stale").await;
    let history = page.text("creator-history").await;
    assert!(!history.contains("three"), "{history}");
    page.click("device-acknowledge").await;
    page.shows("creator-acknowledged", "1").await;
}

/// A page of the replica that only listens by `EventSource`. What it heard is in `heard`; when it lost the connection, in
/// `states`, each time with what became of it: 0 tries again, 2 never.
const LISTEN: &str = "window.heard = []; window.states = [];
    window.source = new EventSource(`/api/creator/broadcast/events?user_id=${arguments[0]}`);
    source.onmessage = ({data, lastEventId}) => heard.push({data, id: lastEventId});
    source.onerror = () => states.push(source.readyState);";

async fn listen<'a>(browser: &'a Browser, replica: &Replica, user: &str) -> Tab<'a> {
    let page = browser.visit(&format!("{}/livez", replica.url())).await;
    page.evaluate(LISTEN, user).await;
    page
}

/// The messages that it heard.
async fn heard(page: &Tab<'_>) -> Vec<Value> {
    let heard = page.evaluate("return heard.map(({data}) => data)", "").await;
    heard
        .as_array()
        .unwrap()
        .iter()
        .map(|data| serde_json::from_str(data.as_str().unwrap()).unwrap())
        .collect()
}

async fn hears(page: &Tab<'_>, message: &str) {
    within(Duration::from_secs(40), &format!("it hears `{message}`"), async || {
        heard(page).await.iter().any(|heard| heard["broadcast"]["message"] == message)
    })
    .await;
}

async fn states(page: &Tab<'_>) -> Vec<u64> {
    serde_json::from_value(page.evaluate("return states", "").await).unwrap()
}

#[tokio::test]
async fn an_event_source_that_is_one_too_many_comes_back_by_itself_when_there_is_room() {
    let nats = Nats::start().await;
    let browser = Browser::start().await;
    let mut waiting = Vec::new();
    // One too many of a user is `429` elsewhere, and one too many of a replica `503`.
    for limit in ["--max-connections-per-user", "--max-connections"] {
        let replica = Replica::start_with(Spec::joining(nats.url()).with(&[limit, "1"])).await;
        let first = replica.request(Method::GET, "/events?user_id=u").send().await.unwrap();
        let mut first = Events::of(first);
        first.expect("connected").await;
        let page = listen(&browser, &replica, "u").await;
        eventually("it is refused", async || !states(&page).await.is_empty()).await;
        assert_eq!(heard(&page).await, Vec::<Value>::new());
        waiting.push((replica, first, page));
    }
    waiting[0].0.post_broadcast("while there was no room").await;
    for (replica, first, page) in waiting {
        drop(first);
        hears(&page, "while there was no room").await;
        assert!(states(&page).await.iter().all(|state| *state == 0), "it never gives up");
        drop(replica);
    }
}

#[tokio::test]
async fn an_event_source_whose_replica_has_no_data_yet_comes_back_by_itself_and_gets_what_it_missed() {
    let mut nats = Nats::start().await;
    let [mut replica, other] = [Replica::start(&nats).await, Replica::start(&nats).await];
    replica.keep_port();
    let browser = Browser::start().await;
    let page = listen(&browser, &replica, "u").await;
    other.post_broadcast("before").await;
    hears(&page, "before").await;

    assert!(replica.terminate().await.success());
    other.post_broadcast("while it was away").await;
    // It comes back without its data, and NATS is not there to read the log from.
    std::fs::remove_dir_all(replica.data_dir()).unwrap();
    nats.stop();
    replica.spawn();
    let before = states(&page).await.len();
    eventually("it is refused for a moment", async || {
        let refused =
            replica.raw_request(Method::GET, "/api/creator/broadcast/events?user_id=v").send().await;
        refused.is_ok_and(|answer| answer.status() == 503) && states(&page).await.len() > before + 1
    })
    .await;
    nats.start_again().await;
    hears(&page, "while it was away").await;
    other.post_until_taken("after").await;
    hears(&page, "after").await;
    assert!(states(&page).await.iter().all(|state| *state == 0), "it never gives up");
    // Each once: what it had seen before is not there any more.
    let messages: Vec<_> =
        heard(&page).await.iter().map(|heard| heard["broadcast"]["message"].clone()).collect();
    for message in ["before", "while it was away", "after"] {
        assert_eq!(messages.iter().filter(|heard| **heard == message).count(), 1, "{messages:?}");
    }
}

#[tokio::test]
async fn line_separators_arrive_as_they_were_sent_and_keep_alives_are_no_messages() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--heartbeat-seconds", "1"])).await;
    let browser = Browser::start().await;
    let page = listen(&browser, &replica, "u").await;
    let message = "one\u{2028}two\u{2029}three ✅";
    let sent = json!({"message": message});
    assert_eq!(replica.ask(replica.request(Method::POST, "").json(&sent)).await.0, 201);
    hears(&page, message).await;
    // The keep-alives of a stream beside it are those of the page's.
    let mut beside = replica.request(Method::GET, "/events?user_id=v").send().await.unwrap();
    let mut keep_alives = 0;
    while keep_alives < 3 {
        let chunk = beside.chunk().await.unwrap().unwrap();
        keep_alives += usize::from(chunk.starts_with(b":"));
    }
    replica.post_broadcast("after three of them").await;
    hears(&page, "after three of them").await;
    let kinds: Vec<_> = heard(&page).await.iter().map(|heard| heard["type"].clone()).collect();
    assert_eq!(kinds, ["connected", "active_broadcast", "new_broadcast", "new_broadcast"]);
    assert_eq!(states(&page).await, Vec::<u64>::new());
    // The page shows it as it is, too, by WebSocket.
    replica.ask(replica.request(Method::POST, "").json(&sent)).await;
    let shown = browser.open(&replica, "?user=ann").await;
    shown.shows("device-message", "one").await;
    let text = "return document.getElementById('device-message').textContent";
    assert_eq!(shown.evaluate(text, "").await, message);
}
