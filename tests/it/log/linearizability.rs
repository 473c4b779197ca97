//! Concurrent requests through three replicas, over a lost answer, a killed replica and a killed NATS, form a linearizable history:
//! all that was answered is as if one server had done one request after the other, each between its call and its answer.

mod clients;
mod history;
mod model;

use self::clients::{Clients, Service};
use self::history::Recorder;
use self::model::{
    Acknowledgement, AcknowledgementOperation, Channel, ChannelOperation, Outcome, Precondition,
};
use crate::support::{Condition, Link, Nats, PATIENCE, Replica, Spec, random, within};

/// Clients at the same time, and answers between two faults.
const CLIENTS: usize = 5;
const ANSWERS: usize = 100;

/// Three replicas, the second one behind a link.
async fn replicas(nats: &Nats, link: &Link) -> [Replica; 3] {
    let joining = |url| Spec::joining(url).with(&["--on-outage", "reject", "--append-timeout-ms", "500"]);
    let mut replicas = [
        Replica::start_with(joining(nats.url())).await,
        Replica::start_with(joining(nats.url_through(link.address()))).await,
        Replica::start_with(joining(nats.url())).await,
    ];
    replicas.iter_mut().for_each(Replica::keep_port);
    replicas
}

/// Waits for so many more answers.
async fn goes_on(service: &Service) {
    let before = service.answers();
    within(3 * PATIENCE, "requests are answered", || async { service.answers() >= before + ANSWERS }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_through_three_replicas_are_linearizable_whatever_fails() {
    let mut nats = Nats::start().await;
    let link = Link::to(nats.port()).await;
    let mut replicas = replicas(&nats, &link).await;
    let subject = replicas[0].post_broadcast("number 0").await["id"].as_str().unwrap().to_owned();
    replicas[0].clear().await;
    let service = Service::of(&replicas, subject);
    let mut random = random::of_this_run();

    let clients = Clients::start(&service, CLIENTS, &mut random);
    goes_on(&service).await;
    clients.stop().await;
    is_linearizable(&service);
    one_wrong_answer_is_noticed(&service);

    let clients = Clients::start(&service, CLIENTS, &mut random);
    // What the second replica appends from here on may come into the log or not.
    link.become_(Condition::AnswersLost);
    // An answer may have passed just before.
    while service.post_once(1).await == Some(Outcome::Done) {}
    replicas[1].in_mode("local").await;
    link.become_(Condition::Whole);
    replicas[1].in_mode("cluster").await;
    goes_on(&service).await;

    replicas[2].kill();
    goes_on(&service).await;
    replicas[2].start_again().await;
    goes_on(&service).await;

    nats.kill();
    for replica in &replicas {
        replica.in_mode("local").await;
    }
    nats.start_again().await;
    for replica in &replicas {
        replica.in_mode("cluster").await;
    }
    goes_on(&service).await;

    clients.stop().await;
    is_linearizable(&service);
    let (_, pending) = service.channel.counts();
    assert!(pending > 0, "no outcome is unknown");
}

fn is_linearizable(service: &Service) {
    let (returned, pending) = service.channel.counts();
    let acks: usize = service.acknowledgements.iter().map(|user| user.counts().0).sum();
    println!(
        "{returned} requests about the channel returned, {pending} are pending; {acks} about acknowledgements"
    );
    assert!(returned > 50 && acks > 50, "too little happened");
    let channel = &service.channel;
    assert!(channel.is_linearizable(), "no order explains these answers:\n{channel:?}");
    for user in &service.acknowledgements {
        assert!(user.is_linearizable(), "no order explains these answers:\n{user:?}");
    }
}

/// With one answer more that cannot be, the history is not linearizable any more.
fn one_wrong_answer_is_noticed(service: &Service) {
    let channel = service.channel.copy();
    channel.returned(channel.call(), ChannelOperation::Read(Some(1)));
    assert!(!channel.is_linearizable(), "what was superseded long ago is active again");
    let user = service.acknowledgements.iter().max_by_key(|user| user.counts()).unwrap().copy();
    for read in [true, false] {
        user.returned(user.call(), AcknowledgementOperation::Read(read));
    }
    assert!(!user.is_linearizable(), "an acknowledgement is gone");
}

/// Posts the broadcasts 1 and 2 one after the other; the second one as the outcome has it.
fn two_posts(outcome: Outcome) -> Recorder<Channel> {
    let history = Recorder::new();
    for (number, outcome) in [(1, Outcome::Done), (2, outcome)] {
        let post = ChannelOperation::Post { number, precondition: Precondition::Always, outcome };
        match outcome {
            Outcome::Unknown => history.pending(history.call(), post),
            _ => history.returned(history.call(), post),
        }
    }
    history
}

#[test]
fn a_history_of_answers_that_contradict_each_other_is_refused() {
    let read = |history: &Recorder<Channel>, read: &[u64]| {
        for number in read {
            history.returned(history.call(), ChannelOperation::Read(Some(*number)));
        }
        history.is_linearizable()
    };
    assert!(read(&two_posts(Outcome::Done), &[2, 2]));
    assert!(!read(&two_posts(Outcome::Done), &[1]), "an older state");
    assert!(!read(&two_posts(Outcome::Done), &[3]), "what nobody posted");
    assert!(read(&two_posts(Outcome::Unknown), &[1, 2]), "it came into the log late");
    assert!(read(&two_posts(Outcome::Unknown), &[1, 1]), "it never came into the log");
    assert!(!read(&two_posts(Outcome::Unknown), &[2, 1]), "it came, and was gone again");
    assert!(!read(&two_posts(Outcome::PreconditionFailed), &[1]), "nothing was demanded of it");

    let cleared = |cleared| {
        let history = two_posts(Outcome::Done);
        let (precondition, outcome) = (Precondition::Active(2), Outcome::Done);
        history.returned(history.call(), ChannelOperation::Clear { cleared, precondition, outcome });
        history.is_linearizable()
    };
    assert!(cleared(Some(2)) && !cleared(Some(1)) && !cleared(None));

    let acknowledged = |answers: [bool; 2], read: bool| {
        let history = Recorder::<Acknowledgement>::new();
        let calls = answers.map(|already| (history.call(), Some(already)));
        for (call, already) in calls {
            history.returned(call, AcknowledgementOperation::Acknowledge { already });
        }
        history.returned(history.call(), AcknowledgementOperation::Read(read));
        history.is_linearizable()
    };
    assert!(acknowledged([true, false], true), "at the same time either may be first");
    assert!(!acknowledged([false, false], true), "it counts once");
    assert!(!acknowledged([false, true], false), "it is lost");
}
