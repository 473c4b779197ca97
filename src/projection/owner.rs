//! The owner: the one task that has the state and the store.
//!
//! It applies the log ([`super::fold`]), through damage and changes of the log ([`super::supervise`]), and publishes a
//! [`Snapshot`] with every change. Every other read is a request through one channel: the owner reads memory itself, and has a
//! thread read the store for what is not there. It never waits for whoever sent a request.

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
use super::cursor::CursorRecord;
use super::materializer::Materializer;
use super::position::Position;
use super::request::{Damage, Read, Request};
use super::snapshot::{Active, Snapshot};
use super::store::Store;
use super::writer::Writer;
use crate::blocking::blocking;
use crate::domain::{Channel, Loaded, Pending, State, View};
use crate::log::merkle::Hash;

/// Reads whose needs are loaded from the store at the same time.
const LOADS: usize = 64;

/// Reads that may wait for one of these to end. More fail.
const WAITING_READS: usize = 1_024;

/// Why the projection has to be rebuilt.
pub(super) enum Fault {
    /// The store, or what was read from it, is damaged.
    Damaged(anyhow::Error),
    /// The tree is not the one of a checkpoint.
    Disagrees((u64, Hash)),
}

/// A read whose needs were loaded from a store.
pub(super) struct Load {
    read: Read,
    loaded: anyhow::Result<Loaded>,
    store: Store,
    unloads: u64,
}

pub(super) struct Owner {
    /// The state of the log, as far as it is in memory.
    pub(super) materializer: Materializer,
    /// What was accepted here and is not in the log yet.
    pub(super) pending: Arc<Pending>,
    /// Has the store: what is not in memory is read from it, and what was applied is written to it.
    pub(super) writer: Writer,
    /// How many times something was unloaded from memory, or all of it was replaced. What was loaded before that may be older
    /// than what was in memory then.
    unloads: u64,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Kept, so that the queue does not end while the projection goes on.
    _requests: mpsc::Sender<Request>,
    /// Requests that change what clients see: they wait until the changes before them are announced.
    deferred: VecDeque<Request>,
    pub(super) loads: FuturesUnordered<JoinHandle<Load>>,
    waiting_reads: VecDeque<Read>,
    /// Requests that wait for a sequence, in the order in which they came.
    waiters: Vec<(u64, oneshot::Sender<()>)>,
    pub(super) fault: Option<Fault>,
    pub(super) snapshot: Arc<ArcSwap<Snapshot>>,
    pub(super) position: watch::Sender<Position>,
    /// They serve this replica's clients.
    subscribers: Vec<mpsc::Sender<Announcement>>,
    /// They receive changes of the log alone.
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
            materializer: Materializer::default(),
            pending: Arc::default(),
            writer: Writer::default(),
            unloads: 0,
            requests,
            _requests: kept,
            deferred: VecDeque::new(),
            loads: FuturesUnordered::new(),
            waiting_reads: VecDeque::new(),
            waiters: Vec::new(),
            fault: None,
            snapshot,
            position,
            subscribers,
            followers: Vec::new(),
        }
    }

    pub(super) fn view(&self) -> View<'_> {
        View::new(&self.materializer.state, &self.pending)
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
        self.materializer = Materializer::of_a_replica(state, cursor);
        self.writer = Writer::of(store);
        self.unloads += 1;
        self.publish_snapshot(None);
    }

    /// Something is unloaded from memory: what was loaded from the store before may be stale.
    pub(super) const fn note_unloading(&mut self) {
        self.unloads += 1;
    }

    /// Swaps the snapshot. `touched`: the channels that changed; `None`: all of them may have.
    pub(super) fn publish_snapshot(&self, touched: Option<&BTreeSet<Channel>>) {
        let position = self.materializer.cursor.log_position();
        let before = self.snapshot.load();
        self.snapshot.store(Arc::new(Snapshot::of(self.view(), position, &before, touched)));
    }

    /// Publishes the position, once everything up to it is announced, and answers those who wait for it.
    pub(super) fn publish_position(&mut self, also: impl FnOnce(&mut Position)) {
        let cursor = &self.materializer.cursor;
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

    /// Serves a request, or defers it if it changes what clients see. It does not wait.
    pub(super) fn serve(&mut self, request: Request) {
        match request {
            Request::Read(read) => self.read(read),
            Request::ReadTree(read) => read(self.materializer.cursor.epoch, &self.materializer.tree),
            Request::Store(reply) => self.writer.hand_out(&self.materializer, reply),
            Request::Wait(sequence, reply) if self.position().sequence >= sequence => drop(reply.send(())),
            Request::Wait(sequence, reply) => self.wait(sequence, reply),
            Request::Follow(follower) => self.followers.push(follower),
            Request::Rebuild(checkpoint) => {
                // A comparison during the rebuild may ask for it once more.
                if self.materializer.cursor.rebuilt_for != Some(checkpoint) {
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

    /// Reads at once if everything that is needed is in memory; otherwise starts to load the rest.
    fn read(&mut self, read: Read) {
        let missing = self.materializer.state.missing(&read.needs);
        if missing.is_empty() {
            let view = self.view();
            // A panic fails this read alone.
            let _ = catch_unwind(AssertUnwindSafe(|| (read.read)(view)));
            return;
        }
        let Ok(store) = self.writer.store() else { return };
        if self.loads.len() >= LOADS {
            if self.waiting_reads.len() < WAITING_READS {
                self.waiting_reads.push_back(read);
            }
            return;
        }
        let unloads = self.unloads;
        self.loads.push(blocking(move || {
            let loaded = store.load(&missing);
            Load { read, loaded, store, unloads }
        }));
    }

    /// Reads with what was loaded; or starts again if that may be older than what was in memory then and is not any more.
    pub(super) fn finish_load(&mut self, load: Result<Load, JoinError>) {
        match load {
            Ok(Load { read, loaded, store, unloads }) => match loaded {
                Ok(_) if unloads != self.unloads => self.read(read),
                Ok(loaded) => {
                    let view = self.view().with_loaded(&loaded);
                    let _ = catch_unwind(AssertUnwindSafe(|| (read.read)(view)));
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
        if let Some(next) = self.waiting_reads.pop_front() {
            self.read(next);
        }
    }

    /// Serves what was deferred. The changes before it are announced.
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
                if let Err(error) = self.writer.proceed(&mut self.materializer, progress) {
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

    /// Announces a change of the log to followers, and to this replica's clients what they are to see of it.
    pub(super) async fn announce(&mut self, in_log: Announcement, for_clients: Option<Announcement>) {
        self.followers.retain(|follower| follower.try_send(in_log.clone()).is_ok());
        if let Some(announcement) = for_clients {
            self.send_to_subscribers(announcement).await;
        }
    }

    /// Sends to every subscriber, waiting for those that are slow and serving requests meanwhile. A subscriber that is gone is
    /// no error: the replica stops.
    pub(super) async fn send_to_subscribers(&mut self, announcement: Announcement) {
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

    /// Has the projection rebuilt because of this.
    pub(super) fn fail(&mut self, error: anyhow::Error) {
        self.fault.get_or_insert(Fault::Damaged(error));
    }
}
