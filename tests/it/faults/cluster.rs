//! Three NATS nodes of which some end.

use std::time::Duration;

use tokio::time::sleep;

use super::world::World;
use crate::support::{Cluster, Spec, eventually};

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
    let leader = cluster.log_leader().await;
    cluster.nodes[leader].kill();
    let before = world.position().await;
    eventually("another one leads", || async { world.position().await > before + 50 }).await;
    cluster.nodes[leader].start_again().await;
    world.end(&cluster.nodes[0]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow: make faults"]
async fn two_of_three_are_killed_and_come_back() {
    let (mut cluster, world) = world().await;
    let leader = cluster.log_leader().await;
    let victims = [leader, (leader + 1) % 3];
    for n in victims {
        cluster.nodes[n].kill();
    }
    world.in_mode("local", &[0, 1, 2]).await;
    sleep(Duration::from_secs(5)).await;
    for n in victims {
        cluster.nodes[n].start_again().await;
    }
    cluster.has_a_leader().await;
    world.end(&cluster.nodes[0]).await;
}
