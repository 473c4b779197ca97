//! The tally: what all the seeds together put to the test. A simulation in which nothing happens finds nothing.

use tidings::submit::Submitted;

use crate::client::End;
use crate::evidence::Evidence;
use crate::people::Said;

/// How often things happened.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tally {
    pub events: usize,
    pub late: usize,
    pub commands: usize,
    pub retries: usize,
    pub confirmed: usize,
    pub kept: usize,
    pub unknown: usize,
    pub refused: usize,
    pub acknowledged: usize,
    pub acknowledged_alone: usize,
    pub visits: usize,
    pub heard: usize,
    pub cuts: usize,
    pub deaths: usize,
    pub modes: usize,
}

impl Tally {
    pub fn of(evidence: &Evidence) -> Self {
        let said: Vec<_> = evidence.tried.iter().flat_map(|tried| &tried.said).collect();
        let count = |what: fn(&Said) -> bool| said.iter().filter(|said| what(said)).count();
        let late = evidence.log.iter().filter(|message| message.subject.rsplit('.').next() == Some("late"));
        Self {
            events: evidence.log.len(),
            late: late.count(),
            commands: evidence.tried.len(),
            retries: said.len() - evidence.tried.len(),
            confirmed: count(|said| matches!(said, Said::Done(Submitted { local: false, .. }))),
            kept: count(|said| matches!(said, Said::Done(Submitted { local: true, .. }))),
            unknown: count(|said| matches!(said, Said::Unknown)),
            refused: count(|said| matches!(said, Said::Refused(_))),
            acknowledged: evidence.acked.iter().filter(|acked| acked.said.sequence.is_some()).count(),
            acknowledged_alone: evidence.acked.iter().filter(|acked| acked.said.sequence.is_none()).count(),
            visits: evidence.visits.iter().filter(|visit| visit.end != End::Died).count(),
            heard: evidence.visits.iter().map(|visit| visit.heard.len()).sum(),
            cuts: evidence.troubles.cuts,
            deaths: evidence.troubles.deaths,
            modes: evidence.modes,
        }
    }

    fn numbers(&mut self) -> [&mut usize; 15] {
        let Self { events, late, commands, retries, confirmed, kept, unknown, refused, .. } = self;
        let Self { acknowledged, acknowledged_alone, visits, heard, cuts, deaths, modes, .. } = self;
        [
            events,
            late,
            commands,
            retries,
            confirmed,
            kept,
            unknown,
            refused,
            acknowledged,
            acknowledged_alone,
            visits,
            heard,
            cuts,
            deaths,
            modes,
        ]
    }

    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.numbers().into_iter().zip({ *other }.numbers()) {
            *sum += *more;
        }
    }

    /// Fails when something never happened.
    pub fn require_all(mut self) {
        let all = format!("{self:?}");
        assert!(self.numbers().iter().all(|number| **number > 100), "too little happened: {all}");
    }
}
