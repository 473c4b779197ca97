//! Creators who post through the balancer, and retry under one key until the post is taken.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::audience::Journal;
use crate::support::choose_cryptography;
use crate::support::{PATIENCE, eventually};

/// A post that was taken in the end.
#[derive(Debug)]
pub struct Posted {
    pub id: String,
    /// Tries without an answer of Tidings: the connection ended, or the balancer answered itself.
    pub lost: Vec<String>,
    /// Tries that a replica answered with an error that asks for another.
    pub asked_to_retry: Vec<String>,
    pub took: Duration,
}

/// Posts; when everyone has been shown it, posts the next.
pub async fn one_after_the_other(
    url: String,
    audience: Vec<Arc<Mutex<Journal>>>,
    stop: Arc<AtomicBool>,
) -> Vec<Posted> {
    let (http, mut all) = (client(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        let posted = post(&http, &url, "creator", all.len()).await;
        eventually("everyone has been shown it", || async {
            audience.iter().all(|journal| journal.lock().unwrap().is_done_with(&posted.id))
        })
        .await;
        all.push(posted);
    }
    all
}

/// Posts to another channel, where nobody listens, as fast as the answers come.
pub async fn without_pause(url: String, stop: Arc<AtomicBool>) -> Vec<Posted> {
    let (http, mut all) = (client(), Vec::new());
    while !stop.load(Ordering::Relaxed) {
        all.push(post(&http, &url, "forum", all.len()).await);
    }
    all
}

fn client() -> reqwest::Client {
    choose_cryptography();
    reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap()
}

async fn post(http: &reqwest::Client, url: &str, channel: &str, n: usize) -> Posted {
    let (began, mut lost, mut asked_to_retry) = (Instant::now(), Vec::new(), Vec::new());
    loop {
        assert!(began.elapsed() < PATIENCE, "post {n} is not taken: {lost:?}, {asked_to_retry:?}");
        let request = http.post(format!("{url}/api/{channel}/broadcast"));
        let request = request.header("Idempotency-Key", format!("post {n}"));
        match request.json(&json!({"message": format!("post {n}")})).send().await {
            Err(error) => lost.push(format!("{error:?}")),
            Ok(answer) => {
                let status = answer.status().as_u16();
                let body = answer.json::<Value>().await.unwrap_or_default();
                if status == 201 {
                    let id = body["id"].as_str().unwrap().to_owned();
                    return Posted { id, lost, asked_to_retry, took: began.elapsed() };
                }
                assert!(status >= 500, "{status} {body}");
                match body["code"].as_str() {
                    Some(code) => asked_to_retry.push(code.to_owned()),
                    None => lost.push(status.to_string()),
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
