//! Warnings: problems of a replica or its log that do not keep the replica from serving.
//!
//! Each part of a replica sets its own warnings and clears them. All of them are in `/readyz`, in `/metrics`
//! (`tidings_warning`) and in the heartbeat, from which `tidings admin status` has them. The line of the diagnostics with the
//! cause is written where the warning is set.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A problem that an operator should fix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Warning {
    /// NATS has no leader for the log's stream.
    LogNoLeader,
    /// A NATS server that keeps a copy of the log is offline, or its copy has not been current for a while.
    LogCopyAway,
    /// The log's stream has fewer copies than `--stream-replicas`, or one copy in a cluster.
    LogCopiesFew,
    /// The log has 80 % of the bytes that its limit allows, or more.
    LogNearlyFull,
    /// Messages are gone from the log's stream.
    LogIncomplete,
    /// The log's stream has a setting that breaks a guarantee.
    LogSettings,
    /// The log ends before what was signed of it.
    LogTooShort,
    /// The first checkpoint is of another log.
    LogReplaced,
    /// This replica's clock is far from that of NATS.
    ClockOffset,
    /// Nobody signs checkpoints of the log.
    LogUnsigned,
    /// Checkpoints can be neither read nor signed.
    CheckpointsFailing,
    /// This replica's tree is not the one of a signed checkpoint.
    Diverged,
    /// The public keys of tokens could not be read when that was last tried.
    TokenKeysUnread,
    /// NATS does not accept what the mirror writes.
    MirrorFailing,
    /// NATS does not accept this replica's heartbeat.
    HeartbeatRefused,
    /// Another live replica has the name of this one, or another client sends heartbeats under it.
    NameTaken,
    /// An accepted event will never be in the log; it is in `outbox/rejected`.
    OutboxRejected,
}

impl Warning {
    /// Every one, in the order of their bits.
    pub const ALL: [Self; 17] = [
        Self::LogNoLeader,
        Self::LogCopyAway,
        Self::LogCopiesFew,
        Self::LogNearlyFull,
        Self::LogIncomplete,
        Self::LogSettings,
        Self::LogTooShort,
        Self::LogReplaced,
        Self::ClockOffset,
        Self::LogUnsigned,
        Self::CheckpointsFailing,
        Self::Diverged,
        Self::TokenKeysUnread,
        Self::MirrorFailing,
        Self::HeartbeatRefused,
        Self::NameTaken,
        Self::OutboxRejected,
    ];

    /// Its code, as `/readyz`, `/metrics` and heartbeats have it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::LogNoLeader => "log_no_leader",
            Self::LogCopyAway => "log_copy_away",
            Self::LogCopiesFew => "log_copies_few",
            Self::LogNearlyFull => "log_nearly_full",
            Self::LogIncomplete => "log_incomplete",
            Self::LogSettings => "log_settings",
            Self::LogTooShort => "log_too_short",
            Self::LogReplaced => "log_replaced",
            Self::ClockOffset => "clock_offset",
            Self::LogUnsigned => "log_unsigned",
            Self::CheckpointsFailing => "checkpoints_failing",
            Self::Diverged => "diverged",
            Self::TokenKeysUnread => "token_keys_unread",
            Self::MirrorFailing => "mirror_failing",
            Self::HeartbeatRefused => "heartbeat_refused",
            Self::NameTaken => "name_taken",
            Self::OutboxRejected => "outbox_rejected",
        }
    }

    /// The one with this code.
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|warning| warning.code() == code)
    }

    /// Whether it can be seen in what NATS reports of the log's stream, by everybody who may ask that.
    pub const fn is_of_log(self) -> bool {
        matches!(
            self,
            Self::LogNoLeader
                | Self::LogCopyAway
                | Self::LogCopiesFew
                | Self::LogNearlyFull
                | Self::LogIncomplete
                | Self::LogSettings
        )
    }

    /// The problem and its remedy, after "replica NAME".
    pub const fn advice(self) -> &'static str {
        match self {
            Self::LogNoLeader => "finds no leader of the log's stream: start the NATS servers that are down",
            Self::LogCopyAway => {
                "finds a copy of the log away: start the NATS server that keeps it, or look at its disk"
            }
            Self::LogCopiesFew => {
                "finds fewer copies of the log than its --stream-replicas, or one copy in a cluster: `nats stream edit \
                 BROADCASTS --replicas 3`, and --stream-replicas 3"
            }
            Self::LogNearlyFull => {
                "finds the log nearly full: raise its limit with `nats stream edit BROADCASTS --max-bytes …`"
            }
            Self::LogIncomplete => {
                "finds messages gone from the log: `tidings audit verify` says which; restore a backup that has them"
            }
            Self::LogSettings => {
                "finds a setting of the log's stream that breaks a guarantee: its diagnostics name it and the right value"
            }
            Self::LogTooShort => {
                "finds that the log ends before what was signed of it: an older log was restored without its checkpoints, or \
                 the log has lost events. Nothing is signed any more: restore the newest backup of both streams"
            }
            Self::LogReplaced => {
                "follows another log than the one of the first checkpoint: if the log was deleted by mistake, stop all replicas \
                 and restore the backup of both streams; if it was replaced on purpose, keep a copy of the old checkpoints and \
                 delete their stream (`nats stream rm BROADCAST_CHECKPOINTS`)"
            }
            Self::ClockOffset => "has a clock that is far from that of NATS: set both by NTP",
            Self::LogUnsigned => {
                "finds no checkpoint of the log, and signs none: an auditor cannot tell whether the log was rewritten. Give \
                 each replica --checkpoint-key (`tidings admin keygen` makes one)"
            }
            Self::CheckpointsFailing => {
                "can neither read nor sign checkpoints: check that the stream BROADCAST_CHECKPOINTS is not at its \
                 max_bytes, and that the login of the replica may read it and publish to it"
            }
            Self::Diverged => {
                "has a tree that is not the one of a signed checkpoint: `tidings audit verify` says which is false"
            }
            Self::TokenKeysUnread => {
                "cannot read the public keys of tokens (JWKS): those read before count for an hour. Its diagnostics have \
                 the cause"
            }
            Self::MirrorFailing => {
                "cannot write the KV mirror: its diagnostics have what NATS answers; often the memory store is full \
                 (max_memory_store)"
            }
            Self::HeartbeatRefused => {
                "cannot store its heartbeat in NATS: its diagnostics have what NATS answers"
            }
            Self::NameTaken => {
                "has the name of another live replica and counts under one of its own: give one of the two another name with \
                 --replica, or find out who else may write to the bucket of heartbeats"
            }
            Self::OutboxRejected => {
                "accepted events that the log will never have: they are in outbox/rejected of its data directory, with \
                 the reason"
            }
        }
    }

    const fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The warnings of one replica. Cheap to clone: they are shared.
#[derive(Clone, Debug, Default)]
pub struct Warnings(Arc<AtomicU32>);

impl Warnings {
    /// Whether this is so at this moment.
    pub fn set(&self, warning: Warning, is_so: bool) {
        if is_so {
            self.0.fetch_or(warning.bit(), Ordering::Relaxed);
        } else {
            self.0.fetch_and(!warning.bit(), Ordering::Relaxed);
        }
    }

    /// What is wrong at this moment.
    pub fn now(&self) -> Vec<Warning> {
        let bits = self.0.load(Ordering::Relaxed);
        Warning::ALL.into_iter().filter(|warning| bits & warning.bit() != 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_warning_is_set_and_cleared_by_itself_and_found_by_its_code() {
        let warnings = Warnings::default();
        for warning in Warning::ALL {
            warnings.set(warning, true);
            assert_eq!(Warning::of_code(warning.code()), Some(warning));
        }
        assert_eq!(warnings.now(), Warning::ALL);
        warnings.set(Warning::Diverged, false);
        warnings.clone().set(Warning::ClockOffset, false);
        assert_eq!(warnings.now().len(), Warning::ALL.len() - 2);
        assert!(!warnings.now().contains(&Warning::Diverged));
        assert_eq!(Warning::of_code("of_a_newer_build"), None);
    }
}
