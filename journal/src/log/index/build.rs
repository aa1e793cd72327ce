//! Starting and rebuilding: open, check, compare with the mirror, and copy from it what is missing.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::super::batch::{Head, subject_key};
use super::super::error::LogError;
use super::super::frame::{self, Frame};
use super::super::generation::Generations;
use super::super::io::IndexOperation;
use super::super::sled::{SledStore, StoreError};
use super::Boot;
use super::thread::{BATCH_BYTES, IndexThread, Pending, RETRY_FIRST, shielded};
use crate::record::Seq;
use crate::verify::advance;

/// How long closing a store that was given up is waited for.
const DISCARD_PATIENCE: Duration = Duration::from_secs(5);
/// The longest pause between two tries to rebuild.
const RETRY_MAX: Duration = Duration::from_secs(30);

impl IndexThread {
    /// Opens the index and compares it with the mirror; `distrust` names a reason to rebuild it unasked.
    ///
    /// # Errors
    /// `Io` on the small files around it. A broken index is no error: it is rebuilt.
    pub fn boot(&mut self, distrust: Option<&str>) -> Result<Boot, LogError> {
        let (dir, io) = (self.config.dir.clone(), self.config.io.clone());
        let generations = Generations::new(&dir, &*io);
        let Some(current) = generations.current() else {
            self.start_generation();
            return Ok(Boot::Ready);
        };
        self.set_generation(current);
        let asked = generations.begin_attempt().unwrap_or_else(|error| {
            tracing::warn!(%error, "an attempt to open the journal's index could not be noted");
            true
        });
        let reason = match (distrust, asked) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, false) => Some("opening it did not end twice in a row".to_owned()),
            (None, true) => self.open_and_check().err().map(|e| e.0),
        };
        if self.is_abandoned() {
            return Ok(Boot::Ready);
        }
        if let Err(error) = generations.end_attempt() {
            tracing::warn!(%error, "an attempt to open the journal's index stays noted");
        }
        match reason {
            Some(reason) => self.hurt(&reason),
            None => return self.compare(),
        }
        Ok(Boot::Ready)
    }

    fn open_and_check(&mut self) -> Result<(), StoreError> {
        self.step();
        self.config.io.index(IndexOperation::Open)?;
        let path = Generations::new(&self.config.dir, &*self.config.io).path(self.generation);
        let cache_bytes = self.config.cache_bytes;
        let state = self.state.clone();
        let store = shielded(|| {
            let store = SledStore::open(&path, cache_bytes)?;
            state.steps.fetch_add(1, Ordering::AcqRel);
            store.check(&mut || {
                state.steps.fetch_add(1, Ordering::AcqRel);
            })?;
            Ok(store)
        })?;
        self.store = Some(store);
        Ok(())
    }

    /// Brings a sound index and the mirror to the same end.
    fn compare(&mut self) -> Result<Boot, LogError> {
        let own = self.store.as_ref().map_or(Head::EMPTY, SledStore::head);
        let mirror = self.config.table.read().head;
        if own.seq > mirror.seq {
            return Ok(self.compare_rest(own, mirror));
        }
        if own.seq > 0 && self.mirror_hash(own.seq)? != Some(own.hash) {
            self.hurt(&format!("its event {} is not the mirror's", own.seq));
            return Ok(Boot::Ready);
        }
        self.settle();
        Ok(Boot::Ready)
    }

    /// The index has later events than the mirror. Its chain was checked; it must continue the mirror's.
    fn compare_rest(&mut self, own: Head, mirror: Head) -> Boot {
        let store = self.store.as_ref().expect("it was opened and checked");
        let next = match shielded(|| store.frames_after(mirror.seq, 1, 1)) {
            Ok(next) => next,
            Err(error) => {
                self.hurt(&error.0);
                return Boot::Ready;
            }
        };
        if frame::parse(&next).is_ok_and(|f| advance(mirror, &f).is_ok()) {
            self.adopt();
            return Boot::Ahead(own.seq);
        }
        let detail = "the index holds later events of another history";
        let path = self.config.dir.join("mirror");
        Boot::Contradiction(LogError::corrupt(&path, mirror.seq + 1, detail))
    }

    fn mirror_hash(&self, seq: Seq) -> Result<Option<[u8; 32]>, LogError> {
        let mut hash = None;
        self.config.table.walk(seq - 1, &mut |frame| {
            hash = Some(frame.hash);
            ControlFlow::Break(Ok(()))
        })?;
        Ok(hash)
    }

    /// Gives the store up: quarantines it and builds the next generation.
    pub(super) fn hurt(&mut self, reason: &str) {
        self.state.healthy.store(false, Ordering::Release);
        self.state.rebuilds.fetch_add(1, Ordering::AcqRel);
        self.pending = Pending::default();
        self.discard();
        let generations = Generations::new(&self.config.dir, &*self.config.io);
        if let Err(error) = generations.quarantine(self.generation, reason) {
            tracing::warn!(%error, reason, "a broken journal index could not be moved; the next one is built beside it");
        }
        self.start_generation();
    }

    /// Closes a store that was given up, so that its space comes back; on a thread of its own, since it may wait for one of its
    /// own threads that died.
    fn discard(&mut self) {
        let Some(store) = self.store.take() else {
            return;
        };
        let (done, closed) = sync_channel(1);
        let close = move || {
            let dropped = shielded(|| {
                drop(store);
                Ok(())
            });
            if dropped.is_ok() {
                // The waiting side may have given up.
                let _ = done.send(());
            }
        };
        let builder = std::thread::Builder::new().name("journal-index-discard".to_owned());
        let waited = builder
            .spawn(close)
            .map(|_| closed.recv_timeout(DISCARD_PATIENCE));
        if !matches!(waited, Ok(Ok(()))) {
            tracing::warn!("a broken journal index could not be closed; its files stay open");
        }
    }

    /// Builds the next generation from the mirror; on failure it is tried again later.
    pub(super) fn start_generation(&mut self) {
        match self.try_generation() {
            Ok(()) => self.retry_pause = RETRY_FIRST,
            Err(error) => {
                self.discard();
                Generations::new(&self.config.dir, &*self.config.io).empty_quarantine();
                let retry_ms = u64::try_from(self.retry_pause.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(
                    error,
                    retry_ms,
                    "the journal's index cannot be built; histories scan the mirror"
                );
                self.retry_at = Some(Instant::now() + self.retry_pause);
                self.retry_pause = (self.retry_pause * 2).min(RETRY_MAX);
            }
        }
    }

    fn try_generation(&mut self) -> Result<(), String> {
        let (dir, io) = (self.config.dir.clone(), self.config.io.clone());
        let generations = Generations::new(&dir, &*io);
        let generation = generations.start_next().map_err(|e| e.to_string())?;
        self.set_generation(generation);
        let progress = self.state.progress.clone();
        let working = progress.work();
        self.open_and_check().map_err(|e| e.0)?;
        drop(working);
        self.catch_up().map_err(|e| e.0)?;
        self.adopt();
        Ok(())
    }

    /// After a sound store was opened: copy what it lacks, then serve from it.
    fn settle(&mut self) {
        match self.catch_up() {
            Ok(()) => self.adopt(),
            Err(error) => self.hurt(&error.0),
        }
    }

    fn adopt(&mut self) {
        let head = self.store.as_ref().map_or(Head::EMPTY, SledStore::head);
        self.state.indexed_seq.store(head.seq, Ordering::Release);
        self.state.healthy.store(true, Ordering::Release);
    }

    /// Copies from the mirror what the store lacks, and flushes it.
    fn catch_up(&mut self) -> Result<(), StoreError> {
        let own = self.store.as_ref().map_or(Head::EMPTY, SledStore::head);
        let table = self.config.table.clone();
        let mut batch = Pending::default();
        let mut failed = None;
        let walked = table.walk(own.seq, &mut |frame| {
            let step = batch.add(frame).and_then(|()| {
                if batch.frames.len() < BATCH_BYTES {
                    return Ok(());
                }
                self.apply_batch(std::mem::take(&mut batch))
            });
            match step {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(Ok(()))
                }
            }
        });
        walked.map_err(|e| StoreError(e.to_string()))?;
        if let Some(error) = failed {
            return Err(error);
        }
        if batch.frames.is_empty() && own == table.read().head {
            return Ok(());
        }
        if !batch.frames.is_empty() {
            self.apply_batch(batch)?;
        }
        self.guarded(IndexOperation::Flush, |store| store.flush())
    }

    fn apply_batch(&mut self, batch: Pending) -> Result<(), StoreError> {
        self.step();
        let Pending {
            frames,
            mut postings,
            head,
        } = batch;
        self.guarded(IndexOperation::Apply, |store| {
            store.apply(&frames, &mut postings, head)
        })
    }

    /// Shows that starting goes on.
    fn step(&self) {
        self.state.steps.fetch_add(1, Ordering::AcqRel);
    }

    fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
        self.state.generation.store(generation, Ordering::Release);
    }
}

impl Pending {
    fn add(&mut self, frame: &Frame<'_>) -> Result<(), StoreError> {
        let subjects = frame.subjects().map_err(StoreError)?;
        self.postings
            .extend(subjects.iter().map(|s| (subject_key(s), frame.seq)));
        self.frames.extend_from_slice(frame.whole());
        self.head = Head {
            seq: frame.seq,
            hash: frame.hash,
        };
        Ok(())
    }
}
