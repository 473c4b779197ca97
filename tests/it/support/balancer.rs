//! Real balancers, with the configurations of `tests/balancer/`: only addresses differ from what is shipped.

use super::nats::free_port;
use super::program::{NGINX_ARGUMENTS, NGINX_AROUND, Program, replace};
use super::{Replica, eventually, shipped};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Haproxy,
    Nginx,
}

pub struct Balancer {
    _program: Program,
    port: u16,
}

impl Balancer {
    /// Starts one in front of three replicas and waits until it finds one of them ready.
    pub async fn start(kind: Kind, replicas: &[Replica; 3]) -> Self {
        Self::start_changed(kind, replicas, &[]).await
    }

    /// The same with other values of what the shipped file sets, as (shipped, instead).
    pub async fn start_changed(kind: Kind, replicas: &[Replica; 3], changes: &[(&str, &str)]) -> Self {
        let port = free_port();
        let (name, file, listening, arguments) = match kind {
            Kind::Haproxy => ("haproxy", "haproxy.cfg", "bind :8000", &["-db", "-f", "haproxy.cfg"][..]),
            Kind::Nginx => ("nginx", "nginx.conf", "listen 8000", NGINX_ARGUMENTS),
        };
        let mut shipped = shipped(&format!("tests/balancer/{file}"));
        let listen = listening.replace(":8000", "8000").replace("8000", &format!("127.0.0.1:{port}"));
        replace(&mut shipped, listening, &listen);
        for (n, replica) in (1..).zip(replicas) {
            replace(&mut shipped, &format!(" replica-{n}:8000"), &format!(" {}", address(replica)));
        }
        for (before, after) in changes {
            replace(&mut shipped, before, after);
        }
        let program = Program::start(name, arguments, &[(file, &shipped), ("main.conf", NGINX_AROUND)]);
        let balancer = Self { _program: program, port };
        let ready = format!("{}/readyz", balancer.url());
        eventually("the balancer finds a replica that is ready", || async {
            reqwest::get(&ready).await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        balancer
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

fn address(replica: &Replica) -> String {
    replica.url().trim_start_matches("http://").to_owned()
}
