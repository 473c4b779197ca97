//! `audit prove` and `audit check`: make a proof, and say what one proves.

use std::fs;
use std::io::{IsTerminal as _, Read, stdin, stdout};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::exit::{FOUND, UNSIGNED, code_of};
use super::keys::{given, own};
use super::{AuditInput, note, open_input};
use crate::audit::proof::extra::{ProvenEvent, ProvenFact};
use crate::audit::proof::{MAX_BYTES, Proof, VerifiedProof, of_source};
use crate::audit::terminal::{json_line, printable};
use crate::commands::print;
use crate::config::{Check, CheckFormat, Prove};
use crate::disk::private::write_private;
use crate::domain::UserId;
use crate::duration;
use crate::log::time::rfc3339;
use crate::notary::note::PublicKey;

/// How often it is asked for a new checkpoint.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Writes a proof, once it is known to be one.
pub(super) async fn prove(options: Prove) -> anyhow::Result<()> {
    let keys = if options.key.is_empty() { own(&options.from)? } else { given(&options.key)? };
    let input = open_input(&options.from).await?;
    let proof = match (prove_now(&options, &input, &keys).await, options.wait) {
        (Err(error), Some(wait)) if code_of(&error) == UNSIGNED => {
            note(format!("{error}; waiting up to {} for the next checkpoint", duration::display(wait)));
            wait_for_more(&input, &keys, wait).await?.ok_or(error)?;
            prove_now(&options, &input, &keys).await?
        }
        (proof, _) => proof?,
    };
    match &options.out {
        // A device, such as /dev/stdout, is written to and not replaced.
        Some(file) if fs::metadata(file).is_ok_and(|found| !found.is_file()) => {
            fs::write(file, proof.to_string()).with_context(|| format!("writing {}", file.display()))
        }
        Some(file) => write_private(file, proof.to_string()),
        None => print(&proof.to_string()),
    }
}

async fn prove_now(options: &Prove, input: &AuditInput, keys: &[PublicKey]) -> anyhow::Result<Proof> {
    let newest = input.newest_signed(keys).await?;
    of_source::prove(&input.source, newest, options.broadcast, options.user.as_ref()).await
}

/// Waits until everything is signed that the log has now; `None` when that takes too long.
async fn wait_for_more(input: &AuditInput, keys: &[PublicKey], wait: Duration) -> anyhow::Result<Option<()>> {
    let (end, last) = (Instant::now() + wait, input.source.head().await?.last_sequence);
    loop {
        let newest = input.newest_signed(keys).await?;
        if newest.is_some_and(|newest| newest.checkpoint.size >= last) {
            return Ok(Some(()));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Says what a proof proves: exit code 0, or 1 with the reason why it proves nothing. It asks nobody.
pub(super) fn check(options: &Check) -> anyhow::Result<ExitCode> {
    let (keys, proof) = (given(&options.key)?, read(&options.proof)?);
    let text = match options.format {
        CheckFormat::Auto => stdout().is_terminal(),
        CheckFormat::Text => true,
        CheckFormat::Json => false,
    };
    let checked = checked(&proof, &keys);
    print(&match &checked {
        Ok(verified) if text => sentence(verified),
        Ok(verified) => json_line(&to_json(verified)),
        Err(why) if text => format!("Nothing is proven: {}.\n", printable(why)),
        Err(why) => json_line(&json!({"proven": false, "reason": why})),
    })?;
    Ok(ExitCode::from(if checked.is_ok() { 0 } else { FOUND }))
}

fn checked(proof: &[u8], keys: &[PublicKey]) -> Result<VerifiedProof, String> {
    let text = std::str::from_utf8(proof).map_err(|_| "it is not UTF-8 text")?;
    let proof: Result<Proof, _> = text.parse();
    proof.and_then(|proof| proof.check(keys)).map_err(|error| error.to_string())
}

/// The file, or stdin for `-`; of one that is too long, enough to say so.
fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut read = |from: &mut dyn Read| from.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes);
    let done = match file.to_str() {
        Some("-") => read(&mut stdin()),
        _ => fs::File::open(file).and_then(|mut file| read(&mut file)),
    };
    done.with_context(|| format!("reading the proof {}", file.display()))?;
    Ok(bytes)
}

/// For people, in two lines.
fn sentence(VerifiedProof { event, checkpoint, signed_by }: &VerifiedProof) -> String {
    let ProvenEvent { sequence, time_ns, channel, what } = event;
    let (what, effect) = match what {
        ProvenFact::Acknowledged { broadcast_id, user, at } => {
            (format!("User {} acknowledged broadcast {broadcast_id} in {channel} at {at}", named(user)), "")
        }
        ProvenFact::Announced { broadcast, late } => {
            let message = json!(broadcast.message.as_str());
            let by = named(&broadcast.created_by);
            let (id, kind, at) = (broadcast.id, broadcast.severity.as_str(), broadcast.created_at);
            let effect = if *late {
                " It was overtaken before it reached the log, and is without effect."
            } else {
                ""
            };
            (format!("User {by} announced broadcast {id} ({kind}) in {channel} at {at}: {message}"), effect)
        }
    };
    let text = format!(
        "{what}; recorded as event {sequence} at {}; signed by {} as part of the log {}, up to event {}.{effect}",
        rfc3339(*time_ns),
        signed_by.name().as_str(),
        checkpoint.epoch,
        checkpoint.size
    );
    printable(&text) + "\n"
}

/// A user id may be any text at all: one that could be read as part of the sentence stands in quotes.
fn named(user: &UserId) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.@".contains(c);
    if user.as_str().chars().all(plain) { user.to_string() } else { json!(user.as_str()).to_string() }
}

/// For programs.
fn to_json(VerifiedProof { event, checkpoint, signed_by }: &VerifiedProof) -> Value {
    let mut json = match &event.what {
        ProvenFact::Acknowledged { broadcast_id, user, at } => json!({
            "proven": true,
            "type": "broadcast.acknowledged",
            "broadcast_id": broadcast_id,
            "user": user,
            "at": at,
        }),
        ProvenFact::Announced { broadcast, late } => json!({
            "proven": true,
            "type": "broadcast.created",
            "broadcast_id": broadcast.id,
            "broadcast": broadcast,
            "late": late,
        }),
    };
    json["channel"] = json!(event.channel);
    json["sequence"] = event.sequence.into();
    json["recorded_at"] = rfc3339(event.time_ns).into();
    json["epoch"] = json!(checkpoint.epoch);
    json["size"] = checkpoint.size.into();
    json["signed_by"] = signed_by.to_string().into();
    json
}
