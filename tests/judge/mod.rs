//! The judge of the simulation and of the faults: what must hold whatever happened, by the log and by what was observed around
//! it. It reads the log itself, and shares nothing with the service but the bytes.

mod acknowledgements;
pub mod clients;
mod commands;
mod events;
pub mod model;

pub use acknowledgements::Acknowledgement;
pub use commands::{Answer, Command, Done};
pub use model::Model;

/// What was observed of a log that came to rest.
pub struct Observed {
    pub commands: Vec<Command>,
    /// Those that were confirmed.
    pub acknowledgements: Vec<Acknowledgement>,
    /// The digest of a clean replay, and that of each replica.
    pub replayed: String,
    pub digests: Vec<String>,
}

/// Every rule that does not hold.
pub fn judge(observed: &Observed, model: &Model) -> Vec<String> {
    let Observed { commands, acknowledgements, replayed, digests } = observed;
    let differ = digests.iter().enumerate().filter(|(_, digest)| *digest != replayed);
    let replicas =
        differ.map(|(replica, digest)| format!("{replica} has the digest {digest}, a replay {replayed}"));
    [
        commands::judge(commands, model),
        events::judge(commands, model),
        acknowledgements::judge(acknowledgements, model),
        replicas.collect(),
    ]
    .concat()
}
