//! Links between replicas and NATS that are cut, hold things up, or lose one direction.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::sleep;

use super::people::{SECRET, Said};
use super::world::World;
use crate::support::{Condition, Nats};

/// Some links of three are in a condition, for so long after what this does to the replicas was seen.
async fn for_a_while(links: &[usize], condition: Condition, mode: &str, time: Duration) {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links(&nats).await;
    for n in links {
        world.links[*n].become_(condition);
    }
    world.in_mode(mode, links).await;
    let others: Vec<_> = (0..3).filter(|n| !links.contains(n)).collect();
    world.in_mode("cluster", &others).await;
    sleep(time).await;
    for n in links {
        world.links[*n].become_(Condition::Whole);
    }
    world.end(&nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_cut_off() {
    for_a_while(&[2], Condition::Cut, "local", Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_are_cut_off_at_once_and_both_post_and_clear() {
    for_a_while(&[0, 1], Condition::Cut, "local", Duration::from_secs(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_lost() {
    for_a_while(&[1], Condition::AnswersLost, "local", Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_lost_and_nothing_is_accepted_alone() {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links_with(&nats, &["--on-outage", "reject"]).await;
    world.links[1].become_(Condition::AnswersLost);
    let post = world.replicas[1].request(Method::POST, "").json(&json!({"message": "lost"}));
    let (status, answer) = world.replicas[1].ask(post).await;
    assert_eq!((status, &answer["outcome"]), (503, &json!("unknown")), "{answer}");
    assert!(answer["id"].is_string(), "the id to ask for: {answer}");
    world.in_mode("local", &[1]).await;
    let post = world.replicas[1].request(Method::POST, "").json(&json!({"message": "refused"}));
    let (status, answer) = world.replicas[1].ask(post).await;
    assert_eq!((status, &answer["code"]), (503, &json!("log_away")), "{answer}");
    world.links[1].become_(Condition::Whole);
    let evidence = world.end(&nats).await;
    let said = evidence.diaries.iter().flat_map(|diary| &diary.tried).flat_map(|tried| &tried.said);
    let kept = said.filter(|said| matches!(said, Said::Kept { .. })).count();
    assert_eq!(kept, 0, "nothing is accepted alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn the_answers_of_all_are_lost() {
    for_a_while(&[0, 1, 2], Condition::AnswersLost, "local", Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn requests_are_lost() {
    for_a_while(&[0], Condition::RequestsLost, "local", Duration::from_secs(6)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open() {
    for_a_while(&[0], Condition::HalfOpen, "local", Duration::from_secs(2)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn all_half_open_for_long() {
    for_a_while(&[0, 1, 2], Condition::HalfOpen, "local", Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_takes_long() {
    let slow = Condition::Slow(Duration::from_millis(150));
    for_a_while(&[0, 1, 2], slow, "cluster", Duration::from_secs(5)).await;
}
