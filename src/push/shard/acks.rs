//! The acknowledgements of a shard's clients. What one pass over the sockets brings is submitted together, and what one event
//! confirms comes back together.

use tokio::sync::mpsc;

use super::{Request, Shard};
use crate::domain::BroadcastId;
use crate::push::attach::ConnectionId;
use crate::submit::{AckReply, AckRequest};

impl Shard {
    /// Queues an acknowledgement of a client, unless its user has used up the quota.
    pub(super) fn acknowledge(&mut self, id: ConnectionId, broadcast: BroadcastId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Some(channel) = connection.channel.and_then(|channel| self.channels.get(channel)) else { return };
        let (user, channel) = (connection.user().clone(), channel.name.clone());
        match self.ctx.acks.charge(&user) {
            Ok(_) => self.acks.requests.push(AckRequest::new(id, channel, broadcast, user, None)),
            Err(limited) => {
                self.acks.replies.push_back(AckReply { tag: id, broadcast, result: Err(limited.into()) });
            }
        }
    }

    /// Submits what was read since the last time.
    pub(super) fn submit_acks(&mut self, inbox: &mpsc::WeakSender<Request>) {
        if self.acks.requests.is_empty() {
            return;
        }
        let mut replies = self.ctx.acks.acknowledge_all(std::mem::take(&mut self.acks.requests));
        let inbox = inbox.clone();
        tokio::spawn(async move {
            while let Some(replies) = replies.next().await {
                // Without a receiver the shard has ended: the replica stops.
                let Some(inbox) = inbox.upgrade() else { return };
                let _ = inbox.send(Request::AckReplies(replies)).await;
            }
        });
    }

    /// Sends up to so many replies.
    pub(super) fn send_ack_replies(&mut self, most: usize) {
        for _ in 0..most {
            let Some(reply) = self.acks.replies.pop_front() else { return };
            let frame = self.acks.encode(&reply, self.ctx.projection.position().epoch);
            self.catch_up(reply.tag);
            let ctx = &self.ctx;
            self.connections.update(reply.tag, |connection| connection.acknowledged(&reply, &frame, ctx));
        }
    }
}
