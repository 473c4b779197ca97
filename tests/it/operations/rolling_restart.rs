//! A rolling restart behind a real balancer, under load: nothing is lost and nothing is doubled for clients that reconnect.

mod audience;
mod creator;
mod hung;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::support::balancer::{Balancer, Kind};
use crate::support::nats::free_port;
use crate::support::replica::metric_in;
use crate::support::{Nats, Replica, Spec, eventually};
use audience::{Journal, Member};
use creator::Posted;

const WEBSOCKETS: usize = 60;
const EVENT_STREAMS: usize = 8;

/// Posts that a replica has answered since it began.
const POSTED: &str =
    r#"tidings_http_requests_total{method="POST",route="/api/{channel}/broadcast",status="201"}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_haproxy_loses_and_doubles_nothing() {
    let posted = rolling_restart(Kind::Haproxy, "3").await;
    // It looked at /readyz and sent nobody to a replica that was about to stop.
    let lost: Vec<_> = posted.iter().flat_map(|posted| &posted.lost).collect();
    assert!(lost.is_empty(), "answers that the balancer lost: {lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_behind_nginx_loses_and_doubles_nothing() {
    rolling_restart(Kind::Nginx, "1").await;
}

/// Restarts three replicas one after the other while a creator posts and an audience acknowledges; then judges by what
/// each of them wrote down, and by the log. Returns every post.
async fn rolling_restart(kind: Kind, grace: &str) -> Vec<Posted> {
    let nats = Nats::start().await;
    let mut replicas = three(&nats, grace, &[]).await;
    let balancer = Balancer::start(kind, &replicas).await;
    let audience: Vec<_> = (0..WEBSOCKETS)
        .map(|n| Member::websocket(&balancer.url(), format!("w{n}")))
        .chain((0..EVENT_STREAMS).map(|n| Member::event_stream(balancer.url(), format!("s{n}"))))
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let paced = tokio::spawn(creator::one_after_the_other(
        balancer.url(),
        audience.iter().map(|member| member.journal.clone()).collect(),
        stop.clone(),
    ));
    let busy = tokio::spawn(creator::without_pause(balancer.url(), stop.clone()));

    for replica in &mut replicas {
        assert_eq!(replica.terminate().await.code(), Some(0), "{}", replica.log());
        replica.start_again().await;
        // Until then the next one must not go, as the operations say: nginx leaves one that has refused alone for a while.
        let again = &*replica;
        eventually("the balancer sends to it again", || async {
            metric_in(&again.metrics().await, POSTED).is_some_and(|posts| posts > 0.0)
        })
        .await;
    }
    // Every client was sent away at least once, and all of them are back.
    eventually("everybody is connected", || async {
        replicas[0].stats().await["connections"] == WEBSOCKETS + EVENT_STREAMS
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    let (paced, busy) = (paced.await.unwrap(), busy.await.unwrap());
    let journals: Vec<_> = audience.into_iter().map(Member::leave).collect();

    let order: HashMap<_, _> = paced.iter().enumerate().map(|(n, posted)| (posted.id.clone(), n)).collect();
    for journal in &journals {
        judge(journal, &order);
    }
    judge_log(&replicas[0], &paced, &busy, &journals).await;
    report(kind, &paced, &busy, &journals);
    paced.into_iter().chain(busy).collect()
}

async fn three(nats: &Nats, grace: &str, more: &[&str]) -> [Replica; 3] {
    let spec = || {
        let listen = format!("127.0.0.1:{}", free_port());
        Spec::joining(nats.url())
            .with(&[
                "--listen",
                &listen,
                "--channels",
                "creator,forum",
                "--drain-grace-seconds",
                grace,
                "--drain-seconds",
                "1",
            ])
            .with(more)
    };
    [Replica::start_with(spec()).await, Replica::start_with(spec()).await, Replica::start_with(spec()).await]
}

/// What one client wrote down.
fn judge(journal: &Journal, order: &HashMap<String, usize>) {
    let who = &journal.user;
    assert!(!journal.ends.is_empty(), "{who} was on a replica that was restarted");
    for end in &journal.ends {
        assert!(end.retry_after_ms.is_some(), "{who}: {end:?} is not a restart with a hint");
    }
    let shown: Vec<_> = journal.shown.iter().map(|id| order[id]).collect();
    assert!(shown.is_sorted(), "{who} was shown the past: {shown:?}");
    let seen: HashSet<_> = shown.iter().copied().collect();
    assert_eq!(seen.len(), order.len(), "{who} missed some: {shown:?}");
    let news: HashSet<_> = journal.news.iter().collect();
    assert_eq!(news.len(), journal.news.len(), "{who} got news twice: {:?}", journal.news);
}

/// What the log has, against what was promised.
async fn judge_log(replica: &Replica, paced: &[Posted], busy: &[Posted], journals: &[Journal]) {
    let output = replica.tidings(&["audit", "replay", "--format", "ndjson"]).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut created: BTreeMap<String, usize> = BTreeMap::new();
    let mut acknowledged: HashMap<(String, String), usize> = HashMap::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        match event["type"].as_str().unwrap() {
            kind if kind.ends_with("created") => *created.entry(text(&event["data"]["id"])).or_default() += 1,
            kind if kind.ends_with("acknowledged") => {
                let id = text(&event["data"]["broadcast_id"]);
                for one in event["data"]["acknowledgements"].as_array().unwrap() {
                    *acknowledged.entry((id.clone(), text(&one["user"]))).or_default() += 1;
                }
            }
            other => panic!("nobody did {other}"),
        }
    }
    let promised: BTreeMap<_, _> = paced.iter().chain(busy).map(|posted| (posted.id.clone(), 1)).collect();
    assert_eq!(promised.len(), paced.len() + busy.len(), "two posts got one id");
    assert_eq!(created, promised, "each post is in the log once, and nothing else");
    for journal in journals {
        for id in &journal.confirmed {
            let times = acknowledged.get(&(id.clone(), journal.user.clone()));
            assert_eq!(times, Some(&1), "{} was told that {id} is acknowledged", journal.user);
        }
    }
}

fn report(kind: Kind, paced: &[Posted], busy: &[Posted], journals: &[Journal]) {
    let posts = || paced.iter().chain(busy);
    println!(
        "{kind:?}: {} posts, {} of them shown to all; lost answers: {:?}; retries asked for by a replica: {:?}; \
         {} connections ended, {} attempts to connect were turned away; slowest answer {:?}",
        posts().count(),
        paced.len(),
        posts().flat_map(|posted| &posted.lost).collect::<Vec<_>>(),
        posts().flat_map(|posted| &posted.asked_to_retry).collect::<Vec<_>>(),
        journals.iter().map(|journal| journal.ends.len()).sum::<usize>(),
        journals.iter().map(|journal| journal.turned_away).sum::<usize>(),
        posts().map(|posted| posted.took).max().unwrap_or(Duration::ZERO),
    );
}
