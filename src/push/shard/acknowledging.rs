//! What a shard's clients acknowledge: asked for together, and answered together.
//!
//! Both ways it is many at a time: what one look at the sockets brought is one lot, and what one event confirmed comes back
//! as one message.

use std::collections::VecDeque;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::{Request, Shard};
use crate::push::client::{Answered, Asking};

/// Acknowledgements of a shard on their way. Sessions bound how many those of one client can be.
#[derive(Default)]
pub(super) struct Acknowledging {
    /// What was heard and is not asked for yet.
    asked: Vec<Asking>,
    /// What is to be said to clients.
    answered: VecDeque<Answered>,
}

impl Acknowledging {
    /// Whether clients wait for answers that are there.
    pub(super) fn is_answering(&self) -> bool {
        !self.answered.is_empty()
    }

    /// A client acknowledges.
    pub(super) fn ask(&mut self, asking: Asking) {
        self.asked.push(asking);
    }

    /// These are to be told to clients.
    pub(super) fn take_in(&mut self, answered: Vec<Answered>) {
        self.answered.extend(answered);
    }
}

impl Shard {
    /// Asks for what was heard since the last time, all at once.
    pub(super) fn ask(&mut self, inbox: &mpsc::WeakSender<Request>) {
        if self.acknowledging.asked.is_empty() {
            return;
        }
        let mut answers = self.means.errands.acknowledge(std::mem::take(&mut self.acknowledging.asked));
        let inbox = inbox.clone();
        tokio::spawn(async move {
            while let Some(answered) = answers.next().await {
                // The shard has ended: the replica stops.
                let Some(inbox) = inbox.upgrade() else { return };
                let _ = inbox.send(Request::Answered(answered)).await;
            }
        });
    }

    /// Tells up to so many clients what became of their acknowledgements.
    pub(super) fn answer_some(&mut self, most: usize) {
        let count = most.min(self.acknowledging.answered.len());
        let mut answered = std::mem::take(&mut self.acknowledging.answered);
        for answered in answered.drain(..count) {
            if let Some((floor, id)) = self.place(answered.name) {
                self.floors[floor].room.acknowledged(id, &answered, &self.means);
            }
        }
        self.acknowledging.answered = answered;
    }
}
