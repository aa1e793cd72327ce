//! The error journal: every bucket operation that failed, in write-once batches beside the journal.
//! Buckets note failures here from every path; the REST layer reads, flushes and compacts. Bounded in
//! memory and on disk; holds no secret, no address and no path of this machine.

mod batches;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use lakehouse_journal::record::Micros;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// Failures kept at most; the oldest go first.
const FAILURES_KEPT: usize = 50_000;
/// Failures of a batch at most.
const BATCH: usize = 1_000;
/// Batches that are merged without being asked.
const BATCHES_KEPT: usize = 64;
/// Longest key that is kept, in bytes.
const KEY_BYTES_MAX: usize = 1024;

/// A bucket operation that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The bucket.
    pub bucket: String,
    /// `get`, `head`, `put`, `delete`, `list`, `copy` or `probe`.
    pub operation: String,
    /// The object's key; a prefix for a listing, empty for a probe.
    pub key: String,
    /// What happened, in words that anybody may read.
    pub error: String,
    /// Whether the rescue bucket answered instead.
    pub rescued: bool,
}

/// A failure with its time, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    /// When it last happened.
    pub at: Micros,
    /// The bucket.
    pub bucket: String,
    /// The operation.
    pub operation: String,
    /// The key.
    pub key: String,
    /// What happened.
    pub error: String,
    /// Whether the rescue bucket answered instead.
    pub rescued: bool,
    /// How often it happened in a row, within a second of the time before.
    #[serde(default = "once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

/// Which failures are asked for.
#[derive(Debug, Clone, Default)]
pub struct ErrorFilter {
    /// Of this bucket.
    pub bucket: Option<String>,
    /// From this time on.
    pub since: Option<Micros>,
    /// At most so many, the newest.
    pub limit: usize,
}

/// The error journal.
#[derive(Debug, Default)]
pub struct BucketErrors {
    dir: Option<PathBuf>,
    kept: Mutex<Kept>,
    /// Held while files are written.
    writing: Mutex<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first; the last `unwritten` of them are in no batch yet.
    all: VecDeque<Noted>,
    unwritten: usize,
}

impl BucketErrors {
    /// In memory only, for tools and tests.
    pub fn in_memory() -> Arc<Self> {
        Arc::default()
    }

    /// What the batches in `dir` hold, and room for more; the directory is made when it is not there.
    /// A batch that cannot be read is left out, and left where it is.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(dir: &Path) -> std::io::Result<Arc<Self>> {
        let mut all: VecDeque<Noted> = batches::read_all(dir)?.into();
        while all.len() > FAILURES_KEPT {
            all.pop_front();
        }
        Ok(Arc::new(Self {
            dir: Some(dir.to_owned()),
            kept: Mutex::new(Kept { all, unwritten: 0 }),
            writing: Mutex::default(),
        }))
    }

    /// Notes a failure that happened now. Never blocks on a disk.
    pub fn note(&self, failure: Failure) {
        let at = chrono::Utc::now().timestamp_micros();
        let mut kept = self.kept.lock();
        let recent = kept.unwritten.min(8);
        let same = kept.all.iter_mut().rev().take(recent).find(|last| {
            last.bucket == failure.bucket
                && last.operation == failure.operation
                && last.key == failure.key
                && last.error == failure.error
                && last.rescued == failure.rescued
                && at - last.at < 1_000_000
        });
        if let Some(last) = same {
            last.times += 1;
            last.at = at;
            return;
        }
        let mut key = failure.key;
        key.truncate(key.floor_char_boundary(KEY_BYTES_MAX));
        kept.all.push_back(Noted {
            at,
            bucket: failure.bucket,
            operation: failure.operation,
            key,
            error: failure.error,
            rescued: failure.rescued,
            times: 1,
        });
        kept.unwritten += 1;
        if kept.all.len() > FAILURES_KEPT {
            kept.all.pop_front();
            kept.unwritten = kept.unwritten.min(FAILURES_KEPT);
        }
    }

    /// The newest failures that pass, newest first.
    pub fn list(&self, filter: &ErrorFilter) -> Vec<Noted> {
        let kept = self.kept.lock();
        let passes = |noted: &&Noted| {
            let bucket = filter.bucket.as_ref();
            bucket.is_none_or(|bucket| noted.bucket == *bucket)
                && filter.since.is_none_or(|since| noted.at >= since)
        };
        let newest = kept.all.iter().rev().filter(passes);
        newest.take(filter.limit).cloned().collect()
    }

    /// Writes what is in no batch yet, durably. Returns how many batches came of it. Blocks.
    ///
    /// # Errors
    /// When a batch cannot be written; what was not written is written the next time.
    pub fn flush(&self) -> std::io::Result<u64> {
        let Some(dir) = &self.dir else { return Ok(0) };
        let _writing = self.writing.lock();
        let mut written = 0;
        loop {
            let batch: Vec<Noted> = {
                let kept = self.kept.lock();
                let from = kept.all.len() - kept.unwritten.min(kept.all.len());
                kept.all.iter().skip(from).take(BATCH).cloned().collect()
            };
            if batch.is_empty() {
                break;
            }
            batches::write(dir, &batch)?;
            written += 1;
            let mut kept = self.kept.lock();
            kept.unwritten = kept.unwritten.saturating_sub(batch.len());
        }
        if written > 0 && batches::list(dir)?.len() > BATCHES_KEPT {
            self.merge(dir)?;
        }
        Ok(written)
    }

    /// Merges all batches, without what is too old to be kept. Returns their number before and after.
    ///
    /// # Errors
    /// When batches cannot be read or written; nothing is lost then.
    pub fn compact(&self) -> std::io::Result<(u64, u64)> {
        let Some(dir) = &self.dir else {
            return Ok((0, 0));
        };
        self.flush()?;
        let _writing = self.writing.lock();
        let before = batches::list(dir)?.len() as u64;
        self.merge(dir)?;
        Ok((before, batches::list(dir)?.len() as u64))
    }

    fn merge(&self, dir: &Path) -> std::io::Result<()> {
        let kept: Vec<Noted> = {
            let kept = self.kept.lock();
            let written = kept.all.len() - kept.unwritten.min(kept.all.len());
            kept.all.iter().take(written).cloned().collect()
        };
        batches::replace_all(dir, &kept)
    }

    /// Writes what was noted every second, until nobody holds this any more.
    pub fn write_in_background(self: &Arc<Self>) {
        let weak = Arc::downgrade(self);
        std::thread::spawn(move || {
            while let Some(errors) = weak.upgrade() {
                if let Err(error) = errors.flush() {
                    tracing::warn!(%error, "the error journal cannot be written; it stays in memory");
                }
                drop(errors);
                std::thread::sleep(Duration::from_secs(1));
            }
        });
    }
}
