//! The page at `/`, in a real browser: what a creator does there, and what the live client beside it shows.

use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::browser::ENTER;
use crate::support::{Browser, Nats, Replica, Spec, eventually};

#[tokio::test]
async fn a_broadcast_arrives_everywhere_is_acknowledged_and_is_taken_down() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let mut jon = replica.connect("jon").await;
    jon.greeted().await;
    let browser = Browser::start().await;
    let ann = browser.open(&replica, "?user=ann").await;
    let ann_elsewhere = browser.open(&replica, "?user=ann").await;
    let ben = browser.open(&replica, "?user=ben").await;
    ann.shows("creator-connections", "4").await;
    ann.shows("creator-users", "3").await;

    ann.choose("warning").await;
    ann.send("Back at noon").await;
    ann.shows("creator-outcome", "sent successfully to 3 connected users").await;
    ann.shows("creator-count", "0 / 280").await;
    for tab in [&ann, &ann_elsewhere, &ben] {
        tab.shows("device-message", "Back at noon").await;
        tab.shows("device-heading", "Warning").await;
    }
    let heard = jon.expect("new_broadcast").await;
    assert_eq!(heard["broadcast"]["message_type"], "warning");

    ann.click("device-acknowledge").await;
    ann.shows("device-receipt", "confirmed by the service").await;
    ann_elsewhere.shows("device-receipt", "on another device").await;
    ann.hides("device-banner").await;
    ann_elsewhere.hides("device-banner").await;
    ann.shows("creator-acknowledged", "1").await;
    ann.shows("creator-names", "ann").await;
    jon.acknowledge(heard["broadcast"]["id"].as_str().unwrap()).await;
    ann.shows("creator-acknowledged", "2").await;
    ben.shows("device-message", "Back at noon").await;

    ben.clear().await;
    ben.shows("creator-clear-outcome", "Cleared for 3 connected users").await;
    ben.hides("device-banner").await;
    assert_eq!(jon.expect("broadcast_cleared").await["broadcast_id"], heard["broadcast"]["id"]);
    ann.shows("creator-silent", "Nothing is shown").await;
    ann.shows("creator-history", "Cleared").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_the_service_refuses_is_said_in_its_words_and_a_message_is_never_markup() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "").await;

    page.click("creator-send").await;
    page.shows("creator-outcome", "Broadcast message cannot be empty.").await;
    page.send(&"x".repeat(281)).await;
    page.shows("creator-outcome", "Maximum 280 characters allowed. Current: 281").await;
    page.shows("creator-count", "281 / 280").await;
    assert_eq!(replica.readyz().await["sequence"], 0, "nothing was written");
    let refused = browser.console().await;
    assert!(refused.len() == 2 && refused.iter().all(|line| line.contains("422")), "{refused:?}");

    let markup = r#"<img src="/x" onerror="document.title='run'"><b>bold</b> & "quoted""#;
    page.send(markup).await;
    for part in ["device-message", "creator-active-message", "creator-history"] {
        page.shows(part, markup).await;
        let script = "return document.getElementById(arguments[0]).querySelectorAll('img, b').length";
        assert_eq!(page.evaluate(script, part).await, 0, "{part}");
    }
    assert_eq!(page.evaluate("return document.title", "").await, "Tidings");
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_comes_back_by_itself_and_shows_what_was_sent_meanwhile_once() {
    let nats = Nats::start().await;
    let [mut replica, other] = [Replica::start(&nats).await, Replica::start(&nats).await];
    replica.keep_port();
    let browser = Browser::start().await;
    let page = browser.open(&replica, "").await;
    page.fill("creator-message", "a draft").await;

    assert!(replica.terminate().await.success());
    page.shows("device-phase", "Reconnecting").await;
    let id = other.post_broadcast("while you were away").await["id"].as_str().unwrap().to_owned();
    replica.start_again().await;
    page.shows("device-phase", "Live").await;
    page.shows("device-message", "while you were away").await;
    // Everything up to this answer has been heard.
    page.click("device-acknowledge").await;
    page.shows("device-receipt", "confirmed by the service").await;
    let script = "return Array.from(document.querySelectorAll('#device-log li'), (line) => line.textContent) \
                  .filter((line) => line.includes(arguments[0]) && line.includes('_broadcast\",\"broadcast\"')).length";
    assert_eq!(page.evaluate(script, &id).await, 1, "shown once");
    let closed = "return document.getElementById('device-log').textContent.includes(arguments[0])";
    assert_eq!(page.evaluate(closed, "closed: 1012").await, true);
    assert_eq!(page.evaluate("return document.getElementById('creator-message').value", "").await, "a draft");
    // To come back it has to knock at a closed door. That is all the console may know of.
    let console = browser.console().await;
    assert!(console.iter().all(|line| line.starts_with("network: ")), "{console:?}");
}

#[tokio::test]
async fn an_acknowledgement_without_an_answer_is_sent_again_and_counts_once() {
    let nats = Nats::start().await;
    let patient = Spec::joining(nats.url()).with(&["--append-timeout-ms", "60000"]);
    let mut replica = Replica::start_with(patient).await;
    replica.keep_port();
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    let id = replica.post_broadcast("read this").await["id"].as_str().unwrap().to_owned();
    page.shows("device-message", "read this").await;

    nats.freeze();
    page.click("device-acknowledge").await;
    page.shows("device-acknowledge", "Acknowledging").await;
    replica.kill();
    page.shows("device-note", "Sent again as soon as the connection is back.").await;
    nats.thaw();
    replica.start_again().await;
    page.shows("device-receipt", "confirmed by the service").await;
    let asked = "return document.getElementById('device-log').textContent.split(arguments[0]).length - 1";
    assert_eq!(page.evaluate(asked, "acknowledge_broadcast").await, 2);
    let known = replica.request(Method::GET, &format!("/{id}")).send().await.unwrap();
    assert_eq!(known.json::<serde_json::Value>().await.unwrap()["broadcast"]["acknowledged"], 1);
}

#[tokio::test]
async fn pages_of_two_replicas_are_one() {
    let nats = Nats::start().await;
    let [one, two] = [Replica::start(&nats).await, Replica::start(&nats).await];
    let browser = Browser::start().await;
    let here = browser.open(&one, "?user=ann").await;
    let there = browser.open(&two, "?user=ann").await;
    here.shows("creator-replicas", "2").await;
    here.shows("creator-connections", "2").await;
    here.choose("alert").await;
    here.send("to both").await;
    here.click("question-yes").await;
    here.shows("device-message", "to both").await;
    there.shows("device-message", "to both").await;
    there.shows("creator-active-type", "Alert").await;
    there.click("device-acknowledge").await;
    there.shows("device-receipt", "confirmed by the service").await;
    here.shows("device-receipt", "on another device").await;
    here.shows("creator-acknowledged", "1").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_says_when_its_replica_is_on_its_own_and_goes_on() {
    let mut nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.shows("device-phase", "Live").await;
    nats.kill();
    page.shows("device-phase", "on its own").await;
    page.send("kept for the log").await;
    page.shows("device-message", "kept for the log").await;
    page.click("device-acknowledge").await;
    page.shows("device-receipt", "confirmed").await;
    nats.start_again().await;
    replica.in_mode("cluster").await;
    eventually("the page says so", async || page.text("device-phase").await == "Live").await;
    page.hides("device-banner").await;
    page.shows("creator-acknowledged", "1").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_page_turns_to_another_user_and_another_channel() {
    let nats = Nats::start().await;
    let replica = Replica::start_with(Spec::joining(nats.url()).with(&["--channels", "creator,forum"])).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.send("to creators").await;
    page.shows("device-message", "to creators").await;
    page.click("device-acknowledge").await;
    page.hides("device-banner").await;

    page.fill("user", "ben").await;
    page.press("user", ENTER).await;
    page.shows("whose", "ben").await;
    page.shows("device-message", "to creators").await;
    page.press("channel", "forum").await;
    page.shows("creator-silent", "Nothing is shown").await;
    page.hides("device-banner").await;
    page.send("to the forum").await;
    page.shows("device-message", "to the forum").await;
    assert_eq!(page.evaluate("return location.search", "").await, "?user=ben&channel=forum");
    eventually("one connection is left", async || replica.stats().await["connections_local"] == 0).await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_would_read_differently_from_what_it_is_is_shown_by_its_characters() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=%E2%80%AEn%E2%80%8Bna").await;
    let name = r"\u202En\u200Bna";
    page.send("hello 👩‍🚀").await;
    page.shows("creator-active-since", &format!("by {name}")).await;
    page.shows("device-message", "hello 👩‍🚀").await;
    page.click("device-acknowledge").await;
    for part in ["whose", "creator-name", "creator-active-since", "creator-names"] {
        page.shows(part, name).await;
        let script = "const part = document.getElementById(arguments[0]);
            return getComputedStyle(part.querySelector('bdi') ?? part).unicodeBidi";
        assert_eq!(page.evaluate(script, part).await, "isolate", "{part}");
    }
    let script = "return document.body.textContent.split(arguments[0]).length - 1";
    assert_eq!(page.evaluate(script, "\u{202E}").await, 0);
    assert_eq!(page.evaluate(script, "hello 👩‍🚀").await.as_u64().map(|shown| shown >= 2), Some(true));
    assert_eq!(browser.console().await, Vec::<String>::new());
}

/// What the browser tests cannot see: how the files are handed out.
#[tokio::test]
async fn the_page_is_handed_out_with_a_strict_policy_and_is_asked_for_again_each_time() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let get = |method: Method, path: &'static str| replica.raw_request(method, path);
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page/app.js", "text/javascript; charset=utf-8"),
        ("/page/style.css", "text/css; charset=utf-8"),
        ("/page/icon.svg", "image/svg+xml"),
    ] {
        let answer = get(Method::GET, path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
        let policy = header("content-security-policy");
        for rule in ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"]
        {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(
            ["content-type", "x-content-type-options", "referrer-policy", "cache-control"].map(header),
            [kind, "nosniff", "no-referrer", "no-cache"],
            "{path}"
        );
        let tag = header("etag");
        let length = answer.text().await.unwrap().len();

        let again = get(Method::GET, path).header("If-None-Match", &tag).send().await.unwrap();
        assert_eq!(
            (again.status(), again.headers()["etag"].to_str().unwrap()),
            (StatusCode::NOT_MODIFIED, tag.as_str())
        );
        assert_eq!(again.text().await.unwrap(), "", "{path}");
        let head = get(Method::HEAD, path).send().await.unwrap();
        assert_eq!(head.status(), StatusCode::OK, "{path}");
        assert_eq!(head.headers()["content-length"].to_str().unwrap(), length.to_string(), "{path}");
    }
    for (method, path, status, code) in [
        (Method::GET, "/page/none.js", StatusCode::NOT_FOUND, "not_found"),
        (Method::GET, "/page/../page.rs", StatusCode::NOT_FOUND, "not_found"),
        (Method::POST, "/", StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
    ] {
        let answer = get(method, path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.json::<serde_json::Value>().await.unwrap()["code"], json!(code), "{path}");
    }
}
