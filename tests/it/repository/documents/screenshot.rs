//! The screenshot in README.md. `cargo test --test it -- --ignored documents::screenshot` takes it again.

use std::path::Path;

use crate::support::{Browser, Nats, Replica};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/page.png");

#[test]
fn the_screenshot_is_small() {
    let size = Path::new(FILE).metadata().unwrap().len();
    assert!((10_000..200_000).contains(&size), "docs/page.png has {size} bytes");
}

#[tokio::test]
#[ignore = "writes docs/page.png"]
async fn the_screenshot_of_the_page() {
    let nats = Nats::start().await;
    let replica = Replica::start(&nats).await;
    let (mut ben, mut eva) = (replica.connect("ben").await, replica.connect("eva").await);
    ben.greeted().await;
    eva.greeted().await;
    let browser = Browser::start().await;
    let page = browser.open(&replica, "?user=ann").await;
    page.resize(1_180).await;
    page.send("Welcome to the new search. Tell us what you miss.").await;
    page.shows("device-message", "Welcome").await;
    page.choose("warning").await;
    page.send("The service restarts at noon. You will be back in a minute.").await;
    page.shows("device-message", "restarts at noon").await;
    for client in [&mut ben, &mut eva] {
        client.expect("new_broadcast").await;
        let id = client.expect("new_broadcast").await["broadcast"]["id"].as_str().unwrap().to_owned();
        client.acknowledge(&id).await;
    }
    page.shows("creator-acknowledged", "2").await;
    page.shows("creator-names", "eva").await;
    std::fs::write(FILE, page.screenshot().await).unwrap();
}
