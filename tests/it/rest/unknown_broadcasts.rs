//! Acknowledgements of broadcasts that nobody knows: what they cost the log, and that they are bounded.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{BroadcastId, Rejection};
use tidings::log::memory::MemoryLog;
use tidings::log::names::Subject;
use tidings::log::{EventLog as _, ReadError};
use tidings::submit::{AckRequest, Acks, Replies, Submit, SubmitError};
use tokio::sync::Semaphore;

use crate::support::altered::{Alter, Altered};
use crate::support::log::{channel, created};
use crate::support::projecting::{Projecting, create};
use crate::support::{PATIENCE, eventually};

/// A log that counts how often it is asked for a head, and answers that when it may.
#[derive(Clone)]
struct Counting {
    log: MemoryLog,
    asked: Arc<AtomicUsize>,
    may_answer: Arc<Semaphore>,
}

impl Counting {
    fn new() -> Self {
        let may_answer = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        Self { log: MemoryLog::default(), asked: Arc::default(), may_answer }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

impl Alter for Counting {
    fn log(&self) -> &MemoryLog {
        &self.log
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        Box::pin(async move {
            drop(self.may_answer.acquire().await);
            self.log.head_of(subject).await
        })
    }
}

struct Core {
    projecting: Projecting,
    submit: Arc<Submit>,
    acks: Acks,
    _directory: tempfile::TempDir,
}

async fn core(log: &Counting) -> Core {
    let directory = tempfile::tempdir().unwrap();
    let projecting = Projecting::start(Altered(log.clone()), &directory.path().join("projection"));
    projecting.digest_at(0).await;
    let submit = projecting.submit(Altered(log.clone()), PATIENCE);
    Core { projecting, acks: Acks::start(submit.clone(), None), submit, _directory: directory }
}

fn of(broadcast: BroadcastId, user: &str) -> AckRequest {
    AckRequest::new(0, channel(), broadcast, user.parse().unwrap(), None)
}

fn of_nothing(count: usize) -> Vec<AckRequest> {
    (0..count).map(|n| of(BroadcastId(SystemClock.new_id()), &format!("user-{n}"))).collect()
}

/// Why each was refused.
async fn refusals(mut replies: Replies) -> Vec<SubmitError> {
    let mut refused = Vec::new();
    while let Some(some) = replies.next().await {
        refused.extend(some.into_iter().map(|one| one.result.unwrap_err()));
    }
    refused
}

fn is_unknown(error: &SubmitError) -> bool {
    matches!(error, SubmitError::Rejected(Rejection::UnknownBroadcast { .. }))
}

#[tokio::test]
async fn acknowledgements_of_unknown_ids_share_their_questions_to_the_log() {
    const COUNT: usize = 20_000;
    let log = Counting::new();
    let core = core(&log).await;
    core.submit.lifecycle(create("known"), None, None).await.unwrap();
    let before = log.asked();
    let all = of_nothing(COUNT);
    let ids: HashSet<_> = all.iter().map(|request| request.broadcast).collect();
    let mut named = HashSet::new();
    for error in refusals(core.acks.acknowledge_all(all)).await {
        let SubmitError::Rejected(Rejection::UnknownBroadcast { id }) = error else { panic!("{error:?}") };
        named.insert(id);
    }
    assert!(named == ids, "each is answered for its own id");
    let asked = log.asked() - before;
    assert!((1..=COUNT / 100).contains(&asked), "{asked} questions for {COUNT} ids");
    assert_eq!(core.acks.waiting(), 0, "every place is given back");
    core.projecting.stop().await;
}

#[tokio::test]
async fn acknowledgements_that_wait_for_a_look_up_are_bounded_with_all_others() {
    let log = Counting::new();
    let core = core(&log).await;
    log.may_answer.forget_permits(Semaphore::MAX_PERMITS);
    let first = core.acks.acknowledge_all(of_nothing(30_000));
    let second = core.acks.acknowledge_all(of_nothing(30_000));
    let busy = refusals(core.acks.acknowledge_all(of_nothing(10))).await;
    assert_eq!(core.acks.waiting(), 50_000);
    assert!(busy.len() == 10 && busy.iter().all(|error| matches!(error, SubmitError::Busy)), "{busy:?}");

    log.may_answer.add_permits(100_000);
    let second = refusals(second).await;
    assert_eq!(second.iter().filter(|error| matches!(error, SubmitError::Busy)).count(), 10_000);
    assert_eq!(second.iter().filter(|error| is_unknown(error)).count(), 20_000);
    assert!(refusals(first).await.iter().all(is_unknown));
    assert_eq!(core.acks.waiting(), 0);
    core.projecting.stop().await;
}

#[tokio::test]
async fn an_acknowledgement_of_what_the_projection_has_not_read_yet_is_looked_up_again() {
    let log = Counting::new();
    let core = core(&log).await;
    log.may_answer.forget_permits(Semaphore::MAX_PERMITS);
    // Unknown when it is asked for, and created before the log says where its head is.
    let created = created("shown by another replica");
    let id = created.event.broadcast_id();
    let before = log.asked();
    let mut answers = core.acks.acknowledge_all(vec![of(id, "ann")]);
    eventually("the log is asked", || async { log.asked() > before }).await;
    log.log.append(created).await.unwrap();
    log.may_answer.add_permits(10);
    let answered = tokio::time::timeout(Duration::from_secs(20), answers.next()).await.unwrap().unwrap();
    let acknowledged = answered[0].result.as_ref().unwrap();
    assert_eq!(acknowledged.already, Some(false), "{acknowledged:?}");
    core.projecting.stop().await;
}
