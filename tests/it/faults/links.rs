//! Links between replicas and NATS that are cut, hold things up, or lose one direction.

use std::time::Duration;

use tokio::time::sleep;

use super::judge::Evidence;
use super::people::{SECRET, Said};
use super::world::World;
use crate::support::{Condition, Nats};

/// Some links of three are in a condition, for so long after what this does to the replicas was seen.
async fn for_a_while(links: &[usize], condition: Condition, mode: &str, time: Duration) {
    with_options(&[], links, condition, mode, time).await;
}

async fn with_options(
    options: &[&str],
    links: &[usize],
    condition: Condition,
    mode: &str,
    time: Duration,
) -> Evidence {
    let nats = Nats::start_with_password(SECRET).await;
    let world = World::behind_links_with(&nats, options).await;
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
    world.end(&nats).await
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
    let reject = ["--on-outage", "reject"];
    let time = Duration::from_secs(4);
    let evidence = with_options(&reject, &[1], Condition::AnswersLost, "local", time).await;
    let said: Vec<_> = evidence.diaries.iter().flat_map(|d| &d.tried).flat_map(|tried| &tried.said).collect();
    assert!(!said.iter().any(|said| matches!(said, Said::Kept { .. })), "nothing is accepted alone");
    assert!(said.contains(&&Said::Unknown), "an append without an answer is said to be unknown");
    assert!(said.contains(&&Said::Refused { code: "log_away".to_owned() }), "the rest is refused");
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
