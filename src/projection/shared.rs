//! What the fold, the readers and the supervisor share, and what is folded over the log's state while the log is away.
//!
//! The store follows the fold: what was folded is gathered, and written a little later, all of it as one batch. Nothing is
//! unloaded from memory that is not written, so memory and the store together always have everything that was folded, and
//! where both have it, memory is newer.
//!
//! Who needs something that is not in memory reads it from the store while holding no lock. What was read may be used if
//! nothing was unloaded meanwhile: otherwise an entry may have been too new for the read and gone from memory by now, and it
//! is read again. The fold need not look, since only the fold unloads.
//!
//! Locks are taken in this order: `order`, `store`, `views`. The views are never held while anything is read from disk or
//! written to it, and nobody waits for a subscriber with the last two held, since subscribers look at the views.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use anyhow::Context as _;
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tracing::warn;

use super::cursor::CursorRecord;
use super::fold::changed;
use super::ledger::Ledger;
use super::memory::Unloading;
use super::store::{Pace, Store};
use super::tree::Tree;
use super::{Active, Announcement, Changed, Position};
use crate::crash_point::CrashPoint;
use crate::disk;
use crate::domain::{Accepted, Change, Channel, Event, Loaded, Needs, Pending, State, View};
use crate::log::TraceParent;
use crate::log::merkle::Hash;

/// How often something is loaded with no lock held, when each time something was unloaded meanwhile.
const LOADS: usize = 3;

/// What ends the use of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Damage {
    /// A record cannot be read, or is not what it was.
    Record,
    /// The disk took nothing. What is on it is none the worse for that, even if there is room again by now.
    DiskTookNothing,
}

impl Damage {
    pub(super) fn of(error: &anyhow::Error) -> Self {
        if disk::takes_nothing(error) { Self::DiskTookNothing } else { Self::Record }
    }
}

/// The log's state, its tree and where in the log that is, and what was accepted here and is not in the log yet.
#[derive(Default)]
pub(super) struct Views {
    pub(super) log: State,
    pub(super) tree: Tree,
    pub(super) ledger: Ledger,
    pub(super) pending: Pending,
    /// Where to read what is not in memory; `None` while there is none.
    pub(super) store: Option<Store>,
    /// How often something was unloaded from memory, or all of it was replaced.
    unloads: u64,
}

impl Views {
    pub(super) const fn view(&self) -> View<'_> {
        View::new(&self.log, &self.pending)
    }
}

pub(super) struct Shared {
    views: RwLock<Views>,
    /// Held while a batch is taken and written, so that batches are written in the order of the log.
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
    pub(super) damage: watch::Sender<Damage>,
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
            damage: watch::Sender::new(Damage::Record),
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
        views.ledger = Ledger::of_a_replica(cursor);
        views.store.clone_from(&store);
        views.unloads += 1;
        *held = store;
    }

    /// Gives the store up. What was not written is read from the log again.
    pub(super) fn close(&self) {
        let mut held = self.held_store();
        self.write().store = None;
        *held = None;
    }

    fn held_store(&self) -> MutexGuard<'_, Option<Store>> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the store, when everything that was folded is written, and holds it meanwhile. Once it has not taken
    /// something, it is given up: it must not get what comes after that.
    pub(super) fn with_store<T>(&self, act: impl FnOnce(&Store) -> anyhow::Result<T>) -> anyhow::Result<T> {
        let mut held = self.held_store();
        let store = held.as_ref().context("the projection is being rebuilt")?;
        if let Err(error) = self.write_gathered(store, |_| ()) {
            self.write().store = None;
            *held = None;
            self.report_damage(Damage::of(&error));
            return Err(error);
        }
        act(store)
    }

    /// Writes what was gathered to the store, which is held. `also` is done with the views at the moment up to which is
    /// written.
    fn write_gathered<T>(&self, store: &Store, also: impl FnOnce(&mut Views) -> T) -> anyhow::Result<T> {
        let (batch, also) = {
            let mut views = self.write();
            let Views { log, tree, ledger, .. } = &mut *views;
            let batch = ledger.take(log, tree)?;
            (batch, also(&mut views))
        };
        if let Some(batch) = batch {
            store.apply(batch)?;
            CrashPoint::AfterApply.reached();
        }
        Ok(also)
    }

    /// Whether no more is in memory than may stay.
    pub(super) fn is_within_bounds(&self) -> bool {
        let views = self.read();
        views.ledger.is_within_bounds(&views.log)
    }

    /// Chooses what is beyond the bounds of memory, and seals the sets among it. It may run beside the fold: whatever is
    /// chosen stays in memory until [`Shared::unload`].
    pub(super) fn seal_beyond_bounds(&self, pace: Pace) -> anyhow::Result<Unloading> {
        let (store, mut unloading) = self.with_store(|store| {
            let begin = |views: &mut Views| views.ledger.begin_to_unload(&mut views.log);
            Ok((store.clone(), self.write_gathered(store, begin)?))
        })?;
        unloading.seal(&store, pace)?;
        Ok(unloading)
    }

    /// Unloads what was chosen and sealed. Only the fold does it, and not while it folds.
    pub(super) fn unload(&self, unloading: Unloading) -> anyhow::Result<()> {
        let unloaded = self.with_store(|_| {
            let mut views = self.write();
            views.unloads += 1;
            let Views { log, ledger, .. } = &mut *views;
            Ok(ledger.unload(log, unloading))
        });
        // Dropped with no lock held.
        unloaded.map(drop)
    }

    /// The channels to those who serve this replica's clients; empty once the projection has ended.
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
    pub(super) fn report_damage(&self, damage: Damage) {
        self.damage.send_replace(damage);
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

    /// Says that a store is damaged, unless it has been replaced meanwhile.
    pub(super) fn report_damage_of(&self, store: &Store, damage: Damage) {
        let held = self.held_store();
        if held.as_ref().is_some_and(|held| held.is(store)) {
            self.report_damage(damage);
        }
    }

    /// Looks at the views, with what is needed and not in memory loaded for this look alone.
    pub(super) fn load_and_look<T>(
        &self,
        needs: &Needs,
        look: impl FnOnce(View<'_>) -> T,
    ) -> anyhow::Result<T> {
        for _ in 0..LOADS {
            let (missing, store, unloads) = {
                let views = self.read();
                let store = views.store.clone().context("the projection is being rebuilt")?;
                (views.log.missing(needs), store, views.unloads)
            };
            let loaded = self.load(&store, &missing)?;
            let views = self.read();
            if views.unloads == unloads {
                return Ok(look(views.view().with_loaded(&loaded)));
            }
        }
        // Nothing is unloaded while the store is held.
        self.with_store(|store| {
            let missing = self.read().log.missing(needs);
            let loaded = store.load(&missing).inspect_err(|error| self.report_damage(Damage::of(error)))?;
            Ok(look(self.read().view().with_loaded(&loaded)))
        })
    }

    /// Reads from the store while no lock is held.
    pub(super) fn load(&self, store: &Store, needs: &Needs) -> anyhow::Result<Loaded> {
        store.load(needs).inspect_err(|error| self.report_damage_of(store, Damage::of(error)))
    }

    /// Folds what was accepted here over the log's state. It is on disk already, so it is folded in any case: over what
    /// is in memory, when the store cannot say more. Nothing may be folded or unloaded meanwhile.
    pub(super) fn fold_pending(&self, accepted: Vec<(Accepted, Option<TraceParent>)>) -> Vec<Changed> {
        let mut needs = Needs::default();
        for (accepted, _) in &accepted {
            let id = accepted.event.broadcast_id();
            needs.broadcasts.push(id);
            if let Event::Acknowledged(brought) = &accepted.event {
                let users = brought.acknowledgements.iter().map(|one| (id, one.user.fingerprint()));
                needs.acknowledged.extend(users);
            }
        }
        let (missing, store) = {
            let views = self.read();
            (views.log.missing(&needs), views.store.clone())
        };
        let loaded = store.filter(|_| !missing.is_empty()).map(|store| self.load(&store, &missing));
        let mut views = self.write();
        let Views { log, pending, .. } = &mut *views;
        match loaded {
            Some(Ok(loaded)) => log.add_loaded(loaded),
            Some(Err(error)) => {
                warn!("what was accepted is shown without the store, which cannot be read: {error:#}");
            }
            None => {}
        }
        let mut changes = Vec::new();
        for (accepted, trace) in accepted {
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
