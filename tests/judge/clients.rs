//! Clients: no change of what is active is lost, doubled or out of order.

use std::collections::BTreeSet;

use serde_json::Value;
use tidings::log::Position;

use super::model::Model;

/// The sequence in the position of a message.
pub fn sequence_in(message: &Value) -> Option<u64> {
    let position: Position = message["position"].as_str()?.parse().ok()?;
    Some(position.sequence)
}

/// What a client was told of changes, in order: the sequence, and the broadcast that was active from then on.
pub fn changes(heard: &[Value]) -> Vec<(Option<u64>, Option<&str>)> {
    let changes = heard.iter().filter_map(|message| match message["type"].as_str()? {
        "new_broadcast" => Some((sequence_in(message), message["broadcast"]["id"].as_str())),
        "broadcast_cleared" => Some((sequence_in(message), None)),
        _ => None,
    });
    changes.collect()
}

/// Every change after the snapshot, in order, once: all of them for a client that stayed, and for one that was closed or left
/// up to the last one that it got.
pub fn every_change(
    heard: &[Value],
    channel: &str,
    begun: u64,
    stayed: bool,
    model: &Model,
) -> Result<(), String> {
    let told = changes(heard);
    let here = model.turns.iter().filter(|turn| turn.channel == channel && turn.sequence > begun);
    let expected: Vec<_> = here.map(|turn| (Some(turn.sequence), turn.active.as_deref())).collect();
    if expected.starts_with(&told) && (!stayed || told.len() == expected.len()) {
        return Ok(());
    }
    let differs = told.iter().zip(&expected).position(|(told, expected)| told != expected);
    let at = differs.unwrap_or_else(|| told.len().min(expected.len()));
    Err(format!(
        "after {begun} it was told {} of {} changes; the first that differs: {:?} for {:?}",
        told.len(),
        expected.len(),
        told.get(at),
        expected.get(at)
    ))
}

/// Whatever happened, nobody is shown a broadcast as new twice.
pub fn once_at_most(heard: &[Value]) -> Result<(), String> {
    let mut new = BTreeSet::new();
    let twice = changes(heard).into_iter().find(|(_, id)| id.is_some_and(|id| !new.insert(id)));
    twice.map_or(Ok(()), |twice| Err(format!("it was told of {twice:?} as new again")))
}
