//! The creator's side of the page at `/`, in a real browser: what it says is true for as long as it says it, and nothing
//! happens by a slip.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::browser::{ENTER, ESCAPE, Tab};
use crate::support::{Browser, Nats, Replica, Spec, eventually, within};

/// Less than the time after which an outcome goes by itself.
const SOON: Duration = Duration::from_secs(5);

async fn is_gone_soon(tab: &Tab<'_>, id: &str) {
    within(SOON, &format!("#{id} is hidden"), async || tab.text(id).await.is_empty()).await;
}

async fn sequence(replica: &Replica) -> u64 {
    replica.readyz().await["sequence"].as_u64().unwrap()
}

#[tokio::test]
async fn an_outcome_goes_away_when_it_is_overtaken_when_the_text_is_changed_and_after_a_time() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;

    page.send("one").await;
    page.shows("creator-outcome", "sent successfully").await;
    let two = replica.post_broadcast("two").await["id"].clone();
    is_gone_soon(&page, "creator-outcome").await;

    page.shows("device-message", "two").await;
    page.send("three").await;
    page.shows("creator-outcome", "sent successfully").await;
    page.shows("device-message", "three").await;
    page.click("device-acknowledge").await;
    is_gone_soon(&page, "creator-outcome").await;

    page.clear().await;
    page.shows("creator-clear-outcome", "Cleared for 1 connected user.").await;
    page.click("creator-send").await;
    page.shows("creator-outcome", "cannot be empty").await;
    page.fill("creator-message", "four").await;
    is_gone_soon(&page, "creator-outcome").await;

    page.click("creator-send").await;
    page.shows("creator-outcome", "sent successfully").await;
    page.hides("creator-outcome").await;
    page.hides("creator-clear-outcome").await;
    page.shows("creator-active-message", "four").await;
    assert_ne!(replica.active("u").await["id"], two);
}

#[tokio::test]
async fn when_the_service_is_gone_both_sides_show_it_at_once_and_when_it_is_back_both_recover() {
    let nats = Nats::start().await;
    let mut replica = Replica::start(&nats).await;
    replica.keep_port();
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.send("before").await;
    page.shows("creator-active-message", "before").await;
    let script = "const stale = document.getElementById('creator-side').hasAttribute('data-stale');
        const text = (id) => document.getElementById(id).textContent;
        return [text('device-phase'), text('creator-stale'), stale]";
    let shown = page.evaluate(script, "").await;
    assert_eq!(shown, json!(["Live", "", false]));

    replica.kill();
    eventually("the user's side shows it", async || {
        let shown = page.evaluate(script, "").await;
        let said = shown[1].as_str().unwrap();
        // Never one without the other.
        assert_eq!(shown[0] != "Live", said.contains("No connection to the service"), "{shown}");
        assert_eq!(shown[0] != "Live", shown[2] == true, "{shown}");
        shown[0] != "Live"
    })
    .await;

    page.send("meanwhile").await;
    page.shows("creator-outcome", "The service does not answer. Try again").await;
    replica.start_again().await;
    page.shows("creator-outcome", "The service answers again").await;
    page.shows("device-phase", "Live").await;
    eventually("the creator's side is up to date", async || {
        page.evaluate(script, "").await == json!(["Live", "", false])
    })
    .await;
    page.click("creator-send").await;
    page.shows("creator-outcome", "sent successfully").await;
    page.shows("creator-active-message", "meanwhile").await;
    assert_eq!(sequence(&replica).await, 2, "each was sent once");
}

#[tokio::test]
async fn nothing_of_another_channel_is_shown_while_the_service_is_gone() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--channels", "creator,forum"]);
    let mut replica = Replica::start_with(spec).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.send("to creators").await;
    page.shows("creator-history", "to creators").await;
    replica.kill();
    page.shows("creator-stale", "No connection to the service").await;
    page.press("channel", "forum").await;
    page.hides("creator-active").await;
    for part in ["creator-history", "creator-silent", "creator-no-history"] {
        assert_eq!(page.text(part).await, "", "{part}: nothing is known of this channel");
    }
    assert_eq!(page.text("creator-users").await, "–");
}

#[tokio::test]
async fn why_a_connection_is_refused_is_said_in_plain_words_on_both_sides() {
    let nats = Nats::start().await;
    let spec = Spec::joining(nats.url()).with(&["--max-connections-per-user", "1"]);
    let replica = Replica::start_with(spec).await;
    let mut ann = replica.connect("ann").await;
    ann.greeted().await;
    let browser = Browser::start().await;
    // It may pass, so the page tries again.
    let page = browser.visit(&format!("{}/?user=ann", replica.url())).await;
    let too_many = "This user has as many connections as one user may have.";
    page.shows("device-refusal", too_many).await;
    page.shows("device-phase", "Reconnecting").await;
    page.shows("creator-stale", too_many).await;
    drop(ann);
    eventually("there is room", async || replica.stats().await["connections_local"] == 0).await;
    page.click("device-reconnect").await;
    page.shows("device-phase", "Live").await;
    page.hides("device-refusal").await;
    page.hides("creator-stale").await;

    // It does not, so the page waits for another user.
    let page = browser.visit(&format!("{}/?user={}", replica.url(), "x".repeat(129))).await;
    let nobody = "The service cannot tell who connects.";
    page.shows("device-refusal", nobody).await;
    page.shows("device-phase", "Refused").await;
    page.shows("creator-stale", nobody).await;
    page.fill("user", &format!("ben{ENTER}")).await;
    page.shows("device-phase", "Live").await;
    page.hides("device-refusal").await;
    page.hides("creator-stale").await;
}

#[tokio::test]
async fn nothing_is_cleared_by_a_slip() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    let is_disabled = "return document.getElementById('creator-clear').disabled";
    page.shows("creator-silent", "Nothing is shown").await;
    assert_eq!(page.evaluate(is_disabled, "").await, true, "there is nothing to clear");

    page.send("stays").await;
    page.shows("creator-active-message", "stays").await;
    for keep in ["", ESCAPE] {
        page.click("creator-clear").await;
        page.shows("question-quote", "stays").await;
        if keep.is_empty() {
            page.click("question-no").await;
        } else {
            page.press("question-no", keep).await;
        }
        page.hides("question").await;
    }
    // What comes while the question is open is not what was asked about.
    page.click("creator-clear").await;
    page.shows("question", "Clear what is on air?").await;
    replica.post_broadcast("newer").await;
    page.hides("question").await;
    page.shows("creator-active-message", "newer").await;
    assert_eq!(sequence(&replica).await, 2, "nothing was cleared");

    page.clear().await;
    page.shows("creator-silent", "Nothing is shown").await;
    assert_eq!(page.evaluate(is_disabled, "").await, true);
    assert_eq!(replica.active("u").await, Value::Null);
}

#[tokio::test]
async fn an_alert_goes_to_everyone_only_after_a_question() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.choose("alert").await;
    page.send("leave the building").await;
    page.shows("question-quote", "leave the building").await;
    page.click("question-no").await;
    page.hides("question").await;
    assert_eq!(
        page.evaluate("return document.getElementById('creator-message').value", "").await,
        "leave the building"
    );
    assert_eq!(sequence(&replica).await, 0, "nothing was sent");

    page.click("creator-send").await;
    page.click("question-yes").await;
    page.shows("device-message", "leave the building").await;
    page.choose("info").await;
    page.send("come back").await;
    page.shows("device-message", "come back").await;
    assert_eq!(sequence(&replica).await, 2);
}

#[tokio::test]
async fn a_creator_is_the_user_of_the_page_and_counts_of_one_user_agree() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=J%C3%B6rg+%E2%9C%93").await;
    let _other = browser.open(&replica, "?user=J%C3%B6rg+%E2%9C%93").await;
    page.shows("creator-name", "Jörg ✓").await;
    page.shows("creator-connections", "2").await;
    page.send("one user, two connections").await;
    page.shows("creator-outcome", "Broadcast sent successfully to 1 connected user.").await;
    page.shows("creator-users", "1").await;
    page.shows("creator-active-since", "by Jörg ✓").await;
    assert_eq!(replica.active("u").await["created_by"], "Jörg ✓");
    page.click("device-acknowledge").await;
    page.shows("creator-acknowledged", "1").await;
    page.shows("creator-history", "1 acknowledged, after ").await;

    page.fill("user", &format!("ben{ENTER}")).await;
    page.shows("creator-name", "ben").await;
    page.shows("device-phase", "Live").await;
    page.send("by another").await;
    page.shows("creator-active-since", "by ben").await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

#[tokio::test]
async fn the_address_chooses_one_side_and_the_users_side_alone_asks_as_an_application_does() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann&view=user").await;
    let visible = "return ['creator-form', 'creator-clear', 'creator-past', 'device-screen']
        .filter((id) => document.getElementById(id).checkVisibility())";
    assert_eq!(page.evaluate(visible, "").await, json!(["device-screen"]));
    replica.post_broadcast("for ann").await;
    page.shows("device-message", "for ann").await;
    page.click("device-acknowledge").await;
    page.shows("device-receipt", "confirmed by the service").await;
    let asked =
        "return performance.getEntriesByType('resource').filter(({name}) => name.includes('/api/')).length";
    assert_eq!(page.evaluate(asked, "").await, 0, "its one connection is all that it uses");
    let heard = "return document.getElementById('device-log').textContent.includes(arguments[0])";
    assert_eq!(page.evaluate(heard, "stats_update").await, false, "it is no creator");

    page.click("view-creator").await;
    page.shows("creator-active-message", "for ann").await;
    assert_eq!(page.evaluate("return location.search", "").await, "?user=ann&channel=creator&view=creator");
    assert_eq!(page.evaluate(visible, "").await, json!(["creator-form", "creator-clear", "creator-past"]));
    page.click("view-both").await;
    page.shows("device-phase", "Live").await;
    assert_eq!(page.evaluate(visible, "").await.as_array().unwrap().len(), 4);
    let is_alone = async || replica.stats().await["connections_local"] == 1;
    eventually("the pages that were left are not connected", is_alone).await;
    page.evaluate("history.back()", "").await;
    eventually("it is back", async || page.evaluate(visible, "").await.as_array().unwrap().len() == 3).await;
    replica.post_broadcast("it is connected again").await;
    page.shows("creator-active-message", "it is connected again").await;
    eventually("the page that was left is not connected", is_alone).await;
    assert_eq!(browser.console().await, Vec::<String>::new());
}

/// The requests of the page to the interface since it was asked last: when, in milliseconds, and what.
const ASKED: &str =
    "const found = performance.getEntriesByType('resource').filter(({name}) => name.includes('/api/'));
    return found.map(({name, startTime}) => [startTime, new URL(name).pathname + new URL(name).search])";

#[tokio::test]
async fn a_page_on_which_nothing_happens_asks_ever_less_often() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.shows("creator-silent", "Nothing is shown").await;
    replica.post_broadcast("quiet").await;
    page.shows("creator-active-message", "quiet").await;
    // What belongs to the broadcast itself comes within a second; what is further apart is looked for.
    let looks = async || {
        let asked: Vec<(f64, String)> = serde_json::from_value(page.evaluate(ASKED, "").await).unwrap();
        let apart = |pair: &[(f64, String)]| pair[1].0 - pair[0].0 > 1_500.0;
        asked.windows(2).filter(|pair| apart(pair)).map(|pair| pair[1].clone()).collect::<Vec<_>>()
    };
    within(Duration::from_mins(1), "it looked four times", async || looks().await.len() >= 4).await;
    let looks = looks().await;
    assert!(looks.iter().all(|(_, path)| path.contains("/history?limit=")), "{looks:?}");
    let gaps: Vec<f64> = looks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    assert!(gaps.is_sorted() && gaps[0] > 3_500.0, "{gaps:?}");

    let other = replica.request(Method::POST, "/acknowledge").header("X-User-Id", "jon");
    let id = replica.active("jon").await["id"].clone();
    assert_eq!(replica.ask(other.json(&json!({"broadcast_id": id}))).await.0, 200);
    within(Duration::from_mins(1), "it finds an acknowledgement all the same", async || {
        page.text("creator-names").await == "jon"
    })
    .await;
}

#[tokio::test]
async fn a_page_that_nobody_looks_at_asks_nothing_and_is_up_to_date_once_somebody_does() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.shows("creator-silent", "Nothing is shown").await;
    let count = "window.asked = 0; const ask = window.fetch;
        window.fetch = (...request) => { asked += 1; return ask(...request); }";
    page.evaluate(count, "").await;
    page.minimize().await;
    eventually("it is hidden", async || page.evaluate("return document.hidden", "").await == true).await;
    replica.post_broadcast("nobody looks").await;
    let message = "return document.getElementById('device-message').textContent";
    eventually("it is told", async || page.evaluate(message, "").await == "nobody looks").await;
    assert_eq!(page.evaluate("return asked", "").await, 0);
    page.restore().await;
    page.shows("creator-active-message", "nobody looks").await;
    assert_ne!(page.evaluate("return asked", "").await, 0);
}

#[tokio::test]
async fn the_margins_are_equal_on_every_screen() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.send("on a small screen").await;
    page.shows("creator-active-message", "on a small screen").await;
    // What sticks out of the page, of its card or of its margins.
    let uneven = "const rect = (part) => part.getBoundingClientRect();
        const width = document.documentElement.clientWidth;
        const cards = Array.from(document.querySelectorAll('.card, .device'));
        const outside = (card) => Array.from(card.querySelectorAll(':scope *'))
            .filter((part) => part.checkVisibility() && part.closest('.screen') === null && part.tagName !== 'INPUT'
                && rect(part).right > rect(card).right + 0.5).map((part) => part.outerHTML);
        const uneven = cards.filter((card) => Math.abs(rect(card).left - (width - rect(card).right)) > 0.5);
        return [document.documentElement.scrollWidth > width, ...uneven.map(({className}) => className), ...cards.flatMap(outside)]";
    for width in [320, 360, 390, 768] {
        page.resize(width).await;
        assert_eq!(page.evaluate(uneven, "").await, json!([false]), "{width} px");
    }
}
