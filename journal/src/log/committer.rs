//! The committer: one thread that owns the log, groups what is submitted into one flush, and answers each submission.
//! Actors hold the handle. A poisoned log is reopened every second; a panic in here ends the process, since nobody could
//! say any more what is durable.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::answerer::Answerer;
use super::batch::Batch;
use super::error::{ErrorKind, LogError};
use super::queue::{Queue, Refused};
use super::{Log, LogReader, SealedSegment};
use crate::record::{Draft, Record, Seq};

/// The answer to a submission: its own records, in its order.
pub type Answer = Result<Vec<Record>, LogError>;
/// Called once, on a thread of the committer: it must be short and must not panic.
pub type ReplyFn = Box<dyn FnOnce(Answer) + Send>;
/// Called with records that turned out committed though their submission was answered with an error.
pub type RecoveredFn = Box<dyn FnMut(Vec<Record>) + Send>;
/// Stores a sealed segment elsewhere, and blocks until that is certain.
pub type ArchiveFn = Box<dyn FnMut(&SealedSegment) -> Result<(), String> + Send>;

/// The settings of a committer.
pub struct CommitterConfig {
    /// So many submissions may wait.
    pub queue_max: usize,
    /// One group takes at most so many bytes, or one submission.
    pub group_bytes: usize,
    /// One group takes at most so many submissions.
    pub group_submissions: usize,
    /// How often a poisoned log is reopened.
    pub retry_interval: Duration,
    /// How often the age of the open segment is looked at.
    pub seal_interval: Duration,
    /// Told after every earlier answer, and before any answer to what is appended after the reopen.
    pub on_recovered: RecoveredFn,
    /// When set, every group is sealed and stored elsewhere before it is acknowledged. It may be called again with a
    /// segment that is stored already.
    pub archive: Option<ArchiveFn>,
    /// The last event that is stored elsewhere; only `archive` looks at it.
    pub archived_seq: Seq,
}

impl Default for CommitterConfig {
    fn default() -> Self {
        Self {
            queue_max: 1024,
            group_bytes: 1 << 20,
            group_submissions: 1024,
            retry_interval: Duration::from_secs(1),
            seal_interval: Duration::from_secs(1),
            on_recovered: Box::new(|_| {}),
            archive: None,
            archived_seq: 0,
        }
    }
}

/// The queue was full: nothing was submitted, and the reply will not be called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{queued} submissions wait for the journal already")]
pub struct Overloaded {
    /// How many wait.
    pub queued: usize,
}

impl Overloaded {
    /// The kind that decides the HTTP status.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Overloaded
    }
}

struct Submission {
    batch: Batch,
    reply: ReplyFn,
}

/// Starts committers.
#[derive(Debug)]
pub struct Committer;

/// What everybody but the committer holds.
#[derive(Clone)]
pub struct CommitterHandle {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Arc<Queue<Submission>>,
    queue_max: usize,
    reader: Arc<dyn LogReader>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Committer {
    /// Starts the thread; it ends when the handle is closed or the last clone of it is gone.
    ///
    /// # Errors
    /// `Io` when the system gives no thread.
    pub fn spawn(
        log: Box<dyn Log>,
        mut config: CommitterConfig,
    ) -> Result<CommitterHandle, LogError> {
        let queue = Arc::new(Queue::default());
        let reader = log.reader();
        let queue_max = config.queue_max;
        let on_recovered = std::mem::replace(&mut config.on_recovered, Box::new(|_| {}));
        let answerer = Answerer::spawn(on_recovered)?;
        let worker = Worker {
            log,
            queue: queue.clone(),
            answerer,
            config,
            failed: None,
            unacknowledged: Vec::new(),
        };
        let builder = std::thread::Builder::new().name("journal-committer".to_owned());
        let thread = builder
            .spawn(move || or_abort(|| worker.run()))
            .map_err(|e| LogError::io("start", std::path::Path::new("journal-committer"), &e))?;
        Ok(CommitterHandle {
            shared: Arc::new(Shared {
                queue,
                queue_max,
                reader,
                thread: Mutex::new(Some(thread)),
            }),
        })
    }
}

impl CommitterHandle {
    /// Submits drafts that are committed together or not at all; encodes them on the caller's thread.
    /// An event that is too large and a closed committer are answered through `reply`.
    ///
    /// # Errors
    /// `Overloaded` when the queue is full; `reply` is then dropped.
    pub fn submit(&self, drafts: Vec<Draft>, reply: ReplyFn) -> Result<(), Overloaded> {
        let queue = &self.shared.queue;
        let most = self.shared.queue_max;
        if queue.len() >= most {
            return Err(Overloaded { queued: most });
        }
        let batch = match Batch::new(drafts) {
            Ok(batch) => batch,
            Err(error) => {
                reply(Err(error));
                return Ok(());
            }
        };
        let weight = batch.bytes();
        match queue.offer(Submission { batch, reply }, weight, most) {
            Ok(()) => Ok(()),
            Err(Refused::Full(_)) => Err(Overloaded { queued: most }),
            Err(Refused::Closed(submission)) => {
                (submission.reply)(Err(LogError::Closed));
                Ok(())
            }
        }
    }

    /// Submits and waits for the log's answer; for callers that own their thread.
    ///
    /// # Errors
    /// `Overloaded` when the queue is full.
    pub fn commit(&self, drafts: Vec<Draft>) -> Result<Answer, Overloaded> {
        let (reply, answer) = std::sync::mpsc::sync_channel(1);
        self.submit(
            drafts,
            Box::new(move |result| {
                // The caller waits right below.
                let _ = reply.send(result);
            }),
        )?;
        Ok(answer.recv().unwrap_or(Err(LogError::Closed)))
    }

    /// The reading side of the log.
    pub fn reader(&self) -> Arc<dyn LogReader> {
        self.shared.reader.clone()
    }

    /// How many submissions wait.
    pub fn queued(&self) -> usize {
        self.shared.queue.len()
    }

    /// Takes no more submissions, commits what waits, closes the log, and returns when all that is done.
    pub fn close(&self) {
        self.shared.queue.close();
        let mut thread = self
            .shared
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take() {
            // A panic of the thread has ended the process.
            let _ = thread.join();
        }
    }
}

impl std::fmt::Debug for CommitterHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommitterHandle")
            .field("queued", &self.queued())
            .finish_non_exhaustive()
    }
}

/// Runs a thread of the committer; nobody could say what is durable and told if it panicked.
pub(super) fn or_abort(run: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(run)).is_err() {
        tracing::error!(
            "the journal's committer panicked; the process ends so that the next start can replay"
        );
        std::process::abort();
    }
}

struct Worker {
    log: Box<dyn Log>,
    queue: Arc<Queue<Submission>>,
    answerer: Answerer,
    config: CommitterConfig,
    failed: Option<Failure>,
    /// Committed after all; they go to `on_recovered` when the log takes events again.
    unacknowledged: Vec<Record>,
}

/// The log takes nothing until `retry_at` brought it back.
struct Failure {
    reason: String,
    retry_at: Instant,
}

impl Worker {
    fn run(mut self) {
        let mut look_at = Instant::now() + self.config.seal_interval;
        loop {
            let deadline = self
                .failed
                .as_ref()
                .map_or(look_at, |f| f.retry_at.min(look_at));
            let (bytes, most) = (self.config.group_bytes, self.config.group_submissions);
            let Some(submissions) = self.queue.take(bytes, most, Some(deadline)) else {
                break;
            };
            if self
                .failed
                .as_ref()
                .is_some_and(|f| f.retry_at <= Instant::now())
            {
                self.recover();
            }
            if !submissions.is_empty() {
                self.commit(submissions);
            }
            if look_at <= Instant::now() {
                self.seal_if_due();
                look_at = Instant::now() + self.config.seal_interval;
            }
        }
        if let Err(error) = self.log.close() {
            tracing::warn!(%error, "the journal did not close cleanly; the next start repairs it");
        }
    }

    fn commit(&mut self, submissions: Vec<Submission>) {
        let mut replies = Vec::with_capacity(submissions.len());
        let mut batches = Vec::with_capacity(submissions.len());
        for Submission { batch, reply } in submissions {
            replies.push(reply);
            batches.push(batch);
        }
        let answers: Vec<(ReplyFn, Answer)> = match self.append(batches) {
            Ok(records) => replies
                .into_iter()
                .zip(records.into_iter().map(Ok))
                .collect(),
            Err(error) => replies
                .into_iter()
                .map(|reply| (reply, Err(error.clone())))
                .collect(),
        };
        self.answerer.answer(answers);
    }

    fn append(&mut self, batches: Vec<Batch>) -> Result<Vec<Vec<Record>>, LogError> {
        if let Some(failure) = &self.failed {
            return Err(LogError::Poisoned {
                reason: failure.reason.clone(),
            });
        }
        let records = match self.log.append_group(batches) {
            Ok(records) => records,
            Err(error) => {
                self.note_failure(&error);
                return Err(error);
            }
        };
        match self.archive_all() {
            Ok(()) => Ok(records),
            Err(reason) => Err(self.withhold(records, reason)),
        }
    }

    /// Seals what is open and stores every segment that is not stored yet; nothing to do unless archiving is synchronous.
    fn archive_all(&mut self) -> Result<(), String> {
        let Some(archive) = &mut self.config.archive else {
            return Ok(());
        };
        self.log.seal().map_err(|e| e.to_string())?;
        for segment in self.log.sealed_segments(self.config.archived_seq) {
            archive(&segment)?;
            self.config.archived_seq = segment.last;
        }
        Ok(())
    }

    /// The group is durable here but not elsewhere: its outcome is unknown until it is.
    fn withhold(&mut self, records: Vec<Vec<Record>>, reason: String) -> LogError {
        let first = self.unacknowledged.len();
        self.unacknowledged.extend(records.into_iter().flatten());
        let withheld = &self.unacknowledged[first..];
        let error = LogError::Unknown {
            first: withheld.first().map_or(0, |r| r.seq),
            last: withheld.last().map_or(0, |r| r.seq),
            reason,
        };
        self.note_failure(&error);
        error
    }

    /// Everything but a group that was merely too large stops the log until it is reopened.
    fn note_failure(&mut self, error: &LogError) {
        if matches!(error, LogError::TooLarge { .. }) {
            return;
        }
        self.failed = Some(Failure {
            reason: error.to_string(),
            retry_at: Instant::now() + self.config.retry_interval,
        });
    }

    fn recover(&mut self) {
        match self.try_recover() {
            Ok(()) => self.failed = None,
            Err(reason) => {
                tracing::warn!(reason, "the journal cannot be reopened yet");
                self.failed = Some(Failure {
                    reason,
                    retry_at: Instant::now() + self.config.retry_interval,
                });
            }
        }
    }

    fn try_recover(&mut self) -> Result<(), String> {
        let recovered = self.log.reopen().map_err(|e| e.to_string())?;
        self.unacknowledged.extend(recovered);
        self.archive_all()?;
        if !self.unacknowledged.is_empty() {
            self.answerer
                .recovered(std::mem::take(&mut self.unacknowledged));
        }
        Ok(())
    }

    fn seal_if_due(&mut self) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.log.seal_if_due() {
            self.note_failure(&error);
        }
    }
}
