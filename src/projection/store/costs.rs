//! What sled 0.34 costs, and the sizes and times that follow from it.
//!
//! A batch costs sled about as much as what is in it, so an event that is written alone costs what a hundred cost together:
//! entries are applied, and written, in batches. A page has 8 to 16 values, and the cache keeps at least one page in each of its 256
//! parts however small it is, so that large values would take tens of megabytes: values are split at about 2 KiB. The cache fills
//! up whatever is read. The file lock is released when sled's threads have ended, a moment after the store was closed. Another
//! engine would change these figures and `store.rs`.

use std::time::Duration;

/// Memory for sled's pages.
pub const CACHE_BYTES: u64 = 16 << 20;

/// The same for a store that is written once and thrown away: it mostly reads what it wrote last.
pub const SCRATCH_CACHE_BYTES: u64 = 8 << 20;

/// The interval at which sled writes to disk what it was given, in milliseconds.
pub const FLUSH_INTERVAL_MS: u64 = 500;

/// The longest time that what was applied waits to be written, together with what comes meanwhile.
pub const WRITE_DELAY: Duration = Duration::from_millis(10);

/// The most entries of the log that are applied together.
pub const ENTRIES_TOGETHER: usize = 1_024;

/// The most acknowledgements that are applied and written together, but for those of the last entry.
pub const ACKS_TOGETHER: usize = 1 << 15;

/// A record of this many bytes takes no further acknowledgement. With the 15 KB of an event of 500 acknowledgements sled would take
/// 30 MB or more, with this 4. A rebuild takes a tenth longer for it (measured over a million acknowledgements, 500 an event).
pub const FULL_RECORD: usize = 2 << 10;

/// The most users in a bucket of a sealed set, on average: a bucket takes 1.5 KiB.
pub const BUCKET: usize = 64;

/// Buckets of a sealed set that are written as one batch.
pub const BUCKETS_TOGETHER: usize = 256;

/// How long sled may hold its file lock after a store was closed.
pub const UNLOCKED_AFTER: Duration = Duration::from_millis(100);
