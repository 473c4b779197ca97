//! The state of the log's stream, as the probe observes it every second: its leader, its copies, its settings, and whether
//! messages are missing. A problem is logged once, and is a warning while it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::health::NEARLY_FULL_PERCENT;
use super::names::LOG_STREAM;
use super::stream_report::{CopyState, StreamReport};
use super::{LogInfo, ReadError};
use crate::error_log::LogLimiter;
use crate::warnings::{Warning, Warnings};

/// How long a copy may lag before it is reported: it catches up within seconds after a restart of its server, and lags for
/// moments under load.
const LAG_TOLERANCE: Duration = Duration::from_secs(10);

/// How often missing messages, or a wrong setting, are logged again.
const LOG_EVERY: Duration = Duration::from_mins(10);

/// The last observation, and what was logged of it.
#[derive(Default)]
struct MonitorState {
    /// Whether the last probe found a leader.
    has_leader: bool,
    report: Option<StreamReport>,
    /// Copies that lag or are offline: since when, and whether that was logged.
    away: BTreeMap<String, (Instant, bool)>,
}

/// Observes the log's stream, logs problems and sets warnings.
pub struct StreamMonitor {
    warnings: Warnings,
    state: Mutex<MonitorState>,
    incomplete: LogLimiter,
    settings: LogLimiter,
}

impl StreamMonitor {
    /// A monitor without an observation, which sets these warnings.
    pub fn new(warnings: Warnings) -> Self {
        Self {
            warnings,
            state: Mutex::default(),
            incomplete: LogLimiter::every(LOG_EVERY),
            settings: LogLimiter::every(LOG_EVERY),
        }
    }

    /// Whether the stream has a leader, and the last report.
    pub fn latest(&self) -> (bool, StreamReport) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.has_leader, state.report.clone().unwrap_or_default())
    }

    /// Records that the log did not answer, or has no leader.
    pub fn record_failure(&self, error: Option<&ReadError>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).has_leader = false;
        self.warnings.set(Warning::LogNoLeader, matches!(error, Some(ReadError::NoLeader)));
    }

    /// Records an answer of the leader.
    pub fn record(&self, info: LogInfo, report: StreamReport) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.has_leader = true;
        let copies_away = state.log_copies(&report);
        state.log_fewer_copies(&report);
        let is_alone = report.is_clustered && report.copies == 1;
        let is_short = report.copies < report.copies_wanted || is_alone;
        self.log_missing_messages(info, &report);
        self.log_broken_settings(&report);
        state.report = Some(report);
        drop(state);
        let nearly_full = info.bytes >= info.max_bytes / 100 * NEARLY_FULL_PERCENT;
        self.warnings.set(Warning::LogNoLeader, false);
        self.warnings.set(Warning::LogCopyAway, copies_away);
        self.warnings.set(Warning::LogCopiesFew, is_short);
        self.warnings.set(Warning::LogNearlyFull, nearly_full);
    }

    fn log_missing_messages(&self, info: LogInfo, report: &StreamReport) {
        self.warnings.set(Warning::LogIncomplete, report.missing > 0);
        if report.missing > 0 && self.incomplete.is_due("incomplete") {
            error!(
                log.missing = report.missing,
                log.sequence = info.last_sequence,
                "{} of the {} messages of the stream {LOG_STREAM} are gone: a limit such as max_age removed them, they \
                 were deleted, or a disk was damaged. A replica that starts anew cannot show them, and its tree differs from \
                 every checkpoint. Take the limit away with `nats stream edit`, keep the data directories of running \
                 replicas, and restore a backup that has the messages",
                report.missing,
                info.last_sequence
            );
        }
    }

    fn log_broken_settings(&self, report: &StreamReport) {
        let is_broken = !report.broken_settings.is_empty();
        self.warnings.set(Warning::LogSettings, is_broken);
        if !is_broken {
            return self.settings.reset();
        }
        let broken = report.broken_settings.join("; ");
        if self.settings.is_due(&broken) {
            error!(
                "{broken}. This breaks a guarantee, and a replica that starts now refuses to: set it back with `nats stream edit`"
            );
        }
    }
}

impl MonitorState {
    /// Logs copies that begin to lag or go offline, and their return. Returns whether one is reported now.
    fn log_copies(&mut self, report: &StreamReport) -> bool {
        let now = Instant::now();
        for (server, state) in &report.servers {
            if matches!(state, CopyState::Leader | CopyState::Current) {
                if let Some((_, true)) = self.away.remove(server) {
                    info!("the NATS server {server} has a current copy of the stream {LOG_STREAM} again");
                }
                continue;
            }
            let (since, is_logged) = self.away.entry(server.clone()).or_insert((now, false));
            let patience = if *state == CopyState::Offline { Duration::ZERO } else { LAG_TOLERANCE };
            if !*is_logged && now.duration_since(*since) >= patience {
                *is_logged = true;
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
        self.away.values().any(|(_, is_logged)| *is_logged)
    }

    /// Logs when the number of copies is lowered.
    fn log_fewer_copies(&self, report: &StreamReport) {
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
        let condition = StreamMonitor::new(warnings.clone());
        condition.record(info(1), report(CopyState::Current));
        assert_eq!(warnings.now(), []);
        condition.record(info(1), report(CopyState::Offline));
        assert_eq!(warnings.now(), [Warning::LogCopyAway]);
        condition.record(info(1), report(CopyState::Current));
        condition.record(info(1), report(CopyState::Lagging));
        assert_eq!(warnings.now(), []);
        tokio::time::advance(LAG_TOLERANCE).await;
        condition.record(info(1), report(CopyState::Lagging));
        assert_eq!(warnings.now(), [Warning::LogCopyAway]);
        // Its server was taken out of the group.
        let mut report = report(CopyState::Current);
        report.servers.remove("n2");
        condition.record(info(1), report);
        assert_eq!(warnings.now(), []);
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_stream_is_a_warning_for_as_long_as_it_lasts() {
        let warnings = Warnings::default();
        let condition = StreamMonitor::new(warnings.clone());
        let sound = report(CopyState::Current);
        condition.record_failure(Some(&ReadError::NoLeader));
        assert_eq!(warnings.now(), [Warning::LogNoLeader]);
        assert!(!condition.latest().0);
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
            condition.record(info(bytes), report.clone());
            assert_eq!(warnings.now(), [warning]);
            assert_eq!(condition.latest(), (true, report));
            condition.record(info(1), sound.clone());
            assert_eq!(warnings.now(), []);
        }
    }
}
