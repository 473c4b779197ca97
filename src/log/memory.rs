//! The log in memory, for tests: the same guard, the same duplicate window, the same answers as the real one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::anyhow;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use tokio::sync::watch;
use uuid::Uuid;

use super::names::Subject;
use super::{
    AppendError, Appended, Epoch, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError, envelope,
};

/// How large it may grow.
const MAX_BYTES: u64 = 64 << 20;

/// How large a body may be, as the real log's definition has it (there with the headers).
const MAX_MESSAGE_BYTES: usize = 256 * 1024;

/// An [`EventLog`] that lives as long as the process.
#[derive(Clone)]
pub struct MemoryLog {
    shared: Arc<Mutex<MemoryState>>,
    /// Wakes the followers: the last sequence, and a count of incarnations.
    changed: watch::Sender<(u64, u64)>,
}

#[derive(Default)]
struct MemoryState {
    /// The time of its creation, and the bits of its epoch.
    created_ns: i64,
    /// By sequence − 1; `None` where a message was damaged away.
    messages: Vec<Option<RawMessage>>,
    heads: HashMap<String, u64>,
    ids: HashMap<String, u64>,
    bytes: u64,
    max_bytes: u64,
}

impl MemoryState {
    fn new(created_ns: i64) -> Self {
        Self { created_ns, max_bytes: MAX_BYTES, ..Self::default() }
    }

    fn last(&self) -> u64 {
        self.messages.len() as u64
    }

    fn get(&self, sequence: u64) -> Option<&RawMessage> {
        let index = usize::try_from(sequence.checked_sub(1)?).ok()?;
        self.messages.get(index)?.as_ref()
    }

    fn store(&mut self, subject: String, headers: Vec<(String, String)>, body: Bytes) -> u64 {
        let sequence = self.last() + 1;
        self.bytes += body.len() as u64;
        self.heads.insert(subject.clone(), sequence);
        // A clock that ticks once a message: enough to order, and the same in every run.
        let time_ns = self.created_ns + i64::try_from(sequence).unwrap_or(i64::MAX) * 1_000_000;
        self.messages.push(Some(RawMessage { sequence, time_ns, subject, headers, body }));
        sequence
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self { shared: Arc::new(Mutex::new(MemoryState::new(1))), changed: watch::Sender::new((0, 0)) }
    }
}

impl MemoryLog {
    /// Stores any message at all, as a foreign client could, and returns its sequence.
    pub fn inject(&self, subject: &str, headers: Vec<(String, String)>, body: Bytes) -> u64 {
        let sequence = self.lock().store(subject.to_owned(), headers, body);
        self.changed.send_modify(|(last, _)| *last = sequence);
        sequence
    }

    /// Loses a message, as a damaged block does: its sequence stays, it is delivered to nobody, and the guard is of the message
    /// before it on its subject.
    pub fn damage(&self, sequence: u64) {
        let mut stored = self.lock();
        let index = usize::try_from(sequence).map_or(usize::MAX, |sequence| sequence.wrapping_sub(1));
        let Some(lost) = stored.messages.get_mut(index).and_then(Option::take) else { return };
        let mut left = stored.messages.iter().rev().flatten();
        let head = left.find(|message| message.subject == lost.subject).map_or(0, |message| message.sequence);
        stored.heads.insert(lost.subject, head);
    }

    /// Deletes everything and begins anew: another epoch, sequences from 1.
    pub fn recreate(&self) {
        let mut stored = self.lock();
        *stored = MemoryState::new(stored.created_ns + 1_000_000_000);
        drop(stored);
        self.changed.send_modify(|(last, incarnation)| {
            *last = 0;
            *incarnation += 1;
        });
    }

    /// Ends the duplicate window of an event: its id is not known any more.
    pub fn forget(&self, id: Uuid) {
        self.lock().ids.remove(&id.to_string());
    }

    /// Sets how many bytes it takes.
    pub fn limit(&self, max_bytes: u64) {
        self.lock().max_bytes = max_bytes;
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_append(&self, event: &NewEvent) -> Result<Appended, AppendError> {
        let (headers, body) = envelope::encode(event).map_err(|e| AppendError::Unknown(anyhow!(e)))?;
        if body.len() > MAX_MESSAGE_BYTES {
            return Err(AppendError::TooLarge);
        }
        let mut stored = self.lock();
        let subject = event.subject.to_string();
        let head = stored.heads.get(&subject).copied().unwrap_or(0);
        // The guard comes before the ids, as on nats-server.
        if event.expected.is_some_and(|expected| expected != head) {
            return Err(AppendError::Conflict);
        }
        if let Some(sequence) = stored.ids.get(&event.id.to_string()) {
            return Ok(Appended { sequence: *sequence, duplicate: true });
        }
        if stored.bytes + body.len() as u64 > stored.max_bytes {
            return Err(AppendError::Full);
        }
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let sequence = stored.store(subject, headers, body);
        stored.ids.insert(event.id.to_string(), sequence);
        drop(stored);
        self.changed.send_modify(|(last, _)| *last = sequence);
        Ok(Appended { sequence, duplicate: false })
    }
}

impl EventLog for MemoryLog {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        async move { self.try_append(&event) }.boxed()
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        async move {
            let stored = self.lock();
            Ok(LogInfo {
                epoch: Epoch::from_bits(stored.created_ns.unsigned_abs()),
                last_sequence: stored.last(),
                bytes: stored.bytes,
                max_bytes: stored.max_bytes,
            })
        }
        .boxed()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move { Ok(self.lock().get(sequence).cloned()) }.boxed()
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        async move {
            let stored = self.lock();
            Ok((sequence.max(1)..=stored.last()).find_map(|sequence| stored.get(sequence)).cloned())
        }
        .boxed()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        async move { Ok(self.lock().heads.get(&subject.to_string()).copied().unwrap_or(0)) }.boxed()
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        let incarnation = self.changed.borrow().1;
        let start = (self.clone(), self.changed.subscribe(), from.max(1));
        let messages = stream::unfold(start, move |(log, mut changed, mut next)| async move {
            loop {
                let (last, now) = *changed.borrow_and_update();
                if now != incarnation {
                    return None;
                }
                while next <= last {
                    let found = log.lock().get(next).cloned();
                    next += 1;
                    if let Some(message) = found {
                        return Some((Ok(message), (log, changed, next)));
                    }
                }
                changed.changed().await.ok()?;
            }
        });
        async move { Ok(messages.boxed()) }.boxed()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        async move { Ok(()) }.boxed()
    }
}
