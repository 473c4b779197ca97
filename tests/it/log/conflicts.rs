//! Commands that meet others on the log: what is said of them is said of the log as it is.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::anyhow;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use tidings::clock::{Clock as _, SystemClock};
use tidings::log::memory::MemoryLog;
use tidings::log::names::Subject;
use tidings::log::{AppendError, Appended, EventLog as _, LogInfo, Messages, NewEvent, ReadError};
use tidings::submit::{Acks, SubmitError};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::altered::{Alter, Altered};
use crate::support::log::{channel, cleared, created};
use crate::support::projecting::{Projecting, clear};

/// A log that delivers nothing until it was first asked for its head, and says where that is only once. Before the first
/// event that it is sent, another replica clears what is active.
#[derive(Clone)]
struct Contested {
    log: MemoryLog,
    active: NewEvent,
    delivers: watch::Sender<bool>,
    heads: Arc<AtomicUsize>,
    appends: Arc<AtomicUsize>,
}

impl Alter for Contested {
    fn log(&self) -> &MemoryLog {
        &self.log
    }

    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        async move {
            if self.appends.fetch_add(1, Ordering::SeqCst) == 0 {
                self.log.append(cleared(self.active.id, SystemClock.now())).await?;
            }
            self.log.append(event).await
        }
        .boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move {
            if self.heads.fetch_add(1, Ordering::SeqCst) > 0 {
                return Err(ReadError::Away(anyhow!("away")));
            }
            self.delivers.send_replace(true);
            self.log.head_of(subject).await
        }
        .boxed()
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        let delivers = self.delivers.subscribe();
        let held = move |message| {
            let mut delivers = delivers.clone();
            async move {
                let _ = delivers.wait_for(|delivers| *delivers).await;
                message
            }
        };
        self.log.follow(from).map(move |followed| Ok(followed?.then(held).boxed())).boxed()
    }
}

#[tokio::test]
async fn that_there_is_nothing_to_clear_is_not_said_of_a_log_that_was_not_read_to_its_head() {
    let (log, directory) = (MemoryLog::default(), tempfile::tempdir().unwrap());
    let active = created("active");
    let contested = Contested {
        log: log.clone(),
        active: active.clone(),
        delivers: watch::Sender::new(false),
        heads: Arc::default(),
        appends: Arc::default(),
    };
    let projecting = Projecting::start(Altered(contested.clone()), &directory.path().join("projection"));
    projecting.digest_at(0).await;
    let submit = projecting.submit(Altered(contested.clone()), PATIENCE);
    log.append(active).await.unwrap();
    // It has not read the post: it asks for the head, reads it, and clears. Another one was faster, and from then on the log
    // does not say where its head is, so that whether there is anything to clear is not known.
    let answer = timeout(PATIENCE, submit.lifecycle(clear(), None, None)).await.unwrap();
    assert!(matches!(answer, Err(SubmitError::Unknown { .. })), "{answer:?}");
    assert!(contested.appends.load(Ordering::SeqCst) >= 1, "it tried");
    assert!(contested.heads.load(Ordering::SeqCst) >= 2, "it asked again");
    projecting.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_does_not_go_into_a_log_that_was_made_anew_unnoticed() {
    let (old, new, directory) = (MemoryLog::default(), MemoryLog::default(), tempfile::tempdir().unwrap());
    new.recreate();
    // The log was lost and is back, and what this replica shows is of the one before.
    let projecting = Projecting::start(old.clone(), &directory.path().join("projection"));
    let post = created("lost");
    let broadcast = tidings::domain::BroadcastId(post.id);
    old.append(post).await.unwrap();
    projecting.digest_at(1).await;
    for accepts_alone in [false, true] {
        let submit = if accepts_alone {
            projecting.submit_alone(new.clone(), PATIENCE)
        } else {
            projecting.submit(new.clone(), PATIENCE)
        };
        let acks = Acks::start(submit, None);
        let acknowledged = acks.acknowledge(channel(), broadcast, "bob".parse().unwrap(), None);
        let answer = timeout(PATIENCE, acknowledged).await.unwrap();
        assert!(matches!(answer, Err(SubmitError::CatchingUp)), "{answer:?}");
        assert_eq!(new.info().await.unwrap().last_sequence, 0, "nothing of it is there");
    }
    projecting.stop().await;
}

/// A log that is reached over a connection, and counts how often it is asked which one it is.
#[derive(Clone, Default)]
struct Connected {
    log: MemoryLog,
    connection: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Connected {
    fn connect(&self, connection: &str) {
        *self.connection.lock().unwrap() = Some(connection.to_owned());
    }
}

impl Alter for Connected {
    fn log(&self) -> &MemoryLog {
        &self.log
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.log.info()
    }

    fn connection(&self) -> Option<String> {
        self.connection.lock().unwrap().clone()
    }
}

#[tokio::test]
async fn the_log_is_asked_which_one_it_is_once_for_each_connection_and_not_for_each_acknowledgement() {
    let (written, directory) = (Connected::default(), tempfile::tempdir().unwrap());
    // The reader asks for itself; only the questions of who appends are counted.
    let projecting = Projecting::start(written.log.clone(), &directory.path().join("projection"));
    let post = created("hello");
    let broadcast = tidings::domain::BroadcastId(post.id);
    written.log.append(post).await.unwrap();
    projecting.digest_at(1).await;
    let acks = Acks::start(projecting.submit(Altered(written.clone()), PATIENCE), None);
    let acknowledge = async |user: &str| {
        let acknowledged = acks.acknowledge(channel(), broadcast, user.parse().unwrap(), None);
        timeout(PATIENCE, acknowledged).await.unwrap().unwrap();
    };
    let mut asked = Vec::new();
    for (connection, users) in [("first", ["ann", "bob", "cid"]), ("second", ["dan", "eve", "fay"])] {
        written.connect(connection);
        for user in users {
            let before = written.asked.load(Ordering::SeqCst);
            acknowledge(user).await;
            asked.push(written.asked.load(Ordering::SeqCst) - before);
        }
    }
    assert_eq!(asked, [1, 0, 0, 1, 0, 0]);
    projecting.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_does_not_go_into_a_log_that_lost_its_end_unnoticed() {
    let (whole, short, directory) =
        (MemoryLog::default(), MemoryLog::default(), tempfile::tempdir().unwrap());
    let projecting = Projecting::start(whole.clone(), &directory.path().join("projection"));
    let post = created("lost");
    let broadcast = tidings::domain::BroadcastId(post.id);
    whole.append(post).await.unwrap();
    projecting.digest_at(1).await;
    assert_eq!(
        whole.info().await.unwrap().epoch,
        short.info().await.unwrap().epoch,
        "it says that it is the same"
    );
    let acks = Acks::start(projecting.submit(short.clone(), Duration::from_millis(300)), None);
    let acknowledged = acks.acknowledge(channel(), broadcast, "bob".parse().unwrap(), None);
    let answer = timeout(PATIENCE, acknowledged).await.unwrap();
    assert!(matches!(answer, Err(SubmitError::CatchingUp)), "{answer:?}");
    assert_eq!(short.info().await.unwrap().last_sequence, 0, "nothing of it is there");
    projecting.stop().await;
}
