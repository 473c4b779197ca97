//! Three NATS nodes of which some end.

use std::time::Duration;

use tokio::time::sleep;

use super::world::World;
use crate::support::{Cluster, Spec, within};

/// Nodes find a new leader within this time: an election takes a random time, and may have to be repeated.
const ELECTED_WITHIN: Duration = Duration::from_secs(40);

async fn world() -> (Cluster, World) {
    let cluster = Cluster::start().await;
    let spec = Spec::joining(cluster.url()).with(&["--stream-replicas", "3"]);
    let world = World::joining(&spec).await;
    (cluster, world)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn the_leader_is_killed_and_comes_back() {
    let (mut cluster, world) = world().await;
    let leader = cluster.log_leader(0).await;
    cluster.nodes[leader].kill();
    let other = cluster.log_leader((leader + 1) % 3).await;
    assert_ne!(other, leader);
    let before = world.position().await;
    within(ELECTED_WITHIN, "it goes on with two", || async { world.position().await > before + 50 }).await;
    cluster.nodes[leader].start_again().await;
    world.end(&cluster.nodes[other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn two_of_three_are_killed_and_come_back() {
    let (mut cluster, world) = world().await;
    let leader = cluster.log_leader(0).await;
    let victims = [leader, (leader + 1) % 3];
    for n in victims {
        cluster.nodes[n].kill();
    }
    world.in_mode("local", &[0, 1, 2]).await;
    sleep(Duration::from_secs(5)).await;
    for n in victims {
        cluster.nodes[n].start_again().await;
    }
    // What counts is when the log's leader answers again.
    let leader = cluster.log_leader(leader).await;
    world.end(&cluster.nodes[leader]).await;
}
