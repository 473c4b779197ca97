//! Of what was accepted on replicas apart: what takes effect in the end, and what goes on record without effect.

use std::fs;
use std::sync::Arc;

use tempfile::TempDir;
use tidings::clock::{Clock as _, SystemClock};
use tidings::domain::{BroadcastId, Command, Event, Precondition, Timestamp};
use tidings::log::names::Subject;
use tidings::log::{EventLog as _, NewEvent};
use tidings::submit::mode::Mode;
use tidings::submit::{Acks, Submit};

use crate::support::PATIENCE;
use crate::support::fitful::{Fitful, alone, in_mode};
use crate::support::log::{channel, created};
use crate::support::projecting::{Projecting, clear, create, key};

/// Returns when the clock shows another millisecond: what is accepted from then on is newer.
async fn later() {
    let now = SystemClock.now();
    while SystemClock.now() <= now {
        tokio::task::yield_now().await;
    }
}

/// A replica that has read one broadcast of the log, and is alone since.
async fn alone_with_a_broadcast(log: &Fitful, directory: &TempDir) -> (Projecting, Arc<Submit>, BroadcastId) {
    let projecting = Projecting::start(log.clone(), &directory.path().join("projection"));
    let first = created("first");
    log.log.append(first.clone()).await.unwrap();
    projecting.digest_at(1).await;
    let submit = projecting.submit_alone(log.clone(), PATIENCE);
    log.leave(&submit).await;
    (projecting, submit, BroadcastId(first.id))
}

/// What another replica appends to the log, now.
async fn elsewhere(log: &Fitful, message: &str) -> BroadcastId {
    later().await;
    let event = created(message);
    let id = BroadcastId(event.id);
    log.log.append(event).await.unwrap();
    later().await;
    id
}

/// What this replica accepts while it is alone.
async fn accepted(submit: &Submit, command: Command) -> BroadcastId {
    later().await;
    let done = submit.lifecycle(command, None, None).await.unwrap();
    assert!(done.local, "{done:?}");
    later().await;
    done.broadcast.unwrap()
}

/// The same post, with a condition.
fn create_if(condition: Precondition, message: &str) -> Command {
    let Command::Create { channel, message, severity, by, .. } = create(message) else { unreachable!() };
    Command::Create { channel, message, severity, by, condition }
}

/// With an `If-Match` that names one broadcast.
fn only_while(active: BroadcastId, message: &str) -> Command {
    create_if(Precondition::OneOf(vec![active]), message)
}

/// Lets the log take everything, waits until the outbox is settled, and says what is active then.
async fn active_in_the_end(log: &Fitful, projecting: &Projecting, submit: &Submit) -> Option<BroadcastId> {
    log.may_take.add_permits(100);
    log.come_back();
    in_mode(submit, Mode::Cluster).await;
    assert_eq!(submit.outbox_stats().entries, 0);
    projecting.look(|view| view.log().channel(&channel()).active).await
}

async fn is_late(projecting: &Projecting, id: BroadcastId) -> bool {
    let known = projecting.projection.record(channel(), id).await.unwrap();
    known.expect("it is on record").late
}

#[tokio::test]
async fn the_newest_post_counts_when_its_replica_accepted_nothing_before_it() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    elsewhere(&log, "b").await;
    let newest = accepted(&submit, create("c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newest));
    projecting.stop().await;
}

#[tokio::test]
async fn the_newest_post_counts_when_an_earlier_post_of_its_replica_is_overruled() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let oldest = accepted(&submit, create("a")).await;
    elsewhere(&log, "b").await;
    let newest = accepted(&submit, create("c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newest));
    assert!(is_late(&projecting, oldest).await && !is_late(&projecting, newest).await);
    projecting.stop().await;
}

#[tokio::test]
async fn the_newest_post_counts_when_an_earlier_clear_of_its_replica_is_overruled() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit, _) = alone_with_a_broadcast(&log, &directory).await;
    accepted(&submit, clear()).await;
    elsewhere(&log, "b").await;
    let newest = accepted(&submit, create("c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newest));
    projecting.stop().await;
}

#[tokio::test]
async fn an_older_post_is_overruled_by_a_newer_one_and_stays_on_record() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let older = accepted(&submit, create("a")).await;
    let newer = elsewhere(&log, "b").await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newer));
    assert!(is_late(&projecting, older).await);
    assert_eq!(projecting.metrics.outbox_overruled.get(), 1, "an operator sees it");
    projecting.stop().await;
}

#[tokio::test]
async fn a_retry_of_a_post_that_was_overruled_is_told_that_it_is_late() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let older = submit.lifecycle(create("a"), Some(key("k")), None).await.unwrap();
    let newer = elsewhere(&log, "b").await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newer));
    let again = submit.lifecycle(create("a"), Some(key("k")), None).await.unwrap();
    assert!(again.late && !again.local && again.sequence.is_some(), "{again:?}");
    assert_eq!((again.id, again.broadcast), (older.id, older.broadcast));
    // A condition was accepted with it, if there was one: it is no other request.
    let conditional = create_if(Precondition::OneOf(vec![newer]), "a");
    assert!(submit.lifecycle(conditional, Some(key("k")), None).await.unwrap().late);
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_with_if_match_shares_the_fate_of_the_post_that_it_names() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let named = accepted(&submit, create("a")).await;
    let newer = elsewhere(&log, "b").await;
    let conditional = accepted(&submit, only_while(named, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(newer));
    assert!(is_late(&projecting, named).await && is_late(&projecting, conditional).await);
    projecting.stop().await;
}

#[tokio::test]
async fn a_newer_post_with_if_match_does_not_replace_a_broadcast_that_it_does_not_name() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit, first) = alone_with_a_broadcast(&log, &directory).await;
    // Something pending keeps the view of the channel as it was.
    let acks = Acks::start(submit.clone(), None);
    acks.acknowledge(channel(), first, "bob".parse().unwrap(), None).await.unwrap();
    let other = elsewhere(&log, "other").await;
    let conditional = accepted(&submit, only_while(first, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(other));
    assert!(is_late(&projecting, conditional).await);
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_with_if_match_takes_effect_while_the_broadcast_that_it_names_is_active() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let named = accepted(&submit, create("a")).await;
    let conditional = accepted(&submit, only_while(named, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(conditional));
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_whose_if_match_lists_the_broadcast_that_came_to_be_active_takes_effect() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    let overruled = accepted(&submit, create("a")).await;
    let newer = elsewhere(&log, "b").await;
    let either = Precondition::OneOf(vec![overruled, newer]);
    let conditional = accepted(&submit, create_if(either, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(conditional));
    assert!(is_late(&projecting, overruled).await);
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_with_if_none_match_does_not_replace_what_came_meanwhile_however_old_that_is() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    // For this replica nothing is active.
    accepted(&submit, create("a")).await;
    accepted(&submit, clear()).await;
    let other = elsewhere(&log, "b").await;
    let conditional = accepted(&submit, create_if(Precondition::NoneActive, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(other));
    assert!(is_late(&projecting, conditional).await);
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_with_if_none_match_takes_effect_behind_a_clear_of_its_own_replica() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit) = alone(&log, &directory).await;
    accepted(&submit, create("a")).await;
    accepted(&submit, clear()).await;
    let conditional = accepted(&submit, create_if(Precondition::NoneActive, "c")).await;
    assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(conditional));
    projecting.stop().await;
}

#[tokio::test]
async fn a_post_with_if_match_star_replaces_what_is_older_and_nothing_that_is_newer() {
    for newer_comes in [false, true] {
        let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
        let (projecting, submit) = alone(&log, &directory).await;
        accepted(&submit, create("a")).await;
        let older = elsewhere(&log, "b").await;
        let conditional = accepted(&submit, create_if(Precondition::AnyActive, "c")).await;
        let expected = if newer_comes { elsewhere(&log, "d").await } else { conditional };
        assert_eq!(active_in_the_end(&log, &projecting, &submit).await, Some(expected));
        assert_eq!(is_late(&projecting, conditional).await, newer_comes);
        assert!(!is_late(&projecting, older).await);
        projecting.stop().await;
    }
}

/// Both logs have a first event. A post that was decided behind the first event of the one was not decided behind the
/// first event of the other.
#[tokio::test]
async fn a_sequence_of_a_log_that_was_lost_is_not_taken_for_one_of_the_next_log() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit, first) = alone_with_a_broadcast(&log, &directory).await;
    let acks = Acks::start(submit.clone(), None);
    acks.acknowledge(channel(), first, "bob".parse().unwrap(), None).await.unwrap();
    log.log.recreate();
    let newer = in_an_hour("of the next log");
    log.log.append(newer.clone()).await.unwrap();
    projecting.digest_at(1).await;
    accepted(&submit, create("behind the first event of the lost log")).await;
    let active = active_in_the_end(&log, &projecting, &submit).await;
    assert_eq!(active, Some(BroadcastId(newer.id)), "the newer post stays");
    projecting.stop().await;
}

/// A post that another replica, whose clock is ahead, accepts an hour from now.
fn in_an_hour(message: &str) -> NewEvent {
    let mut event = created(message);
    let at = Timestamp::from_unix_ms(SystemClock.now().as_unix_ms() + 3_600_000);
    if let Event::Created(broadcast) = &mut event.event {
        broadcast.created_at = at;
    }
    NewEvent { time: at, ..event }
}

#[tokio::test]
async fn an_acknowledgement_of_a_broadcast_that_was_lost_with_its_log_does_not_go_into_the_next_log() {
    let (log, directory) = (Fitful::new(), tempfile::tempdir().unwrap());
    let (projecting, submit, lost) = alone_with_a_broadcast(&log, &directory).await;
    let acks = Acks::start(submit.clone(), None);
    let acknowledge = async |id, user: &str| {
        acks.acknowledge(channel(), id, user.parse().unwrap(), None).await.unwrap();
    };
    acknowledge(lost, "ann").await;
    let kept = accepted(&submit, create("kept")).await;
    acknowledge(kept, "bob").await;
    log.log.recreate();
    log.may_take.add_permits(100);
    log.come_back();
    in_mode(&submit, Mode::Cluster).await;
    let subject = async |sequence| log.log.get(sequence).await.unwrap().map(|message| message.subject);
    assert_eq!(subject(1).await, Some(Subject::Lifecycle(channel()).to_string()));
    assert_eq!(subject(2).await, Some(Subject::Acks(channel(), kept).to_string()));
    assert_eq!(subject(3).await, None);
    assert_eq!(submit.outbox_stats().rejected, 1);
    let rejected = fs::read_to_string(directory.path().join("projection.outbox/rejected")).unwrap();
    assert!(rejected.contains("does not have the broadcast") && rejected.contains("ann"), "{rejected}");
    projecting.stop().await;
}
