//! A WebSocket client: its session over its socket, and when somebody has to look after it.

use std::any::Any;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::admission::Permit;
use super::frame::Received;
use super::session::{self, Action, Session};
use super::tick::{ShardClock, Tick};
use super::websocket::{Extent, Parting, Read, Slow, Stage, WebSocket};
use super::wire::{Close, Frame, ServerMessage, Token};
use crate::domain::{Channel, UserId};
use crate::metrics::{ByCode, Metrics};
use crate::submit::AckReply;

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

/// The outcome of a token refresh: what the token grants, or the error for the client.
pub type Refreshed = Result<Granted, ServerMessage<'static>>;

/// What a token grants to an open connection.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// Until the token expires.
    pub lasts: Duration,
    /// Whether the connection receives what creators and team receive.
    pub staff: bool,
}

/// Verifies the tokens that clients send to refresh their connections.
pub trait TokenVerifier: Send + Sync {
    /// Verifies a token, which must belong to this user, for a connection to this channel.
    fn verify(&self, token: Token, user: UserId, channel: Channel) -> BoxFuture<'static, Refreshed>;
}

/// Never answers: for a hub whose clients have no tokens.
impl TokenVerifier for () {
    fn verify(&self, _: Token, _: UserId, _: Channel) -> BoxFuture<'static, Refreshed> {
        Box::pin(std::future::pending())
    }
}

/// Why and when a connection ends that has begun to.
enum Ending {
    /// When its acknowledgements are answered, or at this moment.
    Finishing(Close, Tick),
    /// When the client says goodbye too, or at this moment.
    Closing(Tick),
}

pub(super) struct Client {
    pub(super) socket: WebSocket,
    pub(super) session: Session,
    error_log: Option<Box<Stall>>,
    /// Whether its end is counted.
    is_counted: bool,
    /// When the shard will look after it.
    pub(super) armed: Option<Tick>,
    permits: Permits,
}

/// Rare, short-lived state, boxed so that idle connections stay small.
#[derive(Default)]
struct Stall {
    /// Since when a message is unfinished.
    unfinished: Option<Tick>,
    /// When the client last took something while more waited.
    took: Option<Tick>,
    ending: Option<Ending>,
}

impl Stall {
    const fn is_over(&self) -> bool {
        self.unfinished.is_none() && self.took.is_none() && self.ending.is_none()
    }
}

/// The permits of a connection, released when this is dropped.
pub struct Permits {
    /// One of the connections of its user.
    pub of_user: Permit<UserId>,
    /// Whatever else the edge has granted it.
    pub of_edge: Arc<dyn Any + Send + Sync>,
}

impl Client {
    pub(super) fn new(socket: WebSocket, now: Tick, lasts: Option<Duration>, permits: Permits) -> Self {
        Self {
            socket,
            session: Session::new(now, lasts),
            error_log: None,
            is_counted: false,
            armed: None,
            permits,
        }
    }

    /// Whose connection it is.
    pub(super) const fn user(&self) -> &UserId {
        self.permits.of_user.name()
    }

    fn ending(&self) -> Option<&Ending> {
        self.error_log.as_ref()?.ending.as_ref()
    }

    fn set_ending(&mut self, ending: Ending) {
        self.error_log.get_or_insert_default().ending = Some(ending);
    }

    /// Notes since when a message is unfinished, if one is.
    fn note_unfinished(&mut self, now: Tick) {
        if self.error_log.is_some() || self.socket.is_unfinished() {
            let error_log = self.error_log.get_or_insert_default();
            let since = error_log.unfinished.unwrap_or(now);
            error_log.unfinished = self.socket.is_unfinished().then_some(since);
            self.error_log.take_if(|error_log| error_log.is_over());
        }
    }

    /// Notes when the client last took something, if more waits.
    fn note_taken(&mut self, when: impl FnOnce(Option<Tick>) -> Tick) {
        if self.error_log.is_some() || self.waits() {
            let waits = self.waits();
            let error_log = self.error_log.get_or_insert_default();
            error_log.took = waits.then(|| when(error_log.took));
            self.error_log.take_if(|error_log| error_log.is_over());
        }
    }

    /// Whether it is told anything any more.
    pub(super) fn is_open(&self) -> bool {
        self.ending().is_none() && matches!(self.socket.stage(), Stage::Open)
    }

    /// Reads what has come, or takes in what was read already. What is to be done about it is added to the actions.
    pub(super) fn read(
        &mut self,
        input: Input<'_>,
        now: Tick,
        limits: &Limits,
        actions: &mut Vec<Action>,
    ) -> Read {
        let listens = self.ending().is_none();
        let session = &mut self.session;
        let mut hear = |received: Received<'_>| {
            let action = if listens { session.hear(now, received, &limits.session) } else { None };
            let ends = matches!(action, Some(Action::Close(_)));
            actions.extend(action);
            if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let read = match input {
            Input::Socket(buffer, extent) => {
                self.socket.read((buffer, extent), limits.message_bytes, &mut hear)
            }
            Input::Handshake(bytes) => self.socket.take(bytes, limits.message_bytes, &mut hear),
        };
        self.note_unfinished(now);
        read
    }

    /// Answers the end of what was heard.
    pub(super) fn part(&mut self, parting: Parting, now: Tick) {
        self.socket.part(parting);
        if self.ending().is_none() {
            self.set_ending(Ending::Closing(now + GOODBYE_TIME));
        }
    }

    /// Counts its end, once: with the code that it was sent, if this side began.
    pub(super) fn count_end(&mut self, code: Option<u16>, metrics: &Metrics) {
        if !std::mem::replace(&mut self.is_counted, true) {
            metrics.websocket_closes.get_or_create(&ByCode::sent(code)).inc();
        }
    }

    /// Sends whole frames, or queues them if the client does not read.
    pub(super) fn send(&mut self, frames: Bytes, clock: &ShardClock, limits: &Limits) -> Result<(), Slow> {
        self.socket.send(frames, limits.unsent_bytes)?;
        self.note_taken(|took| took.unwrap_or_else(|| clock.now()));
        Ok(())
    }

    /// Sends on what waits.
    pub(super) fn flush(&mut self, now: Tick) {
        if self.waits() {
            let before = self.socket.waiting().1;
            self.socket.flush();
            if self.socket.waiting().1 < before {
                self.note_taken(|_| now);
            }
        }
    }

    fn waits(&self) -> bool {
        self.socket.waiting().0 > 0
    }

    /// Closes it. Before a restart, its acknowledgements that are in flight are answered.
    pub(super) fn close(&mut self, why: Close, now: Tick) {
        if matches!(self.ending(), Some(Ending::Closing(_))) {
            return;
        }
        if matches!(why, Close::Restart { .. })
            && self.session.acks_in_flight() > 0
            && self.ending().is_none()
        {
            self.set_ending(Ending::Finishing(why, now + FINISH_TIME));
            return;
        }
        self.set_ending(Ending::Closing(now + GOODBYE_TIME));
        self.socket.refuse(why.code(), &why.reason());
    }

    /// A token was looked at; the answer is sent.
    pub(super) fn refreshed(
        &mut self,
        refreshed: Refreshed,
        clock: &ShardClock,
        limits: &Limits,
    ) -> Result<(), Slow> {
        let answer = self.session.refreshed(clock.now(), refreshed.map(|granted| granted.lasts));
        self.send(answer.frame().websocket().clone(), clock, limits)
    }

    /// Sends the reply to an acknowledgement. Ends the connection if it was only waiting for that.
    pub(super) fn acknowledged(
        &mut self,
        reply: &AckReply,
        frame: &Frame,
        clock: &ShardClock,
        limits: &Limits,
    ) -> Result<(), Slow> {
        self.session.acknowledged(reply.broadcast, reply.result.is_ok());
        self.send(frame.websocket().clone(), clock, limits)?;
        if let Some(Ending::Finishing(why, _)) = self.ending()
            && self.session.acks_in_flight() == 0
        {
            let why = why.clone();
            self.close(why, clock.now());
        }
        Ok(())
    }

    /// Whether it may need an earlier deadline than its session has.
    pub(super) fn is_dirty(&self) -> bool {
        self.error_log.is_some() || self.socket.stage() != Stage::Open
    }

    /// Since when a message is unfinished, and since when the client has taken nothing of what waits.
    fn since(&self) -> (Option<Tick>, Option<Tick>) {
        self.error_log.as_ref().map_or((None, None), |error_log| (error_log.unfinished, error_log.took))
    }

    /// When something has to be done if nothing happens.
    pub(super) fn deadline(&self, limits: &Limits) -> Tick {
        match (self.ending(), self.socket.stage()) {
            (_, Stage::Over) => Tick::BEGINNING,
            (Some(Ending::Closing(until) | Ending::Finishing(_, until)), _) => *until,
            (None, _) => {
                let session = self.session.deadline(&limits.session);
                let (unfinished, took) = self.since();
                let unfinished = unfinished.map(|since| since + limits.message_time);
                let unsent = took.map(|since| since + limits.unsent_time);
                [unfinished, unsent].into_iter().flatten().fold(session, Tick::min)
            }
        }
    }

    /// What the passing of time asks for.
    pub(super) fn on_timer(&mut self, now: Tick, limits: &Limits) -> TimerOutcome {
        match (self.ending(), self.socket.stage()) {
            (_, Stage::Over) => return TimerOutcome::Gone,
            (Some(Ending::Closing(until)), _) if *until <= now => return TimerOutcome::Gone,
            (Some(Ending::Finishing(why, until)), _) if *until <= now => {
                return TimerOutcome::Act(Action::Close(why.clone()));
            }
            (Some(_), _) => {}
            (None, _) => {
                let for_too_long = |since: Option<Tick>, most| since.is_some_and(|since| now >= since + most);
                let (unfinished, took) = self.since();
                if for_too_long(took, limits.unsent_time) {
                    return TimerOutcome::Act(Action::Close(Close::Slow));
                }
                if for_too_long(unfinished, limits.message_time) {
                    return TimerOutcome::Act(Action::Close(Close::Unfinished));
                }
                if let Some(action) = self.session.tick(now, &limits.session) {
                    return TimerOutcome::Act(action);
                }
            }
        }
        TimerOutcome::Wait
    }
}

/// Where to read from.
pub(super) enum Input<'a> {
    /// The socket, through this buffer, so far.
    Socket(&'a mut [u8], Extent),
    /// They came with the handshake.
    Handshake(&'a mut [u8]),
}

/// What a timer asks for.
pub(super) enum TimerOutcome {
    Wait,
    Act(Action),
    /// Nothing: it is over.
    Gone,
}
