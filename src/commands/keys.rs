//! Keys on disk: made once, readable by their owner alone.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use tracing::{info, warn};

use super::data_dir::{CHECKPOINT_KEY, CHECKPOINT_PUBLIC_KEY, DataDir};
use crate::clock::SystemClock;
use crate::config::{CheckpointOptions, Serve};
use crate::disk::private;
use crate::notary::note::{InvalidKey, KeyName, SecretKey};

/// Makes a key of this name in a file that is not there yet.
pub(super) fn generate(name: KeyName, file: &Path) -> anyhow::Result<SecretKey> {
    let key = SecretKey::new(name, &SystemClock::new_seed()?);
    match private::write_new(file, format!("{}\n", key.reveal())) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            bail!("{} is there already, and a key is not written over: name another file", file.display())
        }
        written => written.with_context(|| format!("writing the key into {}", file.display()))?,
    }
    Ok(key)
}

/// The key in a file, which is made with this name when it is missing. Several replicas that share the file and start at once
/// have the same key.
fn read_or_generate(name: &KeyName, file: &Path) -> anyhow::Result<SecretKey> {
    if !is_missing(file) {
        return read(file);
    }
    match generate(name.clone(), file) {
        Ok(key) => {
            info!("made a key that signs checkpoints: {}", file.display());
            Ok(key)
        }
        Err(_) if !is_missing(file) => read(file),
        Err(error) => Err(error),
    }
}

/// Reads the keys that were given, but for one that a start would make.
pub(super) fn check(options: &CheckpointOptions) -> anyhow::Result<()> {
    match (&options.checkpoint_key[..], &options.checkpoint_key_name) {
        ([file], Some(_)) if is_missing(file) => Ok(()),
        (files, _) => files.iter().try_for_each(|file| read(file).map(drop)),
    }
}

fn is_missing(file: &Path) -> bool {
    fs::metadata(file).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

fn read(file: &Path) -> anyhow::Result<SecretKey> {
    let text = String::from_utf8(private::read_secret(file, "the key")?);
    let text = text.map_err(|_| anyhow!("{} is no key: it is not UTF-8", file.display()))?;
    text.parse().map_err(|why: InvalidKey| anyhow!("{} is no key: {why}", file.display()))
}

/// The keys that a replica signs checkpoints with: those given, else the one of its data directory if it runs a NATS of its
/// own and so is the only one to sign.
pub(super) fn of_replica(
    options: &Serve,
    data_dir: &DataDir,
    replica: &str,
) -> anyhow::Result<Vec<SecretKey>> {
    let CheckpointOptions { checkpoint_key: given, checkpoint_key_name: name, .. } = &options.checkpoints;
    let keys = match (&given[..], name) {
        ([file], Some(name)) => vec![read_or_generate(name, file)?],
        ([], _) if options.nats.nats.is_empty() => vec![of_data_dir(data_dir, replica)?],
        _ => given.iter().map(|file| read(file)).collect::<anyhow::Result<_>>()?,
    };
    for key in &keys {
        info!("checkpoints are signed with a key whose public half is {}", key.public());
    }
    if keys.is_empty() && options.checkpoints.checkpoint_public_key.is_empty() {
        warn!(
            "this replica signs no checkpoints of the log: without any, nobody can prove later that the log was not \
             changed. Make one key for all replicas (`tidings admin keygen --name example.com/tidings checkpoint.key`) and \
             start each with --checkpoint-key checkpoint.key; where others sign, name their keys with \
             --checkpoint-public-key"
        );
    }
    Ok(keys)
}

fn of_data_dir(data_dir: &DataDir, replica: &str) -> anyhow::Result<SecretKey> {
    let name = format!("tidings.local/{replica}").parse()?;
    let key = read_or_generate(&name, &data_dir.join(CHECKPOINT_KEY))?;
    if let Err(error) = data_dir.write(CHECKPOINT_PUBLIC_KEY, &key.public().to_string()) {
        warn!("`tidings audit` does not find the public key by itself: {error:#}");
    }
    Ok(key)
}
