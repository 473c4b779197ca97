//! First answers: whom the first try of a request with an idempotency key reached, for its retries.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::push::counts::Reached;

/// Answers that a replica keeps, the newest: some 400 KB.
const KEPT: usize = 4_096;

/// What this replica answered, by the event. It is not on the log, so that it ends with the process, and another replica
/// does not have it.
#[derive(Default)]
pub struct FirstAnswers {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    reached: HashMap<Uuid, Reached>,
    /// From the oldest to the newest.
    order: VecDeque<Uuid>,
}

impl FirstAnswers {
    /// Whom the first answer about an event named. That is `now`, when this is the first one or the first is not kept.
    pub fn of(&self, event: Uuid, now: Reached) -> Reached {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = kept.reached.get(&event) {
            return *first;
        }
        if kept.order.len() == KEPT
            && let Some(oldest) = kept.order.pop_front()
        {
            kept.reached.remove(&oldest);
        }
        kept.order.push_back(event);
        kept.reached.insert(event, now);
        now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_first_answers_are_kept_and_no_more_of_them() {
        let answers = FirstAnswers::default();
        let reached = |users| Reached { users, connections: users, approximate: false };
        for n in 0..2 * KEPT as u128 {
            assert_eq!(answers.of(Uuid::from_u128(n), reached(1)), reached(1));
            assert_eq!(answers.of(Uuid::from_u128(n), reached(2)), reached(1), "a retry");
        }
        assert_eq!(answers.of(Uuid::from_u128(KEPT as u128), reached(2)), reached(1));
        assert_eq!(answers.of(Uuid::from_u128(0), reached(2)), reached(2), "too long ago");
        let kept = answers.kept.lock().unwrap();
        assert_eq!((kept.reached.len(), kept.order.len()), (KEPT, KEPT));
    }
}
