//! The index thread: the only one that touches the store, and the one that rebuilds it.
//! It follows the mirror: whatever it holds, the mirror holds. A store that fails, panics or lies is quarantined and
//! rebuilt from the mirror while the log goes on; until then readers are told to scan the mirror themselves.

use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::Order;
use super::batch::{Head, Posting, SubjectKey, subject_key};
use super::error::LogError;
use super::generation::Generations;
use super::io::{IndexOperation, Io};
use super::queue::Queue;
use super::scan::Frames;
use super::sled::{SledStore, StoreError};
use super::table::SegmentTable;
use super::watchdog::Progress;
use crate::record::Seq;
use crate::verify::advance;

/// Frames are applied in batches of about this many bytes.
const BATCH_BYTES: usize = 256 << 10;
/// A rebuild that failed is tried again after this, doubled each time.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest pause between two tries.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// What the index thread is asked.
#[derive(Debug)]
pub enum Message {
    /// Durable frames that follow those of the message before.
    Apply {
        /// The frames.
        frames: Vec<u8>,
        /// Their subjects.
        postings: Vec<Posting>,
        /// The head after them.
        head: Head,
    },
    /// Frames after a number.
    Scan {
        /// Exclusive.
        after: Seq,
        /// At most so many.
        limit: usize,
        /// No more once there are so many bytes.
        bytes: usize,
        /// Where the answer goes.
        reply: Reply,
    },
    /// Frames about a subject.
    History {
        /// The subject's key.
        subject: SubjectKey,
        /// Exclusive.
        cursor: Seq,
        /// At most so many.
        limit: usize,
        /// Direction.
        order: Order,
        /// Where the answer goes.
        reply: Reply,
    },
    /// Flush everything and end.
    Close {
        /// Told when all is flushed.
        reply: SyncSender<()>,
    },
}

/// Whole frames; `None` when the index is being rebuilt and the mirror must be scanned instead.
pub type Reply = SyncSender<Option<Vec<u8>>>;

/// What the thread works with.
#[derive(Debug, Clone)]
pub struct IndexConfig {
    /// The journal's directory.
    pub dir: PathBuf,
    /// The way to the disk.
    pub io: Arc<dyn Io>,
    /// The mirror.
    pub table: Arc<SegmentTable>,
    /// Cache of the store, in bytes.
    pub cache_bytes: u64,
    /// How long applied events may stay unflushed; the mirror holds them anyway.
    pub flush_interval: Duration,
    /// After so many applied bytes a flush does not wait for the interval.
    pub flush_bytes: usize,
}

/// What others see of the thread.
#[derive(Debug)]
pub struct IndexState {
    /// Whether a store is open and sound.
    pub healthy: AtomicBool,
    /// The current generation.
    pub generation: AtomicU64,
    /// The last event applied.
    pub indexed_seq: AtomicU64,
    /// How many rebuilds there were.
    pub rebuilds: AtomicU64,
    /// Set when the thread took too long to start: it must touch nothing any more.
    pub abandoned: AtomicBool,
    /// Where the thread says that it is alive.
    pub progress: Arc<Progress>,
}

impl IndexState {
    /// Before the thread has started.
    pub fn new(progress: Arc<Progress>) -> Self {
        Self {
            healthy: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            indexed_seq: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
            abandoned: AtomicBool::new(false),
            progress,
        }
    }
}

/// How the thread found the index when it started.
#[derive(Debug)]
pub enum Boot {
    /// It is there and holds what the mirror holds, or is being rebuilt.
    Ready,
    /// It holds these whole frames behind the mirror's end: the mirror lost them.
    Ahead {
        /// The frames.
        frames: Vec<u8>,
        /// The head after them.
        head: Head,
    },
    /// It contradicts the mirror, and is sound in itself: a person must decide.
    Contradiction(LogError),
}

/// The thread's own state.
#[derive(Debug)]
pub struct IndexThread {
    config: IndexConfig,
    queue: Arc<Queue<Message>>,
    state: Arc<IndexState>,
    store: Option<SledStore>,
    generation: u64,
    pending: Pending,
    unflushed_bytes: usize,
    flush_at: Option<Instant>,
    retry_at: Option<Instant>,
    retry_pause: Duration,
}

/// Frames that wait to be applied.
#[derive(Debug)]
struct Pending {
    frames: Vec<u8>,
    postings: Vec<Posting>,
    head: Head,
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
        let asked = generations.begin_attempt()?;
        let reason = match (distrust, asked) {
            (Some(reason), _) => Some(reason.to_owned()),
            (None, false) => Some("opening it did not end twice in a row".to_owned()),
            (None, true) => self.open_and_check().err().map(|e| e.0),
        };
        if self.is_abandoned() {
            return Ok(Boot::Ready);
        }
        generations.end_attempt()?;
        match reason {
            Some(reason) => self.hurt(&reason),
            None => return self.compare(),
        }
        Ok(Boot::Ready)
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

    fn guarded(
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

    fn open_and_check(&mut self) -> Result<(), StoreError> {
        self.config.io.index(IndexOperation::Open)?;
        let path = Generations::new(&self.config.dir, &*self.config.io).path(self.generation);
        let cache_bytes = self.config.cache_bytes;
        let store = shielded(|| {
            let store = SledStore::open(&path, cache_bytes)?;
            store.check()?;
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
            return self.offer_rest(own, mirror);
        }
        if own.seq > 0 && self.mirror_hash(own.seq)? != Some(own.hash) {
            self.hurt(&format!("its event {} is not the mirror's", own.seq));
            return Ok(Boot::Ready);
        }
        self.settle();
        Ok(Boot::Ready)
    }

    /// Reads out what only the index still has. Its chain was checked; it must continue the mirror's.
    fn offer_rest(&mut self, own: Head, mirror: Head) -> Result<Boot, LogError> {
        let store = self.store.as_ref().expect("it was opened and checked");
        let frames = match shielded(|| store.frames_after(mirror.seq, usize::MAX, usize::MAX)) {
            Ok(frames) => frames,
            Err(error) => {
                self.hurt(&error.0);
                return Ok(Boot::Ready);
            }
        };
        let first = Frames::new(&frames).next();
        let continues = first
            .and_then(Result::ok)
            .is_some_and(|f| advance(mirror, &f).is_ok());
        if !continues {
            let detail = "the index holds later events of another history";
            let path = self.config.dir.join("mirror");
            return Ok(Boot::Contradiction(LogError::corrupt(
                &path,
                mirror.seq + 1,
                detail,
            )));
        }
        self.adopt();
        Ok(Boot::Ahead { frames, head: own })
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
    fn hurt(&mut self, reason: &str) {
        self.state.healthy.store(false, Ordering::Release);
        self.state.rebuilds.fetch_add(1, Ordering::AcqRel);
        self.pending = Pending::default();
        if let Some(store) = self.store.take() {
            // Closing would make it write, or wait for a thread that died; its directory is never opened again.
            std::mem::forget(store);
        }
        let generations = Generations::new(&self.config.dir, &*self.config.io);
        if let Err(error) = generations.quarantine(self.generation, reason) {
            tracing::warn!(%error, reason, "a broken journal index could not be moved; the next one is built beside it");
        }
        self.start_generation();
    }

    /// Builds the next generation from the mirror; on failure it is tried again later.
    fn start_generation(&mut self) {
        match self.try_generation() {
            Ok(()) => self.retry_pause = RETRY_FIRST,
            Err(error) => {
                if let Some(store) = self.store.take() {
                    std::mem::forget(store);
                }
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
        let Pending {
            frames,
            mut postings,
            head,
        } = batch;
        self.guarded(IndexOperation::Apply, |store| {
            store.apply(&frames, &mut postings, head)
        })
    }

    fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
        self.state.generation.store(generation, Ordering::Release);
    }
}

impl Pending {
    fn add(&mut self, frame: &super::frame::Frame<'_>) -> Result<(), StoreError> {
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

/// Turns a panic of the store into an error.
fn shielded<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        Err(StoreError(format!(
            "it panicked: {}",
            text.unwrap_or_default()
        )))
    })
}
