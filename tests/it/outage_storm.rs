//! NATS that goes and comes at random under load: what was promised is kept, nobody is told twice, and everybody ends on the
//! log's truth.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::support::load::{Random, all_equal, load, promises_kept};
use crate::support::{Client, Nats, Replica, eventually, within};

/// How long the storm lasts.
const STORM: Duration = Duration::from_secs(25);

/// Listens until told to stop, and gives the client back with all that it heard.
fn listen(mut client: Client, stop: watch::Receiver<bool>) -> JoinHandle<Client> {
    tokio::spawn(async move {
        client.listen_until(stop).await;
        client
    })
}

/// Every replica works with the log. What waits at one is relayed an entry at a time, each a guarded append against the
/// others.
async fn together_again(replicas: &[Replica; 3]) {
    for replica in replicas {
        within(Duration::from_secs(90), "the log has all that waited", || async {
            replica.readyz().await["mode"] == "cluster"
        })
        .await;
    }
}

/// Kills and starts NATS again, or stops it for a while, with pauses of up to four seconds. The storm is the test: it
/// lasts as long as it lasts.
async fn rage(nats: &mut Nats, random: &mut Random) {
    let begun = Instant::now();
    let up_to =
        |random: &mut Random, seconds: u64| sleep(Duration::from_millis(random.below(seconds * 1_000)));
    while begun.elapsed() < STORM {
        up_to(random, 4).await;
        if random.below(2) == 0 {
            nats.kill();
            up_to(random, 4).await;
            nats.start_again().await;
        } else {
            nats.freeze();
            up_to(random, 5).await;
            nats.thaw();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promises_are_kept_while_nats_goes_and_comes() {
    let seed =
        std::env::var("SEED").map_or_else(|_| u64::from(std::process::id()), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    let mut random = Random(seed);
    let mut nats = Nats::start().await;
    let replicas = Replica::three(&nats).await;
    let (stop_listening, listening) = watch::channel(false);
    let mut listeners = Vec::new();
    for (n, replica) in replicas.iter().enumerate() {
        for user in ["listener-a", "listener-b"] {
            let mut client = replica.connect(&format!("{user}-{n}")).await;
            client.greeted().await;
            listeners.push((n, listen(client, listening.clone())));
        }
    }
    let stop = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> =
        replicas.iter().map(|r| load(r.url(), random.below(u64::MAX), stop.clone())).collect();
    rage(&mut nats, &mut random).await;
    // Commands that keep coming do not hold it up.
    together_again(&replicas).await;
    stop.store(true, Ordering::Relaxed);
    let mut journals = Vec::new();
    for load in loads {
        journals.push(load.await.unwrap());
    }
    together_again(&replicas).await;
    all_equal(&nats, &replicas).await;
    promises_kept(&nats, &journals).await;

    let active = replicas[0].active("eve").await;
    // Who is told last asks last: what was on its way has arrived before the answer.
    for (n, replica) in replicas.iter().enumerate() {
        assert_eq!(replica.active("eve").await, active, "replica {n}");
    }
    eventually("the hubs are done", || async {
        for replica in &replicas {
            if replica.count("tidings_announcements_waiting").await > 0 {
                return false;
            }
        }
        true
    })
    .await;
    stop_listening.send_replace(true);
    for (n, listener) in listeners {
        let mut client = listener.await.unwrap();
        client.send(serde_json::json!({"type": "get_active_broadcast"})).await;
        let asked = client.until("the answer", |m| m["type"] == "active_broadcast").await;
        assert_eq!(asked["broadcast"], active, "replica {n}");
        assert_eq!(
            shown_before_the_answer(&client),
            active["id"].as_str(),
            "replica {n}: {:?}",
            client.heard
        );
        let mut told = client.broadcasts();
        let all = told.len();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), all, "replica {n} told of a broadcast twice");
    }
}

/// What a client showed at the end by what it was told, without having asked.
fn shown_before_the_answer(client: &Client) -> Option<&str> {
    let told = client.heard.iter().rev().skip(1);
    let mut last = told.filter(|m| {
        ["new_broadcast", "active_broadcast", "broadcast_cleared"].contains(&m["type"].as_str().unwrap())
    });
    last.next().and_then(|message| message["broadcast"]["id"].as_str())
}
