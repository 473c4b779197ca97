//! Whether a live replica has this one's name already.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::heartbeat::Heartbeat;
use super::identity::Identity;

/// Only this long after its start does a replica give way to another one of its name. After that, whoever uses the name is the
/// one that came later, or has forged a heartbeat.
const CHECKED_FOR: Duration = Duration::from_secs(15);

/// A live replica sends heartbeats again and again. Two of one process, this far apart, are needed: a single one may be of a
/// process that has just ended.
const APART: Duration = Duration::from_secs(1);

/// The most characters of a name: a key of the bucket has 64 (`schemas/kv/heartbeat.json`), and nine are added.
const NAME_BEFORE: usize = 55;

/// The name of a replica whose own is taken: that, and the end of its process's id, which is random.
pub(super) fn name_beside(own: &Identity) -> String {
    let instance = own.instance.simple().to_string();
    let random = instance.get(24..).unwrap_or_default();
    let name: String = own.replica.chars().take(NAME_BEFORE).collect();
    format!("{name}-{random}")
}

/// A warning that the name is used twice comes at most this often.
const WARN_EVERY: Duration = Duration::from_mins(1);

/// The look for another live process of the same name.
pub(super) struct NameCheck {
    began: Instant,
    /// The other process that was heard first, and when.
    heard: Option<(Uuid, Instant)>,
    warned: Option<Instant>,
}

impl NameCheck {
    /// Of a process that starts now.
    pub(super) const fn new(now: Instant) -> Self {
        Self { began: now, heard: None, warned: None }
    }

    /// A heartbeat of another process with this name. Whether this process has to give way to it.
    pub(super) fn hear(&mut self, own: &Identity, other: &Heartbeat, now: Instant) -> bool {
        let is_older = (other.started_at, other.instance) < (own.started_at, own.instance);
        if is_older && now.duration_since(self.began) <= CHECKED_FOR {
            return match self.heard {
                Some((instance, first)) if instance == other.instance => now.duration_since(first) >= APART,
                _ => {
                    self.heard = Some((other.instance, now));
                    false
                }
            };
        }
        if self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_EVERY) {
            self.warned = Some(now);
            warn!(
                "a heartbeat has this replica's name, {}, and is of another process ({}, started {}): give one of the \
                 two another name with --replica, or find out who else may write to the bucket of heartbeats",
                own.replica, other.instance, other.started_at
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Digest, Timestamp};

    fn own() -> Identity {
        let started_at = Timestamp::from_unix_ms(1_000);
        Identity { replica: "twin".to_owned(), instance: Uuid::from_u128(2), started_at }
    }

    fn other(instance: u128, started_at: i64) -> Heartbeat {
        Heartbeat {
            replica: "twin".to_owned(),
            instance: Uuid::from_u128(instance),
            started_at: Timestamp::from_unix_ms(started_at),
            at: Timestamp::from_unix_ms(started_at),
            mode: "cluster".to_owned(),
            serving: true,
            epoch: None,
            sequence: 0,
            digest: Digest::default(),
            milestone: (0, Digest::default()),
            warnings: Vec::new(),
            channels: [].into(),
        }
    }

    #[tokio::test]
    async fn a_replica_gives_way_to_an_older_one_that_goes_on_beating() {
        let began = Instant::now();
        let mut check = NameCheck::new(began);
        assert!(!check.hear(&own(), &other(1, 0), began), "it may have just ended");
        assert!(!check.hear(&own(), &other(1, 0), began + APART / 2));
        assert!(!check.hear(&own(), &other(3, 0), began + APART), "one heartbeat of yet another process");
        assert!(!check.hear(&own(), &other(1, 0), began + APART));
        assert!(check.hear(&own(), &other(1, 0), began + 2 * APART));
    }

    #[test]
    fn a_name_beside_a_taken_one_is_a_key_of_its_own() {
        let long = Identity { replica: "r".repeat(64), ..own() };
        assert_eq!(name_beside(&long).len(), 64);
        assert_eq!(name_beside(&own()), "twin-00000002");
    }

    #[tokio::test]
    async fn a_replica_does_not_give_way_to_a_younger_one() {
        let began = Instant::now();
        let mut check = NameCheck::new(began);
        for second in 0..10 {
            assert!(!check.hear(&own(), &other(1, 2_000), began + Duration::from_secs(second)));
        }
    }

    #[tokio::test]
    async fn no_heartbeat_ends_a_replica_that_has_run_for_a_while() {
        let began = Instant::now();
        let mut check = NameCheck::new(began);
        for second in 16..600 {
            assert!(!check.hear(&own(), &other(1, 0), began + Duration::from_secs(second)));
        }
    }
}
