//! What a replica is started with.

use std::path::PathBuf;

/// The arguments, the environment and the surroundings of a replica.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    pub nats: Option<String>,
    pub arguments: Vec<String>,
    pub environment: Vec<(String, String)>,
    /// Where it listens; 0 lets the system choose.
    pub port: u16,
    /// Where its data is, unless it is in a folder of its own.
    pub data_dir: Option<PathBuf>,
    /// Another name of the built binary, where it matters by which it is run.
    pub binary: Option<PathBuf>,
    /// The configuration of an nginx that ends TLS in front of it.
    pub behind: Option<String>,
}

impl Spec {
    /// One that joins this NATS.
    pub fn joining(url: impl Into<String>) -> Self {
        Self { nats: Some(url.into()), ..Self::default() }
    }

    /// One with a NATS of its own.
    pub fn embedded() -> Self {
        Self::default()
    }

    pub fn run_as(mut self, binary: PathBuf) -> Self {
        self.binary = Some(binary);
        self
    }

    /// Behind an nginx with this configuration.
    pub fn behind(mut self, nginx: String) -> Self {
        self.behind = Some(nginx);
        self
    }

    /// With its data in a folder that others look after.
    pub fn keeping_data_in(mut self, folder: PathBuf) -> Self {
        self.data_dir = Some(folder);
        self
    }

    pub fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }
}
