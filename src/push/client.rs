//! A WebSocket client: its session over its socket, and when somebody has to look after it.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::frame::Received;
use super::session::{self, Action, Session};
use super::socket::{Parting, Read, Slow, Socket, Stage};
use super::wire::{Close, ServerMessage, Token};
use crate::domain::{BroadcastId, Channel, UserId};
use crate::metrics::{ByCode, Metrics};

/// How a WebSocket is limited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How its session is.
    pub session: session::Limits,
    /// Bytes that a message of the client may have.
    pub message_bytes: usize,
    /// How long the client may take from the beginning of a message to its end.
    pub message_time: Duration,
    /// Bytes that may wait because the client does not read.
    pub unsent_bytes: usize,
    /// How long it may take nothing of what waits for it.
    pub unsent_time: Duration,
}

/// After this side's goodbye the client has this long for its own: closing over what it still sends would reset the
/// connection, and it might never see the code.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

/// When the replica stops, acknowledgements that are under way are answered first, for at most this long.
const FINISH_TIME: Duration = Duration::from_secs(7);

/// An errand that was run.
#[derive(Debug)]
pub enum Done {
    /// An acknowledgement was confirmed or not, and what is answered to it.
    Acknowledged {
        /// Of what.
        broadcast: BroadcastId,
        /// Whether it is durable.
        confirmed: bool,
        /// The answer.
        answer: ServerMessage<'static>,
    },
    /// A token was looked at: what it grants, or what is answered to one that is not good.
    Refreshed(Result<Granted, ServerMessage<'static>>),
}

/// What a token grants to a connection that lives.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// For how long.
    pub lasts: Duration,
    /// Whether it learns what creators and team learn.
    pub staff: bool,
}

/// What a client asks for that takes time. The edge does it, and words the answer.
pub trait Errands: Send + Sync {
    /// Acknowledges a broadcast for a user.
    fn acknowledge(&self, channel: Channel, broadcast: BroadcastId, user: UserId)
    -> BoxFuture<'static, Done>;

    /// Looks at a token that is to be of this user.
    fn refresh(&self, token: Token, user: UserId) -> BoxFuture<'static, Done>;
}

/// Why and when a connection ends that has begun to.
enum Ending {
    /// When its acknowledgements are answered, or at this moment.
    Finishing(Close, Instant),
    /// When the client says goodbye too, or at this moment.
    Closing(Instant),
}

pub(super) struct Client {
    pub(super) socket: Socket,
    pub(super) session: Session,
    pub(super) errands: Arc<dyn Errands>,
    began: Instant,
    /// Since when a message is unfinished.
    unfinished: Option<Instant>,
    /// When the client last took something while more waited.
    took: Option<Instant>,
    ending: Option<Ending>,
    /// Given back with it.
    _keeps: Box<dyn Any + Send + Sync>,
    /// Whether its end is counted.
    is_counted: bool,
    /// When the shard will look after it.
    pub(super) armed: Option<Instant>,
}

impl Client {
    pub(super) fn new(
        socket: Socket,
        limits: &Limits,
        lasts: Option<Duration>,
        errands: Arc<dyn Errands>,
        keeps: Box<dyn Any + Send + Sync>,
    ) -> Self {
        Self {
            socket,
            session: Session::new(limits.session, lasts),
            errands,
            began: Instant::now(),
            unfinished: None,
            took: None,
            ending: None,
            _keeps: keeps,
            is_counted: false,
            armed: None,
        }
    }

    /// Whether it is told anything any more.
    pub(super) const fn is_open(&self) -> bool {
        self.ending.is_none() && matches!(self.socket.stage(), Stage::Open)
    }

    /// Reads what has come, or takes in what was read already. What is to be done about it is added to the actions.
    pub(super) fn read(&mut self, from: From<'_>, limits: &Limits, actions: &mut Vec<Action>) -> Read {
        let now = Instant::now();
        let age = now - self.began;
        let listens = self.ending.is_none();
        let session = &mut self.session;
        let mut hear = |received: Received<'_>| {
            let action = if listens { session.hear(age, received) } else { None };
            let ends = matches!(action, Some(Action::Close(_)));
            actions.extend(action);
            if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let read = match from {
            From::Socket(buffer) => self.socket.read(buffer, limits.message_bytes, &mut hear),
            From::Handshake(bytes) => self.socket.take(bytes, limits.message_bytes, &mut hear),
        };
        self.unfinished = self.socket.is_unfinished().then(|| self.unfinished.unwrap_or(now));
        read
    }

    /// Answers the end of what was heard.
    pub(super) fn part(&mut self, parting: Parting) {
        self.socket.part(parting);
        self.ending.get_or_insert_with(|| Ending::Closing(Instant::now() + GOODBYE_TIME));
    }

    /// Counts its end, once: with the code that it was sent, if this side began.
    pub(super) fn count_end(&mut self, code: Option<u16>, metrics: &Metrics) {
        if !std::mem::replace(&mut self.is_counted, true) {
            metrics.websocket_closes.get_or_create(&ByCode::sent(code)).inc();
        }
    }

    /// Sends whole frames.
    pub(super) fn say(&mut self, frames: Bytes, limits: &Limits) -> Result<(), Slow> {
        self.socket.send(frames, limits.unsent_bytes)?;
        self.took = self.waits().then(|| self.took.unwrap_or_else(Instant::now));
        Ok(())
    }

    /// Sends on what waits.
    pub(super) fn flush(&mut self) {
        if self.waits() {
            let before = self.socket.waiting().1;
            self.socket.flush();
            if self.socket.waiting().1 < before {
                self.took = self.waits().then(Instant::now);
            }
        }
    }

    fn waits(&self) -> bool {
        self.socket.waiting().0 > 0
    }

    /// Ends it. A restart first lets what it has under way be answered.
    pub(super) fn end(&mut self, why: Close) {
        if matches!(self.ending, Some(Ending::Closing(_))) {
            return;
        }
        let now = Instant::now();
        if matches!(why, Close::Restart { .. }) && self.session.acks_in_flight() > 0 && self.ending.is_none()
        {
            self.ending = Some(Ending::Finishing(why, now + FINISH_TIME));
            return;
        }
        self.ending = Some(Ending::Closing(now + GOODBYE_TIME));
        self.socket.refuse(why.code(), &why.reason());
    }

    /// An errand was run; the answer is sent. Ends what waited for that.
    pub(super) fn done(&mut self, done: Done, limits: &Limits) -> Result<(), Slow> {
        let answer = match done {
            Done::Acknowledged { broadcast, confirmed, answer } => {
                self.session.acknowledged(broadcast, confirmed);
                answer
            }
            Done::Refreshed(granted) => {
                self.session.refreshed(self.began.elapsed(), granted.map(|granted| granted.lasts))
            }
        };
        self.say(answer.frame().websocket().clone(), limits)?;
        if let Some(Ending::Finishing(why, _)) = &self.ending
            && self.session.acks_in_flight() == 0
        {
            let why = why.clone();
            self.end(why);
        }
        Ok(())
    }

    /// Whether it has to be looked after sooner than its session says.
    pub(super) fn is_troubled(&self) -> bool {
        self.ending.is_some()
            || self.took.is_some()
            || self.unfinished.is_some()
            || self.socket.stage() != Stage::Open
    }

    /// When something has to be done if nothing happens.
    pub(super) fn deadline(&self, limits: &Limits) -> Instant {
        match (&self.ending, self.socket.stage()) {
            (_, Stage::Over) => self.began,
            (Some(Ending::Closing(until) | Ending::Finishing(_, until)), _) => *until,
            (None, _) => {
                let session = self.began + self.session.deadline();
                let unfinished = self.unfinished.map(|since| since + limits.message_time);
                let unsent = self.took.map(|since| since + limits.unsent_time);
                [unfinished, unsent].into_iter().flatten().fold(session, Instant::min)
            }
        }
    }

    /// What the passing of time asks for.
    pub(super) fn tick(&mut self, limits: &Limits) -> Tick {
        let now = Instant::now();
        match (&self.ending, self.socket.stage()) {
            (_, Stage::Over) => return Tick::Gone,
            (Some(Ending::Closing(until)), _) if *until <= now => return Tick::Gone,
            (Some(Ending::Finishing(why, until)), _) if *until <= now => {
                return Tick::Act(Action::Close(why.clone()));
            }
            (Some(_), _) => {}
            (None, _) => {
                let for_too_long =
                    |since: Option<Instant>, most| since.is_some_and(|since| now >= since + most);
                if for_too_long(self.took, limits.unsent_time) {
                    return Tick::Act(Action::Close(Close::Slow));
                }
                if for_too_long(self.unfinished, limits.message_time) {
                    return Tick::Act(Action::Close(Close::Unfinished));
                }
                if let Some(action) = self.session.tick(now - self.began) {
                    return Tick::Act(action);
                }
            }
        }
        Tick::Wait
    }
}

/// Where bytes come from.
pub(super) enum From<'a> {
    /// The socket, through this buffer.
    Socket(&'a mut [u8]),
    /// They came with the handshake.
    Handshake(&'a mut [u8]),
}

/// What is to be done for a client now.
pub(super) enum Tick {
    Wait,
    Act(Action),
    /// Nothing: it is over.
    Gone,
}
