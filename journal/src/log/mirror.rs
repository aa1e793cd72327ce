//! The mirror: plain append-only files of frames, and the point where an event becomes durable.
//! The log's one writer owns it. It never rewrites a durable byte in place and never uses a file again after an error on it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::batch::Head;
use super::error::LogError;
use super::io::{Io, IoFile, create_dir, remove_if_there, replace_file, sync_dir};
use super::scan::{Frames, OpenScan, scan_open, scan_sealed};
use super::table::{OpenPart, SegmentTable};
use super::{SealedSegment, SegmentSource};
use crate::archive::{ArchiveKey, parse_key, segment_name};
use crate::record::{Record, Seq};

/// When a segment is closed.
#[derive(Debug, Clone, Copy)]
pub struct SegmentLimits {
    /// At this size, in bytes; also how much is reserved for a new one.
    pub bytes: u64,
    /// At this age, counted from its first event.
    pub age: Duration,
}

/// The writing side of the mirror.
#[derive(Debug)]
pub struct Mirror {
    dir: PathBuf,
    io: Arc<dyn Io>,
    limits: SegmentLimits,
    table: Arc<SegmentTable>,
    open: Option<OpenSegment>,
    /// The last event that was acknowledged or found; a reload must reach it again.
    reached: Seq,
}

#[derive(Debug)]
struct OpenSegment {
    first: Seq,
    path: PathBuf,
    file: Box<dyn IoFile>,
    bytes: u64,
    since: Instant,
}

/// The files of a mirror directory.
#[derive(Debug, Default)]
struct Listing {
    sealed: BTreeMap<Seq, (ArchiveKey, PathBuf)>,
    open: BTreeMap<Seq, PathBuf>,
}

impl Mirror {
    /// Opens the mirror in `dir`: checks all of it, cuts a torn tail, seals what was open.
    ///
    /// # Errors
    /// `Corrupt` for damage that is not a torn tail, and `Io`.
    pub fn open(dir: PathBuf, io: Arc<dyn Io>, limits: SegmentLimits) -> Result<Self, LogError> {
        create_dir(&*io, &dir)?;
        let mut mirror = Self {
            dir,
            io,
            limits,
            table: Arc::default(),
            open: None,
            reached: 0,
        };
        mirror.load()?;
        mirror.reached = mirror.head().seq;
        Ok(mirror)
    }

    /// What readers share.
    pub fn table(&self) -> &Arc<SegmentTable> {
        &self.table
    }

    /// The last durable event.
    pub fn head(&self) -> Head {
        self.table.read().head
    }

    /// Makes `frames`, which end in `head`, durable.
    ///
    /// # Errors
    /// `Io`: certainly nothing of it remains. `Unknown`: something may. After either only [`Mirror::reload`] helps.
    pub fn append(&mut self, frames: &[u8], head: Head) -> Result<(), LogError> {
        let first = self.head().seq + 1;
        let open = self.ensure_open(first)?;
        if let Err(error) = open.file.write_at(frames, open.bytes) {
            let path = open.path.clone();
            // Only a cut that is durable itself makes the failure certain.
            let undone = open
                .file
                .set_len(open.bytes)
                .and_then(|()| open.file.sync_data());
            return Err(match undone {
                Ok(()) => LogError::io("write", &path, &error),
                Err(_) => unknown(first, head.seq, &path, &error),
            });
        }
        if let Err(error) = open.file.sync_data() {
            return Err(unknown(first, head.seq, &open.path, &error));
        }
        open.bytes += frames.len() as u64;
        let part = open.part();
        self.reached = head.seq;
        let mut table = self.table.write();
        table.open = Some(part);
        table.head = head;
        table.bytes += frames.len() as u64;
        Ok(())
    }

    /// Whether the open segment has reached its size or its age.
    pub fn seal_is_due(&self) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.bytes >= self.limits.bytes
                || (open.bytes > 0 && open.since.elapsed() >= self.limits.age)
        })
    }

    /// Whether the open segment has reached its size.
    pub fn is_full(&self) -> bool {
        self.open
            .as_ref()
            .is_some_and(|open| open.bytes >= self.limits.bytes)
    }

    /// Closes the open segment: cut to its length, named by its content.
    ///
    /// # Errors
    /// `Io`; then only [`Mirror::reload`] helps.
    pub fn seal(&mut self) -> Result<Option<SealedSegment>, LogError> {
        let sealed = self.seal_unsynced()?;
        if sealed.is_some() {
            sync_dir(&*self.io, &self.dir)?;
        }
        Ok(sealed)
    }

    /// Closes the open segment and starts the next one, both names made durable with one sync.
    ///
    /// # Errors
    /// `Io`; then only [`Mirror::reload`] helps.
    pub fn rotate(&mut self) -> Result<(), LogError> {
        self.seal_unsynced()?;
        let first = self.head().seq + 1;
        self.ensure_open(first).map(|_| ())
    }

    fn seal_unsynced(&mut self) -> Result<Option<SealedSegment>, LogError> {
        let Some(mut open) = self.open.take_if(|open| open.bytes > 0) else {
            return Ok(None);
        };
        let head = self.head();
        let path = self
            .dir
            .join(segment_name(open.first, head.seq, &head.hash));
        let fail = |op, e| LogError::io(op, &open.path, &e);
        // Its events are durable already. That the cut is not yet does no harm: a reader stops at the event in the name.
        open.file
            .set_len(open.bytes)
            .map_err(|e| fail("truncate", e))?;
        let mut table = self.table.write();
        self.io
            .rename(&open.path, &path)
            .map_err(|e| fail("rename", e))?;
        let segment = SealedSegment {
            first: open.first,
            last: head.seq,
            hash: head.hash,
            bytes: open.bytes,
            source: SegmentSource::File(path),
        };
        table.open = None;
        table.sealed.push(segment.clone());
        Ok(Some(segment))
    }

    /// Removes an open segment that got no event; the next start would do the same.
    pub fn discard_empty(&mut self) {
        if let Some(open) = self.open.take_if(|open| open.bytes == 0)
            && let Err(error) = self.io.remove(&open.path)
        {
            tracing::warn!(file = %open.path.display(), %error, "an empty segment stays");
        }
    }

    /// Starts anew after an error: reads again what is on disk behind the sealed segments, writes it to a new file,
    /// and answers the events that were not acknowledged before.
    ///
    /// # Errors
    /// `Io` when the disk still fails; `Corrupt` when an acknowledged event is gone.
    pub fn reload(&mut self) -> Result<Vec<Record>, LogError> {
        let acknowledged = self.reached;
        self.open = None;
        self.load()?;
        let reached = self.head().seq;
        if reached < acknowledged {
            let detail = format!("acknowledged events up to {acknowledged} are gone");
            return Err(LogError::corrupt(&self.dir, reached + 1, detail));
        }
        self.reached = reached;
        let mut recovered = Vec::new();
        let (table, dir) = (self.table.clone(), self.dir.clone());
        table.walk(acknowledged, &mut |frame| match frame.record() {
            Ok(record) => {
                recovered.push(record);
                std::ops::ControlFlow::Continue(())
            }
            Err(e) => std::ops::ControlFlow::Break(Err(LogError::corrupt(&dir, frame.seq, e))),
        })?;
        Ok(recovered)
    }

    /// Adds events that only the index still had; `frames` continue the chain and end in `head`.
    ///
    /// # Errors
    /// `Io`.
    pub fn restore(&mut self, frames: &[u8], head: Head) -> Result<(), LogError> {
        let first = self.head().seq + 1;
        self.write_sealed(first, head, frames)?;
        self.reached = head.seq;
        Ok(())
    }

    fn ensure_open(&mut self, first: Seq) -> Result<&mut OpenSegment, LogError> {
        if self.open.is_none() {
            let path = self.dir.join(format!("{first:020}.lhj"));
            let fail = |op, e| LogError::io(op, &path, &e);
            let mut file = self.io.create(&path).map_err(|e| fail("create", e))?;
            file.allocate(self.limits.bytes)
                .map_err(|e| fail("allocate", e))?;
            sync_dir(&*self.io, &self.dir)?;
            self.open = Some(OpenSegment {
                first,
                path,
                file,
                bytes: 0,
                since: Instant::now(),
            });
        }
        Ok(self.open.as_mut().expect("it was opened just now"))
    }

    /// Brings the table up to what the directory holds; segments that it knows are not read again.
    fn load(&mut self) -> Result<(), LogError> {
        let listing = self.list()?;
        let (mut head, known) = {
            let table = self.table.read();
            let last = table.sealed.last();
            (
                last.map_or(Head::EMPTY, |s| Head {
                    seq: s.last,
                    hash: s.hash,
                }),
                table.sealed.len(),
            )
        };
        for (key, path) in listing.sealed.values().skip(known) {
            let (length, after) = scan_sealed(path, &read(path)?, key, head)?;
            self.add_sealed(head.seq + 1, after, path.clone(), length as u64);
            head = after;
        }
        let last = listing.open.keys().next_back();
        for (first, path) in &listing.open {
            head = self.adopt_open(*first, path, head, Some(first) == last)?;
        }
        let mut table = self.table.write();
        // Until here readers saw the acknowledged part of the old file.
        table.open = None;
        table.head = head;
        table.bytes = table.sealed.iter().map(|s| s.bytes).sum();
        drop(table);
        sync_dir(&*self.io, &self.dir)
    }

    /// Copies what counts of an open segment into a sealed one. Never trusts the old file's pages:
    /// after a failed flush the system may hold bytes in memory that never reach the disk.
    fn adopt_open(
        &mut self,
        first: Seq,
        path: &Path,
        head: Head,
        is_last: bool,
    ) -> Result<Head, LogError> {
        if first <= head.seq {
            tracing::debug!(file = %path.display(), "removing a segment that was sealed before");
            remove_if_there(&*self.io, path)?;
            return Ok(head);
        }
        if first != head.seq + 1 {
            return Err(LogError::corrupt(
                path,
                head.seq + 1,
                format!("the next segment starts with event {first}"),
            ));
        }
        let bytes = read(path)?;
        let OpenScan {
            bytes: whole,
            head: after,
            torn,
        } = scan_open(path, &bytes, head)?;
        if let Some(reason) = torn {
            if !is_last {
                return Err(LogError::corrupt(path, after.seq + 1, reason));
            }
            tracing::warn!(file = %path.display(), last_whole = after.seq, reason, "cut the torn tail of the journal");
        }
        if whole > 0 {
            self.write_sealed(first, after, &bytes[..whole])?;
        }
        remove_if_there(&*self.io, path)?;
        Ok(after)
    }

    fn write_sealed(&mut self, first: Seq, head: Head, frames: &[u8]) -> Result<(), LogError> {
        let path = self.dir.join(segment_name(first, head.seq, &head.hash));
        replace_file(&*self.io, &path, frames)?;
        self.add_sealed(first, head, path, frames.len() as u64);
        let mut table = self.table.write();
        table.head = head;
        table.bytes = table.sealed.iter().map(|s| s.bytes).sum();
        Ok(())
    }

    fn add_sealed(&self, first: Seq, head: Head, path: PathBuf, bytes: u64) {
        self.table.write().sealed.push(SealedSegment {
            first,
            last: head.seq,
            hash: head.hash,
            bytes,
            source: SegmentSource::File(path),
        });
    }

    fn list(&self) -> Result<Listing, LogError> {
        let mut listing = Listing::default();
        for path in files(&self.dir)? {
            let name = path
                .file_name()
                .and_then(|n| n.to_str())
                .unwrap_or_default();
            if path.extension().is_some_and(|e| e == "tmp") {
                remove_if_there(&*self.io, &path)?;
            } else if let Some(key) = parse_key(name) {
                listing.sealed.insert(key.first, (key, path));
            } else if let Some(first) = open_first(name) {
                listing.open.insert(first, path);
            } else {
                tracing::warn!(file = %path.display(), "a file that is none of the journal's lies in its mirror");
            }
        }
        Ok(listing)
    }
}

impl OpenSegment {
    fn part(&self) -> OpenPart {
        OpenPart {
            first: self.first,
            path: self.path.clone(),
            bytes: self.bytes,
        }
    }
}

fn open_first(name: &str) -> Option<Seq> {
    let digits = name.strip_suffix(".lhj")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

fn unknown(first: Seq, last: Seq, path: &Path, error: &std::io::Error) -> LogError {
    LogError::Unknown {
        first,
        last,
        reason: format!("`{}`: {error}", path.display()),
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, LogError> {
    std::fs::read(path).map_err(|e| LogError::io("read", path, &e))
}

pub(crate) fn files(dir: &Path) -> Result<Vec<PathBuf>, LogError> {
    let fail = |e| LogError::io("list", dir, &e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        paths.push(entry.map_err(fail)?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Checks a mirror directory without changing it: every hash of every segment, a torn tail allowed.
///
/// # Errors
/// `Corrupt` with the first event that does not fit, and `Io`.
pub fn check_dir(dir: &Path) -> Result<Head, LogError> {
    let mut head = Head::EMPTY;
    let mut open = Vec::new();
    for path in files(dir)? {
        let name = path
            .file_name()
            .and_then(|n| n.to_str())
            .unwrap_or_default();
        if let Some(key) = parse_key(name) {
            (_, head) = scan_sealed(&path, &read(&path)?, &key, head)?;
        } else if let Some(first) = open_first(name) {
            open.push((first, path));
        }
    }
    for (first, path) in open {
        if first > head.seq {
            if first != head.seq + 1 {
                let detail = format!("the next segment starts with event {first}");
                return Err(LogError::corrupt(&path, head.seq + 1, detail));
            }
            head = scan_open(&path, &read(&path)?, head)?.head;
        }
    }
    Ok(head)
}

/// How many frames `bytes` hold, for tests and figures.
pub fn count_frames(bytes: &[u8]) -> usize {
    Frames::new(bytes).flatten().count()
}
