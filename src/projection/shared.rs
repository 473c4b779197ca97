//! What the fold, the readers and the supervisor share, and what is folded over the log's state while the log is away.
//!
//! The store follows the fold: what was folded is gathered, and written a little later, all of it as one batch. Who reads
//! the store writes what was gathered first. Nothing is dropped from memory that is not written, so what is loaded from the
//! store is never older than what was folded.
//!
//! Locks are taken in this order: `order`, `store`, `views`. Nobody waits for a subscriber with the last two held, since
//! subscribers look at the views.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::Context as _;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tracing::warn;

use super::cursor::CursorRecord;
use super::fold::changed;
use super::ledger::{Ledger, has_room};
use super::store::Store;
use super::tree::Tree;
use super::{Active, Announcement, Changed, Position};
use crate::crash_point::CrashPoint;
use crate::domain::{Accepted, Change, Channel, Needs, Pending, State, View};
use crate::log::TraceParent;
use crate::log::merkle::Hash;

/// The log's state, its tree and where in the log that is, and what was accepted here and is not in the log yet.
#[derive(Default)]
pub(super) struct Views {
    pub(super) log: State,
    pub(super) tree: Tree,
    pub(super) ledger: Ledger,
    pub(super) pending: Pending,
}

impl Views {
    pub(super) const fn view(&self) -> View<'_> {
        View::new(&self.log, &self.pending)
    }
}

pub(super) struct Shared {
    views: RwLock<Views>,
    /// Held while something is loaded and while a batch is written, so that the two never interleave.
    store: Mutex<Option<Store>>,
    pub(super) position: watch::Sender<Position>,
    /// Wakes those who wait for a place of the log, in the order in which they came. A `watch` wakes in an order of its own.
    pub(super) moved: Notify,
    /// For the mirror: what the log says, and nothing else.
    pub(super) changes: broadcast::Sender<Announcement>,
    /// For this replica's clients: what it shows.
    subscribers: Mutex<Vec<mpsc::Sender<Announcement>>>,
    /// Held from a change of the views until it is announced, so that announcements come in the order of the changes.
    pub(super) order: tokio::sync::Mutex<()>,
    /// Changes when a request met a damaged record, or the store did not take something.
    pub(super) damage: watch::Sender<()>,
    /// The checkpoint that the tree disagrees with.
    pub(super) disagreement: watch::Sender<Option<(u64, Hash)>>,
}

impl Shared {
    pub(super) fn new(subscribers: Vec<mpsc::Sender<Announcement>>, mirror_lag: usize) -> Self {
        Self {
            views: RwLock::default(),
            store: Mutex::new(None),
            position: watch::Sender::new(Position::default()),
            moved: Notify::new(),
            changes: broadcast::Sender::new(mirror_lag),
            subscribers: Mutex::new(subscribers),
            order: tokio::sync::Mutex::new(()),
            damage: watch::Sender::new(()),
            disagreement: watch::Sender::new(None),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Views> {
        self.views.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Views> {
        self.views.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on from here, with this store.
    pub(super) fn restart(&self, store: Option<Store>, state: State, cursor: CursorRecord) {
        let mut held = self.held_store();
        let mut views = self.write();
        views.log = state;
        views.tree = Tree::from(cursor.tree.clone());
        views.ledger = Ledger::from(cursor);
        *held = store;
    }

    /// Gives the store up. What was not written is read from the log again.
    pub(super) fn close(&self) {
        *self.held_store() = None;
    }

    fn held_store(&self) -> MutexGuard<'_, Option<Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the store, when everything that was folded is written, and holds it meanwhile. Once it has not taken
    /// something, it is given up: it must not get what comes after that.
    pub(super) fn with_store<T>(&self, act: impl FnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut held = self.held_store();
        let store = held.as_ref().context("the projection is being rebuilt")?;
        if let Err(error) = self.write_gathered(store) {
            *held = None;
            self.report_damage();
            return Err(error);
        }
        act(store)
    }

    /// Writes what was gathered to the store, which is held.
    pub(super) fn write_gathered(&self, store: &Store) -> anyhow::Result<()> {
        let batch = {
            let mut views = self.write();
            let Views { log, tree, ledger, .. } = &mut *views;
            ledger.take(log, tree)?
        };
        if let Some(batch) = batch {
            store.apply(batch)?;
            CrashPoint::AfterApply.reached();
        }
        Ok(())
    }

    /// Who is told; `None` once the projection has ended.
    pub(super) fn subscribers(&self) -> Vec<mpsc::Sender<Announcement>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells those who serve this replica's clients, and waits for each who is slow. Who is gone: the replica stops.
    pub(super) async fn tell(&self, announcement: &Announcement) {
        for subscriber in self.subscribers() {
            let _ = subscriber.send(announcement.clone()).await;
        }
    }

    /// The projection ends: subscribers learn it by hearing nothing any more.
    pub(super) fn dismiss_subscribers(&self) {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The supervisor rebuilds what a request could not read.
    pub(super) fn report_damage(&self) {
        self.damage.send_replace(());
    }

    /// What is active in each channel, as this replica shows it.
    pub(super) fn active(views: &Views) -> Vec<(Channel, Active)> {
        let view = views.view();
        let active = view.channels().filter_map(|channel| {
            let known = view.active(channel)?;
            Some((channel.clone(), Active { broadcast: known.broadcast.clone(), sequence: known.sequence }))
        });
        active.collect()
    }

    pub(super) fn load_and_look<T>(
        &self,
        needs: &Needs,
        look: impl FnOnce(View<'_>) -> T,
    ) -> anyhow::Result<T> {
        // Damage is said of while the store is held, so that it is never said of the next one.
        self.with_store(|store| {
            let mut loaded = State::default();
            store.load(&mut loaded, needs).inspect_err(|_| self.report_damage())?;
            Ok(self.look_at(loaded, look))
        })
    }

    fn look_at<T>(&self, mut loaded: State, look: impl FnOnce(View<'_>) -> T) -> T {
        let mut views = self.write();
        let state = &mut views.log;
        loaded.broadcasts.retain(|id, _| !state.broadcasts.contains_key(id));
        let new: Vec<_> = loaded.broadcasts.keys().copied().collect();
        state.broadcasts.extend(loaded.broadcasts);
        state.written.extend(loaded.written);
        let answer = look(views.view());
        let state = &mut views.log;
        state.written.clear();
        // While there is room it stays, until the fold drops what was not used for long.
        if !has_room(state) {
            state.broadcasts.retain(|id, _| !new.contains(id));
        }
        answer
    }

    /// Folds what was accepted here over the log's state. It is on disk already, so it is folded in any case: over what
    /// is resident, when the store cannot say more.
    pub(super) fn fold_pending(&self, accepted: Vec<(Accepted, Option<TraceParent>)>) -> Vec<Changed> {
        let store = self.held_store();
        let mut views = self.write();
        let Views { log, pending, .. } = &mut *views;
        let mut changes = Vec::new();
        for (accepted, trace) in accepted {
            let needs = Needs { broadcasts: vec![accepted.event.broadcast_id()], written: vec![] };
            match store.as_ref().map(|store| store.load(log, &needs)) {
                Some(Ok(())) | None => {}
                Some(Err(error)) => warn!("the projection cannot load what was accepted over: {error:#}"),
            }
            let channel = accepted.channel.clone();
            let (sequence, change) = pending.fold(log, accepted);
            if change != Change::Nothing {
                changes.push(changed(View::new(log, pending), channel, sequence, change, trace));
            }
        }
        changes
    }

    /// The log has, or has overruled, everything that was pending. What is active now, by the log alone.
    pub(super) fn forget_pending(&self) -> Vec<(Channel, Active)> {
        let mut views = self.write();
        views.pending = Pending::default();
        Self::active(&views)
    }
}
