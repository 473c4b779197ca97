//! The projection: read → apply → announce. What this replica knows, folded from the log and from nothing else.
//!
//! One reader hands over the log in order; one task folds each batch into the state and announces what changed. The store
//! follows, a batch at a time and the cursor with it. The projection never appends and never reads KV. Its disk
//! state is disposable: when it does not open, does not decode, or belongs to another log, it is moved aside and
//! rebuilt. A full disk damages nothing: then it stands still, with what is in memory, until there is room.

mod acks;
pub mod cursor;
mod fold;
mod incoming;
pub mod ledger;
mod memory;
pub mod mirror;
mod owner;
mod records;
mod request;
mod snapshot;
pub mod store;
mod supervise;
pub mod tree;
mod writing;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::blocking::blocking;
use crate::disk;
use crate::domain::{Accepted, Change, Channel, Digest, Needs, UserId, View};
use crate::log::merkle::Hash;
use crate::log::reader::Seen;
use crate::log::{self, Epoch, EventLog, TraceParent};
use crate::metrics::Metrics;
use owner::Owner;
use request::{Look, Request};
pub use snapshot::{Active, Snapshot};
pub use store::AckAt;
use store::Store;
pub use supervise::Supervisor;
use tree::Tree;

/// Announcements that a follower may lag behind before it has to take a snapshot instead.
const FOLLOWER_LAG: usize = 4_096;

/// Requests that wait for the owner.
const REQUESTS: usize = 1_024;

/// What the projection needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its disk state is.
    pub directory: PathBuf,
    /// How long the store may take to open before it counts as damaged.
    pub open_patience: Duration,
    /// Where it counts.
    pub metrics: Metrics,
}

/// How far the projection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The log that the sequence counts in.
    pub epoch: Option<Epoch>,
    /// The last sequence folded.
    pub sequence: u64,
    /// The digest there.
    pub digest: Digest,
    /// The last multiple of 256, and the digest there.
    pub milestone: (u64, Digest),
    /// Whether what it shows may be shown: it has caught up once, or came from disk.
    pub serving: bool,
    /// Whether it has reached the head that the log had when reading began.
    pub caught_up: bool,
    /// Messages skipped because a newer build may know them, and because they are not of Tidings.
    pub skipped: (u64, u64),
    /// Places where the log has lost its message.
    pub holes: u64,
    /// How often another log was met in this process.
    pub epochs: u64,
    /// How often it was begun anew in this process, for whatever reason: what was seen of it in another life counts no more.
    pub life: u64,
    /// Why it does not go on, if it does not.
    pub halt: Option<Halt>,
    /// The checkpoint, by size and root, because of which it was begun anew.
    pub rebuilt_for: Option<(u64, Hash)>,
    /// Whether it differs from a checkpoint after that, too.
    pub diverged: bool,
}

impl Position {
    /// How far it is, as a position in the log; `None` while no log is known.
    pub fn log_position(&self) -> Option<log::Position> {
        self.epoch.map(|epoch| log::Position { epoch, sequence: self.sequence })
    }
}

/// Whether a projection has got to a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// It has.
    Yes,
    /// Not in time.
    Behind,
    /// The position is of another log, or of what this one has lost.
    OtherLog,
}

/// Why a projection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Halt {
    /// Its disk takes nothing. What is resident is served, and nothing is folded until there is room.
    Stalled,
    /// It was damaged again and again, and is not rebuilt any more.
    GaveUp,
}

/// What subscribers of the projection are told, in log order.
#[derive(Clone, Debug)]
pub enum Announcement {
    /// This is the state now; whatever was announced before counts no more.
    Snapshot {
        /// The log, and the sequence of the state.
        epoch: Epoch,
        /// The last event in the state.
        sequence: u64,
        /// What is active, by channel.
        active: Arc<Vec<(Channel, Active)>>,
    },
    /// One event took effect.
    Changed(Arc<Changed>),
    /// What was accepted here is in the log, or overruled: what the log says is what is shown again. Announced after
    /// the changes that were held back meanwhile, and instead of them.
    Settled {
        /// The last event in the state.
        sequence: u64,
        /// What is active, by channel.
        active: Arc<Vec<(Channel, Active)>>,
    },
}

/// An event that took effect.
#[derive(Debug)]
pub struct Changed {
    /// Its place in the log; from `PENDING` (2^63) on when it is not there yet.
    pub sequence: u64,
    /// Where.
    pub channel: Channel,
    /// What it did.
    pub change: Change,
    /// What became active, when something did.
    pub activated: Option<Active>,
    /// The trace of the request that it came of.
    pub trace: Option<TraceParent>,
}

/// The projection cannot answer: its store is being rebuilt or has just failed.
#[derive(Debug)]
pub struct Unavailable;

/// What ends the use of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// A record cannot be read, or is not what it was.
    Record,
    /// The disk took nothing. What is on it is none the worse for that, even if there is room again by now.
    DiskTookNothing,
}

impl Damage {
    fn of(error: &anyhow::Error) -> Self {
        if disk::takes_nothing(error) { Self::DiskTookNothing } else { Self::Record }
    }
}

/// A handle to the projection of this replica.
#[derive(Clone)]
pub struct Projection {
    requests: mpsc::Sender<Request>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    position: watch::Receiver<Position>,
    seen: watch::Receiver<Seen>,
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
        let (seen, watched) = watch::channel(Seen::default());
        let projection = Self {
            requests: requests.clone(),
            snapshot: snapshot.clone(),
            position: position.subscribe(),
            seen: watched,
            subscribers: subscribers.iter().map(mpsc::Sender::downgrade).collect(),
        };
        let owner = Owner::new((requests, queue), snapshot, position, subscribers);
        let (stop, stopped) = oneshot::channel();
        let supervised = supervise::Supervised { log, options, reconnected, owner, seen };
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
    pub fn seen(&self) -> Seen {
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
    pub async fn distrust(&self) {
        self.tell(Request::Damaged(None, Damage::Record)).await;
    }

    /// The tree disagrees with a checkpoint although it was begun anew for that.
    pub async fn note_divergence(&self) {
        self.tell(Request::NoteDivergence).await;
    }

    /// The store, with everything in it that is folded now.
    async fn store(&self) -> Result<Store, Unavailable> {
        self.ask(Request::Store).await
    }

    /// Looks into the store beside the fold, which goes on meanwhile.
    async fn stored<T: Send + 'static>(
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
                let Seen { head, asked_at, following, .. } = self.seen();
                let is_beyond =
                    following.is_some() && head < wanted.sequence && asked_at.is_some_and(|at| at >= begun);
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
    async fn follow(&self) -> mpsc::Receiver<Announcement> {
        let (follower, announcements) = mpsc::channel(FOLLOWER_LAG);
        self.tell(Request::Follow(follower)).await;
        announcements
    }
}
