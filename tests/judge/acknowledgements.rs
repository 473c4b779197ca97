//! Acknowledgements: what was confirmed is in the log, at the place that was told, and was news once.

use std::collections::BTreeMap;

use super::model::Model;

/// A confirmed acknowledgement.
#[derive(Clone, Debug)]
pub struct Acknowledgement {
    pub broadcast: String,
    pub user: String,
    /// Where in the log it is, if that was told.
    pub sequence: Option<u64>,
    /// Whether it was there before, if that was told.
    pub already: Option<bool>,
}

pub fn judge(confirmed: &[Acknowledgement], model: &Model) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut news = BTreeMap::<_, usize>::new();
    for acknowledgement in confirmed {
        let Acknowledgement { broadcast, user, sequence, already } = acknowledgement;
        let Some(first) = model.first_ack(broadcast, user) else {
            wrong.push(format!("the log does not count {acknowledgement:?}"));
            continue;
        };
        match (sequence, already) {
            (Some(told), Some(_)) if *told != first => {
                wrong.push(format!("it is at {first} in the log: {acknowledgement:?}"));
            }
            (Some(_), Some(false)) => *news.entry((user, broadcast)).or_default() += 1,
            _ => {}
        }
    }
    let twice = news.iter().filter(|(_, times)| **times > 1);
    wrong.extend(twice.map(|(ack, times)| format!("news {times} times: {ack:?}")));
    wrong
}
