//! The HTTP server: requests that are malformed, too large or too many, limits of connections, and TLS in front.

mod answers;
mod behind_tls;
mod connection_limits;
mod floods;
mod random_bytes;
mod requests;
mod routes;
mod websockets;

use std::fs;

use crate::support::{Client, Nats, Replica, Spec, eventually};

/// A replica, somebody who listens to it, and what it had open before anything was done to it.
struct Calm {
    replica: Replica,
    listener: Client,
    descriptors: usize,
    sockets: u64,
    posted: u64,
    _nats: Nats,
}

impl Calm {
    async fn with(options: &[&str]) -> Self {
        let nats = Nats::start().await;
        let replica = Replica::start_with(Spec::joining(nats.url()).with(options)).await;
        let mut listener = replica.connect("listener").await;
        listener.greeted().await;
        let mut calm = Self { replica, listener, descriptors: 0, sockets: 0, posted: 0, _nats: nats };
        // What is opened with the first post is there from now on.
        calm.goes_on().await;
        calm.sockets = calm.replica.count("tidings_sockets").await;
        calm.descriptors = calm.open_descriptors();
        calm
    }

    /// A post succeeds, and is heard.
    async fn goes_on(&mut self) {
        self.posted += 1;
        let message = format!("number {}", self.posted);
        let id = self.replica.post_broadcast(&message).await["id"].clone();
        assert_eq!(self.listener.expect("new_broadcast").await["broadcast"]["id"], id);
    }

    fn open_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.replica.pid().as_raw_nonzero())).unwrap().count()
    }

    /// Nothing is left of whatever was done to it, and nothing was believed that should not be.
    async fn is_as_before(&mut self) {
        self.has_nothing_left().await;
        let sequence = self.replica.readyz().await["sequence"].as_u64().unwrap();
        assert_eq!(sequence, self.posted, "the log has what was posted, and nothing else");
    }

    /// Nothing is left of whatever was done to it.
    async fn has_nothing_left(&mut self) {
        eventually("its sockets are those of before", || async {
            self.replica.count("tidings_sockets").await <= self.sockets
        })
        .await;
        eventually("its descriptors are those of before", || async {
            self.open_descriptors() <= self.descriptors
        })
        .await;
        assert_eq!(self.replica.count("tidings_connections{channel=\"creator\"}").await, 1);
        self.goes_on().await;
        assert!(self.replica.is_ready().await);
    }
}
