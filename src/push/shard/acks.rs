//! The acknowledgements of a shard's clients. What one pass over the sockets brings is submitted together, and what one event
//! confirms comes back together.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use super::{Request, Shard};
use crate::domain::BroadcastId;
use crate::push::wire::{Frame, ServerMessage};
use crate::submit::{AckReply, AckRequest};

/// Acknowledgements between a shard and the write path. Sessions bound how many of them one client can have.
#[derive(Default)]
pub(super) struct AckTraffic {
    /// Read from sockets, and not submitted yet.
    requests: Vec<AckRequest>,
    /// Replies that are still to be sent to clients.
    pub(super) replies: VecDeque<AckReply>,
    /// The last one sent. Most replies of one event are the same, and encoded once.
    encoded: Option<(ServerMessage<'static>, Frame)>,
}

impl AckTraffic {
    /// Whether replies are still to be sent.
    pub(super) fn has_replies(&self) -> bool {
        !self.replies.is_empty()
    }
}

impl Shard {
    /// Queues an acknowledgement of a client, unless its user has used up the quota.
    pub(super) fn acknowledge(&mut self, name: usize, broadcast: BroadcastId) {
        let Some((floor, id)) = self.place(name) else { return };
        let Some(connection) = self.floors[floor].room.connections.get(id) else { return };
        let (user, channel) = (connection.user().clone(), self.floors[floor].channel.clone());
        let tag = name as u64;
        match self.means.acks.charge(&user) {
            Ok(_) => self.acks.requests.push(AckRequest::new(tag, channel, broadcast, user, None)),
            Err(limited) => {
                self.acks.replies.push_back(AckReply { tag, broadcast, result: Err(limited.into()) });
            }
        }
    }

    /// Submits what was read since the last time.
    pub(super) fn submit_acks(&mut self, inbox: &mpsc::WeakSender<Request>) {
        if self.acks.requests.is_empty() {
            return;
        }
        let mut replies = self.means.acks.acknowledge_all(std::mem::take(&mut self.acks.requests));
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
        let count = most.min(self.acks.replies.len());
        let mut replies = std::mem::take(&mut self.acks.replies);
        for reply in replies.drain(..count) {
            let frame = self.encode(&reply);
            let place = usize::try_from(reply.tag).ok().and_then(|name| self.place(name));
            if let Some((floor, id)) = place {
                self.floors[floor].room.acknowledged(id, &reply, &frame, &self.means);
            }
        }
        replies.append(&mut self.acks.replies);
        self.acks.replies = replies;
    }

    fn encode(&mut self, reply: &AckReply) -> Frame {
        let epoch = self.means.projection.position().epoch;
        let message = ServerMessage::ack_reply(reply, epoch);
        match &self.acks.encoded {
            Some((encoded, frame)) if *encoded == message => frame.clone(),
            _ => {
                let frame = message.frame();
                self.acks.encoded = Some((message, frame.clone()));
                frame
            }
        }
    }
}
