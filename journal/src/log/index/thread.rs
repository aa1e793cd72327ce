//! Serving: frames are applied in large batches, questions are answered after all that was queued before them.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::super::batch::{Head, Posting};
use super::super::io::IndexOperation;
use super::super::queue::Queue;
use super::super::sled::{SledStore, StoreError};
use super::{IndexConfig, IndexState, Message};

/// Frames are applied in batches of about this many bytes.
pub(super) const BATCH_BYTES: usize = 1 << 20;
/// A rebuild that failed is tried again after this, doubled each time.
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(1);

/// The thread's own state.
#[derive(Debug)]
pub struct IndexThread {
    pub(super) config: IndexConfig,
    queue: Arc<Queue<Message>>,
    pub(super) state: Arc<IndexState>,
    pub(super) store: Option<SledStore>,
    pub(super) generation: u64,
    pub(super) pending: Pending,
    unflushed_bytes: usize,
    flush_at: Option<Instant>,
    pub(super) retry_at: Option<Instant>,
    pub(super) retry_pause: Duration,
}

/// Frames that wait to be applied.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) frames: Vec<u8>,
    pub(super) postings: Vec<Posting>,
    pub(super) head: Head,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            frames: Vec::new(),
            postings: Vec::new(),
            head: Head::EMPTY,
        }
    }
}

impl IndexThread {
    /// Ready to [`IndexThread::boot`].
    pub fn new(config: IndexConfig, queue: Arc<Queue<Message>>, state: Arc<IndexState>) -> Self {
        Self {
            config,
            queue,
            state,
            store: None,
            generation: 0,
            pending: Pending::default(),
            unflushed_bytes: 0,
            flush_at: None,
            retry_at: None,
            retry_pause: RETRY_FIRST,
        }
    }

    /// Whether the log has given up waiting for [`IndexThread::boot`].
    pub fn is_abandoned(&self) -> bool {
        self.state.abandoned.load(Ordering::Acquire)
    }

    /// Serves the queue until it is closed.
    pub fn run(mut self) {
        loop {
            let deadline = [self.flush_at, self.retry_at].into_iter().flatten().min();
            let Some(messages) = self.queue.take(BATCH_BYTES, usize::MAX, deadline) else {
                break;
            };
            for message in messages {
                if let ControlFlow::Break(reply) = self.handle(message) {
                    self.finish();
                    // Whoever closes may have stopped waiting.
                    let _ = reply.send(());
                    return;
                }
            }
            self.keep_up();
        }
        self.finish();
    }

    fn handle(&mut self, message: Message) -> ControlFlow<SyncSender<()>> {
        match message {
            Message::Apply {
                frames,
                postings,
                head,
            } => self.take_in(frames, postings, head),
            Message::Scan {
                after,
                limit,
                bytes,
                reply,
            } => {
                let answer = self.ask(|store| store.frames_after(after, limit, bytes));
                // A reader may have given up.
                let _ = reply.send(answer);
            }
            Message::History {
                subject,
                cursor,
                limit,
                order,
                reply,
            } => {
                let answer = self.ask(|store| store.history(&subject, cursor, limit, order));
                let _ = reply.send(answer);
            }
            Message::Close { reply } => return ControlFlow::Break(reply),
        }
        ControlFlow::Continue(())
    }

    /// Remembers durable frames for the next batch. Without a store they are dropped: the rebuild finds them in the mirror.
    fn take_in(&mut self, frames: Vec<u8>, postings: Vec<Posting>, head: Head) {
        let applied = self.state.indexed_seq.load(Ordering::Acquire);
        if self.store.is_none() || head.seq <= applied.max(self.pending.head.seq) {
            return;
        }
        if self.pending.frames.is_empty() {
            (self.pending.frames, self.pending.postings) = (frames, postings);
        } else {
            self.pending.frames.extend_from_slice(&frames);
            self.pending.postings.extend_from_slice(&postings);
        }
        self.pending.head = head;
        self.flush_at
            .get_or_insert_with(|| Instant::now() + self.config.flush_interval);
        if self.pending.frames.len() >= BATCH_BYTES {
            self.apply_pending();
        }
    }

    fn keep_up(&mut self) {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.flush_at) || self.unflushed_bytes >= self.config.flush_bytes {
            self.apply_pending();
            self.flush();
        }
        if due(self.retry_at) {
            self.retry_at = None;
            self.start_generation();
        }
    }

    fn finish(&mut self) {
        self.apply_pending();
        self.flush();
        let store = self.store.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(store)));
        if dropped.is_err() {
            tracing::warn!(
                "the journal's index panicked while closing; it is checked at the next start"
            );
        }
    }

    fn apply_pending(&mut self) {
        if self.pending.frames.is_empty() {
            return;
        }
        let Pending {
            frames,
            mut postings,
            head,
        } = std::mem::take(&mut self.pending);
        self.unflushed_bytes += frames.len();
        let applied = self.guarded(IndexOperation::Apply, |store| {
            store.apply(&frames, &mut postings, head)
        });
        match applied {
            Ok(()) => self.state.indexed_seq.store(head.seq, Ordering::Release),
            Err(error) => self.hurt(&error.0),
        }
    }

    fn flush(&mut self) {
        self.flush_at = None;
        self.unflushed_bytes = 0;
        if self.store.is_none() {
            return;
        }
        if let Err(error) = self.guarded(IndexOperation::Flush, |store| store.flush()) {
            self.hurt(&error.0);
        }
    }

    /// Reads, after everything queued before was applied.
    fn ask(
        &mut self,
        question: impl FnOnce(&SledStore) -> Result<Vec<u8>, StoreError>,
    ) -> Option<Vec<u8>> {
        self.apply_pending();
        self.store.as_ref()?;
        let progress = self.state.progress.clone();
        let working = progress.work();
        let store = self.store.as_ref()?;
        let answer = shielded(|| question(store));
        drop(working);
        match answer {
            Ok(frames) => Some(frames),
            Err(error) => {
                self.hurt(&error.0);
                None
            }
        }
    }

    pub(super) fn guarded(
        &mut self,
        operation: IndexOperation,
        work: impl FnOnce(&mut SledStore) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let progress = self.state.progress.clone();
        let _working = progress.work();
        self.config.io.index(operation)?;
        let store = self
            .store
            .as_mut()
            .ok_or_else(|| StoreError("it is not open".to_owned()))?;
        shielded(|| work(store))
    }
}

/// Turns a panic of the store into an error.
pub(super) fn shielded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(StoreError(format!(
            "it panicked: {}",
            text.unwrap_or_default()
        )))
    })
}
