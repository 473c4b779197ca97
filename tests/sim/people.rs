//! Those who create, clear and acknowledge, and what they write down of it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tidings::domain::{
    Audience, BroadcastId, Channel, Command, Message, Precondition, SentTo, Severity, Timestamp, UserId,
};
use tidings::submit::{Acknowledged, IdempotencyKey, SubmitError, Submitted};
use tokio::time::{Instant, sleep, timeout};

use crate::dice::Dice;
use crate::replica::Replica;
use crate::world::World;

/// Whoever does not hang up before waits this long for an answer, and gets one: every wait of a replica is bounded.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Users of a crowd, and in how many percent of the runs there is one.
const CROWD: usize = 3_000;
const CROWDED: u64 = 5;

/// What a replica said to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    Done(Submitted),
    /// An error that says that nothing was written.
    Refused(String),
    /// An error that says that nobody knows.
    Unknown,
    /// No answer: whoever asked hung up, or the replica died or was not there.
    Nothing,
}

/// A creator's command under a key of its own, and what was said to each try.
#[derive(Clone, Debug)]
pub struct Tried {
    pub channel: Channel,
    /// Nobody else is called so: the log tells by it what became of the command.
    pub by: UserId,
    pub key: Option<String>,
    /// The text of a broadcast; `None` for a clear.
    pub message: Option<String>,
    /// What has to be active.
    pub condition: Precondition,
    pub said: Vec<Said>,
    /// When it was decided on.
    pub began: Instant,
    /// When it was answered last.
    pub answered: Option<Timestamp>,
}

impl Tried {
    /// Whether a retry would tell more.
    pub fn is_open(&self) -> bool {
        self.key.is_some() && matches!(self.said.last(), Some(Said::Unknown | Said::Nothing))
    }

    fn command(&self) -> Command {
        let (channel, by, condition) = (self.channel.clone(), self.by.clone(), self.condition.clone());
        match &self.message {
            Some(text) => {
                let message = Message::parse(text).unwrap();
                Command::Create { channel, message, severity: Severity::Info, by, condition }
            }
            None => Command::Clear { channel, by, condition },
        }
    }

    /// Asks a replica once more, and writes down what it says.
    pub async fn again(&mut self, world: &World, replica: usize, patience: Duration) {
        // Each try would be answered with other numbers, if it were the first.
        let users = u64::try_from(10 * self.said.len() + replica).unwrap();
        let of_all = SentTo { users, ..SentTo::default() };
        let audience = Audience { of_all, of_replica: SentTo { approximate: true, ..of_all } };
        let key = self.key.as_deref().map(|key| IdempotencyKey { key, audience });
        let command = self.command();
        let answer =
            world.ask(replica, patience, async |replica| replica.submit.lifecycle(command, key, None).await);
        let said = match answer.await {
            None => Said::Nothing,
            Some(Ok(done)) => Said::Done(done),
            Some(Err(SubmitError::Unknown { .. })) => Said::Unknown,
            Some(Err(error)) => Said::Refused(format!("{error:?}")),
        };
        world.trace.note(format_args!("{replica} said to {}: {said:?}", self.by));
        if let (Some(_), Said::Done(Submitted { broadcast: Some(id), local, .. })) = (&self.message, &said) {
            world.heard_of(replica, *local, &self.channel, *id);
        }
        self.said.push(said);
        self.answered = Some(world.now());
    }
}

/// A confirmed acknowledgement.
#[derive(Clone, Debug)]
pub struct Acked {
    pub user: UserId,
    pub broadcast: BroadcastId,
    pub said: Acknowledged,
}

/// A creator: posts, clears, and asks again with the same key while the outcome is unknown, and at times when it is known.
pub async fn creator(world: Arc<World>, number: u64, until: Instant) -> Vec<Tried> {
    let mut dice = Dice::of(&[world.seed, 20, number]);
    let mut tried = Vec::new();
    while Instant::now() < until {
        sleep(dice.ms(20..1_200)).await;
        let mut command = command(&world, &mut dice, &format!("{number}-{}", tried.len()));
        for tries in 0..4 {
            let patience = if dice.percent(10) { dice.ms(1..500) } else { PATIENCE };
            let replica = dice.index(world.replicas());
            command.again(&world, replica, patience).await;
            let once_more = command.is_open() || (command.key.is_some() && dice.percent(15));
            if !once_more || tries == 3 {
                break;
            }
            sleep(dice.ms(1..800)).await;
        }
        tried.push(command);
    }
    tried
}

fn command(world: &World, dice: &mut Dice, name: &str) -> Tried {
    let channel = dice.pick(&world.channels).clone();
    let condition = condition(world, dice, &channel);
    Tried {
        by: format!("creator {name}").parse().unwrap(),
        key: (!dice.percent(15)).then(|| format!("key {name}")),
        message: (!dice.percent(30)).then(|| format!("message {name}")),
        condition,
        channel,
        said: vec![],
        began: Instant::now(),
        answered: None,
    }
}

fn condition(world: &World, dice: &mut Dice, channel: &Channel) -> Precondition {
    match dice.within(0..100) {
        0..15 => {
            let named: Vec<_> = (0..dice.within(1..3)).filter_map(|_| world.known(dice, channel)).collect();
            if named.is_empty() { Precondition::Always } else { Precondition::OneOf(named) }
        }
        15..20 => Precondition::AnyActive,
        20..25 => Precondition::NoneActive,
        _ => Precondition::Always,
    }
}

/// A user who acknowledges what is talked about, also what is long over, through any replica.
pub async fn user(world: Arc<World>, number: u64, until: Instant) -> Vec<Acked> {
    let mut dice = Dice::of(&[world.seed, 21, number]);
    let mut acked = Vec::new();
    while Instant::now() < until {
        sleep(dice.ms(10..900)).await;
        let channel = dice.pick(&world.channels).clone();
        let Some(broadcast) = world.known(&mut dice, &channel) else { continue };
        let user: UserId = name(dice.within(0..6));
        let replica = dice.index(world.replicas());
        let answer = world.ask(replica, PATIENCE, async |replica| {
            replica.acks.acknowledge(channel, broadcast, user.clone(), None).await
        });
        let said = answer.await;
        world.trace.note(format_args!("{replica} said to {user} about {broadcast}: {said:?}"));
        if let Some(Ok(said)) = said {
            acked.push(Acked { user, broadcast, said });
        }
    }
    acked
}

/// Many users who acknowledge one broadcast at the same time.
pub async fn crowd(world: Arc<World>, until: Instant) -> Vec<Acked> {
    let mut dice = Dice::of(&[world.seed, 23]);
    if !dice.percent(CROWDED) {
        return vec![];
    }
    sleep(dice.ms(1_000..5_000)).await;
    let channel = dice.pick(&world.channels).clone();
    let Some(broadcast) = world.known(&mut dice, &channel).filter(|_| Instant::now() < until) else {
        return vec![];
    };
    let Some(replica) = world.replica(dice.index(world.replicas())) else { return vec![] };
    world.trace.note(format_args!("{CROWD} users acknowledge {broadcast}"));
    let answers = join_all((0..CROWD).map(|number| {
        // Names so long that they do not fit into one event.
        let user: UserId = format!("user {number} {}", "x".repeat(100)).parse().unwrap();
        let (acks, channel) = (replica.acks.clone(), channel.clone());
        async move { (user.clone(), acks.acknowledge(channel, broadcast, user, None).await) }
    }));
    let answers = tokio::select! {
        biased;
        () = replica.died() => return vec![],
        answers = answers => answers,
    };
    world.network.inject("crowd");
    let acked =
        answers.into_iter().filter_map(|(user, said)| Some(Acked { user, broadcast, said: said.ok()? }));
    acked.collect()
}

pub fn name(number: u64) -> UserId {
    format!("user {number}").parse().unwrap()
}

impl World {
    /// Asks a replica, until it answers, dies, or patience ends. Nobody's patience outlasts a replica that lives.
    pub async fn ask<T>(
        &self,
        replica: usize,
        patience: Duration,
        ask: impl AsyncFnOnce(Arc<Replica>) -> T,
    ) -> Option<T> {
        let replica = self.replica(replica)?;
        tokio::select! {
            biased;
            () = replica.died() => None,
            answered = timeout(patience, ask(replica.clone())) => {
                assert!(answered.is_ok() || patience < PATIENCE, "a replica that lives does not answer");
                answered.ok()
            }
        }
    }
}
