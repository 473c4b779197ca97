//! A replica that hangs behind the shipped balancer: its clients are let go, those of a quiet and healthy one are not.

use std::time::Duration;

use rustix::process::Signal;
use tokio::time::timeout;

use crate::operations::rolling_restart::three;
use crate::support::balancer::{Balancer, Kind};
use crate::support::{Client, Nats};

/// What the shipped file sets, and the same in seconds that a test can wait for.
const SHIPPED: &str = "timeout tunnel 90s";
const SHORT: &str = "timeout tunnel 4s";

async fn connect(balancer: &Balancer, user: &str) -> Client {
    let url = balancer.url().replace("http", "ws");
    let mut client = Client::connect(&format!("{url}/api/creator/broadcast/ws?user_id={user}")).await;
    client.greeted().await;
    client
}

#[tokio::test]
async fn haproxy_closes_the_websockets_of_a_replica_that_hangs_and_keeps_quiet_ones() {
    let nats = Nats::start().await;
    let replicas = three(&nats, "3", &["--heartbeat-seconds", "1"]).await;
    let balancer = Balancer::start_changed(Kind::Haproxy, &replicas, &[(SHIPPED, SHORT)]).await;
    // One connection a replica: the balancer gives the next one to whoever has the fewest.
    let mut clients = Vec::new();
    for user in ["a", "b", "c"] {
        clients.push(connect(&balancer, user).await);
    }
    let quiet = async |client: &mut Client| timeout(Duration::from_secs(9), client.closed()).await;
    for client in &mut clients {
        assert!(quiet(client).await.is_err(), "a WebSocket that hears nothing but pings lives on");
    }
    for replica in &replicas {
        replica.signal(Signal::STOP);
    }
    for client in &mut clients {
        client.closed().await;
    }
    for replica in &replicas {
        replica.signal(Signal::CONT);
    }
}
