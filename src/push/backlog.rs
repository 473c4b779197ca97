//! What all subscribers of a channel are sent, until the last of them has it.

use std::collections::VecDeque;

use bytes::Bytes;

use super::wire::Frame;

/// Bytes that a backlog may have. Until they are sent, the updates of the channel wait.
const MAX_BYTES: usize = 64 * 1024;

/// Messages in order, each with its number since the channel began.
#[derive(Default)]
pub(super) struct Backlog {
    frames: VecDeque<Frame>,
    /// The number of the first of them.
    first: u64,
    bytes: usize,
    /// Those from this number on, joined.
    joined: Option<(u64, Bytes)>,
}

impl Backlog {
    pub(super) fn push(&mut self, frame: Frame) {
        self.bytes += frame.websocket().len();
        self.frames.push_back(frame);
        self.joined = None;
    }

    /// The number of the next one.
    pub(super) fn end(&self) -> u64 {
        self.first + self.frames.len() as u64
    }

    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= MAX_BYTES
    }

    /// Those from a number on.
    pub(super) fn since(&self, number: u64) -> impl Iterator<Item = &Frame> {
        let have = usize::try_from(number.saturating_sub(self.first)).unwrap_or(usize::MAX);
        self.frames.iter().skip(have)
    }

    /// The same in one piece, as WebSockets get them. Most connections lack the same ones, so these are joined once.
    pub(super) fn joined_since(&mut self, number: u64) -> Bytes {
        if let Some((from, joined)) = &self.joined
            && *from == number
        {
            return joined.clone();
        }
        let joined: Bytes = match self.since(number).map(Frame::websocket).collect::<Vec<_>>().as_slice() {
            [only] => Bytes::clone(only),
            several => several.iter().flat_map(|frame| frame.iter().copied()).collect(),
        };
        self.joined = Some((number, joined.clone()));
        joined
    }

    /// Everybody has all of it.
    pub(super) fn clear(&mut self) {
        self.first = self.end();
        self.frames.clear();
        self.bytes = 0;
        self.joined = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::push::wire::ServerMessage;

    #[test]
    fn each_gets_what_it_lacks_in_one_piece() {
        let mut backlog = Backlog::default();
        let frames = [1, 2, 3].map(|in_seconds| ServerMessage::Expiring { in_seconds }.frame());
        for frame in &frames {
            backlog.push(frame.clone());
        }
        let all = frames.iter().flat_map(|frame| frame.websocket().to_vec()).collect::<Vec<_>>();
        assert_eq!(backlog.joined_since(0), all);
        assert_eq!(backlog.joined_since(2), frames[2].websocket());
        assert_eq!(backlog.joined_since(3), Bytes::new());
        assert_eq!(backlog.since(1).cloned().collect::<Vec<_>>(), frames[1..]);
        backlog.clear();
        assert_eq!((backlog.end(), backlog.since(3).count()), (3, 0));
        backlog.push(frames[0].clone());
        assert_eq!(backlog.joined_since(3), frames[0].websocket(), "nothing old comes back");
    }

    #[test]
    fn it_has_a_bound() {
        let mut backlog = Backlog::default();
        while !backlog.is_full() {
            backlog.push(ServerMessage::Expiring { in_seconds: 1 }.frame());
        }
        assert!(backlog.bytes < MAX_BYTES + 100);
        backlog.clear();
        assert!(!backlog.is_full());
    }
}
