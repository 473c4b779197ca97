//! The owner: the one task that has the state and the store.
//!
//! It folds the log ([`super::fold`]), over damage and over other logs ([`super::supervise`]), and publishes a
//! [`Snapshot`] with every change. Whoever needs more than that asks it, through one channel: it looks at what is in memory
//! itself, and has what is not read from the store by a thread of its own, beside everything else. It waits for nobody who
//! asks it something.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle};
use tracing::warn;

use super::announcement::Announcement;
use super::core::Core;
use super::cursor::CursorRecord;
use super::ledger::Ledger;
use super::position::Position;
use super::request::{Damage, Look, Request};
use super::snapshot::{Active, Snapshot};
use super::store::Store;
use super::tree::Tree;
use super::writer::Writer;
use crate::blocking::blocking;
use crate::domain::{Channel, Loaded, Pending, State, View};
use crate::log::merkle::Hash;

/// Looks whose needs are read from the store at the same time.
const LOADS: usize = 64;

/// Looks that may wait for one of these reads to end. More are not answered.
const WAITING_LOOKS: usize = 1_024;

/// Why the state cannot be gone on with.
pub(super) enum Fault {
    Damaged(anyhow::Error),
    /// The tree is not the one of a checkpoint.
    Disagrees((u64, Hash)),
}

/// A look whose needs were read from a store.
pub(super) struct Load {
    look: Look,
    loaded: anyhow::Result<Loaded>,
    store: Store,
    unloads: u64,
}

pub(super) struct Owner {
    pub(super) core: Core,
    /// What was accepted here and is not in the log yet.
    pub(super) pending: Arc<Pending>,
    /// Has the store: what is not in memory is read from it, and what was folded is written to it.
    pub(super) writer: Writer,
    /// How often something was unloaded from memory, or all of it was replaced. What was read from the store before that may
    /// be older than what was in memory.
    unloads: u64,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Kept, so that the queue does not end while the projection goes on.
    _requests: mpsc::Sender<Request>,
    /// Requests that change what is shown: they wait until what was shown before is announced.
    deferred: VecDeque<Request>,
    pub(super) loads: FuturesUnordered<JoinHandle<Load>>,
    waiting_looks: VecDeque<Look>,
    /// Those who wait for a sequence, in the order in which they came.
    waiters: Vec<(u64, oneshot::Sender<()>)>,
    pub(super) fault: Option<Fault>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) position: watch::Sender<Position>,
    /// Those who serve this replica's clients, and are told what it shows.
    subscribers: Vec<mpsc::Sender<Announcement>>,
    /// Those who follow what the log says.
    followers: Vec<mpsc::Sender<Announcement>>,
}

impl Owner {
    pub(super) fn new(
        (kept, requests): (mpsc::Sender<Request>, mpsc::Receiver<Request>),
        snapshot: Arc<ArcSwap<Snapshot>>,
        position: watch::Sender<Position>,
        subscribers: Vec<mpsc::Sender<Announcement>>,
    ) -> Self {
        Self {
            core: Core::default(),
            pending: Arc::default(),
            writer: Writer::default(),
            unloads: 0,
            requests,
            _requests: kept,
            deferred: VecDeque::new(),
            loads: FuturesUnordered::new(),
            waiting_looks: VecDeque::new(),
            waiters: Vec::new(),
            fault: None,
            snapshot,
            position,
            subscribers,
            followers: Vec::new(),
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.core.log, &self.pending)
    }

    /// What is active in each channel, as this replica shows it.
    pub(super) fn active(&self) -> Arc<Vec<(Channel, Active)>> {
        let snapshot = self.snapshot.load();
        let active = snapshot.all_active().map(|(channel, active)| (channel.clone(), active.clone()));
        Arc::new(active.collect())
    }

    pub(super) fn position(&self) -> Position {
        *self.position.borrow()
    }

    /// Goes on from here, with this store.
    pub(super) fn restart(&mut self, store: Option<Store>, state: State, cursor: CursorRecord) {
        let tree = Tree::from(cursor.tree.clone());
        self.core = Core { log: state, tree, ledger: Ledger::of_a_replica(cursor) };
        self.writer = Writer::of(store);
        self.unloads += 1;
        self.publish_snapshot(None);
    }

    /// Unloads from memory: nothing that was read from the store before counts any more.
    pub(super) const fn note_unloading(&mut self) {
        self.unloads += 1;
    }

    /// Replaces what readers see. `touched`: the channels that changed; `None`: all of them may have.
    pub(super) fn publish_snapshot(&self, touched: Option<&BTreeSet<Channel>>) {
        let position = self.core.ledger.cursor.log_position();
        let before = self.snapshot.load();
        self.snapshot.store(Arc::new(Snapshot::of(self.view(), position, &before, touched)));
    }

    /// Says how far it is, once everything up to there is announced, and answers those who wait for that.
    pub(super) fn publish_position(&mut self, also: impl FnOnce(&mut Position)) {
        let cursor = &self.core.ledger.cursor;
        self.position.send_modify(|position| {
            position.epoch = cursor.epoch;
            position.sequence = cursor.sequence;
            position.digest = cursor.digest;
            position.milestone = cursor.milestone;
            position.skipped = (cursor.skipped_future, cursor.skipped_foreign);
            position.holes = cursor.holes;
            position.rebuilt_for = cursor.rebuilt_for;
            also(position);
        });
        let reached = self.position().sequence;
        for (_, waiter) in
            self.waiters.extract_if(.., |(sequence, waiter)| *sequence <= reached || waiter.is_closed())
        {
            let _ = waiter.send(());
        }
    }

    /// Does what is asked for, as far as that changes nothing that is shown; the rest is deferred. It does not wait.
    pub(super) fn serve(&mut self, request: Request) {
        match request {
            Request::Look(look) => self.look(look),
            Request::LookAtTree(look) => look(self.core.ledger.cursor.epoch, &self.core.tree),
            Request::Store(reply) => self.writer.hand_out(&self.core, reply),
            Request::Wait(sequence, reply) if self.position().sequence >= sequence => drop(reply.send(())),
            Request::Wait(sequence, reply) => self.wait(sequence, reply),
            Request::Follow(follower) => self.followers.push(follower),
            Request::Rebuild(checkpoint) => {
                // Whoever compared while it was begun anew may ask for that twice.
                if self.core.ledger.cursor.rebuilt_for != Some(checkpoint) {
                    self.fault.get_or_insert(Fault::Disagrees(checkpoint));
                }
            }
            Request::Damaged(of, damage) => {
                let is_replaced = of.is_some_and(|of| !self.writer.store().is_ok_and(|store| store.is(&of)));
                if !is_replaced {
                    self.fault.get_or_insert(Fault::Damaged(damage.error()));
                }
            }
            Request::NoteDivergence => self.position.send_modify(|position| position.diverged = true),
            Request::FoldPending(..) | Request::Settle(_) => self.deferred.push_back(request),
        }
    }

    fn wait(&mut self, sequence: u64, reply: oneshot::Sender<()>) {
        // Those who gave up are removed before the list grows.
        if self.waiters.len() == self.waiters.capacity() {
            self.waiters.retain(|(_, waiter)| !waiter.is_closed());
        }
        self.waiters.push((sequence, reply));
    }

    /// Looks at once if everything that is needed is in memory; or begins to read the rest.
    fn look(&mut self, look: Look) {
        let missing = self.core.log.missing(&look.needs);
        if missing.is_empty() {
            let view = self.view();
            // A panic is the affair of whoever asked.
            let _ = catch_unwind(AssertUnwindSafe(|| (look.look)(view)));
            return;
        }
        let Ok(store) = self.writer.store() else { return };
        if self.loads.len() >= LOADS {
            if self.waiting_looks.len() < WAITING_LOOKS {
                self.waiting_looks.push_back(look);
            }
            return;
        }
        let unloads = self.unloads;
        self.loads.push(blocking(move || {
            let loaded = store.load(&missing);
            Load { look, loaded, store, unloads }
        }));
    }

    /// Looks with what was read; or begins again if it may be older than what was in memory then and is not any more.
    pub(super) fn finish_load(&mut self, load: Result<Load, JoinError>) {
        match load {
            Ok(Load { look, loaded, store, unloads }) => match loaded {
                Ok(_) if unloads != self.unloads => self.look(look),
                Ok(loaded) => {
                    let view = self.view().with_loaded(&loaded);
                    let _ = catch_unwind(AssertUnwindSafe(|| (look.look)(view)));
                }
                Err(error) => {
                    warn!("the projection cannot load what a request needs: {error:#}");
                    self.serve(Request::Damaged(Some(store), Damage::of(&error)));
                }
            },
            Err(panicked) => {
                warn!("the projection's store panicked under a request: {panicked}");
                self.serve(Request::Damaged(None, Damage::Record));
            }
        }
        if let Some(next) = self.waiting_looks.pop_front() {
            self.look(next);
        }
    }

    /// Does what was deferred. Everything that was shown before is announced.
    pub(super) async fn serve_deferred(&mut self) {
        while let Some(request) = self.deferred.pop_front() {
            match request {
                Request::FoldPending(accepted, reply) => {
                    self.fold_pending(accepted).await;
                    let _ = reply.send(());
                }
                Request::Settle(reply) => {
                    self.settle().await;
                    let _ = reply.send(());
                }
                request => self.serve(request),
            }
        }
    }

    /// Does the next thing that is not the fold's: a step of the writer, a read that has ended, or a request. Cancel safe.
    async fn serve_next(&mut self) {
        tokio::select! {
            biased;
            progress = self.writer.next() => {
                if let Err(error) = self.writer.proceed(&mut self.core, progress) {
                    self.fail(error);
                }
            }
            Some(load) = self.loads.next() => self.finish_load(load),
            Some(request) = self.requests.recv() => self.serve(request),
        }
    }

    /// Serves requests until work has ended that has nothing to do with the state.
    pub(super) async fn serve_during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                () = self.serve_next() => {}
            }
            self.serve_deferred().await;
        }
    }

    /// Tells followers, and those who serve this replica's clients.
    pub(super) async fn announce(&mut self, in_log: Announcement, shown: Option<Announcement>) {
        self.followers.retain(|follower| follower.try_send(in_log.clone()).is_ok());
        if let Some(shown) = shown {
            self.tell_subscribers(shown).await;
        }
    }

    /// Tells those who serve this replica's clients, and waits for each who is slow; requests are served meanwhile. Who is
    /// gone: the replica stops.
    pub(super) async fn tell_subscribers(&mut self, announcement: Announcement) {
        for number in 0..self.subscribers.len() {
            let subscriber = self.subscribers[number].clone();
            loop {
                tokio::select! {
                    biased;
                    permit = subscriber.reserve() => {
                        let _ = permit.map(|permit| permit.send(announcement.clone()));
                        break;
                    }
                    () = self.serve_next() => {}
                }
            }
        }
    }

    /// The state has to be begun anew because of this.
    pub(super) fn fail(&mut self, error: anyhow::Error) {
        self.fault.get_or_insert(Fault::Damaged(error));
    }
}
