//! The sockets of a shard: which of them are ready, and when the timer of which is due.

use std::collections::VecDeque;
use std::io;

use super::attach::ConnectionId;
use super::readiness::Readiness;
use super::session::Action;
use super::tick::ShardClock;
use super::timers::Timers;

/// All sockets of a shard are read through one buffer of this size.
const READ_BUFFER: usize = 16 * 1024;

pub(super) struct Sockets {
    pub(super) readiness: Readiness,
    pub(super) timers: Timers,
    pub(super) buffer: Box<[u8]>,
    /// Those that may have more to read than they had a turn for.
    pub(super) unread: VecDeque<ConnectionId>,
    /// Those that were rejected after their handshake, and are closing.
    pub(super) rejected: usize,
    /// Reused by each read.
    pub(super) actions: Vec<Action>,
}

impl Sockets {
    /// Within a runtime.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            readiness: Readiness::new()?,
            timers: Timers::default(),
            buffer: vec![0; READ_BUFFER].into(),
            unread: VecDeque::new(),
            rejected: 0,
            actions: Vec::new(),
        })
    }

    pub(super) async fn wait_for_readiness(&self) {
        self.readiness.wait().await;
    }

    pub(super) async fn wait_for_deadline(&self, clock: &ShardClock) {
        self.timers.wait(clock).await;
    }
}
