//! Load whose doers write down what they were promised, and the judge who holds the log and the replicas to it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tidings::audit::state::state_at;
use tidings::log::EventLog;
use tokio::task::JoinHandle;

use super::log::everything;
use super::{Http, Nats, Replica};

/// A small generator, so that a failing run can be told by its seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What one creator and audience did, and what they were promised.
#[derive(Default)]
pub struct Journal {
    pub created: Vec<String>,
    pub acknowledged: Vec<(String, String)>,
}

/// Posts, clears and acknowledges against one replica until told to stop. An answer that does not come promises nothing.
pub fn load(url: String, seed: u64, stop: Arc<AtomicBool>) -> JoinHandle<Journal> {
    tokio::spawn(async move {
        let http = Http::patient(Duration::from_secs(5));
        let mut random = Random(seed);
        let mut journal = Journal::default();
        while !stop.load(Ordering::Relaxed) {
            let (path, body) = match (random.below(10), journal.created.last()) {
                (0, _) => ("/clear", json!({})),
                (1..6, Some(id)) => ("/acknowledge", json!({"broadcast_id": id})),
                _ => ("", json!({"message": format!("n{}", random.below(1_000_000))})),
            };
            let user = format!("u{}", random.below(50));
            let request =
                http.request(Method::POST, format!("{url}/api/creator/broadcast{path}")).json(&body);
            let request = request.header("X-User-Id", &user).header("X-User-Role", "creator");
            let Ok(answer) = request.send().await else { continue };
            let (ok, answer) =
                (answer.status().is_success(), answer.json::<Value>().await.unwrap_or_default());
            match (ok, path) {
                (true, "") => journal.created.push(answer["id"].as_str().unwrap().to_owned()),
                (true, "/acknowledge") => {
                    journal.acknowledged.push((body["broadcast_id"].as_str().unwrap().to_owned(), user));
                }
                _ => {}
            }
        }
        journal
    })
}

/// Every replica's digest is that of the others and of a clean replay of the log.
pub async fn all_equal(nats: &Nats, replicas: &[Replica; 3]) {
    let log = Arc::new(nats.log().await);
    let head = log.info().await.unwrap().last_sequence;
    let replayed = state_at(log, head).await.unwrap().state.digest.to_string();
    for replica in replicas {
        assert_eq!(replica.digest_at(head).await, replayed, "at sequence {head}");
    }
}

/// What was confirmed to anybody is in the log, and in it once.
pub async fn promises_kept(nats: &Nats, journals: &[Journal]) {
    let log = Arc::new(nats.log().await);
    let head = log.info().await.unwrap().last_sequence;
    let folded = state_at(log.clone(), head).await.unwrap();
    let created: usize = journals.iter().map(|journal| journal.created.len()).sum();
    assert!(created > 20, "{created} broadcasts are no load");
    let mut times = HashMap::new();
    for message in everything(&*log).await {
        *times.entry(message.header("ce-id").unwrap().to_owned()).or_insert(0) += 1;
    }
    for journal in journals {
        for id in &journal.created {
            assert_eq!(times.get(id), Some(&1), "{id} was confirmed, and is in the log so often");
            assert!(folded.state.broadcast(id.parse().unwrap()).is_some(), "{id} was confirmed");
        }
        for (id, user) in &journal.acknowledged {
            let known = folded.state.broadcast(id.parse().unwrap()).unwrap();
            assert!(
                known.acknowledged_at(&user.parse().unwrap()).is_some(),
                "{user} was told that {id} is acknowledged"
            );
        }
    }
}
