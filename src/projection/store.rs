//! The store: the state of one replica, on disk. The only user of sled.
//!
//! Everything here can be thrown away and comes back from the log. sled 0.34 rolls back silently when its files are
//! damaged, but to a state in which whole batches are there or not; so the cursor is written in the batch of what it
//! stands for, and losing the tail only means reading it again.

pub(super) mod costs;
mod key;
mod pace;
mod quarantine;
mod reading;
mod sealed;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::ack_records::{AckPosition, Record};
use super::cursor::CursorRecord;
use crate::domain::{
    AckSet, Acknowledgement, BroadcastId, BroadcastState, Change, Channel, EventRef, Loaded, Needs, State,
    UserId,
};
use crate::log::merkle::Hash;
use costs::{CACHE_BYTES, FLUSH_INTERVAL_MS, SCRATCH_CACHE_BYTES};
use key::Key;
pub use pace::Pace;
pub use quarantine::{delete_quarantined, quarantine};

/// What is written as one: all of it or, after a crash, nothing.
type Writes = sled::Batch;

/// A key and its value, as they are read.
type Stored = sled::Result<(sled::IVec, sled::IVec)>;

/// What is stored of a lifecycle event.
fn written(record: &[u8]) -> anyhow::Result<EventRef> {
    let parts = record
        .split_first_chunk::<16>()
        .and_then(|(about, rest)| Some((about, rest.split_first_chunk::<8>()?)));
    let (about, (sequence, sent_to)) = parts.context("a record does not decode")?;
    let sent_to = str::from_utf8(sent_to)?;
    let sent_to =
        (!sent_to.is_empty()).then(|| sent_to.parse()).transpose().context("a record does not decode")?;
    Ok(EventRef {
        broadcast: BroadcastId(Uuid::from_bytes(*about)),
        sequence: u64::from_be_bytes(*sequence),
        sent_to,
    })
}

/// An acknowledgement and its position: the sequence of its event, and its number in the event, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckAt {
    /// Its position in the log.
    pub position: AckPosition,
    /// The user, and when.
    pub acknowledgement: Acknowledgement,
}

/// What one batch writes, gathered over many events.
#[derive(Default)]
pub struct Batch {
    writes: Writes,
    touched: BTreeSet<BroadcastId>,
    moved: BTreeSet<Channel>,
    /// The last record of each broadcast, to which more may be added.
    acks: BTreeMap<BroadcastId, Record>,
    acknowledgements: usize,
}

impl Batch {
    fn put(&mut self, key: &Key<'_>, record: &impl Serialize) -> anyhow::Result<()> {
        self.writes.insert(key.bytes(), serde_json::to_vec(record)?);
        Ok(())
    }

    /// The cursor, always.
    pub fn cursor(&mut self, cursor: &CursorRecord) -> anyhow::Result<()> {
        self.put(&Key::Cursor, cursor)
    }

    /// What an event changed, by the state behind it. The broadcasts and channels that it touched are written once for all events
    /// of the batch, by [`Batch::touched`].
    pub fn change(&mut self, state: &State, sequence: u64, change: &Change) {
        match change {
            Change::Acknowledged { id, new } => {
                self.touched.insert(*id);
                self.acknowledge(*id, sequence, new);
                if state.broadcast(*id).is_some_and(|known| !known.acknowledgements.is_open()) {
                    for ack in new {
                        let key = Key::User(*id, ack.user.fingerprint()).bytes();
                        self.writes.insert(key, sequence.to_be_bytes().as_slice());
                    }
                }
            }
            Change::Activated { id, .. } | Change::RecordedLate { id } => {
                self.touched.insert(*id);
                if let Change::Activated { superseded, .. } = change {
                    self.touched.extend(superseded);
                }
                if let Some(known) = state.broadcast(*id) {
                    self.writes.insert(Key::Open(*id).bytes(), Vec::new());
                    let key = Key::Created(&known.channel, sequence).bytes();
                    self.writes.insert(key, id.0.as_bytes().as_slice());
                }
            }
            Change::Ended { id, .. } => drop(self.touched.insert(*id)),
            Change::Nothing => {}
        }
    }

    fn acknowledge(&mut self, id: BroadcastId, sequence: u64, new: &[Acknowledgement]) {
        let record = self.acks.entry(id).or_insert_with(|| Record::of((sequence, 1)));
        record.add(sequence, new, |full| {
            self.writes.insert(Key::Acks(id, full.first).bytes(), full.into_bytes());
        });
        self.acknowledgements += new.len();
    }

    /// The state of a channel changed.
    pub fn moved(&mut self, channel: Channel) {
        self.moved.insert(channel);
    }

    /// How many acknowledgements the batch has.
    pub const fn acknowledgements(&self) -> usize {
        self.acknowledgements
    }

    /// Every broadcast and channel that was touched, as it is after the last event, with the last records of acknowledgements.
    pub fn touched(&mut self, state: &State) -> anyhow::Result<()> {
        for (id, record) in std::mem::take(&mut self.acks) {
            self.writes.insert(Key::Acks(id, record.first).bytes(), record.into_bytes());
        }
        for known in std::mem::take(&mut self.touched).into_iter().filter_map(|id| state.broadcast(id)) {
            self.put(&Key::Broadcast(known.broadcast.id), known)?;
        }
        for channel in std::mem::take(&mut self.moved) {
            self.put(&Key::Channel(&channel), state.channel(&channel))?;
        }
        Ok(())
    }

    /// The root over a block of leaves.
    pub fn block(&mut self, number: u64, root: Hash) {
        self.writes.insert(Key::Block(number).bytes(), root.0.as_slice());
    }

    /// The index entry of a lifecycle event.
    pub fn lifecycle_event(&mut self, event: Uuid, written: EventRef) {
        let mut record = written.broadcast.0.as_bytes().to_vec();
        record.extend(written.sequence.to_be_bytes());
        record.extend(written.sent_to.map(|sent_to| sent_to.to_string().into_bytes()).into_iter().flatten());
        self.writes.insert(Key::LifecycleEvent(event).bytes(), record);
    }
}

/// An open store. Clones are the same one.
#[derive(Clone)]
pub struct Store {
    db: sled::Db,
    /// Distinguishes it from a store that was opened before or after in the same directory.
    identity: Arc<()>,
}

impl Store {
    /// Opens or creates the store in a directory, on a thread of its own, because sled can hang or panic on damage.
    pub fn open(directory: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let config = sled::Config::new().cache_capacity(CACHE_BYTES).flush_every_ms(Some(FLUSH_INTERVAL_MS));
        Self::open_with(config, directory, timeout)
    }

    /// Opens a store in an empty directory for what is folded once and thrown away: with a small cache, so that it takes no
    /// more memory for a longer log, and written to disk only as far as it has to be.
    pub fn open_scratch(directory: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let config = sled::Config::new().cache_capacity(SCRATCH_CACHE_BYTES).flush_every_ms(None);
        Self::open_with(config, directory, timeout)
    }

    fn open_with(config: sled::Config, directory: &Path, timeout: Duration) -> anyhow::Result<Self> {
        let (sender, receiver) = sync_channel(1);
        let config = config.path(directory).mode(sled::Mode::HighThroughput);
        std::thread::Builder::new().name("sled-open".into()).spawn(move || {
            let _ = sender.send(config.open());
        })?;
        match receiver.recv_timeout(timeout) {
            Ok(opened) => {
                let db = opened.map_err(plain).context("sled does not open")?;
                Ok(Self { db, identity: Arc::default() })
            }
            Err(RecvTimeoutError::Timeout) => bail!("sled did not open within {} s", timeout.as_secs()),
            Err(RecvTimeoutError::Disconnected) => bail!("sled panicked while it opened"),
        }
    }

    /// Whether both are the same open store.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.identity, &other.identity)
    }

    fn get<T: DeserializeOwned>(&self, key: &Key<'_>) -> anyhow::Result<Option<T>> {
        let Some(bytes) = self.db.get(key.bytes())? else { return Ok(None) };
        serde_json::from_slice(&bytes).context("a record does not decode").map(Some)
    }

    /// The last entry in the store. An error if this build has to rebuild it.
    pub fn cursor(&self) -> anyhow::Result<CursorRecord> {
        match self.get::<CursorRecord>(&Key::Cursor)? {
            Some(record) => record.validate(),
            None if self.db.is_empty() => Ok(CursorRecord::default()),
            None => bail!("it has records but no cursor"),
        }
    }

    /// What is in memory from the start: every channel, and every broadcast whose set is not sealed, active ones among them, with
    /// its acknowledgements.
    pub fn resident(&self) -> anyhow::Result<State> {
        let mut state = State { digest: self.cursor()?.digest, ..State::default() };
        for entry in self.db.scan_prefix(b"h") {
            let (key, value) = entry?;
            let name = std::str::from_utf8(&key[1..])?;
            let channel: Channel = name.parse()?;
            state.channels.insert(channel, serde_json::from_slice(&value)?);
        }
        for entry in self.db.scan_prefix(b"o") {
            let id = BroadcastId(Uuid::from_slice(&entry?.0[1..]).context("a key does not decode")?);
            let loaded = self.broadcast(id)?.with_context(|| format!("broadcast {id} is not there"))?;
            state.broadcasts.insert(id, loaded);
        }
        Ok(state)
    }

    /// Reads what is needed. With a lifecycle event comes the broadcast that it is about. An acknowledgement is found only in a
    /// set that is sealed.
    pub fn load(&self, needs: &Needs) -> anyhow::Result<Loaded> {
        let mut loaded = Loaded::default();
        for event in &needs.lifecycle_events {
            if let Some(bytes) = self.db.get(Key::LifecycleEvent(*event).bytes())? {
                let written = written(&bytes)?;
                loaded.lifecycle_events.insert(*event, written);
                self.load_record(&mut loaded, written.broadcast)?;
            }
        }
        needs.broadcasts.iter().try_for_each(|id| self.load_record(&mut loaded, *id))?;
        for (id, user) in &needs.acknowledged {
            if let Some(sequence) = self.sealed_ack(*id, *user)? {
                loaded.acknowledged.entry(*id).or_default().insert(*user, sequence);
            }
        }
        Ok(loaded)
    }

    fn load_record(&self, loaded: &mut Loaded, id: BroadcastId) -> anyhow::Result<()> {
        if !loaded.broadcasts.contains_key(&id)
            && let Some(record) = self.record(id)?
        {
            loaded.broadcasts.insert(id, record);
        }
        Ok(())
    }

    /// A broadcast with all of its acknowledgements.
    fn broadcast(&self, id: BroadcastId) -> anyhow::Result<Option<BroadcastState>> {
        let Some(mut loaded) = self.get::<BroadcastState>(&Key::Broadcast(id))? else { return Ok(None) };
        let mut set = AckSet::new_complete();
        self.each_read(id, None, |read| {
            set.add(UserId::fingerprint_of(read.user), read.position.0);
            Ok(())
        })?;
        if set.len() as u64 != loaded.acknowledged {
            bail!("the acknowledgements of broadcast {id} are not all there");
        }
        loaded.acknowledgements = set;
        Ok(Some(loaded))
    }

    /// A broadcast without its acknowledgements.
    pub fn record(&self, id: BroadcastId) -> anyhow::Result<Option<BroadcastState>> {
        self.get(&Key::Broadcast(id))
    }

    /// Up to `limit` broadcasts of a channel that were created before a sequence, newest first, without their
    /// acknowledgements.
    pub fn history(
        &self,
        channel: &Channel,
        before: u64,
        limit: usize,
    ) -> anyhow::Result<Vec<BroadcastState>> {
        let range = Key::Created(channel, 0).bytes()..Key::Created(channel, before).bytes();
        let mut found = Vec::new();
        for entry in self.db.range(range).rev().take(limit) {
            let id = BroadcastId(Uuid::from_slice(&entry?.1).context("a record does not decode")?);
            found.push(self.record(id)?.context("the history names a broadcast that is not there")?);
        }
        Ok(found)
    }

    /// The roots over these blocks of leaves.
    pub fn blocks(&self, numbers: Range<u64>) -> anyhow::Result<Vec<Hash>> {
        let range = Key::Block(numbers.start).bytes()..Key::Block(numbers.end).bytes();
        let mut roots = Vec::new();
        for entry in self.db.range(range) {
            roots.push(Hash(entry?.1.as_ref().try_into().context("a record does not decode")?));
        }
        let wanted = numbers.end.saturating_sub(numbers.start);
        if roots.len() as u64 != wanted {
            bail!("{} of {wanted} roots of the tree are not there", wanted - roots.len() as u64);
        }
        Ok(roots)
    }

    /// Writes a batch: all of it or, after a crash, none.
    pub fn apply(&self, batch: Batch) -> anyhow::Result<()> {
        self.write(batch.writes)
    }

    fn write(&self, batch: Writes) -> anyhow::Result<()> {
        self.db.apply_batch(batch).map_err(plain).context("writing to the projection")
    }

    /// Waits until everything is on disk.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.db.flush().map(drop).map_err(plain).context("flushing the projection")
    }
}

/// The error of the disk itself where there is one, so that a full disk is recognised.
fn plain(error: sled::Error) -> anyhow::Error {
    match error {
        sled::Error::Io(error) => error.into(),
        other => other.into(),
    }
}
