//! Keys on disk: made once, readable by their owner alone.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use tracing::{info, warn};

use super::data_dir::{CHECKPOINT_KEY, CHECKPOINT_PUBLIC_KEY, DataDir};
use crate::clock::SystemClock;
use crate::config::Serve;
use crate::disk::private;
use crate::notary::note::{KeyName, SecretKey};

/// Makes a key of this name in a file that is not there yet.
pub(super) fn generate(name: KeyName, file: &Path) -> anyhow::Result<SecretKey> {
    let key = SecretKey::new(name, &SystemClock::new_seed()?);
    let written = private::create_new(file).and_then(|mut opened| {
        writeln!(opened, "{}", key.reveal())?;
        opened.sync_all()
    });
    written.with_context(|| format!("writing the key into {}", file.display()))?;
    Ok(key)
}

fn read(file: &Path) -> anyhow::Result<SecretKey> {
    let text = String::from_utf8(private::read_secret(file, "the key")?);
    let text = text.map_err(|_| anyhow!("{} is no key: it is not UTF-8", file.display()))?;
    text.parse().map_err(|why: String| anyhow!("{} is no key: {why}", file.display()))
}

/// The keys that a replica signs checkpoints with: those given, else the one of its data directory if it runs a NATS of its
/// own and so is the only one to sign.
pub(super) fn of_replica(
    options: &Serve,
    data_dir: &DataDir,
    replica: &str,
) -> anyhow::Result<Vec<SecretKey>> {
    let given = &options.checkpoints.checkpoint_key;
    if !given.is_empty() || !options.nats.nats.is_empty() {
        return given.iter().map(|file| read(file)).collect();
    }
    let file = data_dir.join(CHECKPOINT_KEY);
    let key = match fs::metadata(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let name = format!("tidings.local/{replica}").parse().map_err(|why: String| anyhow!(why))?;
            let key = generate(name, &file)?;
            info!("made a key that signs checkpoints: {}", file.display());
            key
        }
        _ => read(&file)?,
    };
    if let Err(error) = data_dir.write(CHECKPOINT_PUBLIC_KEY, &key.public().to_string()) {
        warn!("`tidings audit` does not find the public key by itself: {error:#}");
    }
    Ok(vec![key])
}
