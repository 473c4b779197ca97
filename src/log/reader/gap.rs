//! Gaps: what was not delivered is fetched from the leader; what the leader does not have is a hole.

use std::ops::Range;

use tokio::time::sleep;
use tracing::{error, warn};

use super::batch::Batch;
use super::{CONFIRM_MISSING_EVERY, CONFIRMATIONS, Interrupted, LogEntry, Reader};
use crate::log::{RawMessage, ReadError};

/// The maximum number of consecutive holes, each of which has a leaf: some seconds' work. With more messages missing the log is
/// not read: a damaged disk does not lose so many, but a stream that was created with a later first sequence, or purged, does.
const MAX_HOLES: u64 = 1_000_000;

impl Reader {
    /// Fetches what was not delivered from the leader, up to `at_most` messages. Where it has none, the log has holes.
    pub(super) async fn fill(
        &mut self,
        missing: Range<u64>,
        at_most: usize,
        batch: &mut Batch,
    ) -> Result<(), Interrupted> {
        if self.gap.is_due(&format!("{missing:?}")) {
            warn!(
                log.from = missing.start,
                log.to = missing.end - 1,
                "the log was delivered with a gap; fetching the missing messages"
            );
        }
        let (mut next, mut fetched) = (missing.start, 0);
        while next < missing.end && fetched < at_most {
            let found = self.first_from(next).await?;
            let there = found.as_ref().map_or(missing.end, |message| message.sequence.min(missing.end));
            if there - next > MAX_HOLES {
                return Err(ReadError::Lost { from: next, to: there - 1 }.into());
            }
            if there > next {
                error!(
                    log.from = next,
                    log.to = there - 1,
                    "the log has lost messages: their sequences are holes, on every replica"
                );
            }
            for hole in next..there {
                self.push(LogEntry::Hole(hole), batch).await?;
            }
            next = there;
            if let Some(message) = found.filter(|_| next < missing.end) {
                self.push(LogEntry::Message(message), batch).await?;
                (next, fetched) = (next + 1, fetched + 1);
            }
        }
        Ok(())
    }

    /// The leader's first message at a sequence or after it; requested three times before the sequence counts as a hole.
    pub(super) async fn first_from(&self, sequence: u64) -> Result<Option<RawMessage>, ReadError> {
        let mut found = self.log.first_from(sequence).await?;
        for _ in 1..CONFIRMATIONS {
            if found.as_ref().is_some_and(|message| message.sequence == sequence) {
                break;
            }
            sleep(CONFIRM_MISSING_EVERY).await;
            found = self.log.first_from(sequence).await?;
        }
        Ok(found)
    }
}
