//! The real log: the mirror makes events durable, the index thread follows it.
//! The committer owns it. An error poisons it; `reopen` trusts only what it reads back from the disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::batch::{Batch, Group, Head, subject_key};
use super::error::LogError;
use super::index::{self, Boot, Index, IndexConfig};
use super::io::{Io, create_dir};
use super::mirror::{Mirror, SegmentLimits};
use super::reader::SledReader;
use super::scan::Frames;
use super::watchdog::{OnStuck, Progress};
use super::{Log, LogReader, SealedSegment};
use crate::record::{Record, Seq};
use crate::verify::advance;

/// Segments that are restored from the index are about this large, in bytes.
const RESTORE_BYTES: usize = 4 << 20;

/// The settings of a [`SledLog`].
#[derive(Clone)]
pub struct LogConfig {
    /// A segment is sealed at this size, in bytes.
    pub segment_bytes: u64,
    /// A segment is sealed at this age; what is lost with a disk is at most this old when segments are archived.
    pub segment_age: Duration,
    /// Cache of the index, in bytes.
    pub index_cache_bytes: u64,
    /// How long the index may stay unflushed; the mirror holds the events anyway.
    pub index_flush_interval: Duration,
    /// The index is flushed earlier after so many bytes.
    pub index_flush_bytes: usize,
    /// So many bytes may wait for the index before appends wait for it too.
    pub index_queue_bytes: usize,
    /// How long opening an index may take without any step before it is rebuilt unasked.
    pub open_patience: Duration,
    /// How long one operation of the index may take before `on_stuck` is called.
    pub stuck_after: Duration,
    /// Called once when the index hangs; the daemon exits with 70.
    pub on_stuck: Option<OnStuck>,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_bytes: 4 << 20,
            segment_age: Duration::from_secs(5),
            index_cache_bytes: 32 << 20,
            index_flush_interval: Duration::from_millis(200),
            index_flush_bytes: 16 << 20,
            index_queue_bytes: 64 << 20,
            open_patience: Duration::from_mins(2),
            stuck_after: Duration::from_secs(30),
            on_stuck: None,
        }
    }
}

/// The log on disk.
#[derive(Debug)]
pub struct SledLog {
    mirror: Mirror,
    head: Head,
    last_seq: Seq,
    poisoned: Option<String>,
    closed: bool,
    index: Index,
    queue_bytes: usize,
}

impl SledLog {
    /// Opens the journal in `dir`, which may be empty: checks the whole mirror, cuts a torn tail, and brings the index to the
    /// mirror's end, or rebuilds it. Blocks as long as that takes.
    ///
    /// # Errors
    /// `Corrupt` for damage that must not be cut away, `Io`, `Stuck` when even a new index does not open.
    pub fn open(dir: PathBuf, config: &LogConfig, io: Arc<dyn Io>) -> Result<Self, LogError> {
        create_dir(&*io, &dir)?;
        let limits = SegmentLimits {
            bytes: config.segment_bytes,
            age: config.segment_age,
        };
        let mut mirror = Mirror::open(dir.join("mirror"), io.clone(), limits)?;
        let index_config = IndexConfig {
            dir,
            io,
            table: mirror.table().clone(),
            cache_bytes: config.index_cache_bytes,
            flush_interval: config.index_flush_interval,
            flush_bytes: config.index_flush_bytes,
        };
        let (index, boot) = index::start(
            &index_config,
            || Progress::watched(config.stuck_after, config.on_stuck.clone()),
            config.open_patience,
        )?;
        match boot {
            Boot::Ready => {}
            Boot::Contradiction(error) => return Err(error),
            Boot::Ahead(last) => restore_mirror(&mut mirror, &index, last)?,
        }
        let head = mirror.head();
        Ok(Self {
            mirror,
            head,
            last_seq: head.seq,
            poisoned: None,
            closed: false,
            index,
            queue_bytes: config.index_queue_bytes,
        })
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

    /// Waits until the index has caught up enough; before anything is written, so that a refusal is certain.
    fn wait_for_index(&self) -> Result<(), LogError> {
        let progress = &self.index.state.progress;
        let patience = progress.patience();
        let room = !progress.is_stuck() && self.index.queue.wait_below(self.queue_bytes, patience);
        if room {
            return Ok(());
        }
        Err(LogError::Stuck {
            seconds: patience.as_secs(),
        })
    }

    fn poison<T>(&mut self, error: LogError) -> Result<T, LogError> {
        tracing::error!(%error, "the journal is poisoned; it takes no events until it could be reopened");
        self.poisoned = Some(error.to_string());
        Err(error)
    }

    fn seal_open(&mut self) -> Result<Option<SealedSegment>, LogError> {
        match self.mirror.seal() {
            Ok(sealed) => Ok(sealed),
            Err(error) => self.poison(error),
        }
    }
}

impl Log for SledLog {
    fn append_group(&mut self, batches: Vec<Batch>) -> Result<Vec<Vec<Record>>, LogError> {
        self.check()?;
        self.wait_for_index()?;
        let group = Group::encode(batches, self.head)?;
        if group.frames.is_empty() {
            return Ok(group.records);
        }
        if self.mirror.is_full()
            && let Err(error) = self.mirror.rotate()
        {
            return self.poison(error);
        }
        self.last_seq = group.head.seq;
        if let Err(error) = self.mirror.append(&group.frames, group.head) {
            if !matches!(error, LogError::Unknown { .. }) {
                self.last_seq = self.head.seq;
            }
            return self.poison(error);
        }
        self.head = group.head;
        self.index.apply(group.frames, group.postings, group.head);
        Ok(group.records)
    }

    fn last_seq(&self) -> Seq {
        self.last_seq
    }

    fn durable_seq(&self) -> Seq {
        self.head.seq
    }

    fn reader(&self) -> Arc<dyn LogReader> {
        Arc::new(SledReader::new(
            self.mirror.table().clone(),
            self.index.queue.clone(),
            self.index.state.clone(),
        ))
    }

    fn seal(&mut self) -> Result<Option<SealedSegment>, LogError> {
        self.check()?;
        self.seal_open()
    }

    fn seal_if_due(&mut self) -> Result<Option<SealedSegment>, LogError> {
        self.check()?;
        if self.mirror.seal_is_due() {
            return self.seal_open();
        }
        Ok(None)
    }

    fn sealed_segments(&self, after: Seq) -> Vec<SealedSegment> {
        self.reader().sealed_segments(after)
    }

    fn reopen(&mut self) -> Result<Vec<Record>, LogError> {
        if self.closed {
            return Err(LogError::Closed);
        }
        if self.poisoned.is_none() {
            return Ok(Vec::new());
        }
        let recovered = self.mirror.reload()?;
        self.head = self.mirror.head();
        self.last_seq = self.head.seq;
        self.poisoned = None;
        if let Some(first) = recovered.first() {
            self.replay_to_index(first.seq - 1)?;
        }
        tracing::info!(
            last_seq = self.last_seq,
            recovered = recovered.len(),
            "the journal is open again"
        );
        Ok(recovered)
    }

    fn close(&mut self) -> Result<(), LogError> {
        if self.closed {
            return Ok(());
        }
        let sealed = if self.poisoned.is_none() {
            self.seal_open().map(|_| ())
        } else {
            Ok(())
        };
        self.closed = true;
        self.mirror.discard_empty();
        self.index.stop();
        sealed
    }
}

impl SledLog {
    /// Hands the index what it never got, because it was not acknowledged.
    fn replay_to_index(&self, after: Seq) -> Result<(), LogError> {
        let (mut frames, mut postings) = (Vec::new(), Vec::new());
        let dir = PathBuf::from("mirror");
        self.mirror
            .table()
            .walk(after, &mut |frame| match frame.subjects() {
                Ok(subjects) => {
                    frames.extend_from_slice(frame.whole());
                    postings.extend(subjects.iter().map(|s| (subject_key(s), frame.seq)));
                    ControlFlow::Continue(())
                }
                Err(e) => ControlFlow::Break(Err(LogError::corrupt(&dir, frame.seq, e))),
            })?;
        self.index.apply(frames, postings, self.head);
        Ok(())
    }
}

impl Drop for SledLog {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the journal did not close cleanly; the next start repairs it");
        }
    }
}

/// Copies from the index what the mirror lost behind its end; after a crash in between the next start goes on.
fn restore_mirror(mirror: &mut Mirror, index: &Index, last: Seq) -> Result<(), LogError> {
    let from = mirror.head().seq + 1;
    tracing::warn!(
        from,
        to = last,
        "the mirror lost events that the index still has; they are restored"
    );
    let reader = SledReader::new(
        mirror.table().clone(),
        index.queue.clone(),
        index.state.clone(),
    );
    while mirror.head().seq < last {
        let head = mirror.head();
        let Some(frames) = reader.page(head.seq, usize::MAX, RESTORE_BYTES)? else {
            let path = PathBuf::from("mirror");
            return Err(LogError::corrupt(
                &path,
                head.seq + 1,
                "the index lost it while it was restored",
            ));
        };
        let mut after = head;
        for parsed in Frames::new(&frames) {
            let next = parsed
                .map_err(|e| e.to_string())
                .and_then(|f| advance(after, &f));
            after = next.map_err(|e| LogError::corrupt(Path::new("index"), after.seq + 1, e))?;
        }
        mirror.restore(&frames, after)?;
    }
    Ok(())
}

impl std::fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogConfig")
            .field("segment_bytes", &self.segment_bytes)
            .field("segment_age", &self.segment_age)
            .field("index_flush_interval", &self.index_flush_interval)
            .finish_non_exhaustive()
    }
}
