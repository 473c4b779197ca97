//! The handle: reads the projection, and sends requests to its owner.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::announcement::Announcement;
use super::owner::Owner;
use super::position::{Position, Reached};
use super::request::{Damage, Read, Request};
use super::snapshot::{Active, Snapshot};
use super::store::Store;
use super::supervise::{Options, Supervised, Supervisor};
use super::tree::Tree;
use crate::blocking::blocking;
use crate::domain::{Accepted, Needs, UserId, View};
use crate::log::merkle::Hash;
use crate::log::reader::ReaderStatus;
use crate::log::{self, Epoch, EventLog, TraceParent};

/// Announcements that a follower may lag behind. Then its channel ends, and it begins again with the state as it is.
const FOLLOWER_LAG: usize = 4_096;

/// Requests that may wait for the owner. Callers beyond that wait until there is room.
const REQUESTS: usize = 1_024;

/// The projection cannot answer: its store is being rebuilt, or has just failed.
#[derive(Debug)]
pub struct Unavailable;

/// A handle to the projection of this replica.
#[derive(Clone)]
pub struct Projection {
    requests: mpsc::Sender<Request>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    position: watch::Receiver<Position>,
    seen: watch::Receiver<ReaderStatus>,
    subscribers: Arc<[mpsc::WeakSender<Announcement>]>,
}

impl Projection {
    /// Starts the projection of a log. Every subscriber receives every announcement; the projection waits for a slow one.
    pub fn start(
        log: Arc<dyn EventLog>,
        options: Options,
        reconnected: watch::Receiver<u64>,
        subscribers: Vec<mpsc::Sender<Announcement>>,
    ) -> (Self, Supervisor) {
        let (requests, queue) = mpsc::channel(REQUESTS);
        let (snapshot, position) = (Arc::<ArcSwap<Snapshot>>::default(), watch::Sender::default());
        let (seen, watched) = watch::channel(ReaderStatus::default());
        let projection = Self {
            requests: requests.clone(),
            snapshot: snapshot.clone(),
            position: position.subscribe(),
            seen: watched,
            subscribers: subscribers.iter().map(mpsc::Sender::downgrade).collect(),
        };
        let owner = Owner::new((requests, queue), snapshot, position, subscribers);
        let (stop, stopped) = oneshot::channel();
        let supervised = Supervised { log, options, reconnected, owner, seen };
        (projection, Supervisor { stop, task: tokio::spawn(supervised.run(stopped)) })
    }

    /// How far the projection is.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Follows the position.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.clone()
    }

    /// What its reader knows of the log.
    pub fn seen(&self) -> ReaderStatus {
        *self.seen.borrow()
    }

    /// How many announcements wait in the channels of the subscribers.
    pub fn announcements_waiting(&self) -> usize {
        let open = self.subscribers.iter().filter_map(mpsc::WeakSender::upgrade);
        open.map(|sender| sender.max_capacity() - sender.capacity()).sum()
    }

    /// What this replica shows now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether this user has acknowledged a broadcast that is, or was a moment ago, active.
    pub fn has_acknowledged(&self, active: &Active, user: &UserId) -> bool {
        let user = user.fingerprint();
        // An acknowledgement that was accepted here since then is not in what was announced.
        let pending = || {
            let snapshot = self.snapshot.load();
            let now = snapshot.has_pending.then(|| snapshot.active_of_id(active.broadcast.id)).flatten();
            now.and_then(|now| now.acknowledged_by(user))
        };
        active.acknowledged_by(user).or_else(pending).is_some()
    }

    /// Reads the state. What it needs and is not in memory is loaded from the store for this read alone: the cost is that of
    /// the needs, not that of the whole.
    pub async fn with<T: Send + 'static>(
        &self,
        needs: Needs,
        read: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply| {
            let read = Box::new(move |view: View<'_>| drop(reply.send(read(view))));
            Request::Read(Read { needs, read })
        })
        .await
    }

    /// Applies what was accepted here, and is on disk but not in the log, over the state of the log, and announces it to this
    /// replica's clients. From now until [`Projection::settle`] they see that, and changes of the log are held back.
    pub async fn fold_pending(&self, accepted: Vec<(Accepted, Option<TraceParent>)>) {
        let _ = self.ask(|reply| Request::FoldPending(accepted, reply)).await;
    }

    /// The log has, or has overruled, everything that was accepted here: shows the state of the log alone. The projection must
    /// have reached what was relayed, so that nothing disappears for a moment.
    pub async fn settle(&self) {
        let _ = self.ask(Request::Settle).await;
    }

    /// The log, and the size and root of its tree as far as it was applied. `None` while no log is known.
    pub async fn tree(&self) -> Option<(Epoch, u64, Hash)> {
        let read = |epoch: Option<Epoch>, tree: &Tree| (epoch, tree.now().size(), tree.now().root());
        let (epoch, size, root) = self.read_tree(read).await.ok()?;
        Some((epoch?, size, root))
    }

    /// The root of the tree when it had this size, if that was not long ago.
    pub async fn root_at(&self, size: u64) -> Option<Hash> {
        self.read_tree(move |_, tree| tree.root_at(size)).await.ok().flatten()
    }

    async fn read_tree<T: Send + 'static>(
        &self,
        read: impl FnOnce(Option<Epoch>, &Tree) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply| Request::ReadTree(Box::new(move |epoch, tree| drop(reply.send(read(epoch, tree))))))
            .await
    }

    /// The roots over these whole blocks of leaves, see [`super::tree::BLOCK`].
    pub async fn blocks(&self, numbers: Range<u64>) -> Result<Vec<Hash>, Unavailable> {
        self.stored(move |store| store.blocks(numbers)).await
    }

    /// Rebuilds the projection, because its tree disagrees with this checkpoint: once for each checkpoint.
    pub async fn rebuild_for(&self, checkpoint: (u64, Hash)) {
        self.send(Request::Rebuild(checkpoint)).await;
    }

    /// Reports that the tree is not the one of the stored records: the projection is rebuilt.
    pub async fn report_damage(&self) {
        self.send(Request::Damaged(None, Damage::Record)).await;
    }

    /// Notes that the tree disagrees with a checkpoint although the projection was rebuilt for it.
    pub async fn note_divergence(&self) {
        self.send(Request::NoteDivergence).await;
    }

    /// The store, with everything in it that is applied now.
    pub(super) async fn store(&self) -> Result<Store, Unavailable> {
        self.ask(Request::Store).await
    }

    /// Reads the store on a thread of its own. The owner goes on meanwhile.
    pub(super) async fn stored<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let store = self.store().await?;
        let read = blocking({
            let store = store.clone();
            move || read(&store)
        });
        match read.await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => {
                warn!("the projection cannot load what a request needs: {error:#}");
                self.send(Request::Damaged(Some(store), Damage::of(&error))).await;
                Err(Unavailable)
            }
            Err(panicked) => {
                warn!("the projection's store panicked under a request: {panicked}");
                self.send(Request::Damaged(Some(store), Damage::Record)).await;
                Err(Unavailable)
            }
        }
    }

    /// Sends a request to the owner, and waits for the reply.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.send(request(reply)).await;
        answer.await.map_err(|_| Unavailable)
    }

    async fn send(&self, request: Request) {
        // An error: the owner is gone, since the replica stops.
        let _ = self.requests.send(request).await;
    }

    /// The position of a sequence; `None` while no log is known.
    pub fn position_of(&self, sequence: u64) -> Option<log::Position> {
        self.position().epoch.map(|epoch| log::Position { epoch, sequence })
    }

    /// Waits until everything up to a position is applied. It does not wait for a position of another log. A position beyond the
    /// head of the log, read meanwhile, belongs to a log that was replaced by an older copy.
    pub async fn reached_position(&self, wanted: log::Position, within: Duration) -> Reached {
        let begun = Instant::now();
        let mut position = self.watch();
        let reached = position.wait_for(|position| {
            position.epoch.is_some_and(|epoch| epoch != wanted.epoch || position.sequence >= wanted.sequence)
        });
        match timeout(within, reached).await {
            Ok(Ok(position)) if position.epoch == Some(wanted.epoch) => Reached::Yes,
            Ok(Ok(_)) => Reached::OtherLog,
            Ok(Err(_)) => Reached::Behind,
            Err(_) => {
                let ReaderStatus { head, observed_at, following, .. } = self.seen();
                let is_beyond = following.is_some()
                    && head < wanted.sequence
                    && observed_at.is_some_and(|at| at >= begun);
                if is_beyond { Reached::OtherLog } else { Reached::Behind }
            }
        }
    }

    /// Waits until `sequence` is applied; `false` if that takes longer than `within`. Those who wait for the same sequence go on in
    /// the order in which they came.
    pub async fn reached(&self, sequence: u64, within: Duration) -> bool {
        self.position().sequence >= sequence
            || timeout(within, self.ask(|reply| Request::Wait(sequence, reply)))
                .await
                .is_ok_and(|reached| reached.is_ok())
    }

    /// The announcements of changes in the log, from now on. The channel ends for a follower that lags too far behind; it then
    /// starts from the state as it is.
    pub(super) async fn follow(&self) -> mpsc::Receiver<Announcement> {
        let (follower, announcements) = mpsc::channel(FOLLOWER_LAG);
        self.send(Request::Follow(follower)).await;
        announcements
    }
}
