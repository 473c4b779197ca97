//! The condition of the log's stream, as the probe sees it every second: its leader, its copies, its settings, and whether
//! messages are gone from it. What changes is logged once, and is a warning while it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::health::NEARLY_FULL_PERCENT;
use super::names::LOG_STREAM;
use super::{LogInfo, ReadError};
use crate::trouble::Repeated;
use crate::warnings::{Warning, Warnings};

/// A copy that is not current is reported after this long: it catches up within seconds when its server was restarted, and
/// lags for moments under load.
const LAGGING_PATIENCE: Duration = Duration::from_secs(10);

/// That messages are gone, or a setting is wrong, is logged again after this long.
const SAID_EVERY: Duration = Duration::from_mins(10);

/// How a copy of the stream is, as the stream's leader reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CopyState {
    /// The leader's own.
    Leader,
    /// It has all that the leader has.
    Current,
    /// Its server runs, and it is behind.
    Lagging,
    /// Its server does not run, or cannot be reached.
    Offline,
}

impl CopyState {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Leader, Self::Current, Self::Lagging, Self::Offline];

    /// The word for it in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Current => "current",
            Self::Lagging => "lagging",
            Self::Offline => "offline",
        }
    }
}

/// What NATS reports of the log's stream beside [`LogInfo`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamReport {
    /// Copies that the stream is configured to have (`num_replicas`).
    pub copies: usize,
    /// Copies that this replica would give it (`--stream-replicas`).
    pub copies_wanted: usize,
    /// Whether its server is a node of a cluster, where other nodes could keep copies.
    pub is_clustered: bool,
    /// The servers that keep a copy, by name.
    pub servers: BTreeMap<String, CopyState>,
    /// Messages that the stream had and has no more: in a log none ever is.
    pub missing: u64,
    /// Settings that break a guarantee, each as a sentence.
    pub broken_settings: Vec<String>,
}

/// What was seen last, and what was logged of it.
#[derive(Default)]
struct Known {
    /// Whether the last probe found a leader.
    has_leader: bool,
    report: Option<StreamReport>,
    /// The copies that are away: since when, and whether that was logged.
    away: BTreeMap<String, (Instant, bool)>,
}

/// The condition of the log's stream.
pub struct Condition {
    warnings: Warnings,
    known: Mutex<Known>,
    incomplete: Repeated,
    settings: Repeated,
}

impl Condition {
    /// Nothing is known yet. What is wrong will be a warning here.
    pub fn new(warnings: Warnings) -> Self {
        Self {
            warnings,
            known: Mutex::default(),
            incomplete: Repeated::every(SAID_EVERY),
            settings: Repeated::every(SAID_EVERY),
        }
    }

    /// Whether the stream has a leader, and what that last reported.
    pub fn last_seen(&self) -> (bool, StreamReport) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (known.has_leader, known.report.clone().unwrap_or_default())
    }

    /// The log did not answer, or NATS has no leader for it.
    pub fn saw_no_answer(&self, error: Option<&ReadError>) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).has_leader = false;
        self.warnings.set(Warning::LogNoLeader, matches!(error, Some(ReadError::NoLeader)));
    }

    /// The leader answered this.
    pub fn saw(&self, info: LogInfo, report: StreamReport) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.has_leader = true;
        let copies_away = known.follow_copies(&report);
        known.follow_number_of_copies(&report);
        let is_alone = report.is_clustered && report.copies == 1;
        let is_short = report.copies < report.copies_wanted || is_alone;
        self.follow_messages(info, &report);
        self.follow_settings(&report);
        known.report = Some(report);
        drop(known);
        let nearly_full = info.bytes >= info.max_bytes / 100 * NEARLY_FULL_PERCENT;
        self.warnings.set(Warning::LogNoLeader, false);
        self.warnings.set(Warning::LogCopyAway, copies_away);
        self.warnings.set(Warning::LogCopiesFew, is_short);
        self.warnings.set(Warning::LogNearlyFull, nearly_full);
    }

    fn follow_messages(&self, info: LogInfo, report: &StreamReport) {
        self.warnings.set(Warning::LogIncomplete, report.missing > 0);
        if report.missing > 0 && self.incomplete.is_due("incomplete") {
            error!(
                log.missing = report.missing,
                log.sequence = info.last_sequence,
                "{} of the {} messages of the stream {LOG_STREAM} are gone: a limit such as max_age removed them, somebody \
                 deleted them, or a disk was damaged. A replica that starts anew cannot show them, and its tree differs from \
                 every checkpoint. Take the limit away with `nats stream edit`, keep the data directories of running \
                 replicas, and restore a backup that has the messages",
                report.missing,
                info.last_sequence
            );
        }
    }

    fn follow_settings(&self, report: &StreamReport) {
        let is_broken = !report.broken_settings.is_empty();
        self.warnings.set(Warning::LogSettings, is_broken);
        if !is_broken {
            return self.settings.over();
        }
        let broken = report.broken_settings.join("; ");
        if self.settings.is_due(&broken) {
            error!(
                "{broken}. This breaks a guarantee, and a replica that starts now refuses to: set it back with `nats stream edit`"
            );
        }
    }
}

impl Known {
    /// Logs a copy that goes away, and its return. Whether one is away now.
    fn follow_copies(&mut self, report: &StreamReport) -> bool {
        let now = Instant::now();
        for (server, state) in &report.servers {
            if matches!(state, CopyState::Leader | CopyState::Current) {
                if let Some((_, true)) = self.away.remove(server) {
                    info!("the NATS server {server} has a current copy of the stream {LOG_STREAM} again");
                }
                continue;
            }
            let (since, is_said) = self.away.entry(server.clone()).or_insert((now, false));
            let patience = if *state == CopyState::Offline { Duration::ZERO } else { LAGGING_PATIENCE };
            if !*is_said && now.duration_since(*since) >= patience {
                *is_said = true;
                let what = if *state == CopyState::Offline {
                    "is offline"
                } else {
                    "has a copy that does not catch up"
                };
                warn!(
                    "the NATS server {server}, one of {} that keep the stream {LOG_STREAM}, {what}: start it again, or look at \
                     its log and disk. Nothing can be appended unless more than half of them run",
                    report.servers.len()
                );
            }
        }
        self.away.retain(|server, _| report.servers.contains_key(server));
        self.away.values().any(|(_, is_said)| *is_said)
    }

    /// Logs when somebody takes copies away. How it was at the start is said there.
    fn follow_number_of_copies(&self, report: &StreamReport) {
        if let Some(before) = &self.report
            && report.copies < before.copies
            && report.copies < report.copies_wanted
        {
            warn!(
                "the stream {LOG_STREAM} has {} copies now, and --stream-replicas is {}: `nats stream edit {LOG_STREAM} \
                 --replicas {}` brings them back",
                report.copies, report.copies_wanted, report.copies_wanted
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Epoch;

    fn info(bytes: u64) -> LogInfo {
        LogInfo { epoch: Epoch::from_bits(1), last_sequence: 9, bytes, max_bytes: 1_000 }
    }

    fn report(second: CopyState) -> StreamReport {
        let servers = [("n1", CopyState::Leader), ("n2", second), ("n3", CopyState::Current)];
        StreamReport {
            copies: 3,
            copies_wanted: 3,
            servers: servers.map(|(name, state)| (name.to_owned(), state)).into(),
            ..StreamReport::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_copy_that_is_offline_is_a_warning_at_once_and_one_that_lags_after_a_while() {
        let warnings = Warnings::default();
        let condition = Condition::new(warnings.clone());
        condition.saw(info(1), report(CopyState::Current));
        assert_eq!(warnings.now(), []);
        condition.saw(info(1), report(CopyState::Offline));
        assert_eq!(warnings.now(), [Warning::LogCopyAway]);
        condition.saw(info(1), report(CopyState::Current));
        condition.saw(info(1), report(CopyState::Lagging));
        assert_eq!(warnings.now(), []);
        tokio::time::advance(LAGGING_PATIENCE).await;
        condition.saw(info(1), report(CopyState::Lagging));
        assert_eq!(warnings.now(), [Warning::LogCopyAway]);
        // Its server was taken out of the group.
        let mut report = report(CopyState::Current);
        report.servers.remove("n2");
        condition.saw(info(1), report);
        assert_eq!(warnings.now(), []);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_stream_is_a_warning_for_as_long_as_it_lasts() {
        let warnings = Warnings::default();
        let condition = Condition::new(warnings.clone());
        let sound = report(CopyState::Current);
        condition.saw_no_answer(Some(&ReadError::NoLeader));
        assert_eq!(warnings.now(), [Warning::LogNoLeader]);
        assert!(!condition.last_seen().0);
        for (bytes, report, warning) in [
            (800, sound.clone(), Warning::LogNearlyFull),
            (1, StreamReport { missing: 1, ..sound.clone() }, Warning::LogIncomplete),
            (1, StreamReport { copies: 1, ..sound.clone() }, Warning::LogCopiesFew),
            (
                1,
                StreamReport { copies: 1, copies_wanted: 1, is_clustered: true, ..sound.clone() },
                Warning::LogCopiesFew,
            ),
            (
                1,
                StreamReport { broken_settings: vec!["max_age".to_owned()], ..sound.clone() },
                Warning::LogSettings,
            ),
        ] {
            condition.saw(info(bytes), report.clone());
            assert_eq!(warnings.now(), [warning]);
            assert_eq!(condition.last_seen(), (true, report));
            condition.saw(info(1), sound.clone());
            assert_eq!(warnings.now(), []);
        }
    }
}
