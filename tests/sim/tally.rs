//! The tally: what all the seeds together put to the test. A simulation in which nothing happens finds nothing.

use std::collections::BTreeMap;

use tidings::submit::Submitted;

use crate::client::End;
use crate::evidence::Evidence;
use crate::people::Said;

/// Everything that has to happen, and how often at the least in [`crate::seeds::SEEDS`] runs.
const REQUIRED: [(&str, usize); 27] = [
    ("event", 1_000),
    ("late event", 100),
    ("command", 1_000),
    ("retry", 100),
    ("confirmed command", 1_000),
    ("command accepted alone", 100),
    ("unknown outcome", 50),
    ("refused command", 100),
    ("acknowledgement", 1_000),
    ("acknowledgement accepted alone", 100),
    ("visit", 1_000),
    ("message to a client", 1_000),
    ("change of mode", 100),
    ("cut line", 500),
    ("death of a replica", 300),
    ("interruption", 300),
    ("full log", 50),
    ("lost request", 300),
    ("lost answer", 300),
    ("late request", 300),
    ("doubled request", 300),
    ("undelivered message", 300),
    ("redelivered message", 300),
    ("damaged message", 40),
    ("replaced log", 20),
    ("retry after the duplicate window", 15),
    ("crowd", 10),
];

/// How often things happened.
#[derive(Clone, Debug, Default)]
pub struct Tally(BTreeMap<&'static str, usize>);

impl Tally {
    pub fn of(evidence: &Evidence) -> Self {
        let said: Vec<_> = evidence.tried.iter().flat_map(|tried| &tried.said).collect();
        let count = |what: fn(&Said) -> bool| said.iter().filter(|said| what(said)).count();
        let late = evidence.log.iter().filter(|message| message.subject.rsplit('.').next() == Some("late"));
        let in_log = evidence.acked.iter().filter(|acked| acked.said.sequence.is_some()).count();
        let mut tally = Self(evidence.injected.clone());
        tally.0.extend([
            ("event", evidence.log.len()),
            ("late event", late.count()),
            ("command", evidence.tried.len()),
            ("retry", said.len() - evidence.tried.len()),
            ("confirmed command", count(|said| matches!(said, Said::Done(Submitted { local: false, .. })))),
            (
                "command accepted alone",
                count(|said| matches!(said, Said::Done(Submitted { local: true, .. }))),
            ),
            ("unknown outcome", count(|said| matches!(said, Said::Unknown))),
            ("refused command", count(|said| matches!(said, Said::Refused(_)))),
            ("acknowledgement", in_log),
            ("acknowledgement accepted alone", evidence.acked.len() - in_log),
            ("visit", evidence.visits.iter().filter(|visit| visit.end != End::Died).count()),
            ("message to a client", evidence.visits.iter().map(|visit| visit.heard.len()).sum()),
            ("change of mode", evidence.modes),
        ]);
        tally
    }

    pub fn add(&mut self, other: &Self) {
        for (what, more) in &other.0 {
            *self.0.entry(what).or_default() += more;
        }
    }

    /// Fails when something happened too seldom.
    pub fn require_all(&self) {
        for (what, at_least) in REQUIRED {
            let times = self.0.get(what).copied().unwrap_or_default();
            assert!(times >= at_least, "{what}: {times} times, which is less than {at_least}");
        }
    }
}
