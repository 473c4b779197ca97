//! Requests to the owner of the projection.

use anyhow::anyhow;
use tokio::sync::{mpsc, oneshot};

use super::announcement::Announcement;
use super::store::Store;
use super::tree::Tree;
use crate::disk;
use crate::domain::{Accepted, Needs, View};
use crate::log::merkle::Hash;
use crate::log::{Epoch, TraceParent};

/// A read of the state, with what it needs of it. It is dropped if that cannot be loaded.
pub(super) struct Read {
    pub(super) needs: Needs,
    pub(super) read: Box<dyn FnOnce(View<'_>) + Send>,
}

/// A read of the tree, and of the epoch of its log.
pub(super) type ReadTree = Box<dyn FnOnce(Option<Epoch>, &Tree) + Send>;

/// A request. A reply that is dropped means that the projection cannot answer.
pub(super) enum Request {
    Read(Read),
    ReadTree(ReadTree),
    /// Apply what was accepted here, and is on disk but not in the log, over the state of the log.
    FoldPending(Vec<(Accepted, Option<TraceParent>)>, oneshot::Sender<()>),
    /// Show the state of the log alone.
    Settle(oneshot::Sender<()>),
    /// The store, once everything is in it that is applied now.
    Store(oneshot::Sender<Store>),
    /// Reply once this sequence is applied and announced.
    Wait(u64, oneshot::Sender<()>),
    /// Send the announcements of changes in the log from now on. A follower that lags is dropped.
    Follow(mpsc::Sender<Announcement>),
    /// The tree disagrees with this checkpoint: rebuild, once for each.
    Rebuild((u64, Hash)),
    /// A reader found this damage in a store; `None`: in the one that is open.
    Damaged(Option<Store>, Damage),
    /// The tree disagrees with a checkpoint although the projection was rebuilt for it.
    NoteDivergence,
}

/// What ends the use of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// A record cannot be read, or is not what it was.
    Record,
    /// The disk is full. What is on it is intact, even if there is room again by now.
    FullDisk,
}

impl Damage {
    pub(super) fn of(error: &anyhow::Error) -> Self {
        if disk::is_full(error) { Self::FullDisk } else { Self::Record }
    }

    pub(super) fn error(self) -> anyhow::Error {
        match self {
            Self::Record => anyhow!("a record cannot be loaded, or is not what it was"),
            Self::FullDisk => std::io::Error::from(std::io::ErrorKind::StorageFull).into(),
        }
    }
}
