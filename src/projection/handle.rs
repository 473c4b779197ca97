//! The handle by which everything else in this process reads the projection, and asks its owner.

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
use super::request::{Damage, Look, Request};
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

/// Requests that may wait for the owner; whoever asks beyond that waits to ask.
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
    /// Starts the projection of a log. Each of the subscribers gets every announcement; when one
    /// is slow, the projection waits.
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

    /// How far it is.
    pub fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Follows how far it is.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.position.clone()
    }

    /// What its reader knows of the log.
    pub fn seen(&self) -> ReaderStatus {
        *self.seen.borrow()
    }

    /// How many announcements its subscribers have not taken yet.
    pub fn announcements_waiting(&self) -> usize {
        let open = self.subscribers.iter().filter_map(mpsc::WeakSender::upgrade);
        open.map(|sender| sender.max_capacity() - sender.capacity()).sum()
    }

    /// What this replica shows now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether this user has acknowledged what is active, or was a moment ago.
    pub fn has_acknowledged(&self, active: &Active, user: &UserId) -> bool {
        let user = user.fingerprint();
        // What was accepted here since is not in what was announced.
        let pending = || {
            let snapshot = self.snapshot.load();
            let now = snapshot.has_pending.then(|| snapshot.active_of_id(active.broadcast.id)).flatten();
            now.and_then(|now| now.acknowledged_by(user))
        };
        active.acknowledged_by(user).or_else(pending).is_some()
    }

    /// Looks at the state with what is needed of it: what is not in memory is loaded for this look alone, and costs what is
    /// needed, not what there is of it.
    pub async fn with<T: Send + 'static>(
        &self,
        needs: Needs,
        look: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply| {
            let look = Box::new(move |view: View<'_>| drop(reply.send(look(view))));
            Request::Look(Look { needs, look })
        })
        .await
    }

    /// Folds what was accepted here, and is on disk but not in the log, over what the log says, and announces it to this
    /// replica's clients. From now until [`Projection::settle`] they are not told of what the log says.
    pub async fn fold_pending(&self, accepted: Vec<(Accepted, Option<TraceParent>)>) {
        let _ = self.ask(|reply| Request::FoldPending(accepted, reply)).await;
    }

    /// The log has, or has overruled, everything that was folded over it: shows what the log says alone. The projection
    /// must have reached what was relayed, so that nothing disappears for a moment.
    pub async fn settle(&self) {
        let _ = self.ask(Request::Settle).await;
    }

    /// The log, and the size and the root of its tree as far as it was folded. `None` while there is no log.
    pub async fn tree(&self) -> Option<(Epoch, u64, Hash)> {
        let look = |epoch: Option<Epoch>, tree: &Tree| (epoch, tree.now().size(), tree.now().root());
        let (epoch, size, root) = self.look_at_tree(look).await.ok()?;
        Some((epoch?, size, root))
    }

    /// The root of the tree when it had this size, if that was not long ago.
    pub async fn root_at(&self, size: u64) -> Option<Hash> {
        self.look_at_tree(move |_, tree| tree.root_at(size)).await.ok().flatten()
    }

    async fn look_at_tree<T: Send + 'static>(
        &self,
        look: impl FnOnce(Option<Epoch>, &Tree) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        self.ask(|reply| {
            Request::LookAtTree(Box::new(move |epoch, tree| drop(reply.send(look(epoch, tree)))))
        })
        .await
    }

    /// The roots over these whole blocks of leaves, see [`tree::BLOCK`].
    pub async fn blocks(&self, numbers: Range<u64>) -> Result<Vec<Hash>, Unavailable> {
        self.stored(move |store| store.blocks(numbers)).await
    }

    /// Has the projection begun anew, because its tree disagrees with this checkpoint. It is, once for each.
    pub async fn rebuild_for(&self, checkpoint: (u64, Hash)) {
        self.tell(Request::Rebuild(checkpoint)).await;
    }

    /// Has the projection begun anew, because its tree is not the one of its own records.
    pub async fn report_damage(&self) {
        self.tell(Request::Damaged(None, Damage::Record)).await;
    }

    /// The tree disagrees with a checkpoint although it was begun anew for that.
    pub async fn note_divergence(&self) {
        self.tell(Request::NoteDivergence).await;
    }

    /// The store, with everything in it that is folded now.
    pub(super) async fn store(&self) -> Result<Store, Unavailable> {
        self.ask(Request::Store).await
    }

    /// Looks into the store beside the fold, which goes on meanwhile.
    pub(super) async fn stored<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let store = self.store().await?;
        let read = blocking({
            let store = store.clone();
            move || look(&store)
        });
        match read.await {
            Ok(Ok(read)) => Ok(read),
            Ok(Err(error)) => {
                warn!("the projection cannot load what a request needs: {error:#}");
                self.tell(Request::Damaged(Some(store), Damage::of(&error))).await;
                Err(Unavailable)
            }
            Err(panicked) => {
                warn!("the projection's store panicked under a request: {panicked}");
                self.tell(Request::Damaged(Some(store), Damage::Record)).await;
                Err(Unavailable)
            }
        }
    }

    /// Asks the owner, and waits for the reply.
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Unavailable> {
        let (reply, answer) = oneshot::channel();
        self.tell(request(reply)).await;
        answer.await.map_err(|_| Unavailable)
    }

    async fn tell(&self, request: Request) {
        // The owner is gone: the replica stops.
        let _ = self.requests.send(request).await;
    }

    /// A sequence of the log as a position of it; `None` while no log is known.
    pub fn place(&self, sequence: u64) -> Option<log::Position> {
        self.position().epoch.map(|epoch| log::Position { epoch, sequence })
    }

    /// Waits until it has folded up to a position. At once when that is of another log: there is nothing to wait for. A position
    /// that the log, asked meanwhile, does not have is of a log that an older copy was restored over.
    pub async fn reached_position(&self, wanted: log::Position, patience: Duration) -> Reached {
        let begun = Instant::now();
        let mut position = self.watch();
        let reached = position.wait_for(|position| {
            position.epoch.is_some_and(|epoch| epoch != wanted.epoch || position.sequence >= wanted.sequence)
        });
        match timeout(patience, reached).await {
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

    /// Waits until it has folded `sequence`; `false` when that takes longer than `patience`. Who waits for one sequence comes
    /// on in the order of asking.
    pub async fn reached(&self, sequence: u64, patience: Duration) -> bool {
        self.position().sequence >= sequence
            || timeout(patience, self.ask(|reply| Request::Wait(sequence, reply)))
                .await
                .is_ok_and(|reached| reached.is_ok())
    }

    /// Every announcement of what the log says, from now on. It ends for a follower that lags too far behind, who then takes a
    /// snapshot.
    pub(super) async fn follow(&self) -> mpsc::Receiver<Announcement> {
        let (follower, announcements) = mpsc::channel(FOLLOWER_LAG);
        self.tell(Request::Follow(follower)).await;
        announcements
    }
}
