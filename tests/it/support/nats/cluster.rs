//! Three servers of one cluster, and who of them leads.

use std::path::Path;
use std::time::{Duration, Instant};

use tidings::log::jetstream::JetStreamLog;
use tidings::log::names::LOG_STREAM;

use super::{Nats, free_port, provisioned};
use crate::support::within;

/// Three servers of one cluster, by the configuration that is shipped for it.
pub struct Cluster {
    pub nodes: Vec<Nats>,
}

impl Cluster {
    pub async fn start() -> Self {
        Self::start_on(&[]).await
    }

    /// The same, with the streams of the first ones in these folders.
    pub async fn start_on(stores: &[&Path]) -> Self {
        let ports: Vec<_> = (0..3).map(|_| free_port()).collect();
        let routes: Vec<_> = ports.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let routes = format!("[{}]", routes.join(", "));
        let stores = stores.iter().copied().map(Some).chain(std::iter::repeat(None));
        let node = |(port, store): (&u16, Option<&Path>)| Nats::node(*port, &routes, store);
        let mut nodes: Vec<_> = ports.iter().zip(stores).map(node).collect();
        nodes.iter_mut().for_each(Nats::spawn);
        for node in &mut nodes {
            node.ready(true).await;
        }
        let cluster = Self { nodes };
        cluster.has_a_leader().await;
        cluster
    }

    /// Waits until the nodes agree on who leads.
    pub async fn has_a_leader(&self) {
        let context = self.nodes[0].jetstream().await;
        within(Duration::from_secs(40), "the cluster has a leader", || async {
            context.query_account().await.is_ok()
        })
        .await;
    }

    /// The node that leads the log's stream, once one does that this node knows of.
    pub async fn log_leader(&self, asked: usize) -> usize {
        let context = self.nodes[asked].jetstream().await;
        let started = Instant::now();
        loop {
            assert!(started.elapsed() < Duration::from_secs(40), "nobody leads the log's stream");
            // The leader itself answers, or nobody.
            if let Ok(stream) = context.get_stream(LOG_STREAM).await
                && let Some(cluster) = &stream.cached_info().cluster
                && let Some(leader) =
                    self.nodes.iter().position(|node| Some(&node.name) == cluster.leader.as_ref())
            {
                return leader;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Every node, for a client's list of servers.
    pub fn url(&self) -> String {
        self.nodes.iter().map(Nats::url).collect::<Vec<_>>().join(",")
    }

    /// The log with three copies, provisioned.
    pub async fn log(&self) -> JetStreamLog {
        provisioned(self.nodes[0].client().await, 3).await
    }
}

impl Nats {
    /// A node of three, as `nats/cluster.conf` has it; the flags are those that it names for one machine.
    fn node(cluster_port: u16, routes: &str, store: Option<&Path>) -> Self {
        let mut nats = Self::prepared();
        if let Some(store) = store {
            store.clone_into(&mut nats.store);
        }
        nats.configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats/cluster.conf");
        nats.environment = vec![
            ("NATS_NAME", nats.name.clone()),
            ("NATS_STORE", nats.store().display().to_string()),
            ("NATS_ROUTES", routes.to_owned()),
        ];
        let cluster = format!("nats://127.0.0.1:{cluster_port}");
        nats.extra = ["-a", "127.0.0.1", "-m", "-1", "--cluster", &cluster].map(str::to_owned).to_vec();
        nats
    }
}
