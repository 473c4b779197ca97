//! What connections are told one by one, because it differs from one to the next: a resync, what became active late, and
//! notices of acknowledgements. It goes out in steps, so that the shard serves everything else in between; announcements wait
//! until it is over, so that nothing is told out of order.

use std::ops::Range;
use std::sync::Arc;

use super::{Active, Room, active_for};
use crate::domain::{Acknowledgement, BroadcastId, Change, EndReason};
use crate::projection::Changed;
use crate::push::connection::Means;
use crate::push::hub::{ConnectionId, Outgoing};
use crate::push::wire::{Place, ServerMessage};

/// What is being told one by one, and to whom next.
pub(super) enum Personal {
    /// To each connection that was there when it began.
    Each { what: Each, next: ConnectionId, end: ConnectionId },
    /// To the other connections of those who acknowledged.
    Notices { changed: Arc<Changed>, notice: Outgoing, next: usize, sent: u64 },
}

/// What each connection is told by its user.
pub(super) enum Each {
    /// The state was rebuilt: `resync`, what is active, and that nothing is where that is so.
    Resync { resync: Outgoing, cleared: Outgoing, place: Place },
    /// This broadcast is active: one thing to those who have not acknowledged it, and another to those who have.
    Active { active: Active, open: Outgoing, acknowledged: Outgoing },
}

/// What a step did.
#[derive(Default)]
pub(in crate::push) struct Step {
    /// Messages that went out.
    pub(in crate::push) sent: u64,
    /// The acknowledgements of which everybody has been told now, and how many messages that took.
    pub(in crate::push) told: Option<(Arc<Changed>, u64)>,
}

impl Room {
    /// The state was rebuilt: everyone forgets what they have and gets the state on connect.
    pub(in crate::push) fn resync(&mut self, before: Option<&Active>, sequence: u64) {
        let frame = |message: ServerMessage<'_>| Outgoing::Frame(message.frame());
        let gone = before.map(|active| active.broadcast.id);
        let place = self.place(sequence);
        self.tell_each(Each::Resync {
            resync: frame(ServerMessage::Resync { place }),
            cleared: frame(ServerMessage::cleared(gone, EndReason::Cleared, place)),
            place,
        });
    }

    /// Shows what became active while it was held back, or is active again. Nobody is told of it as new twice, and those
    /// who acknowledged it meanwhile, through another replica, are not shown it, but must not keep what they see either.
    pub(super) fn activate_late(&mut self, active: Active, sequence: u64) {
        let (event, place) = (self.place(active.sequence), self.place(sequence));
        let new = ServerMessage::NewBroadcast { broadcast: (&*active.broadcast).into(), place: event };
        let again = ServerMessage::ActiveBroadcast { broadcast: Some((&*active.broadcast).into()), place };
        let nothing = ServerMessage::ActiveBroadcast { broadcast: None, place };
        let open = if self.replaced_alone.contains(&active.broadcast.id) { again } else { new };
        self.tell_each(Each::Active {
            active: active.clone(),
            open: Outgoing::Frame(open.frame()),
            acknowledged: Outgoing::Frame(nothing.frame()),
        });
        self.shown = Some(active);
    }

    /// Tells the other connections of those who acknowledged.
    pub(in crate::push) fn notice(&mut self, id: BroadcastId, changed: Arc<Changed>) {
        let place = self.place(changed.sequence);
        let notice = ServerMessage::BroadcastAcknowledged { broadcast_id: id, place }.frame();
        let notice = Outgoing::Notice(id, notice);
        self.personal = Some(Personal::Notices { changed, notice, next: 0, sent: 0 });
    }

    /// Who comes from now on is greeted with the state, and is not told it again.
    fn tell_each(&mut self, what: Each) {
        self.personal = Some(Personal::Each { what, next: 0, end: self.connections.end() });
    }

    /// Goes on with what is told one by one, for up to so many users.
    pub(in crate::push) fn tell_personally(&mut self, most: usize, means: &Means) -> Step {
        match self.personal.take() {
            None => Step::default(),
            Some(Personal::Each { what, next, end }) => self.step_each(what, next..end, most, means),
            Some(Personal::Notices { changed, notice, next, sent }) => {
                let new: &[Acknowledgement] = match &changed.change {
                    Change::Acknowledged { new, .. } => new,
                    _ => &[],
                };
                let left = new.get(next..).unwrap_or_default();
                let now = left.iter().take(most).map(|one| self.send_notice(one, &notice, means)).sum();
                let (next, sent) = (next + most, sent + now);
                if next < new.len() {
                    self.personal = Some(Personal::Notices { changed, notice, next, sent });
                    return Step { sent: now, told: None };
                }
                Step { sent: now, told: Some((changed, sent)) }
            }
        }
    }

    fn step_each(&mut self, what: Each, left: Range<ConnectionId>, most: usize, means: &Means) -> Step {
        let after = self.connections.iter_from_mut(left.start);
        let of_step = after.take_while(|(id, _)| *id < left.end).take(most);
        let users: Vec<_> = of_step.map(|(id, connection)| (id, connection.user().clone())).collect();
        let mut sent = 0;
        for (id, user) in &users {
            match &what {
                Each::Active { active, open, acknowledged } => {
                    let known = means.projection.has_acknowledged(active, user);
                    sent += u64::from(self.tell(*id, if known { acknowledged } else { open }, means));
                }
                Each::Resync { resync, cleared, place } => {
                    let active = active_for(self.shown.as_ref(), user, &means.projection, *place);
                    self.tell(*id, resync, means);
                    self.tell(*id, &Outgoing::Frame(active), means);
                    if self.shown.is_none() {
                        self.tell(*id, cleared, means);
                    }
                }
            }
        }
        if let Some((last, _)) = users.last()
            && users.len() == most
        {
            self.personal = Some(Personal::Each { what, next: last + 1, end: left.end });
        }
        Step { sent, told: None }
    }

    fn send_notice(&mut self, one: &Acknowledgement, notice: &Outgoing, means: &Means) -> u64 {
        let mut sent = 0;
        for id in self.users.connections(&one.user) {
            let known = self.connections.get_mut(id).filter(|connection| *connection.user() == one.user);
            let Some(connection) = known else { continue };
            sent += u64::from(connection.tell(notice, &mut self.tape, means));
            if connection.is_troubled() {
                self.troubled.push(id);
            }
        }
        sent
    }
}
