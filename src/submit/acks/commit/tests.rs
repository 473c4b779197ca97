//! Tests of how requests share events, and of their replies.

use uuid::Uuid;

use super::*;
use crate::clock::SystemClock;
use crate::submit::acks::Replies;

fn request(broadcast: u128, user: &str) -> AckRequest {
    let channel = "creator".parse().unwrap();
    AckRequest::new(0, channel, BroadcastId(Uuid::from_u128(broadcast)), user.parse().unwrap(), None)
}

/// A batch of requests, whose tags are their indexes.
fn batch(all: impl IntoIterator<Item = AckRequest>) -> (AckBatch, Replies) {
    let tagged = all.into_iter().enumerate();
    let requests: Vec<_> = tagged.map(|(tag, one)| AckRequest { tag: tag as u64, ..one }).collect();
    let (responder, replies) = Responder::new(&requests, Timestamp::from_unix_ms(0));
    (AckBatch { responder, requests }, replies)
}

fn grouped(requests: impl IntoIterator<Item = AckRequest>) -> Vec<InFlight> {
    group([batch(requests).0].into_iter(), &SystemClock)
}

#[test]
fn what_waits_together_becomes_one_event_a_broadcast_with_each_user_once() {
    let together = [[request(1, "a"), request(2, "a")], [request(1, "b"), request(1, "a")]];
    let commits = group(together.map(|requests| batch(requests).0).into_iter(), &SystemClock);
    let shape = |c: &InFlight| {
        (c.broadcast.0.as_u128(), c.acknowledgements.len(), c.waiters.len(), c.responders.len())
    };
    assert_eq!(commits.iter().map(shape).collect::<Vec<_>>(), [(1, 2, 3, 2), (2, 1, 1, 1)]);
}

#[tokio::test]
async fn each_caller_gets_its_replies_in_one_message_and_only_the_first_request_of_a_user_is_new() {
    let (one, mut first) = batch([request(1, "a"), request(1, "b")]);
    let (other, mut second) = batch([request(1, "c"), request(1, "a")]);
    for commit in group([one, other].into_iter(), &SystemClock) {
        commit.reply(|entry, is_first| {
            let sequence = u64::try_from(entry).ok();
            Ok(Acknowledged { already: Some(!is_first), sequence })
        });
    }
    let results = |replies: Vec<AckReply>| {
        let results = replies.into_iter().map(|reply| {
            let Acknowledged { already, sequence } = reply.result.unwrap();
            (reply.tag, already.unwrap(), sequence.unwrap())
        });
        results.collect::<Vec<_>>()
    };
    assert_eq!(results(first.next().await.unwrap()), [(0, false, 0), (1, false, 1)]);
    assert_eq!(results(second.next().await.unwrap()), [(0, false, 2), (1, true, 0)]);
    assert!(first.next().await.is_none() && second.next().await.is_none());
}

#[tokio::test]
async fn a_request_that_was_dropped_is_rejected() {
    let (AckBatch { responder, requests }, mut replies) =
        batch([request(1, "a"), request(1, "b"), request(1, "c")]);
    responder.reject(&requests[1..2], &SubmitError::CatchingUp);
    drop(responder);
    let tags = |replies: Vec<AckReply>| {
        let busy = |reply: &AckReply| matches!(reply.result, Err(SubmitError::Busy));
        let mut tags: Vec<_> = replies.iter().map(|reply| (reply.tag, busy(reply))).collect();
        tags.sort_unstable();
        tags
    };
    assert_eq!(tags(replies.next().await.unwrap()), [(1, false)]);
    assert_eq!(tags(replies.next().await.unwrap()), [(0, true), (2, true)]);
    assert!(replies.next().await.is_none());
}

#[test]
fn an_event_has_a_trace_when_all_of_it_came_with_the_same_one() {
    let [one, other] = ["1", "2"].map(|digit| format!("00-{}-{}-01", digit.repeat(32), digit.repeat(16)));
    let (one, other) = (one.parse().ok(), other.parse().ok());
    let of = |traces: &[(&str, Option<TraceParent>)]| {
        let requests = traces.iter().map(|(user, trace)| AckRequest { trace: *trace, ..request(1, user) });
        grouped(requests).iter().map(|commit| commit.trace).collect::<Vec<_>>()
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
    let many = grouped((0..2_500).map(|n| request(1, &n.to_string())));
    assert_eq!(many.iter().map(|c| c.acknowledgements.len()).collect::<Vec<_>>(), [1_000, 1_000, 500]);
    // Control characters take six bytes each in JSON.
    let large = grouped((0..1_000).map(|n| request(1, &format!("{}{n:03}", "\u{1}".repeat(125)))));
    assert!(large.len() > 1);
    for commit in large {
        let body = serde_json::to_vec(&commit.acknowledgements).unwrap();
        assert!(body.len() <= MAX_EVENT_BYTES + 64, "{}", body.len());
    }
}
