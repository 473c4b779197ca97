//! Tests of how acknowledgements share events, and of who is answered.

use uuid::Uuid;

use super::*;
use crate::domain::Timestamp;
use crate::submit::acks::{Answers, Asked};

fn asked(broadcast: u128, user: &str) -> Asked {
    Asked {
        channel: "creator".parse().unwrap(),
        broadcast: BroadcastId(Uuid::from_u128(broadcast)),
        user: user.parse().unwrap(),
        trace: None,
    }
}

fn lot(all: impl IntoIterator<Item = Asked>) -> (Lot, Answers) {
    let at = Timestamp::from_unix_ms(0);
    let requests = all.into_iter().enumerate().map(|(nth, one)| Request::of(nth, one, at));
    let requests: Vec<_> = requests.collect();
    let (asker, answers) = Asker::of(requests.len());
    (Lot { asker, requests }, answers)
}

fn grouped(asked: impl IntoIterator<Item = Asked>) -> Vec<Commit> {
    group([lot(asked).0].into_iter())
}

fn begun(commit: Commit) -> Begun {
    let Commit { fingerprints, askers, waiters, .. } = commit;
    let event = Event::Acknowledged(domain::Acknowledged {
        broadcast_id: commit.broadcast,
        acknowledgements: commit.acknowledgements,
        salt: None,
    });
    let (subject, id) = (Subject::Acks(commit.channel, commit.broadcast), Uuid::nil());
    let (time, source) = (Timestamp::from_unix_ms(0), String::new());
    let new = NewEvent { subject, id, event, time, source, expected: None, trace: None, sent_to: None };
    Begun { new, fingerprints, askers, waiters, unsure: false }
}

#[test]
fn what_waits_together_becomes_one_event_a_broadcast_with_each_user_once() {
    let together = [[asked(1, "a"), asked(2, "a")], [asked(1, "b"), asked(1, "a")]];
    let commits = group(together.map(|asked| lot(asked).0).into_iter());
    let shape =
        |c: &Commit| (c.broadcast.0.as_u128(), c.acknowledgements.len(), c.waiters.len(), c.askers.len());
    assert_eq!(commits.iter().map(shape).collect::<Vec<_>>(), [(1, 2, 3, 2), (2, 1, 1, 1)]);
}

#[tokio::test]
async fn each_asker_is_answered_once_for_all_of_theirs_and_the_first_of_a_user_brings_the_news() {
    let (one, mut first) = lot([asked(1, "a"), asked(1, "b")]);
    let (other, mut second) = lot([asked(1, "c"), asked(1, "a")]);
    for commit in group([one, other].into_iter()) {
        begun(commit).answer(|entry, is_news| {
            let sequence = u64::try_from(entry).ok();
            Ok(Acknowledged { already: Some(!is_news), sequence })
        });
    }
    let told = |answers: Vec<Answered>| {
        let told = answers.into_iter().map(|answered| {
            let Acknowledged { already, sequence } = answered.answer.unwrap();
            (answered.nth, already.unwrap(), sequence.unwrap())
        });
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(first.next().await.unwrap()), [(0, false, 0), (1, false, 1)]);
    assert_eq!(told(second.next().await.unwrap()), [(0, false, 2), (1, true, 0)]);
    assert!(first.next().await.is_none() && second.next().await.is_none());
}

#[tokio::test]
async fn what_nobody_works_on_any_more_is_answered_too() {
    let (Lot { asker, requests }, mut answers) = lot([asked(1, "a"), asked(1, "b"), asked(1, "c")]);
    asker.refuse(&requests[1..2], &SubmitError::CatchingUp);
    drop(asker);
    let numbers = |answers: Vec<Answered>| {
        let busy = |answered: &Answered| matches!(answered.answer, Err(SubmitError::Busy));
        answers.iter().map(|answered| (answered.nth, busy(answered))).collect::<Vec<_>>()
    };
    assert_eq!(numbers(answers.next().await.unwrap()), [(1, false)]);
    assert_eq!(numbers(answers.next().await.unwrap()), [(0, true), (2, true)]);
    assert!(answers.next().await.is_none());
}

#[test]
fn an_event_has_a_trace_when_all_of_it_came_with_the_same_one() {
    let [one, other] = ["1", "2"].map(|digit| format!("00-{}-{}-01", digit.repeat(32), digit.repeat(16)));
    let (one, other) = (one.parse().ok(), other.parse().ok());
    let of = |traces: &[(&str, Option<TraceParent>)]| {
        let asked = traces.iter().map(|(user, trace)| Asked { trace: *trace, ..asked(1, user) });
        grouped(asked).iter().map(|commit| commit.trace).collect::<Vec<_>>()
    };
    assert_eq!(of(&[("a", one), ("b", one), ("a", one)]), [one]);
    for mixed in [
        [("a", one), ("b", other)],
        [("a", one), ("a", other)],
        [("a", one), ("b", None)],
        [("a", None), ("b", one)],
    ] {
        assert_eq!(of(&mixed), [None], "{mixed:?}");
    }
    assert_eq!(of(&[("a", one), ("b", other), ("c", one)]), [None], "it does not come back");
}

#[test]
fn an_event_stays_within_its_bounds() {
    let many = grouped((0..2_500).map(|n| asked(1, &n.to_string())));
    assert_eq!(many.iter().map(|c| c.acknowledgements.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    // Control characters take six bytes each in JSON.
    let large = grouped((0..1_000).map(|n| asked(1, &format!("{}{n:03}", "\u{1}".repeat(125)))));
    assert!(large.len() > 1);
    for commit in large {
        let body = serde_json::to_vec(&commit.acknowledgements).unwrap();
        assert!(body.len() <= MAX_EVENT_BYTES + 64, "{}", body.len());
    }
}
