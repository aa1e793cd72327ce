//! The log: makes events durable, numbers them, chains their hashes, and gives them back.
//! `SledLog` is the real one, `MemoryLog` its twin for tests; both pass the same contract suite.
//! The committer owns a `Log`; everybody else holds a `LogReader`. Nothing here knows what an event means.

mod answerer;
pub mod batch;
pub mod bench;
pub mod committer;
pub mod durable;
pub mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod frame;
mod generation;
mod index;
pub mod io;
pub mod memory;
pub mod mirror;
mod postings;
mod queue;
mod reader;
pub mod scan;
mod sled;
mod table;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod watchdog;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;

pub use batch::{Batch, Head};
pub use committer::{Committer, CommitterConfig, CommitterHandle, Overloaded};
pub use durable::{LogConfig, SledLog};
pub use error::{ErrorKind, LogError};
pub use frame::Hash;
pub use io::{Io, RealIo};
pub use memory::{MemoryLog, MemoryStore};

use crate::record::{Draft, Record, Seq};
use crate::verify::ChainReport;

/// The writing side; one thread owns it.
pub trait Log: Send {
    /// Appends one batch; it is durable when this returns, all of it or (after a crash) nothing.
    ///
    /// # Errors
    /// As [`Log::append_group`].
    fn append(&mut self, drafts: Vec<Draft>) -> Result<Vec<Record>, LogError> {
        let mut records = self.append_group(vec![Batch::new(drafts)?])?;
        Ok(records.pop().unwrap_or_default())
    }

    /// Appends batches with one write and one flush; answers each batch's records, in order.
    ///
    /// # Errors
    /// `TooLarge`, `Poisoned`, `Closed`, `Stuck` and `Io`: nothing of it is committed. `Unknown`: it may be; the log is poisoned.
    fn append_group(&mut self, batches: Vec<Batch>) -> Result<Vec<Vec<Record>>, LogError>;

    /// The last number that was given out, durable or not.
    fn last_seq(&self) -> Seq;

    /// The last event that was acknowledged.
    fn durable_seq(&self) -> Seq;

    /// The reading side.
    fn reader(&self) -> Arc<dyn LogReader>;

    /// Closes the open segment, so that it may be archived; `None` when it is empty.
    ///
    /// # Errors
    /// `Io` or `Poisoned`; the log is poisoned, acknowledged events are not touched.
    fn seal(&mut self) -> Result<Option<SealedSegment>, LogError>;

    /// Seals the open segment when it is old or large enough; called about once a second.
    ///
    /// # Errors
    /// As [`Log::seal`].
    fn seal_if_due(&mut self) -> Result<Option<SealedSegment>, LogError>;

    /// Closed segments with events after `after`, oldest first.
    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment>;

    /// Makes a poisoned log work again, and answers the events that turned out committed though they were never acknowledged.
    ///
    /// # Errors
    /// What still stands in the way; the log stays poisoned. `Corrupt` will not go away by itself.
    fn reopen(&mut self) -> Result<Vec<Record>, LogError>;

    /// Seals, flushes everything and lets go of all files; every later append answers `Closed`.
    ///
    /// # Errors
    /// `Io` when the last seal or flush failed; acknowledged events are not touched.
    fn close(&mut self) -> Result<(), LogError>;
}

/// The reading side; sees every acknowledged event, and no other.
pub trait LogReader: Send + Sync {
    /// At most `limit` events after `after`, oldest first.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, `Stuck` or `Closed`.
    fn scan(&self, after: Seq, limit: usize) -> Result<Vec<Record>, LogError>;

    /// Calls `each` with every event after `after` until it breaks; answers the last number that it was called with, or `after`.
    ///
    /// # Errors
    /// `Corrupt` or `Io`.
    fn for_each(
        &self,
        after: Seq,
        each: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Seq, LogError>;

    /// At most `limit` events about `subject`, beyond `cursor` in the direction of `order`.
    ///
    /// # Errors
    /// `Corrupt`, `Io`, `Stuck` or `Closed`.
    fn history(
        &self,
        subject: &str,
        cursor: Seq,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Record>, LogError>;

    /// Closed segments with events after `after`, oldest first.
    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment>;

    /// Counts and sizes.
    fn stats(&self) -> LogStats;

    /// Recomputes every hash, and compares the mirror with what the index holds.
    ///
    /// # Errors
    /// `Io` when something cannot be read; what reads but does not fit is in the report.
    fn verify(&self) -> Result<ChainReport, LogError>;
}

/// The direction of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Ascending; the cursor is the last number already seen, 0 for none.
    OldestFirst,
    /// Descending; the cursor is the last number already seen, 0 for none.
    NewestFirst,
}

/// Counts and sizes of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Acknowledged events.
    pub events: u64,
    /// Their size in the mirror, in bytes.
    pub bytes: u64,
    /// Files of the mirror, the open one included.
    pub segments: u64,
    /// The number of the index directory; 0 for a log without one.
    pub generation: u64,
    /// The last event that the index holds.
    pub indexed_seq: Seq,
    /// Whether the index is there; without it reads scan the mirror, which is slow and right.
    pub index_healthy: bool,
    /// How often an index was found broken and rebuilt since this process started.
    pub index_rebuilds: u64,
}

/// A closed part of the log: its bytes never change again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedSegment {
    /// The first event in it.
    pub first: Seq,
    /// The last event in it.
    pub last: Seq,
    /// The last event's hash.
    pub hash: Hash,
    /// Its size in bytes.
    pub bytes: u64,
    /// Where its bytes are.
    pub source: SegmentSource,
}

/// Where the bytes of a sealed segment are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SegmentSource {
    /// In this file.
    File(PathBuf),
    /// Here.
    Memory(Arc<[u8]>),
}

impl SealedSegment {
    /// The key that it is archived under.
    pub fn key(&self) -> String {
        crate::archive::archive_key(self.first, self.last, &self.hash)
    }

    /// Its bytes.
    ///
    /// # Errors
    /// `Io` when the file cannot be read.
    pub fn read(&self) -> Result<Vec<u8>, LogError> {
        match &self.source {
            SegmentSource::File(path) => {
                let mut bytes = std::fs::read(path).map_err(|e| LogError::io("read", path, &e))?;
                // Behind the last event there may be reserved space.
                bytes.truncate(usize::try_from(self.bytes).unwrap_or(usize::MAX));
                Ok(bytes)
            }
            SegmentSource::Memory(bytes) => Ok(bytes.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests;
