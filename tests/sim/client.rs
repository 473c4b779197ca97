//! Clients that connect, listen, acknowledge, leave and come back: driven as the WebSocket drives a session.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use serde_json::{Value, json};
use tidings::config::SOCKET_LIMITS;
use tidings::domain::{BroadcastId, Channel, UserId};
use tidings::push::attach::{Attached, Connecting};
use tidings::push::frame::Received;
use tidings::push::session::{Action, Session};
use tidings::push::tick::ShardClock;
use tidings::push::wire::{Frame, Place, ServerMessage};
use tidings::submit::{Acknowledged, SubmitError};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::dice::Dice;
use crate::people::{Acked, name};
use crate::replica::{ModeLog, Replica};
use crate::world::World;

/// How a visit ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The run was over. The client asked what is active, heard the answer, and so everything before it.
    Over,
    /// The client left at any moment.
    Left,
    /// The replica closed, with this code.
    Closed(u16),
    /// The replica died.
    Died,
}

/// One connection, and all that was heard on it.
#[derive(Clone, Debug)]
pub struct Visit {
    pub user: UserId,
    pub channel: Channel,
    pub began: Instant,
    pub ended: Instant,
    pub heard: Vec<Value>,
    /// What it acknowledged itself, confirmed or not.
    pub own: Vec<BroadcastId>,
    pub acked: Vec<Acked>,
    pub end: End,
    /// Those of the replica's run.
    pub modes: ModeLog,
}

/// One client, who visits until the run is over.
pub async fn client(world: Arc<World>, number: u64) -> Vec<Visit> {
    let mut dice = Dice::of(&[world.seed, 22, number]);
    let channel = dice.pick(&world.channels).clone();
    let user = name(number % 4);
    let mut visits = Vec::new();
    loop {
        sleep(dice.ms(1..1_500)).await;
        let number = dice.index(world.replicas());
        let over = world.is_over();
        let Some(replica) = world.replica(number) else { continue };
        if let Some(visit) = visit(&world, replica, &user, &channel, &mut dice).await {
            world.trace.note(format_args!(
                "{number} visited by {user}: {:?}, {} heard",
                visit.end,
                visit.heard.len()
            ));
            visits.push(visit);
        }
        if over || visits.last().is_some_and(|visit| visit.end == End::Over) {
            return visits;
        }
    }
}

async fn visit(
    world: &World,
    replica: Arc<Replica>,
    user: &UserId,
    channel: &Channel,
    dice: &mut Dice,
) -> Option<Visit> {
    let began = Instant::now();
    let who =
        Connecting { channel: channel.clone(), user: user.clone(), staff: false, heartbeat_seconds: 30 };
    let attached = tokio::select! {
        biased;
        () = replica.died() => return None,
        attached = replica.hub.attach(who) => attached.ok()?,
    };
    let id = attached.id;
    let watch = ShardClock::start();
    let mut connection = Connection {
        visit: Visit {
            user: user.clone(),
            channel: channel.clone(),
            began,
            ended: began,
            heard: vec![],
            own: vec![],
            acked: vec![],
            end: End::Left,
            modes: replica.spec.mode_log.clone(),
        },
        session: Session::new(watch.now(), None),
        watch,
        acks: FuturesUnordered::new(),
        replica: replica.clone(),
        id,
    };
    connection.visit.end = connection.run(world, attached, dice).await;
    connection.visit.ended = Instant::now();
    replica.hub.detach(id).await;
    Some(connection.visit)
}

type Confirmed = (BroadcastId, Result<Acknowledged, SubmitError>);

struct Connection {
    visit: Visit,
    session: Session,
    watch: ShardClock,
    acks: FuturesUnordered<BoxFuture<'static, Confirmed>>,
    replica: Arc<Replica>,
    id: u64,
}

impl Connection {
    async fn run(&mut self, world: &World, attached: Attached, dice: &mut Dice) -> End {
        let Attached { mut outgoing, mut close, .. } = attached;
        let leaves = Instant::now() + dice.ms(100..12_000);
        let mut acts = Instant::now() + dice.ms(1..2_000);
        let replica = self.replica.clone();
        loop {
            let due = self.watch.instant(self.session.deadline(&SOCKET_LIMITS.session));
            tokio::select! {
                biased;
                () = replica.died() => return End::Died,
                why = &mut close => return why.map_or(End::Died, |why| End::Closed(why.code())),
                Some(confirmed) = self.acks.next(), if !self.acks.is_empty() => self.confirm(confirmed),
                queued = outgoing.recv() => match queued {
                    Some(frame) => self.hear(&frame),
                    None => return End::Died,
                },
                () = world.over() => {
                    self.ask_what_is_active(&mut outgoing).await;
                    return End::Over;
                }
                () = sleep_until(leaves) => return End::Left,
                () = sleep_until(acts) => {
                    acts += dice.ms(100..3_000);
                    self.speak(world, dice).await;
                }
                () = sleep_until(due) => match self.session.tick(self.watch.now(), &SOCKET_LIMITS.session) {
                    Some(Action::Close(why)) => return End::Closed(why.code()),
                    // It hears the ping and answers.
                    _ => drop(self.say("pong")),
                },
            }
        }
    }

    fn say(&mut self, text: &str) -> Option<Action> {
        self.session.hear(self.watch.now(), Received::Text(text), &SOCKET_LIMITS.session)
    }

    /// Says one thing: that it has seen what it was shown last, or that it wants to see what is active.
    async fn speak(&mut self, world: &World, dice: &mut Dice) {
        let shown = self.visit.heard.iter().rev().find_map(|heard| heard["broadcast"]["id"].as_str());
        let text = match shown {
            Some(id) if dice.percent(60) && !world.is_closing() => {
                json!({"type": "acknowledge_broadcast", "broadcast_id": id}).to_string()
            }
            _ => json!({"type": "get_active_broadcast"}).to_string(),
        };
        match self.say(&text) {
            Some(Action::Acknowledge(id)) => {
                let (acks, channel) = (self.replica.acks.clone(), self.visit.channel.clone());
                let user = self.visit.user.clone();
                self.visit.own.push(id);
                let confirmed = async move { (id, acks.acknowledge(channel, id, user, None).await) };
                self.acks.push(Box::pin(confirmed));
            }
            Some(Action::SendActive) => {
                self.replica.hub.send_state(self.id).await;
            }
            other => panic!("the session answers {text} with {other:?}"),
        }
    }

    fn confirm(&mut self, (id, said): Confirmed) {
        self.session.acknowledged(id, said.is_ok());
        match said {
            Ok(said) => {
                let Acknowledged { already, sequence } = said;
                let epoch = self.replica.projection.position().epoch;
                let place = sequence.map_or_else(Place::default, |sequence| Place::of(epoch, sequence));
                self.note(&ServerMessage::Acknowledged { broadcast_id: id, already, place }.frame());
                self.visit.acked.push(Acked { user: self.visit.user.clone(), broadcast: id, said });
            }
            Err(error) => self.visit.heard.push(json!({"type": "error", "code": format!("{error:?}")})),
        }
    }

    fn hear(&mut self, frame: &Frame) {
        if frame.acknowledged.is_none_or(|id| self.session.wants_notice(id)) {
            self.note(frame);
        }
    }

    fn note(&mut self, frame: &Frame) {
        self.visit.heard.push(serde_json::from_slice(frame.json()).unwrap());
    }

    /// The last thing: what comes after its answer is not heard any more.
    async fn ask_what_is_active(&mut self, outgoing: &mut tokio::sync::mpsc::Receiver<Frame>) {
        while let Ok(queued) = outgoing.try_recv() {
            self.hear(&queued);
        }
        self.replica.hub.send_state(self.id).await;
        let before = self.visit.heard.len();
        while !self.visit.heard[before..].iter().any(|heard| heard["type"] == "active_broadcast") {
            let queued = timeout(Duration::from_secs(5), outgoing.recv()).await;
            self.hear(&queued.expect("the question is answered in time").expect("the replica is there"));
        }
    }
}
