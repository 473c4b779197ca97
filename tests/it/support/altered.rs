//! A log in memory that answers some of what it is asked in a way of its own.

use futures_util::future::BoxFuture;
use tidings::log::memory::MemoryLog;
use tidings::log::names::Subject;
use tidings::log::stream_report::StreamReport;
use tidings::log::{AppendError, Appended, EventLog, LogInfo, Messages, NewEvent, RawMessage, ReadError};

/// What is different from the log in memory.
pub trait Alter: Clone + Send + Sync + 'static {
    /// The log that answers the rest.
    fn log(&self) -> &MemoryLog;

    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.log().append(event)
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        self.log().info()
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.log().head_of(subject)
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        self.log().follow(from)
    }

    fn connection(&self) -> Option<String> {
        self.log().connection()
    }
}

/// The log that comes of it.
#[derive(Clone)]
pub struct Altered<T>(pub T);

impl<T: Alter> EventLog for Altered<T> {
    fn append(&self, event: NewEvent) -> BoxFuture<'_, Result<Appended, AppendError>> {
        self.0.append(event)
    }

    fn info(&self) -> BoxFuture<'_, Result<LogInfo, ReadError>> {
        self.0.info()
    }

    fn report(&self) -> BoxFuture<'_, Result<(LogInfo, StreamReport), ReadError>> {
        self.0.log().report()
    }

    fn get(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.0.log().get(sequence)
    }

    fn first_from(&self, sequence: u64) -> BoxFuture<'_, Result<Option<RawMessage>, ReadError>> {
        self.0.log().first_from(sequence)
    }

    fn head_of(&self, subject: Subject) -> BoxFuture<'_, Result<u64, ReadError>> {
        self.0.head_of(subject)
    }

    fn follow(&self, from: u64) -> BoxFuture<'_, Result<Messages, ReadError>> {
        self.0.follow(from)
    }

    fn connection(&self) -> Option<String> {
        self.0.connection()
    }

    fn ensure(&self) -> BoxFuture<'_, Result<(), ReadError>> {
        self.0.log().ensure()
    }
}
