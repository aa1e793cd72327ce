//! The log in memory: the same numbers, hashes, segments and errors as the real one, and no files.
//! For tests of actors; a `MemoryStore` survives its log, as a disk survives a process.

use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::batch::{Batch, Group, Head};
use super::error::LogError;
use super::frame;
use super::{Log, LogReader, LogStats, Order, SealedSegment, SegmentSource};
use crate::record::{Record, Seq};
use crate::verify::{ChainReport, advance};

/// How large an open segment gets before `seal_if_due` closes it, in bytes.
const SEGMENT_BYTES: usize = 4 << 20;

/// What survives a restart.
#[derive(Debug, Clone, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    records: Vec<Record>,
    head: Head,
    open: Vec<u8>,
    sealed: Vec<SealedSegment>,
    fault: Option<MemoryFault>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            records: Vec::new(),
            head: Head::EMPTY,
            open: Vec::new(),
            sealed: Vec::new(),
            fault: None,
        }
    }
}

/// How the next append fails; it poisons the log as the real error would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryFault {
    /// `Io`: nothing is committed.
    Write,
    /// `Unknown`, and the group is lost.
    FlushLost,
    /// `Unknown`, and `reopen` finds the group committed.
    FlushKept,
}

impl MemoryStore {
    /// Makes the next append fail.
    pub fn fail_next(&self, fault: MemoryFault) {
        self.lock().fault = Some(fault);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A log in memory.
#[derive(Debug)]
pub struct MemoryLog {
    store: MemoryStore,
    last_seq: Seq,
    poisoned: Option<String>,
    unknown: Option<Group>,
    closed: bool,
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::open(MemoryStore::default())
    }
}

impl MemoryLog {
    /// A log over what `store` holds.
    pub fn open(store: MemoryStore) -> Self {
        let last_seq = store.lock().head.seq;
        Self {
            store,
            last_seq,
            poisoned: None,
            unknown: None,
            closed: false,
        }
    }

    /// What a later log may be opened over.
    pub fn store(&self) -> MemoryStore {
        self.store.clone()
    }

    fn check(&self) -> Result<(), LogError> {
        if self.closed {
            return Err(LogError::Closed);
        }
        match &self.poisoned {
            Some(reason) => Err(LogError::Poisoned {
                reason: reason.clone(),
            }),
            None => Ok(()),
        }
    }

    fn fail(&mut self, fault: MemoryFault, group: Group, first: Seq) -> LogError {
        let reason = format!("injected {fault:?}");
        self.poisoned = Some(reason.clone());
        if fault == MemoryFault::Write {
            return LogError::Io {
                op: "write",
                path: "memory".into(),
                reason,
            };
        }
        let last = group.head.seq;
        self.last_seq = last;
        self.unknown = (fault == MemoryFault::FlushKept).then_some(group);
        LogError::Unknown {
            first,
            last,
            reason,
        }
    }
}

impl Inner {
    fn commit(&mut self, group: &Group) {
        self.head = group.head;
        self.open.extend_from_slice(&group.frames);
        self.records.extend(group.records.iter().flatten().cloned());
    }

    fn seal(&mut self) -> Option<SealedSegment> {
        if self.open.is_empty() {
            return None;
        }
        let bytes: Arc<[u8]> = std::mem::take(&mut self.open).into();
        let segment = SealedSegment {
            first: self.sealed.last().map_or(1, |s| s.last + 1),
            last: self.head.seq,
            hash: self.head.hash,
            bytes: bytes.len() as u64,
            source: SegmentSource::Memory(bytes),
        };
        self.sealed.push(segment.clone());
        Some(segment)
    }

    fn after(&self, after: Seq) -> &[Record] {
        let start = usize::try_from(after).unwrap_or(usize::MAX);
        self.records.get(start..).unwrap_or_default()
    }
}

impl Log for MemoryLog {
    fn append_group(&mut self, batches: Vec<Batch>) -> Result<Vec<Vec<Record>>, LogError> {
        self.check()?;
        let store = self.store.clone();
        let mut inner = store.lock();
        let first = inner.head.seq + 1;
        let group = Group::encode(batches, inner.head)?;
        if group.head.seq < first {
            return Ok(group.records);
        }
        if let Some(fault) = inner.fault.take() {
            return Err(self.fail(fault, group, first));
        }
        inner.commit(&group);
        self.last_seq = group.head.seq;
        Ok(group.records)
    }

    fn last_seq(&self) -> Seq {
        self.last_seq
    }

    fn durable_seq(&self) -> Seq {
        self.store.lock().head.seq
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(self.store.clone())
    }

    fn seal(&mut self) -> Result<Option<SealedSegment>, LogError> {
        self.check()?;
        Ok(self.store.lock().seal())
    }

    fn seal_if_due(&mut self) -> Result<Option<SealedSegment>, LogError> {
        self.check()?;
        let mut inner = self.store.lock();
        let due = inner.open.len() >= SEGMENT_BYTES;
        Ok(if due { inner.seal() } else { None })
    }

    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment> {
        LogReader::sealed_segments(&self.store, after)
    }

    fn reopen(&mut self) -> Result<Vec<Record>, LogError> {
        if self.closed {
            return Err(LogError::Closed);
        }
        let mut recovered = Vec::new();
        if let Some(group) = self.unknown.take() {
            self.store.lock().commit(&group);
            recovered = group.records.into_iter().flatten().collect();
        }
        self.last_seq = self.durable_seq();
        self.poisoned = None;
        Ok(recovered)
    }

    fn close(&mut self) -> Result<(), LogError> {
        if !self.closed {
            self.store.lock().seal();
            self.closed = true;
        }
        Ok(())
    }
}

impl LogReader for MemoryStore {
    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment> {
        let inner = self.lock();
        let start = inner.sealed.partition_point(|s| s.last <= after);
        inner.sealed[start..].to_vec()
    }

    fn scan(&self, after: Seq, limit: usize) -> Result<Vec<Record>, LogError> {
        Ok(self
            .lock()
            .after(after)
            .iter()
            .take(limit)
            .cloned()
            .collect())
    }

    fn for_each(
        &self,
        after: Seq,
        each: &mut dyn FnMut(Record) -> ControlFlow<()>,
    ) -> Result<Seq, LogError> {
        let mut last = after;
        let records = self.lock().after(after).to_vec();
        for record in records {
            last = record.seq;
            if each(record).is_break() {
                break;
            }
        }
        Ok(last)
    }

    fn history(
        &self,
        subject: &str,
        cursor: Seq,
        limit: usize,
        order: Order,
    ) -> Result<Vec<Record>, LogError> {
        let inner = self.lock();
        let about = |r: &&Record| r.draft.subjects.iter().any(|s| s == subject);
        let before = if cursor == 0 { Seq::MAX } else { cursor };
        Ok(match order {
            Order::OldestFirst => {
                let newer = inner.after(cursor).iter();
                newer.filter(about).take(limit).cloned().collect()
            }
            Order::NewestFirst => {
                let earlier = inner.records.iter().rev().filter(|r| r.seq < before);
                earlier.filter(about).take(limit).cloned().collect()
            }
        })
    }

    fn stats(&self) -> LogStats {
        let inner = self.lock();
        let sealed: u64 = inner.sealed.iter().map(|s| s.bytes).sum();
        LogStats {
            events: inner.head.seq,
            bytes: sealed + inner.open.len() as u64,
            segments: inner.sealed.len() as u64 + u64::from(!inner.open.is_empty()),
            generation: 0,
            indexed_seq: inner.head.seq,
            index_healthy: true,
            index_rebuilds: 0,
        }
    }

    fn verify(&self) -> Result<ChainReport, LogError> {
        let inner = self.lock();
        let mut head = Head::EMPTY;
        let mut contents: Vec<Vec<u8>> = Vec::new();
        for segment in &inner.sealed {
            contents.push(segment.read()?);
        }
        contents.push(inner.open.clone());
        for content in contents {
            let mut rest = &content[..];
            while !rest.is_empty() {
                let checked = frame::parse(rest)
                    .map_err(|e| e.to_string())
                    .and_then(|f| advance(head, &f).map(|h| (h, f.bytes())));
                match checked {
                    Ok((next, bytes)) => (head, rest) = (next, &rest[bytes..]),
                    Err(detail) => return Ok(ChainReport::broken(head.seq, head.seq + 1, detail)),
                }
            }
        }
        Ok(ChainReport::sound(head.seq))
    }
}
