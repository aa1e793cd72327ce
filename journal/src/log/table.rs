//! The mirror's segments as its readers see them: which there are, and how far the open one is durable.
//! The mirror's writer updates it after each flush; readers never look at the directory.

use std::fs::File;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::batch::Head;
use super::error::LogError;
use super::frame::Frame;
use super::scan::Frames;
use super::{SealedSegment, SegmentSource};
use crate::record::Seq;

/// The segments, shared by the writer and all readers.
#[derive(Debug, Default)]
pub struct SegmentTable {
    state: RwLock<TableState>,
}

/// What the table holds.
#[derive(Debug)]
pub struct TableState {
    /// Closed segments, oldest first.
    pub sealed: Vec<SealedSegment>,
    /// The open one.
    pub open: Option<OpenPart>,
    /// The last durable event.
    pub head: Head,
    /// Bytes of all durable events.
    pub bytes: u64,
}

/// The durable part of the open segment.
#[derive(Debug, Clone)]
pub struct OpenPart {
    /// Its first event.
    pub first: Seq,
    /// Its file.
    pub path: PathBuf,
    /// How many bytes of it are durable.
    pub bytes: u64,
}

impl Default for TableState {
    fn default() -> Self {
        Self {
            sealed: Vec::new(),
            open: None,
            head: Head::EMPTY,
            bytes: 0,
        }
    }
}

impl SegmentTable {
    /// Reads it.
    pub fn read(&self) -> RwLockReadGuard<'_, TableState> {
        self.state
            .read()
            .expect("no writer panics while it holds the table")
    }

    /// Changes it.
    pub fn write(&self) -> RwLockWriteGuard<'_, TableState> {
        self.state
            .write()
            .expect("no writer panics while it holds the table")
    }

    /// Calls `each` with the durable events after `after`, in order, until it breaks; `after` itself is skipped.
    ///
    /// # Errors
    /// `Io` or `Corrupt` with the file, or what `each` breaks with.
    pub fn walk(
        &self,
        after: Seq,
        each: &mut dyn FnMut(&Frame<'_>) -> ControlFlow<Result<(), LogError>>,
    ) -> Result<(), LogError> {
        let end = self.read().head.seq;
        let mut at = after;
        while at < end {
            let part = self.part_with(at + 1)?;
            let before = at;
            for parsed in Frames::new(&part.bytes) {
                let frame =
                    parsed.map_err(|e| LogError::corrupt(&part.path, at + 1, e.to_string()))?;
                if frame.seq <= at {
                    continue;
                }
                if frame.seq != at + 1 {
                    let detail = format!("event {} stands in its place", frame.seq);
                    return Err(LogError::corrupt(&part.path, at + 1, detail));
                }
                at = frame.seq;
                if let ControlFlow::Break(result) = each(&frame) {
                    return result;
                }
            }
            if at == before {
                return Err(LogError::corrupt(&part.path, at + 1, "it is not there"));
            }
        }
        Ok(())
    }

    /// The bytes of the segment that holds `seq`; the file is opened under the lock, as sealing renames it.
    fn part_with(&self, seq: Seq) -> Result<Part, LogError> {
        let state = self.read();
        let position = state.sealed.partition_point(|s| s.last < seq);
        let (path, bytes) = match (state.sealed.get(position), &state.open) {
            (Some(segment), _) => match &segment.source {
                SegmentSource::File(path) => (path.clone(), segment.bytes),
                SegmentSource::Memory(bytes) => {
                    let path = PathBuf::from("memory");
                    let bytes = bytes.to_vec();
                    return Ok(Part { path, bytes });
                }
            },
            (None, Some(open)) if seq >= open.first => (open.path.clone(), open.bytes),
            (None, _) => {
                let file = PathBuf::from("mirror");
                return Err(LogError::corrupt(&file, seq, "no segment holds it"));
            }
        };
        let file = File::open(&path).map_err(|e| LogError::io("open", &path, &e))?;
        drop(state);
        let mut buffer = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
        let read = file.take(bytes).read_to_end(&mut buffer);
        read.map_err(|e| LogError::io("read", &path, &e))?;
        Ok(Part {
            path,
            bytes: buffer,
        })
    }
}

struct Part {
    path: PathBuf,
    bytes: Vec<u8>,
}
