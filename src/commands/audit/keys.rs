//! The public keys by which an auditor knows who signed.

use std::path::Path;

use anyhow::{Context as _, anyhow};

use super::exit::WrongUsage;
use crate::commands::data_dir::{CHECKPOINT_PUBLIC_KEY, read};
use crate::config::LogFrom;
use crate::disk::read_small;
use crate::notary::note::{InvalidKey, PublicKey, SECRET};

/// The keys that were named, each by itself or by a file with one or several, a line each.
pub(super) fn given(named: &[String]) -> anyhow::Result<Vec<PublicKey>> {
    let mut keys = Vec::new();
    for named in named {
        let read = match named.parse::<PublicKey>() {
            Ok(key) => {
                keys.push(key);
                continue;
            }
            // It is said nowhere again.
            Err(why) if named.trim().starts_with(SECRET) => return Err(WrongUsage(why.to_string()).into()),
            Err(_) => read_small(Path::new(named)),
        };
        let text = read.with_context(|| format!("{named} is neither a public key nor a file with one"))?;
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            keys.push(line.parse().map_err(|why: InvalidKey| WrongUsage(format!("in {named}: {why}")))?);
        }
    }
    Ok(keys)
}

/// The one that a replica with a NATS of its own has made for itself, where it is that replica's log.
pub(super) fn own(from: &LogFrom) -> anyhow::Result<Vec<PublicKey>> {
    let is_its_log = from.file.is_none() && from.nats.nats.is_empty();
    let own = read(&from.nats.data_dir, CHECKPOINT_PUBLIC_KEY).filter(|_| is_its_log);
    own.map(|key| key.parse().map_err(|why: InvalidKey| anyhow!("in the data directory: {why}")))
        .into_iter()
        .collect()
}
