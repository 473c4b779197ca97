//! One connection as a pure machine: what was heard and what time it is go in, what to do comes out.
//!
//! It knows no socket and no clock: whoever drives it says what moment it is, and does the IO. There are as many sessions as
//! connections, so what they have in common is not in them, and what few need takes no room in the others.

use std::collections::VecDeque;
use std::time::Duration;

use super::frame::Received;
use super::lifetime::{Due, Lifetime, whole_seconds};
use super::tick::Tick;
use super::wire::{ClientMessage, Close, ServerMessage, Token};
use crate::domain::BroadcastId;

/// Acknowledgements that one connection may have under way.
pub const ACKS_IN_FLIGHT: usize = 64;

/// How a connection is limited.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// After this long without a word from the client it is pinged.
    pub heartbeat: Duration,
    /// After this long without a sign of life it is closed.
    pub liveness: Duration,
    /// Messages a second, on average.
    pub messages_per_second: u32,
    /// Messages at once.
    pub message_burst: u32,
}

/// What the driver has to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Send this message.
    Reply(ServerMessage<'static>),
    /// Send the text `pong`.
    Pong,
    /// Send the text `ping` and a ping frame.
    Heartbeat,
    /// Have the hub send what is active.
    SendActive,
    /// Acknowledge, then call [`Session::acknowledged`].
    Acknowledge(BroadcastId),
    /// Verify this token of the same user, then call [`Session::refreshed`].
    Refresh(Token),
    /// Close.
    Close(Close),
}

/// Broadcasts that a connection acknowledged itself, the last ones: their notices are for the user's other connections.
#[derive(Debug, Default)]
struct OwnAcks(VecDeque<BroadcastId>);

/// The state of one connection.
#[derive(Debug)]
pub struct Session {
    heard: Tick,
    pinged: Tick,
    /// Of the messages that may come at once, thousandths that are used up.
    used: u32,
    own_acks: Option<Box<OwnAcks>>,
    in_flight: u8,
    life: Lifetime,
    refreshing: bool,
}

impl Session {
    /// A connection that begins now. It lasts as long as its token, or as long as it likes.
    pub fn new(now: Tick, lasts: Option<Duration>) -> Self {
        Self {
            heard: now,
            pinged: now,
            used: 0,
            own_acks: None,
            in_flight: 0,
            life: Lifetime::new(now, lasts),
            refreshing: false,
        }
    }

    /// Whatever came. Each frame counts as a message, since each takes the server's time: no client that means well sends
    /// many that are none.
    pub fn hear(&mut self, now: Tick, received: Received<'_>, limits: &Limits) -> Option<Action> {
        let since = now - std::mem::replace(&mut self.heard, now);
        if !self.may_say_more(since, limits) {
            return Some(Action::Close(Close::TooManyMessages));
        }
        match received {
            Received::Text(text) => self.text(text),
            // There are none in this protocol.
            Received::Binary(_) => Some(Action::Close(Close::Unsupported)),
            Received::Piece | Received::Ping(_) | Received::Pong | Received::Close(_) => None,
        }
    }

    fn text(&mut self, text: &str) -> Option<Action> {
        match ClientMessage::parse(text) {
            Ok(ClientMessage::Ping) => Some(Action::Pong),
            Ok(ClientMessage::Pong) => None,
            Ok(ClientMessage::GetActive) => Some(Action::SendActive),
            Ok(ClientMessage::Acknowledge(id)) if self.acks_in_flight() >= ACKS_IN_FLIGHT => {
                Some(Action::Reply(ServerMessage::Error {
                    code: "busy",
                    message: "Too many acknowledgements are under way.".to_owned(),
                    broadcast_id: Some(id),
                }))
            }
            Ok(ClientMessage::Acknowledge(id)) => {
                self.in_flight += 1;
                self.remember(id);
                Some(Action::Acknowledge(id))
            }
            Ok(ClientMessage::Refresh(_)) if self.refreshing => Some(Action::Reply(ServerMessage::Error {
                code: "busy",
                message: "Another token is being looked at.".to_owned(),
                broadcast_id: None,
            })),
            Ok(ClientMessage::Refresh(token)) => {
                self.refreshing = true;
                Some(Action::Refresh(token))
            }
            Err(error) => Some(Action::Reply(error)),
        }
    }

    /// One acknowledgement of this connection was answered. One that failed leaves the connection as it was: should
    /// another device succeed, this one wants to know.
    pub fn acknowledged(&mut self, id: BroadcastId, confirmed: bool) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if !confirmed && let Some(own) = &mut self.own_acks {
            own.0.retain(|known| *known != id);
        }
    }

    /// Acknowledgements that are under way.
    pub fn acks_in_flight(&self) -> usize {
        self.in_flight.into()
    }

    /// The token of a refresh was looked at: it lasts this long from now on, or was refused, with what the client is told.
    /// One that was refused changes nothing; the connection lives on until the token ends that it has.
    pub fn refreshed(
        &mut self,
        now: Tick,
        outcome: Result<Duration, ServerMessage<'static>>,
    ) -> ServerMessage<'static> {
        self.refreshing = false;
        outcome.map_or_else(
            |refused| refused,
            |lasts| {
                self.life.renew(now, Some(lasts));
                ServerMessage::Refreshed { in_seconds: whole_seconds(lasts) }
            },
        )
    }

    /// Whether this connection should be told that the user acknowledged: not when it did so itself.
    pub fn wants_notice(&self, broadcast: BroadcastId) -> bool {
        self.own_acks.as_ref().is_none_or(|own| !own.0.contains(&broadcast))
    }

    /// When [`Session::tick`] has something to do.
    pub fn deadline(&self, limits: &Limits) -> Tick {
        let ping = self.heard.max(self.pinged) + limits.heartbeat;
        let silence = ping.min(self.heard + limits.liveness);
        self.life.deadline().map_or(silence, |end| end.min(silence))
    }

    /// What the passing of time asks for.
    pub fn tick(&mut self, now: Tick, limits: &Limits) -> Option<Action> {
        match self.life.tick(now) {
            Some(Due::Expired) => return Some(Action::Close(Close::Expired)),
            Some(Due::Expiring { in_seconds }) => {
                return Some(Action::Reply(ServerMessage::Expiring { in_seconds }));
            }
            None => {}
        }
        if now >= self.heard + limits.liveness {
            return Some(Action::Close(Close::Silent));
        }
        if now >= self.heard.max(self.pinged) + limits.heartbeat {
            self.pinged = now;
            return Some(Action::Heartbeat);
        }
        None
    }

    fn remember(&mut self, id: BroadcastId) {
        let OwnAcks(own) = &mut **self.own_acks.get_or_insert_default();
        if own.len() == ACKS_IN_FLIGHT {
            own.pop_front();
        }
        own.push_back(id);
    }

    /// Whether one message more is within the limits, this long after the one before.
    fn may_say_more(&mut self, since: Duration, limits: &Limits) -> bool {
        // So many a second are as many thousandths a millisecond.
        let earned = since.as_millis().saturating_mul(limits.messages_per_second.into());
        let used = u128::from(self.used).saturating_sub(earned) + 1_000;
        self.used = used.try_into().unwrap_or(u32::MAX);
        used <= u128::from(limits.message_burst) * 1_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        heartbeat: Duration::from_secs(30),
        liveness: Duration::from_secs(75),
        messages_per_second: 20,
        message_burst: 40,
    };

    fn at(seconds: u64) -> Tick {
        Tick::BEGINNING + Duration::from_secs(seconds)
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn silence_is_pinged_and_then_closed() {
        let mut session = Session::new(at(0), None);
        assert_eq!(session.deadline(&LIMITS), at(30));
        assert_eq!(session.tick(at(29), &LIMITS), None);
        assert_eq!(session.tick(at(30), &LIMITS), Some(Action::Heartbeat));
        assert_eq!(session.deadline(&LIMITS), at(60));
        assert_eq!(session.tick(at(60), &LIMITS), Some(Action::Heartbeat));
        assert_eq!(session.deadline(&LIMITS), at(75));
        assert_eq!(session.tick(at(75), &LIMITS), Some(Action::Close(Close::Silent)));
    }

    #[test]
    fn it_ends_with_its_token_whatever_the_client_says() {
        let mut session = Session::new(at(0), Some(seconds(70)));
        assert_eq!(session.deadline(&LIMITS), at(30));
        assert_eq!(session.tick(at(30), &LIMITS), Some(Action::Heartbeat));
        session.hear(at(39), Received::Text("pong"), &LIMITS);
        assert_eq!((session.deadline(&LIMITS), session.tick(at(39), &LIMITS)), (at(40), None));
        assert_eq!(
            session.tick(at(40), &LIMITS),
            Some(Action::Reply(ServerMessage::Expiring { in_seconds: 30 }))
        );
        assert_eq!((session.deadline(&LIMITS), session.tick(at(41), &LIMITS)), (at(69), None));
        session.hear(at(69), Received::Text("ping"), &LIMITS);
        assert_eq!(session.deadline(&LIMITS), at(70));
        assert_eq!(session.tick(at(70), &LIMITS), Some(Action::Close(Close::Expired)));
    }

    #[test]
    fn a_refresh_lets_it_live_on_and_one_that_is_refused_changes_nothing() {
        let mut session = Session::new(at(0), Some(seconds(10)));
        let refresh = r#"{"type":"refresh","token":"t"}"#;
        assert!(
            matches!(session.hear(at(0), Received::Text(refresh), &LIMITS), Some(Action::Refresh(token)) if token.as_str() == "t")
        );
        let busy = session.hear(at(1), Received::Text(refresh), &LIMITS);
        assert!(
            matches!(busy, Some(Action::Reply(ServerMessage::Error { code: "busy", .. }))),
            "one at a time"
        );
        let no = ServerMessage::Error { code: "invalid_token", message: "no".to_owned(), broadcast_id: None };
        assert_eq!(session.refreshed(at(2), Err(no.clone())), no);
        assert!(matches!(session.hear(at(3), Received::Text(refresh), &LIMITS), Some(Action::Refresh(_))));
        assert_eq!(session.refreshed(at(4), Ok(seconds(60))), ServerMessage::Refreshed { in_seconds: 60 });
        session.hear(at(33), Received::Text("pong"), &LIMITS);
        assert_eq!(session.tick(at(33), &LIMITS), None, "it would be over");
        assert_eq!(session.deadline(&LIMITS), at(34));
        assert!(matches!(session.tick(at(34), &LIMITS), Some(Action::Reply(ServerMessage::Expiring { .. }))));
        assert_eq!(session.tick(at(64), &LIMITS), Some(Action::Close(Close::Expired)));
    }

    #[test]
    fn any_sign_of_life_counts() {
        let mut session = Session::new(at(0), None);
        session.tick(at(30), &LIMITS);
        session.hear(at(31), Received::Pong, &LIMITS);
        assert_eq!(session.deadline(&LIMITS), at(61));
        assert_eq!(session.hear(at(40), Received::Text("pong"), &LIMITS), None);
        assert_eq!(session.tick(at(69), &LIMITS), None);
        assert_eq!(session.tick(at(70), &LIMITS), Some(Action::Heartbeat));
    }

    #[test]
    fn a_burst_passes_and_a_flood_does_not() {
        let mut session = Session::new(at(0), None);
        for _ in 0..40 {
            assert_eq!(session.hear(at(1), Received::Text("ping"), &LIMITS), Some(Action::Pong));
        }
        assert_eq!(
            session.hear(at(1), Received::Text("ping"), &LIMITS),
            Some(Action::Close(Close::TooManyMessages))
        );
        let mut steady = Session::new(at(0), None);
        for n in 0..2_000 {
            assert_eq!(
                steady.hear(at(0) + Duration::from_millis(50 * n), Received::Text("ping"), &LIMITS),
                Some(Action::Pong)
            );
        }
    }

    #[test]
    fn the_sender_of_an_acknowledgement_needs_no_notice() {
        let mut session = Session::new(at(0), None);
        let id: BroadcastId = "0198c5a0-1111-7222-8333-444455556666".parse().unwrap();
        let other: BroadcastId = "0198c5a0-1111-7222-8333-444455556667".parse().unwrap();
        let text = format!(r#"{{"type":"acknowledge_broadcast","broadcast_id":"{id}"}}"#);
        assert_eq!(session.hear(at(0), Received::Text(&text), &LIMITS), Some(Action::Acknowledge(id)));
        assert!(!session.wants_notice(id));
        assert!(session.wants_notice(other));
        session.acknowledged(id, false);
        assert!(session.wants_notice(id), "it failed: another device may succeed");
    }

    #[test]
    fn acknowledgements_under_way_are_bounded() {
        let mut session = Session::new(at(0), None);
        let limits = Limits { message_burst: 1_000, ..LIMITS };
        let text =
            r#"{"type":"acknowledge_broadcast","broadcast_id":"0198c5a0-1111-7222-8333-444455556666"}"#;
        for _ in 0..ACKS_IN_FLIGHT {
            assert!(matches!(
                session.hear(at(0), Received::Text(text), &limits),
                Some(Action::Acknowledge(_))
            ));
        }
        assert!(matches!(
            session.hear(at(0), Received::Text(text), &limits),
            Some(Action::Reply(ServerMessage::Error { code: "busy", .. }))
        ));
        session.acknowledged("0198c5a0-1111-7222-8333-444455556666".parse().unwrap(), true);
        assert!(matches!(session.hear(at(0), Received::Text(text), &limits), Some(Action::Acknowledge(_))));
    }
}
