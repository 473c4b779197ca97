//! Acknowledgements on their way between a shard's clients and the write path.

use std::collections::VecDeque;

use super::wire::{Frame, ServerMessage};
use crate::log::Epoch;
use crate::submit::{AckReply, AckRequest};

/// The acknowledgements of a shard. Sessions bound how many of them one client can have.
#[derive(Default)]
pub(super) struct AckTraffic {
    /// Read from sockets, and not submitted yet.
    pub(super) requests: Vec<AckRequest>,
    /// Still to be sent to clients.
    pub(super) replies: VecDeque<AckReply>,
    /// The message that was encoded last: most replies of one event are the same.
    encoded: Option<(ServerMessage<'static>, Frame)>,
}

impl AckTraffic {
    /// Encodes a reply; a sequence is one of the log of this epoch.
    pub(super) fn encode(&mut self, reply: &AckReply, epoch: Option<Epoch>) -> Frame {
        let message = ServerMessage::ack_reply(reply, epoch);
        match &self.encoded {
            Some((encoded, frame)) if *encoded == message => frame.clone(),
            _ => {
                let frame = message.frame();
                self.encoded = Some((message, frame.clone()));
                frame
            }
        }
    }
}
