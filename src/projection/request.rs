//! What others ask of the task that owns the projection.

use anyhow::anyhow;
use tokio::sync::{mpsc, oneshot};

use super::announcement::Announcement;
use super::store::Store;
use super::tree::Tree;
use crate::disk;
use crate::domain::{Accepted, Needs, View};
use crate::log::merkle::Hash;
use crate::log::{Epoch, TraceParent};

/// A look at the state, with what it needs in memory or loaded for it. It is dropped where that cannot be had.
pub(super) struct Look {
    pub(super) needs: Needs,
    pub(super) look: Box<dyn FnOnce(View<'_>) + Send>,
}

/// A look at the tree, and at the log that it is of.
pub(super) type LookAtTree = Box<dyn FnOnce(Option<Epoch>, &Tree) + Send>;

/// What is asked of the owner. A reply that is dropped means that the projection cannot answer.
pub(super) enum Request {
    Look(Look),
    LookAtTree(LookAtTree),
    /// Fold what was accepted here, and is on disk but not in the log, over what the log says.
    FoldPending(Vec<(Accepted, Option<TraceParent>)>, oneshot::Sender<()>),
    /// Show what the log says alone.
    Settle(oneshot::Sender<()>),
    /// The store, once everything is in it that is folded now.
    Store(oneshot::Sender<Store>),
    /// A reply once this sequence is folded and announced.
    Wait(u64, oneshot::Sender<()>),
    /// Every announcement of what the log says from now on. A follower that lags is dropped.
    Follow(mpsc::Sender<Announcement>),
    /// The tree disagrees with this checkpoint: begin anew, once for each.
    Rebuild((u64, Hash)),
    /// A reader met this in a store; `None`: in whichever there is.
    Damaged(Option<Store>, Damage),
    /// The tree disagrees with a checkpoint although it was begun anew for that.
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
