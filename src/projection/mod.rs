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
mod records;
mod shared;
pub mod store;
mod supervise;
pub mod tree;

use std::fmt::Display;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::blocking::blocking;
use crate::domain::{Accepted, Broadcast, Change, Channel, Digest, Needs, View};
use crate::log::merkle::Hash;
use crate::log::reader::Seen;
use crate::log::{self, Epoch, EventLog, TraceParent};
use crate::metrics::Metrics;
use shared::{Damage, Shared};
pub use store::AckAt;
use store::Store;
pub use supervise::Supervisor;

/// Announcements that a mirror may lag behind before it takes a snapshot instead.
const MIRROR_LAG: usize = 4_096;

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

/// What is active in a channel, and since which event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// The broadcast.
    pub broadcast: Broadcast,
    /// The event that activated it.
    pub sequence: u64,
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
    /// The broadcast that became active, when one did.
    pub activated: Option<Broadcast>,
    /// The trace of the request that it came of.
    pub trace: Option<TraceParent>,
}

/// The projection cannot answer: its store is being rebuilt or has just failed.
#[derive(Debug)]
pub struct Unavailable;

/// A handle to the projection of this replica.
#[derive(Clone)]
pub struct Projection {
    shared: Arc<Shared>,
    seen: watch::Receiver<Seen>,
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
        let shared = Arc::new(Shared::new(subscribers, MIRROR_LAG));
        let (seen, watched) = watch::channel(Seen::default());
        let (stop, stopped) = oneshot::channel();
        let supervised = supervise::Supervised { log, options, reconnected, shared: shared.clone(), seen };
        let task = tokio::spawn(supervised.run(stopped));
        (Self { shared, seen: watched }, Supervisor { stop, task })
    }

    /// How far it is.
    pub fn position(&self) -> Position {
        *self.shared.position.borrow()
    }

    /// Follows how far it is.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.shared.position.subscribe()
    }

    /// What its reader knows of the log.
    pub fn seen(&self) -> Seen {
        *self.seen.borrow()
    }

    /// How many announcements its subscribers have not taken yet.
    pub fn announcements_waiting(&self) -> usize {
        self.shared.subscribers().iter().map(|sender| sender.max_capacity() - sender.capacity()).sum()
    }

    /// Looks at what is resident: channels, active broadcasts, counts.
    pub fn read<T>(&self, look: impl FnOnce(View<'_>) -> T) -> T {
        look(self.shared.read().view())
    }

    /// Looks at what is in memory, and at the position of the last event in it: both of one moment. No position while no log is
    /// known.
    pub fn read_at<T>(&self, look: impl FnOnce(Option<log::Position>, View<'_>) -> T) -> T {
        let views = self.shared.read();
        look(views.ledger.cursor.log_position(), views.view())
    }

    /// Looks at the view with what it needs: what is not in memory is loaded for this look alone, and costs what is needed,
    /// not what there is of it.
    pub async fn with<T: Send + 'static>(
        &self,
        needs: Needs,
        look: impl FnOnce(View<'_>) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        // One look under one lock: what is in memory now may be unloaded a moment later.
        let mut look = Some(look);
        let answer = self.read(|view| {
            let is_resident = view.log().missing(&needs).is_empty();
            if is_resident { look.take().map(|look| look(view)) } else { None }
        });
        let Some(look) = look else { return answer.ok_or(Unavailable) };
        let shared = self.shared.clone();
        self.answered(blocking(move || shared.load_and_look(&needs, look)).await)
    }

    /// The same at once, for a caller who may wait for the disk.
    pub fn look<T>(&self, needs: &Needs, look: impl FnOnce(View<'_>) -> T) -> Result<T, Unavailable> {
        let looked = catch_unwind(AssertUnwindSafe(|| self.shared.load_and_look(needs, look)));
        self.answered(looked.map_err(|_| "while it was read"))
    }

    /// Folds what was accepted here, and is on disk but not in the log, over what the log says, and announces it to this
    /// replica's clients. From now until [`Projection::settle`] they are not told of what the log says.
    pub async fn fold_pending(&self, accepted: Vec<(Accepted, Option<TraceParent>)>) {
        let _order = self.shared.order.lock().await;
        let shared = self.shared.clone();
        match blocking(move || shared.fold_pending(accepted)).await {
            Ok(changes) => {
                for changed in changes {
                    self.shared.tell(&Announcement::Changed(Arc::new(changed))).await;
                }
            }
            Err(panicked) => warn!("what was accepted could not be shown: {panicked}"),
        }
    }

    /// The log has, or has overruled, everything that was folded over it: shows what the log says alone. The projection
    /// must have reached what was relayed, so that nothing disappears for a moment.
    pub async fn settle(&self) {
        let _order = self.shared.order.lock().await;
        let active = Arc::new(self.shared.forget_pending());
        let sequence = self.position().sequence;
        self.shared.tell(&Announcement::Settled { sequence, active }).await;
    }

    /// The log, and the size and the root of its tree as far as it was folded. `None` while there is no log.
    pub fn tree(&self) -> Option<(Epoch, u64, Hash)> {
        let before = self.position();
        let (size, root) = {
            let views = self.shared.read();
            (views.tree.now().size(), views.tree.now().root())
        };
        // Another life begins with another position, so both are of one log if that is the same before and after.
        let after = self.position();
        let epoch = after.epoch.filter(|_| (before.epoch, before.life) == (after.epoch, after.life))?;
        Some((epoch, size, root))
    }

    /// The root of the tree when it had this size, if that was not long ago.
    pub fn root_at(&self, size: u64) -> Option<Hash> {
        self.shared.read().tree.root_at(size)
    }

    /// The roots over these whole blocks of leaves, see [`tree::BLOCK`].
    pub async fn blocks(&self, numbers: Range<u64>) -> Result<Vec<Hash>, Unavailable> {
        self.stored(move |store| store.blocks(numbers)).await
    }

    /// Has the projection begun anew, because its tree disagrees with this checkpoint. It is, once for each.
    pub fn rebuild_for(&self, checkpoint: (u64, Hash)) {
        self.shared.disagreement.send_replace(Some(checkpoint));
    }

    /// Has the projection begun anew, because its tree is not the one of its own records.
    pub fn distrust(&self) {
        self.shared.report_damage(Damage::Record);
    }

    /// The tree disagrees with a checkpoint although it was begun anew for that.
    pub fn note_divergence(&self) {
        self.shared.position.send_modify(|position| position.diverged = true);
    }

    /// Looks into the store beside the fold, which goes on meanwhile.
    async fn stored<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Store) -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let shared = self.shared.clone();
        let looked = blocking(move || {
            let store = shared.with_store(|store| Ok(store.clone()))?;
            look(&store).inspect_err(|error| shared.report_damage_of(&store, Damage::of(error)))
        });
        self.answered(looked.await)
    }

    fn answered<T>(&self, looked: Result<anyhow::Result<T>, impl Display>) -> Result<T, Unavailable> {
        match looked {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                warn!("the projection cannot load what a request needs: {error:#}");
                Err(Unavailable)
            }
            Err(panicked) => {
                warn!("the projection's store panicked under a request: {panicked}");
                self.shared.report_damage(Damage::Record);
                Err(Unavailable)
            }
        }
    }

    /// A sequence of the log as a position of it; `None` while no log is known.
    pub fn place(&self, sequence: u64) -> Option<log::Position> {
        self.position().epoch.map(|epoch| log::Position { epoch, sequence })
    }

    /// Waits until it has folded up to a position. At once when that is of another log: there is nothing to wait for. A position
    /// that the log, asked meanwhile, does not have is of a log that an older copy was restored over.
    pub async fn reached_position(&self, wanted: log::Position, patience: Duration) -> Reached {
        let begun = Instant::now();
        let reached = async {
            loop {
                // Made before the look, so that no move falls between the two.
                let moved = self.shared.moved.notified();
                let Position { epoch, sequence, .. } = self.position();
                match epoch {
                    Some(epoch) if epoch != wanted.epoch => return Reached::OtherLog,
                    Some(_) if sequence >= wanted.sequence => return Reached::Yes,
                    _ => moved.await,
                }
            }
        };
        timeout(patience, reached).await.unwrap_or_else(|_| {
            let Seen { head, asked_at, following, .. } = self.seen();
            let is_beyond =
                following.is_some() && head < wanted.sequence && asked_at.is_some_and(|at| at >= begun);
            if is_beyond { Reached::OtherLog } else { Reached::Behind }
        })
    }

    /// Waits until it has folded `sequence`; `false` when that takes longer than `patience`.
    pub async fn reached(&self, sequence: u64, patience: Duration) -> bool {
        let reached = async {
            loop {
                // Made before the look, so that no move falls between the two.
                let moved = self.shared.moved.notified();
                if self.position().sequence >= sequence {
                    return;
                }
                moved.await;
            }
        };
        timeout(patience, reached).await.is_ok()
    }

    /// Every announcement from now on. Who lags too far behind is told so, and takes a snapshot.
    fn changes(&self) -> broadcast::Receiver<Announcement> {
        self.shared.changes.subscribe()
    }

    /// A long look into the store, which does not hold up the fold. It waits for the disk.
    fn look_long<T>(&self, look: impl FnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
        look(&self.shared.with_store(|store| Ok(store.clone()))?)
    }
}
