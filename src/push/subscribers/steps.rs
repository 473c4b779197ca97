//! The steps in which messages go out that differ from connection to connection.

use std::ops::Range;
use std::sync::Arc;

use super::{ChannelSubscribers, active_for};
use crate::domain::{Acknowledgement, BroadcastId, Change, EndReason};
use crate::projection::{Active, Changed};
use crate::push::attach::ConnectionId;
use crate::push::connection_table::ConnectionTable;
use crate::push::context::Context;
use crate::push::individual::{Each, Individual, Step};
use crate::push::wire::{Frame, ServerMessage};

impl ChannelSubscribers {
    /// The state was rebuilt: every subscriber forgets what it has and gets the state on connect.
    pub(in crate::push) fn resync(&mut self, before: Option<&Active>, sequence: u64) {
        let gone = before.map(|active| active.broadcast.id);
        let place = self.place(sequence);
        self.send_each(Each::Resync {
            resync: ServerMessage::Resync { place }.frame(),
            cleared: ServerMessage::cleared(gone, EndReason::Cleared, place).frame(),
            place,
        });
    }

    /// Shows a broadcast that became active while it was held back, or that is active again. It is announced as new once; users
    /// who acknowledged it meanwhile, through another replica, get it removed from view.
    pub(super) fn activate_late(&mut self, active: Active, sequence: u64) {
        let (event, place) = (self.place(active.sequence), self.place(sequence));
        let new = ServerMessage::NewBroadcast { broadcast: (&*active.broadcast).into(), place: event };
        let again = ServerMessage::ActiveBroadcast { broadcast: Some((&*active.broadcast).into()), place };
        let nothing = ServerMessage::ActiveBroadcast { broadcast: None, place };
        let open = if self.replaced_alone.contains(&active.broadcast.id) { again } else { new };
        self.send_each(Each::Active {
            active: active.clone(),
            open: open.frame(),
            acknowledged: nothing.frame(),
        });
        self.shown = Some(active);
    }

    /// Sends the users who acknowledged a notice on their other connections.
    pub(in crate::push) fn notify_acknowledged(&mut self, id: BroadcastId, changed: Arc<Changed>) {
        let place = self.place(changed.sequence);
        let notice = ServerMessage::BroadcastAcknowledged { broadcast_id: id, place }.frame();
        self.individual = Some(Individual::Notices { changed, notice, next: 0, sent: 0 });
    }

    /// A connection that is attached from now on gets the state on connect, and does not need it again.
    fn send_each(&mut self, what: Each) {
        let end = self.subscriptions.last_key_value().map_or(0, |(last, _)| last + 1);
        self.individual = Some(Individual::Each { what, next: 0, end });
    }

    /// Continues with what goes to one connection after the other, for up to so many users.
    pub(in crate::push) fn individual_step(
        &mut self,
        most: usize,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) -> Step {
        match self.individual.take() {
            None => Step::default(),
            Some(Individual::Each { what, next, end }) => {
                self.step_each(what, next..end, most, connections, ctx)
            }
            Some(Individual::Notices { changed, notice, next, sent }) => {
                let new: &[Acknowledgement] = match &changed.change {
                    Change::Acknowledged { new, .. } => new,
                    _ => &[],
                };
                let left = new.get(next..).unwrap_or_default().iter().take(most);
                let now = left.map(|one| self.send_notice(one, &notice, connections, ctx)).sum();
                let (next, sent) = (next + most, sent + now);
                if next < new.len() {
                    self.individual = Some(Individual::Notices { changed, notice, next, sent });
                    return Step { sent: now, finished: None };
                }
                Step { sent: now, finished: Some((changed, sent)) }
            }
        }
    }

    fn step_each(
        &mut self,
        what: Each,
        left: Range<ConnectionId>,
        most: usize,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) -> Step {
        let ids: Vec<_> = self.subscriptions.range(left.clone()).take(most).map(|(id, _)| *id).collect();
        let mut sent = 0;
        for id in &ids {
            let Some(user) = connections.get(*id).map(|connection| connection.user().clone()) else {
                continue;
            };
            match &what {
                Each::Active { active, open, acknowledged } => {
                    let known = ctx.projection.has_acknowledged(active, &user);
                    let frame = if known { acknowledged } else { open };
                    sent += u64::from(self.send(*id, frame, connections, ctx));
                }
                Each::Resync { resync, cleared, place } => {
                    let active = active_for(self.shown.as_ref(), &user, &ctx.projection, *place);
                    self.send(*id, resync, connections, ctx);
                    self.send(*id, &active, connections, ctx);
                    if self.shown.is_none() {
                        self.send(*id, cleared, connections, ctx);
                    }
                }
            }
        }
        if let Some(last) = ids.last()
            && ids.len() == most
        {
            self.individual = Some(Individual::Each { what, next: last + 1, end: left.end });
        }
        Step { sent, finished: None }
    }

    fn send_notice(
        &mut self,
        acknowledgement: &Acknowledgement,
        notice: &Frame,
        connections: &mut ConnectionTable,
        ctx: &Context,
    ) -> u64 {
        let user = &acknowledgement.user;
        let candidates: Vec<_> = self.users.connections(user).collect();
        let own =
            |id: &ConnectionId| connections.get(*id).is_some_and(|connection| connection.user() == user);
        let ids: Vec<_> = candidates.into_iter().filter(own).collect();
        ids.into_iter().map(|id| u64::from(self.send(id, notice, connections, ctx))).sum()
    }
}
