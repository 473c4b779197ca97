//! nats-server: logins, TLS, streams and buckets, the embedded server, and the behaviour that the design relies on.

mod embedded;
mod install_script;
mod logins;
mod provisioning;
mod server_behaviour;
mod tls;
