//! The index thread: the only one that touches the store, and the one that rebuilds it.
//! It follows the mirror: whatever it holds, the mirror holds. A store that fails, panics or lies is quarantined and
//! rebuilt from the mirror while the log goes on; until then readers are told to scan the mirror themselves.

mod build;
mod handle;
mod thread;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::SyncSender;
use std::time::Duration;

pub use handle::{Index, start};
pub use thread::IndexThread;

use super::Order;
use super::batch::{Head, Posting, SubjectKey};
use super::error::LogError;
use super::io::Io;
use super::table::SegmentTable;
use super::watchdog::Progress;
use crate::record::Seq;

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
    /// Set when the thread hung while it started: it must touch nothing any more.
    pub abandoned: AtomicBool,
    /// Counts steps while the thread starts, so that a long rebuild is told from a hang.
    pub steps: AtomicU64,
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
            steps: AtomicU64::new(0),
            progress,
        }
    }
}

/// How the thread found the index when it started.
#[derive(Debug)]
pub enum Boot {
    /// It is there and holds what the mirror holds, or is being rebuilt.
    Ready,
    /// It holds the events up to this one, which the mirror lost behind its own end; ask it for them.
    Ahead(Seq),
    /// It contradicts the mirror, and is sound in itself: a person must decide.
    Contradiction(LogError),
}
